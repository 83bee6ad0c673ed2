// Package yamldoc turns the YAML that people write into the JSON documents that
// package api reads, and back. It is apart from api because tsh links api and
// must start in a few milliseconds without a YAML parser.
//
// Whoever types a document should be told the line that is wrong, so errors of
// the JSON layer, which name a field, are traced back to the line of that field.
// Anchors and aliases are refused: no document needs them, and nested ones make
// a few bytes into gigabytes.
package yamldoc
