// Package saml logs people in by SAML 2.0 (the web browser SSO profile, begun here):
// the request goes by HTTP-Redirect, the answer comes by HTTP-POST.
//
// The answer travels through the browser of whoever logs in, who is the attacker.
// Nothing of it counts but what a key of the identity provider has signed. gosaml2
// builds requests and decrypts, goxmldsig canonicalises and verifies; what either
// leaves open is closed here, before and after (docs/adr/044):
//
//   - parse refuses what parsers disagree about, and bounds all that costs time.
//   - survey refuses every shape in which two parts could be taken for each other
//     (signature wrapping): one Response, one Assertion, one Signature in each.
//   - verify allows one Reference, to the element itself, and few algorithms; it
//     gives the element that was signed, parsed anew from the bytes that were.
//   - judge reads that element alone, and ties it to the login that asked for it.
package saml
