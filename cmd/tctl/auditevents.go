package main

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// eventCodes are the codes of all events that this version writes, sorted. A test
// reads in internal/api whether one is missing.
func eventCodes() []string {
	codes := []string{
		api.EventCodeUserLogin, api.EventCodeUserLoginRefused, api.EventCodeUserCreate, api.EventCodeUserUpdate, api.EventCodeUserDelete,
		api.EventCodeUserPasswordChange, api.EventCodeResetTokenCreate, api.EventCodeUserReset, api.EventCodeUserLogout, api.EventCodeFactorAdd,
		api.EventCodeFactorDelete, api.EventCodeAuthPreference, api.EventCodeRoleCreated, api.EventCodeRoleDeleted, api.EventCodeRoleUpdated,
		api.EventCodeKubeRequest, api.EventCodeKubeRequestRefused, api.EventCodeKubeRequestFailed, api.EventCodeTokenCreate, api.EventCodeTokenDelete,
		api.EventCodeAgentJoin, api.EventCodeAgentJoinRefused, api.EventCodeAgentRenew, api.EventCodeAgentLock, api.EventCodeAgentDelete,
		api.EventCodeKubeClusterCreate, api.EventCodeKubeClusterUpdate, api.EventCodeKubeClusterDelete, api.EventCodeSSOLogin, api.EventCodeSSOLoginRefused,
		api.EventCodeGithubCreated, api.EventCodeGithubDeleted, api.EventCodeGithubUpdated, api.EventCodeOIDCCreated, api.EventCodeOIDCDeleted,
		api.EventCodeOIDCUpdated, api.EventCodeSAMLCreated, api.EventCodeSAMLDeleted, api.EventCodeSAMLUpdated, api.EventCodeSSOTest,
		api.EventCodeConnectorSecrets, api.EventCodeSessionStart, api.EventCodeSessionEnd, api.EventCodeExec, api.EventCodeExecFailed,
		api.EventCodePort, api.EventCodePortFailed, api.EventCodeClientDisconnect, api.EventCodeAuthAttempt, api.EventCodeCertCreate,
		api.EventCodeForwarderCreated, api.EventCodeForwarderUpdated, api.EventCodeForwarderDeleted, api.EventCodeForwardSkipped,
		api.EventCodeAuditExport, api.EventCodeAuditRetention, api.EventCodeForwarderSecrets, api.EventCodeLost, api.EventCodeMalformed,
	}
	slices.Sort(codes)
	return codes
}

// oneLine spells out what does not print, line feeds included, and cuts the text to
// most characters of what is shown. What the log escaped was decoded since, and a
// terminal must not get it.
func oneLine(s string, most int) string {
	var b strings.Builder
	length := 0
	for i, r := range s {
		part := string(r)
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			part = spellOut(s[i:], r)
		}
		if length += utf8.RuneCountInString(part); length > most {
			b.WriteString("…")
			break
		}
		b.WriteString(part)
	}
	return b.String()
}

func spellOut(s string, r rune) string {
	switch {
	case r == '\n':
		return `\n`
	case r == '\r':
		return `\r`
	case r == '\t':
		return `\t`
	case r == utf8.RuneError && !strings.HasPrefix(s, string(utf8.RuneError)):
		return fmt.Sprintf(`\x%02x`, s[0])
	case r > 0xffff:
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}
