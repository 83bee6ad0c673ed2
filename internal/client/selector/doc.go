// Package selector picks Kubernetes clusters out of those that a user may reach,
// by --labels and by --query. It decides nothing about rights: the server has
// listed what the user may see before anything is picked.
//
// Labels read as those of roles do: keys are exact and all must match, of the
// values of one key one must; * stands for any text and ^…$ is a regular
// expression (RE2). Queries are the part of Teleport's predicates that is about
// clusters: comparisons, calls, &&, || and !. What is typed is bounded in length
// and depth, so that no script's query can exhaust a stack.
package selector
