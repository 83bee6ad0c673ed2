package fsm_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
)

// Read a view, decide, and commit a transaction that checks what was read. If
// somebody was faster, nothing happens and the conflict says so.
func Example() {
	type user struct {
		Name   string `json:"name"`
		Logins int    `json:"logins"`
	}
	users := fsm.NewCollection[user]("users/")
	store := fsm.New(fsm.Options{})

	// In a cluster this is Propose on any replica, Raft, and Apply on all.
	commit := func(txn fsm.Txn) error {
		item, err := fsm.EncodeItem(fsm.Item{Origin: "replica-1", Txn: &txn})
		if err != nil {
			return err
		}
		entry, err := fsm.EncodeEntry(time.Now(), [][]byte{item})
		if err != nil {
			return err
		}
		results, err := store.Apply(store.Applied()+1, entry)
		if err != nil {
			return err
		}
		return fsm.DecodeResult(results[0])
	}

	op, _ := users.Put("alice", &user{Name: "alice"}, 0)
	create := fsm.Txn{Checks: []fsm.Check{users.Absent("alice")}, Ops: []fsm.Op{op}}
	fmt.Println("create:", commit(create))

	_, record, changed, _ := users.Watch(store.View(), "alice")
	alice, _ := users.Decode(record) // a copy of our own
	alice.Logins++
	op, _ = users.Update(record, alice, 0)
	update := fsm.Txn{Checks: []fsm.Check{users.Unchanged(record)}, Ops: []fsm.Op{op}}
	fmt.Println("update:", commit(update))
	<-changed

	var conflict *fsm.ConflictError
	fmt.Println("again:", errors.As(commit(update), &conflict), conflict)

	shared, _, _ := users.Get(store.View(), "alice")
	fmt.Println(shared.Name, "logged in", shared.Logins, "time")
	// Output:
	// create: <nil>
	// update: <nil>
	// again: true users/alice was changed meanwhile (expected revision 1, found 2)
	// alice logged in 1 time
}
