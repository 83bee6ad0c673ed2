package audit

// fileInfo is one file of the journal. Lines with smaller numbers than first are
// copies of an earlier file's.
type fileInfo struct {
	path   string
	first  uint64 // number of the file's first own line
	active bool   // events.log: more lines may come
}

// files are those of the journal, oldest first.
func (j *Journal) files() []fileInfo {
	return []fileInfo{{path: j.path, first: 1, active: true}}
}
