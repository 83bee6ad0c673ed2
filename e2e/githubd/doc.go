// Package githubd is a double of GitHub: the web flow of its OAuth apps and the few
// endpoints of its REST API that tell who somebody is and which teams they are in, as
// docs.github.com describes them. A person authorizes on a page, without a script, so a
// real browser can be that person; a test makes people, organizations and teams, renames
// them, and lets GitHub fail (SetFault).
//
// It knows nothing of the product, and is strict where GitHub is: codes are good for one
// exchange, with the same client, callback and PKCE verifier; lists come in pages; numbers
// are never used again.
package githubd
