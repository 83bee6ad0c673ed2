package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
	"github.com/klauspost/compress/zstd"
)

// The format of a snapshot, version 2: the magic and the version in clear, then
// one zstd stream of frames. A frame is its length (unsigned varint) and CBOR:
//
//	header    index and state time
//	record    in strictly rising order of keys, as many as there are
//	(empty)   length 0: no more records
//	trailer   number of records, SHA-256 of everything before the trailer,
//	          uncompressed and magic included
//
// and nothing after it. The same state always gives the same bytes.
const (
	snapshotMagic   = "SLYSNAP"
	snapshotVersion = 2

	// maxFrameSize: a record comes out of an item, and gains a few integers.
	maxFrameSize = MaxItemSize + 4<<10

	// snapshotWindow bounds the memory of both directions.
	snapshotWindow = 1 << 20
)

type snapshotHeader struct {
	Index uint64 `cbor:"1,keyasint"`
	Time  int64  `cbor:"2,keyasint"`
}

type snapshotRecord struct {
	Key      string `cbor:"1,keyasint"`
	Value    []byte `cbor:"2,keyasint,omitempty"`
	Revision uint64 `cbor:"3,keyasint"`
	Created  int64  `cbor:"4,keyasint"`
	Expires  int64  `cbor:"5,keyasint,omitempty"`
}

type snapshotTrailer struct {
	Records int    `cbor:"1,keyasint"`
	SHA256  []byte `cbor:"2,keyasint"`
}

// A Snapshot is the store as it was at one index. It can be written any number
// of times, while the store goes on.
type Snapshot struct {
	state *state
}

// Index returns the index of the last entry that the snapshot contains.
func (s *Snapshot) Index() uint64 { return s.state.index }

// Time returns its state time.
func (s *Snapshot) Time() time.Time { return fromNanos(s.state.time) }

// Len returns the number of records, those included that have expired and are
// not swept yet.
func (s *Snapshot) Len() int { return s.state.len() }

// WriteTo streams the snapshot; it needs the memory of one record.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	out := &countingWriter{w: w}
	if err := s.write(out); err != nil {
		return out.n, fmt.Errorf("write snapshot: %w", err)
	}
	return out.n, nil
}

func (s *Snapshot) write(w io.Writer) error {
	if _, err := w.Write(snapshotPreamble()); err != nil {
		return err
	}
	// One goroutine, so that equal states give equal bytes.
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(snapshotWindow))
	if err != nil {
		return err
	}
	fw := &frameWriter{w: z, sum: sha256.New()}
	fw.sum.Write(snapshotPreamble())

	fw.write(snapshotHeader{Index: s.state.index, Time: s.state.time})
	var rec snapshotRecord // one for all: boxing each would cost an allocation
	for r := range s.state.all(nil) {
		rec = snapshotRecord{
			Key: r.Key, Value: r.Value, Revision: r.Revision,
			Created: toNanos(r.Created), Expires: toNanos(r.Expires),
		}
		if fw.write(&rec); fw.err != nil {
			break
		}
	}
	fw.end()
	fw.write(snapshotTrailer{Records: s.Len(), SHA256: fw.sum.Sum(nil)})
	return errors.Join(fw.err, z.Close())
}

// ReadSnapshot reads a snapshot and verifies it to the last byte.
func ReadSnapshot(r io.Reader) (*Snapshot, error) {
	st, err := readSnapshot(r)
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	return &Snapshot{state: st}, nil
}

func readSnapshot(r io.Reader) (*state, error) {
	preamble := make([]byte, len(snapshotMagic)+1)
	if _, err := io.ReadFull(r, preamble); err != nil || string(preamble[:len(snapshotMagic)]) != snapshotMagic {
		return nil, errors.New("this is not a snapshot of this store")
	}
	if v := preamble[len(snapshotMagic)]; v != snapshotVersion {
		return nil, fmt.Errorf("format version %d is unknown here: this node must be upgraded", v)
	}
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(snapshotWindow), zstd.WithDecoderMaxMemory(snapshotWindow))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	fr := &frameReader{r: bufio.NewReader(z), sum: sha256.New()}
	fr.sum.Write(preamble)

	var header snapshotHeader
	if more, err := fr.read(&header); err != nil || !more {
		return nil, fmt.Errorf("header: %w", orMissing(err))
	}
	if header.Time < 0 {
		return nil, errors.New("header: state time before 1970")
	}
	st, err := fr.records(header)
	if err != nil {
		return nil, err
	}
	return st, fr.trailer(st.len())
}

