package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/yamldoc"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func editCommand() cliapp.Command {
	return cliapp.Command{
		Name: "edit", Usage: "change a document in your editor", ArgsUsage: "KIND/NAME", MinArgs: 1, MaxArgs: 1,
		Description: "Opens the document as YAML in $VISUAL, $EDITOR, vi or nano, and sends it when\nthe editor ends. A file left as it was changes nothing. What can't be sent is\n" +
			"kept, and its path printed.",
		Examples: []string{"tctl edit role/dev", "tctl edit user/alice", "tctl edit github/github", "EDITOR='code --wait' tctl edit cap"},
		Complete: func(*cliapp.Call) []string { return completeKinds() },
		Run: func(ctx context.Context, c *cliapp.Call) error {
			refs, err := parseNamed("edit", c.Args)
			if err != nil {
				return orConnector(ctx, c, err)
			}
			if len(refs) != 1 {
				return api.Errorf(api.CodeInvalid, "one document at a time: tctl edit KIND/NAME")
			}
			editor, err := editorOf(os.Getenv, exec.LookPath)
			if err != nil {
				return err
			}
			return withReplica(c, func(r *replica) error { return edit(ctx, c, r, refs[0], editor) })
		},
	}
}

// editorOf is the command line of the editor, as the shell reads it.
func editorOf(getenv func(string) string, look func(string) (string, error)) (string, error) {
	for _, name := range []string{"VISUAL", "EDITOR"} {
		if editor := getenv(name); editor != "" {
			return editor, nil
		}
	}
	for _, name := range []string{"vi", "nano"} {
		if path, err := look(name); err == nil {
			return path, nil
		}
	}
	return "", api.Errorf(api.CodeInvalid, "no editor: there is neither vi nor nano, name yours in the environment variable EDITOR")
}

// draft is a document that is being edited.
type draft struct {
	ref      ref
	original []byte
	revision uint64
	dir      string // only the user can enter it; the file and what editors put beside it are in it
	path     string
}

func edit(ctx context.Context, c *cliapp.Call, r *replica, ref ref, editor string) error {
	d, err := newDraft(ctx, r, ref)
	if err != nil {
		return err
	}
	last := d.original
	for {
		if err := runEditor(c, editor, d.path); err != nil {
			return d.keep(last, err)
		}
		text, err := readDraft(d.path)
		if err != nil {
			return d.keep(last, err)
		}
		if bytes.Equal(text, d.original) || len(bytes.TrimSpace(text)) == 0 {
			c.Printf("%s: no changes\n", spoken(d.ref.kind, d.ref.name))
			return d.remove()
		}
		unchanged := bytes.Equal(text, last) // since it was refused
		last = text
		err = d.send(c, r, text)
		if err == nil {
			return d.remove()
		}
		// Only what was typed wrong can be mended by typing, and only by who sees it.
		if !api.IsCode(err, api.CodeInvalid) || !c.Interactive() || unchanged {
			return d.keep(text, r.explain(err))
		}
		c.Notef("ERROR: %s", err)
		if !again(c) {
			return d.keep(text, err)
		}
	}
}

func newDraft(ctx context.Context, r *replica, typed ref) (*draft, error) {
	items, ref, err := fetch(ctx, r, typed, false)
	if err != nil {
		return nil, err
	}
	var header api.Header
	if len(items) != 1 || json.Unmarshal(items[0], &header) != nil {
		return nil, api.Errorf(api.CodeInternal, "the answer to 'get %s' is no document", ref)
	}
	d := &draft{ref: ref, revision: header.Metadata.Revision}
	if d.original, err = yamldoc.Encode(items); err != nil {
		return nil, err
	}
	if hasSecrets(ref.kind) {
		d.original = append([]byte(secretsStay), d.original...)
	}
	if d.dir, err = os.MkdirTemp("", "tctl-edit-"); err != nil { // 0700
		return nil, fmt.Errorf("keep the document while it is edited: %w", err)
	}
	d.path = filepath.Join(d.dir, ref.kind+"-"+ref.name+".yaml")
	if err := os.WriteFile(d.path, d.original, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("keep the document while it is edited: %w", err), d.remove())
	}
	return d, nil
}

// secretsStay begins the draft of a document that has secrets.
const secretsStay = "# Secrets are not shown, and stay as they are unless you write new ones here.\n"

