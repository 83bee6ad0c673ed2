package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// refusals is a file of the events that the cluster will never take: nothing is
// dropped without a trace. Whoever has looked at it may remove it.
type refusals struct{ path string }

// refusal is a line of that file.
type refusal struct {
	Refused time.Time       `json:"refused"`
	Error   string          `json:"error"`
	Event   json.RawMessage `json:"event"`
}

// add writes an event to the file, unless that has reached its bound.
func (r refusals) add(event []byte, why error, now time.Time) error {
	if r.path == "" {
		return errors.New("there is no spool, beside which it could be kept")
	}
	if !json.Valid(event) {
		event = encode(string(event))
	}
	line := append(encode(refusal{Refused: now.UTC(), Error: why.Error(), Event: event}), '\n')
	file, err := openPrivate(r.path, os.O_APPEND)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil && info.Size()+int64(len(line)) > refusedBytes {
		err = fmt.Errorf("%s is full: look at it, and remove it", r.path)
	}
	if err == nil {
		_, err = file.Write(line)
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// exists is the file's path if there is one.
func (r refusals) exists() string {
	if _, err := os.Lstat(r.path); r.path == "" || err != nil {
		return ""
	}
	return r.path
}
