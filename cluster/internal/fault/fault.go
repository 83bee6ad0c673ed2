// Package fault names the mistakes that tests can switch on in package
// cluster, to prove that they would be noticed. It is internal to cluster:
// nothing that ships can name it.
package fault

import "context"

// Set is a set of mistakes. The zero value is a correct build.
type Set struct {
	NoBarrier   bool // answer read indexes before this term's barrier is through
	VerifyFirst bool // verify leadership first and note the commit index after
	// Pause, if set, runs between the two steps of a read index, in whatever
	// order they are: a slow scheduler. A correct build bears any pause.
	Pause func(ctx context.Context)
}