// runEditor waits for the editor. Ctrl-C typed in it reaches tctl too, being of
// the same group, and is the editor's to understand.
func runEditor(c *cliapp.Call, editor, path string) error {
	cmd := exec.Command("sh", "-c", editor+` "$@"`, editor, path) //nolint:noctx // the user's own editor, which ends when the user says so
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	if err := cmd.Run(); err != nil {
		return api.Errorf(api.CodeInternal, "the editor (%s) failed: %w; nothing was changed", editor, err)
	}
	return nil
}

// afterEditor is a context of its own: an earlier Ctrl-C was meant for the editor,
// and would have ended the one before.
func afterEditor() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

func again(c *cliapp.Call) bool {
	ctx, stop := afterEditor()
	defer stop()
	_, err := c.ReadLine(ctx, "Press Enter to edit it again, or Ctrl-C to leave it: ")
	return err == nil
}

// readDraft reads by path: many editors write a new file and rename it.
func readDraft(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // in a directory of our own
	if errors.Is(err, fs.ErrNotExist) {
		return nil, api.Errorf(api.CodeInvalid, "the editor removed the file; nothing was changed")
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, api.MaxRequestBody+1))
}

// send checks the text and writes it, under the revision that was read: whoever
// wrote in between is not overwritten.
func (d *draft) send(c *cliapp.Call, r *replica, text []byte) error {
	docs, err := yamldoc.Decode(text)
	if err != nil {
		return err
	}
	if len(docs) != 1 {
		return api.Errorf(api.CodeInvalid, "line %d: one document is edited, here begins another: 'tctl create' takes several", docs[1].Line)
	}
	var doc map[string]json.RawMessage
	var header api.Header
	metadata := map[string]any{}
	if err := errors.Join(json.Unmarshal(docs[0].JSON, &doc), json.Unmarshal(docs[0].JSON, &header)); err != nil {
		return err
	}
	if err := json.Unmarshal(doc["metadata"], &metadata); len(doc["metadata"]) > 0 && err != nil {
		return err
	}
	if header.Kind != d.ref.kind || header.Metadata.Name != d.ref.name && header.Metadata.Name != "" {
		return api.Errorf(api.CodeInvalid, "line %d: this is %s now, not %s: another name is another document, which 'tctl create' makes", docs[0].Line, ref{header.Kind, header.Metadata.Name}, d.ref)
	}
	metadata["revision"] = d.revision
	if doc["metadata"], err = json.Marshal(metadata); err != nil {
		return err
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	ctx, stop := afterEditor()
	defer stop()
	resp, err := r.Put(ctx, raw, true)
	if errors.Is(err, context.Canceled) {
		return api.Errorf(api.CodeAmbiguous, "interrupted: it may or may not have been written")
	}
	if api.IsCode(err, api.CodeInvalid) {
		return api.Errorf(api.CodeInvalid, "line %d: %w", refusedLine(&docs[0], err), err)
	}
	if err != nil {
		return err
	}
	printPut(c, resp)
	return nil
}

// keep leaves the text where the user finds it, unless it is what the replica
// has anyway.
func (d *draft) keep(text []byte, cause error) error {
	if now, err := readDraft(d.path); err == nil {
		text = now
	}
	if bytes.Equal(text, d.original) {
		return errors.Join(cause, d.remove())
	}
	if _, err := os.Stat(d.path); err != nil { // removed by the editor
		if err := os.WriteFile(d.path, text, 0o600); err != nil {
			return errors.Join(cause, fmt.Errorf("keep your text: %w", err))
		}
	}
	next := "send it with 'tctl create -f " + d.path + "'"
	switch code := api.CodeOf(cause); code {
	case api.CodeConflict:
		return api.Errorf(code, "somebody else changed %s while you edited it; your text is kept in %s: compare it with 'tctl get %s', then remove its line 'revision' and %s",
			spoken(d.ref.kind, d.ref.name), d.path, d.ref, next)
	case api.CodeInvalid:
		next = "mend it, then " + next
	default: // another try may do
	}
	return api.Errorf(api.CodeOf(cause), "%w\nYour text is kept in %s: %s", cause, d.path, next)
}

func (d *draft) remove() error {
	if err := os.RemoveAll(d.dir); err != nil {
		return fmt.Errorf("remove the edited file: %w", err)
	}
	return nil
}
