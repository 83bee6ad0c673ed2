// Package upstream is the way to one Kubernetes API server: its address, the
// transports that reach it, and the credentials they add. Replicas use it for the
// cluster they run in, agents for theirs.
//
// The requests that travel this way name the user in Impersonate-* fields, and the
// credentials may impersonate anyone. So a transport neither follows redirects nor
// changes those fields, and is never shared with client-go's own cache.
package upstream
