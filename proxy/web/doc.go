// Package web serves the pages that people see: the home page with the clusters
// one may reach, the login, the account with its second factors and sessions, the
// links by which a password is set, the approval of a login that tsh began, the audit
// log, and messages that a login ends with.
//
// Pages are rendered here, from templates and assets inside the binary, and
// work without JavaScript. That is what makes the strictest of content security
// policies possible: no script, nothing from elsewhere, no frame around us. Only a
// passkey needs a script, because nothing else can ask a browser for one; it is
// one file, sent on the pages that have such a button, and where it does not run
// the page says so and everything else works. A page must render on a replica that
// has lost quorum and on a laptop without the internet, so it needs nothing but the
// one answer (and a style sheet, without which it still reads well).
//
// What the pages need of the rest is in backend.go. They hold nothing between two
// requests: what a form needs again, such as the secret behind a QR code, goes to
// the browser and comes back with a MAC, so that any replica can take it.
//
// An attacker might try to
//
//   - have a victim's browser post a form: a POST needs a token that only a
//     page of ours can hold, bound to a cookie that no other site can read, set
//     or have sent (see form.go), and what browsers say of a request's origin
//     must agree;
//   - give a victim's browser a session, or form, of their own (fixation): a login
//     ends the cookie and the session that were there before, and forms of a
//     session are bound to its cookie;
//   - use a session left open, or a cookie that was stolen, to let themselves in for
//     good: adding and removing second factors, and approving a login of tsh, want a
//     login of the last minutes, and the password wants the password;
//   - have somebody approve a login of tsh that is not theirs: the page shows the
//     code that the right terminal shows, or wants it typed where the terminal is on
//     another machine, and where the login was begun;
//   - log a browser in as themselves, by a callback of a login that they began: what
//     ties a callback to its login is a cookie of the browser that began it. The
//     callback of SAML is the one POST that another site may send;
//   - have two of our pages and an identity provider send a browser round in circles:
//     whoever comes back as nobody goes on by a click (see wentCookie);
//   - make a page of ours lead elsewhere: next is one of few paths, and the address
//     that a browser brings to tsh is one of this machine;
//   - read an invite's token off a page's URL: no page links or loads anything
//     elsewhere, no Referer is ever sent, nothing is stored by caches, and this
//     package logs no path;
//   - put markup, or a shell's, into the name of a user, cluster, label or second
//     factor: html/template escapes for the place at hand, and a line to paste is
//     quoted for a shell;
//   - put words into our mouth: messages are texts of ours that a path, or a cookie
//     that no other site can set, chooses among, never text from the URL. What an
//     identity provider says of somebody is shown to that person alone, cut and without
//     what can't be seen;
//   - act under names that mislead an auditor's browser or eyes: all of an event is
//     text, cut, and what is not seen or turns a line round is written out;
//   - learn what the audit log holds by links that have an auditor search it, or wear
//     replicas down by searches: a link of another site only fills in the form,
//     rights are asked for at each search, and each session makes one at a time.
package web