// records reads up to the empty frame.
func (fr *frameReader) records(header snapshotHeader) (*state, error) {
	// No watcher can exist yet, so nothing is tracked.
	c := &change{records: iradix.New[*Record]().Txn(), journal: iradix.New[*Record]().Txn(), expiry: iradix.New[*Record]().Txn()}
	last := ""
	for {
		var rec snapshotRecord
		more, err := fr.read(&rec)
		if err != nil {
			return nil, fmt.Errorf("record after %q: %w", last, err)
		}
		if !more {
			return &state{
				index: header.Index, time: header.Time,
				records: c.records.CommitOnly(), journal: c.journal.CommitOnly(), expiry: c.expiry.CommitOnly(),
			}, nil
		}
		if err := validateKey(rec.Key); err != nil {
			return nil, fmt.Errorf("record after %q: %w", last, err)
		}
		switch {
		case rec.Key <= last:
			return nil, fmt.Errorf("record %q comes after %q", rec.Key, last)
		case rec.Revision == 0 || rec.Revision > header.Index:
			return nil, fmt.Errorf("record %q has revision %d in a snapshot at %d", rec.Key, rec.Revision, header.Index)
		case rec.Created <= 0 || rec.Expires < 0:
			return nil, fmt.Errorf("record %q has times before 1970", rec.Key)
		}
		last = rec.Key
		c.insert(&Record{
			Key: rec.Key, Value: rec.Value, Revision: rec.Revision,
			Created: fromNanos(rec.Created), Expires: fromNanos(rec.Expires),
		})
	}
}

func (fr *frameReader) trailer(records int) error {
	sum := fr.sum.Sum(nil) // before the trailer adds itself
	var trailer snapshotTrailer
	if more, err := fr.read(&trailer); err != nil || !more {
		return fmt.Errorf("trailer: %w", orMissing(err))
	}
	if trailer.Records != records {
		return fmt.Errorf("%d records where %d were announced", records, trailer.Records)
	}
	if !bytes.Equal(trailer.SHA256, sum) {
		return errors.New("checksum does not match: the snapshot is damaged")
	}
	if _, err := fr.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the trailer")
	}
	return nil
}

func snapshotPreamble() []byte { return append([]byte(snapshotMagic), snapshotVersion) }

// orMissing names the error of a frame that should be there: nil stands for an
// empty one.
func orMissing(err error) error {
	if err == nil {
		return errors.New("missing")
	}
	return err
}

// A frameWriter writes frames and hashes them. After an error it does nothing.
type frameWriter struct {
	w    io.Writer
	sum  hash.Hash
	body bytes.Buffer
	head []byte
	err  error
}

func (fw *frameWriter) write(v any) {
	if fw.err != nil {
		return
	}
	fw.body.Reset()
	if fw.err = wire.enc.MarshalToBuffer(v, &fw.body); fw.err == nil {
		fw.frame(fw.body.Bytes())
	}
}

func (fw *frameWriter) end() {
	if fw.err == nil {
		fw.frame(nil)
	}
}

func (fw *frameWriter) frame(body []byte) {
	fw.head = binary.AppendUvarint(fw.head[:0], uint64(len(body)))
	for _, part := range [][]byte{fw.head, body} {
		fw.sum.Write(part)
		if _, err := fw.w.Write(part); err != nil {
			fw.err = err
			return
		}
	}
}

// A frameReader reads frames and hashes every byte it reads, as it is.
type frameReader struct {
	r    *bufio.Reader
	sum  hash.Hash
	body bytes.Buffer
	one  [1]byte
}

// read decodes the next frame into v and reports whether it was not empty.
func (fr *frameReader) read(v any) (more bool, err error) {
	size, err := binary.ReadUvarint(fr)
	if err != nil {
		return false, truncated(err)
	}
	if size == 0 {
		return false, nil
	}
	if size > maxFrameSize {
		return false, fmt.Errorf("%d bytes, at most %d are allowed", size, maxFrameSize)
	}
	// The buffer grows with what arrives, not with what was announced.
	fr.body.Reset()
	if _, err := io.CopyN(&fr.body, fr.r, int64(size)); err != nil {
		return false, truncated(err)
	}
	fr.sum.Write(fr.body.Bytes())
	return true, wire.dec.Unmarshal(fr.body.Bytes(), v)
}

// ReadByte implements io.ByteReader for the length of a frame.
func (fr *frameReader) ReadByte() (byte, error) {
	b, err := fr.r.ReadByte()
	if err == nil {
		fr.one[0] = b
		fr.sum.Write(fr.one[:])
	}
	return b, err
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the snapshot is cut off")
	}
	return err
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
