package forward

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// Source is the journal; an *audit.Journal.
type Source interface {
	// Lines gives the lines from that number on, up to the end that there is now.
	Lines(from uint64) iter.Seq2[audit.Line, error]
	// Changed is closed when lines have been added.
	Changed() <-chan struct{}
}

// Cursors keeps the cursors for the whole cluster; internal/auth's.
type Cursors interface {
	Load(name string) (api.ForwarderCursor, error)
	// Save moves a cursor that Load gave: never back, and never that of another life
	// of the forwarder (CodeNotFound).
	Save(ctx context.Context, name string, c api.ForwarderCursor) error
	// Skip is Save together with an event that lines were given up.
	Skip(ctx context.Context, name string, c api.ForwarderCursor, s api.ForwarderSkip) error
}

// Options are the options of New.
type Options struct {
	Source  Source
	Cursors Cursors
	// List gives the forwarders with their secrets, and a channel that is closed when
	// they may have changed.
	List func() ([]api.AuditForwarder, <-chan struct{}, error)
	// First is the number of the first line that the cluster still keeps, whatever this
	// replica's files lack: what is before it is gone for good. Last is that of the last.
	First, Last func() uint64

	HTTP   *http.Client     // for tests; nil: each forwarder has its own, by its document
	Clock  func() time.Time // time.Now
	Rand   func() float64   // jitter, in [0,1); math/rand/v2
	Logger *slog.Logger     // slog.DiscardHandler
}

// Forwarders sends the audit log to those who asked for it.
type Forwarders struct{ o Options }

// New makes them. They send while Run runs.
func New(o Options) (*Forwarders, error) {
	if o.Source == nil || o.Cursors == nil || o.List == nil || o.First == nil || o.Last == nil {
		return nil, errors.New("forward: Source, Cursors, List, First and Last are needed")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Forwarders{o: o}, nil
}

// listRetry is how long to wait when the forwarders can't be read, and before one
// that failed for want of its cursor begins again.
const listRetry = time.Second

// running is a forwarder that sends.
type running struct {
	revision uint64
	stop     context.CancelFunc
	done     chan struct{}
}

func (r *running) end() {
	r.stop()
	<-r.done
}

// Run sends until ctx ends: a duty of the leader. A forwarder that was changed begins
// anew from its cursor.
func (f *Forwarders) Run(ctx context.Context) error {
	all := map[string]*running{}
	defer func() {
		var wg sync.WaitGroup
		for _, r := range all {
			wg.Go(r.end)
		}
		wg.Wait()
	}()
	for ctx.Err() == nil {
		list, changed, err := f.o.List()
		var retry <-chan time.Time
		if err != nil {
			f.o.Logger.Warn("the audit forwarders can't be read; trying again", "error", err)
			retry = time.After(listRetry)
		} else {
			f.reconcile(ctx, all, list)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-retry:
		}
	}
	return nil
}

// reconcile ends what is gone or was changed, and starts what is not running.
func (f *Forwarders) reconcile(ctx context.Context, all map[string]*running, list []api.AuditForwarder) {
	wanted := map[string]uint64{}
	for i := range list {
		wanted[list[i].Metadata.Name] = list[i].Metadata.Revision
	}
	for name, r := range all {
		if revision, ok := wanted[name]; !ok || revision != r.revision {
			r.end()
			delete(all, name)
		}
	}
	for _, doc := range list {
		name := doc.Metadata.Name
		if all[name] != nil {
			continue
		}
		own, stop := context.WithCancel(ctx)
		r := &running{revision: doc.Metadata.Revision, stop: stop, done: make(chan struct{})}
		all[name] = r
		go func() {
			defer close(r.done)
			f.keep(own, doc)
		}()
	}
}

// keep sends for one forwarder until ctx ends, or until the forwarder is no more what
// was listed: then a change of the list follows.
func (f *Forwarders) keep(ctx context.Context, doc api.AuditForwarder) {
	name := doc.Metadata.Name
	log := f.o.Logger.With("forwarder", name)
	for {
		err := f.send(ctx, doc, log)
		if ctx.Err() != nil || api.IsCode(err, api.CodeNotFound) {
			return
		}
		log.Warn("an audit forwarder begins again from its cursor", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(listRetry):
		}
	}
}

// send loads the cursor and sends from there.
func (f *Forwarders) send(ctx context.Context, doc api.AuditForwarder, log *slog.Logger) error {
	cursor, err := f.o.Cursors.Load(doc.Metadata.Name)
	if err != nil {
		return fmt.Errorf("its cursor can't be read: %w", err)
	}
	if cursor.Revision != doc.Metadata.Revision {
		return api.Errorf(api.CodeNotFound, "it was changed since it was listed")
	}
	s, err := newSender(f.o, doc, cursor, log)
	if err != nil {
		return err
	}
	return s.run(ctx)
}
