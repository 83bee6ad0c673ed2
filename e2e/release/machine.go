package release

import (
	"bytes"
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"fmt"
)

// checkMachine makes sure that a binary is for a system and architecture, by
// what its own format says: nothing later would notice.
func checkMachine(binary []byte, system, arch string) error {
	var (
		is  string
		err error
	)
	switch r := bytes.NewReader(binary); system {
	case "darwin":
		var f *macho.File
		if f, err = macho.NewFile(r); err == nil {
			is = map[macho.Cpu]string{macho.CpuAmd64: "amd64", macho.CpuArm64: "arm64"}[f.Cpu]
		}
	case "windows":
		var f *pe.File
		if f, err = pe.NewFile(r); err == nil {
			is = map[uint16]string{pe.IMAGE_FILE_MACHINE_AMD64: "amd64", pe.IMAGE_FILE_MACHINE_ARM64: "arm64"}[f.Machine]
		}
	default:
		var f *elf.File
		if f, err = elf.NewFile(r); err == nil {
			is = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}[f.Machine]
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("it is no binary for %s: %w", system, err)
	case is == "":
		return fmt.Errorf("it is for another machine than %s", arch)
	case is != arch:
		return fmt.Errorf("it is for %s, not %s", is, arch)
	}
	return nil
}
