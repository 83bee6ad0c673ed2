package fsm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// keepUnknown merges what a newer version wrote into what this version writes.
// raw is the stored JSON, known is what this version makes of it and next what
// shall be stored. A member of raw that is not in known is unknown here, and
// stays. (A member that known leaves out because it is empty stays as well,
// unless next sets it, which changes nothing.)
//
// Inside a list there is no telling which element of next an element of raw
// became. A list that was not touched stays as it is; one that was, and in which
// something unknown would get lost, is an error.
func keepUnknown(raw, known, next json.RawMessage) (json.RawMessage, error) {
	if bytes.Equal(known, next) {
		return raw, nil
	}
	var rawObject, knownObject, nextObject map[string]json.RawMessage
	if !object(raw, &rawObject) || !object(known, &knownObject) || !object(next, &nextObject) {
		if list(raw) && hasUnknown(raw, known) {
			return nil, errors.New("a list holds fields that only a newer version knows: upgrade this node to change it")
		}
		return next, nil
	}

	changed := false
	for name, member := range rawObject {
		knownMember, isKnown := knownObject[name]
		nextMember, isNext := nextObject[name]
		switch {
		case !isKnown && !isNext:
			nextObject[name] = member
		case isKnown && isNext:
			merged, err := keepUnknown(member, knownMember, nextMember)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if bytes.Equal(merged, nextMember) {
				continue
			}
			nextObject[name] = merged
		default: // set or removed on purpose
			continue
		}
		changed = true
	}
	if !changed {
		return next, nil
	}
	return json.Marshal(nextObject)
}

// hasUnknown reports whether raw has a member, at any depth, that known lacks
// and that is not empty.
func hasUnknown(raw, known json.RawMessage) bool {
	var rawObject, knownObject map[string]json.RawMessage
	if object(raw, &rawObject) && object(known, &knownObject) {
		for name, member := range rawObject {
			knownMember, ok := knownObject[name]
			if !ok && !empty(member) || ok && hasUnknown(member, knownMember) {
				return true
			}
		}
		return false
	}
	var rawList, knownList []json.RawMessage
	if json.Unmarshal(raw, &rawList) != nil || json.Unmarshal(known, &knownList) != nil {
		return false
	}
	for i := range min(len(rawList), len(knownList)) {
		if hasUnknown(rawList[i], knownList[i]) {
			return true
		}
	}
	return false
}

func object(b json.RawMessage, into *map[string]json.RawMessage) bool {
	return json.Unmarshal(b, into) == nil && *into != nil
}

func list(b json.RawMessage) bool { return bytes.HasPrefix(bytes.TrimSpace(b), []byte("[")) }

// empty reports whether a JSON value is one that omitempty leaves out.
func empty(b json.RawMessage) bool {
	switch string(bytes.TrimSpace(b)) {
	case "null", "false", "0", `""`, "[]", "{}":
		return true
	}
	return false
}
