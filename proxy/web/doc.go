// Package web serves the pages that people see: the home page, the page where
// an invited user sets a password, and messages that a login ends with.
//
// Pages are rendered here, from templates and assets inside the binary, and
// work without JavaScript. That is what makes the strictest of content security
// policies possible: no script at all, nothing from elsewhere, no frame around
// us. A page must render on a replica that has lost quorum and on a laptop
// without the internet, so it needs nothing but the one answer (and a style
// sheet, without which it still reads well).
//
// An attacker might try to
//
//   - have a victim's browser post a form: a POST needs a token that only a
//     page of ours can hold, bound to a cookie that no other site can read, set
//     or have sent (see form.go), and what browsers say of a request's origin
//     must agree;
//   - read an invite's token off a page's URL: no page links or loads anything
//     elsewhere, no Referer is ever sent, nothing is stored by caches, and this
//     package logs no path;
//   - put markup, or a shell's, into a user name: html/template escapes for the
//     place at hand, and a line to paste is quoted for a shell;
//   - put words into our mouth: message pages show texts of ours that the URL
//     chooses among, never text from the URL.
package web
