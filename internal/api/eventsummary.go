package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Outcomes of events.
const (
	OutcomeOK      = "ok"
	OutcomeRefused = "refused"
	OutcomeFailed  = "failed"
)

// Outcome says how an event went, by its code and what its fields say: a request
// that was passed on may have been refused by the cluster.
func (e Event) Outcome() string {
	status, _ := strconv.Atoi(e.text("response_code"))
	switch {
	case strings.HasSuffix(e.Code, "W"):
		return OutcomeRefused
	case strings.HasSuffix(e.Code, "E"):
		return OutcomeFailed
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return OutcomeRefused
	case status >= http.StatusBadRequest, e.text("success") == "false":
		return OutcomeFailed
	}
	return OutcomeOK
}

// Summary says in one line for people what was done; by whom is in User. All that
// strangers chose in it is cut, without what is not seen, and in quotes
// unless it looks like a name, so that it can't pass for our words.
func (e Event) Summary() string {
	for _, say := range []func() string{e.sayPeople, e.sayRules, e.sayAgents, e.sayKube, e.sayAudit} {
		if s := say(); s != "" {
			return s
		}
	}
	what := "Event " + quoteName(e.Event)
	return what + e.with(" about ", "name") + e.with(": ", "error")
}

// sayPeople is Summary for logins, users and what belongs to them.
func (e Event) sayPeople() string {
	switch e.Event {
	case EventUserLogin:
		how := e.with(" with ", "connector")
		if how == "" {
			how = e.loginMethod()
		}
		if e.Outcome() != OutcomeOK {
			return "Could not log in" + how + e.from() + e.attempts() + e.with(": ", "error")
		}
		return "Logged in" + how + e.from()
	case EventUserLogout:
		return "Ended" + e.with(" a session of ", "name") + e.from()
	case EventUserCreate:
		return "Created the user" + e.with(" ", "name") + e.with(" with the roles ", "roles")
	case EventUserUpdate:
		return "Changed the user" + e.with(" ", "name") + e.with("; roles: ", "roles")
	case EventUserDelete:
		return "Deleted the user" + e.with(" ", "name")
	case EventUserPasswordChange:
		return "Set the password" + e.with(" of ", "name") + e.from()
	case EventResetTokenCreate:
		return "Made a link to set the password" + e.with(" of ", "name") + e.with(", good for ", "ttl")
	case EventUserReset:
		return "Took away password and second factors" + e.with(" of ", "name") + " to set them anew"
	case EventFactorAdd:
		return "Added the second factor" + e.with(" ", "mfa_device_name") + e.with(" (", "mfa_device_type", ")")
	case EventFactorDelete:
		return "Removed the second factor" + e.with(" ", "mfa_device_name") + e.with(" (", "mfa_device_type", ")") + e.with(" of ", "name")
	case EventAuthAttempt:
		return "Came with a certificate that is not accepted" + e.from() + e.attempts() + e.with(": ", "error")
	case EventCertCreate:
		identity, _ := e.Fields["identity"].(map[string]any)
		got := "Got a certificate"
		if e.text("name") != "" { // for somebody else
			got = "Made a certificate" + e.with(" for ", "name") + " without a login"
		}
		return got + Event{Fields: identity}.with(", good until ", "expires") + e.from()
	}
	return ""
}

// loginMethod is how a login was made, without a connector.
func (e Event) loginMethod() string {
	switch method := e.text("method"); method {
	case "":
		return ""
	case "local":
		return " with a password"
	case "web":
		return " from a terminal, approved in the browser"
	case "console":
		return " from a terminal"
	default:
		return " with " + quoteName(method)
	}
}

// sayRules is Summary for roles, connectors and preferences.
func (e Event) sayRules() string {
	switch e.Event {
	case EventAuthPreference:
		return "Changed the rules for logins" + e.with("; second factor: ", "second_factor")
	case EventSSOTest:
		if e.Outcome() != OutcomeOK {
			return "Tried the connector" + e.with(" ", "connector") + ", and it did not let in" + e.with(": ", "error")
		}
		return "Tried the connector" + e.with(" ", "connector") + ": it works"
	case EventConnectorSecrets:
		return "Read the secrets of connectors" + e.with(": ", "connectors")
	case EventForwarderSecrets:
		return "Read the secrets of audit forwarders" + e.with(": ", "forwarders")
	}
	kinds := map[string]string{
		"role": "the role", KindGithub: "the GitHub connector", KindOIDC: "the OIDC connector", KindSAML: "the SAML connector", KindAuditForwarder: "the audit forwarder",
	}
	kind, act, _ := strings.Cut(e.Event, ".")
	verb := map[string]string{"created": "Created ", "updated": "Changed ", "deleted": "Deleted "}[act]
	if kinds[kind] == "" || verb == "" {
		return ""
	}
	return verb + kinds[kind] + e.with(" ", "name") + e.with("; changed: ", "changed")
}

// sayAgents is Summary for tokens, agents and Kubernetes clusters.
func (e Event) sayAgents() string {
	agent := e.with(" ", "node_name")
	if agent == "" {
		agent = e.with(" ", "host_id")
	}
	switch e.Event {
	case EventTokenCreate:
		return "Created the join token" + e.with(" ", "name") + e.with(" for ", "roles") + e.with(", good until ", "expires")
	case EventTokenDelete:
		return "Deleted the join token" + e.with(" ", "name")
	case EventAgentJoin:
		if e.Outcome() != OutcomeOK {
			return "The agent" + agent + " could not join" + e.from() + e.with(": ", "error")
		}
		return "The agent" + agent + " joined" + e.with(" with the token ", "token_name") + e.from()
	case EventAgentRenew:
		return "The agent" + agent + " renewed its certificate"
	case EventAgentLock:
		return "The agent" + agent + " was locked out" + e.with(": ", "reason")
	case EventAgentDelete:
		return "Removed the agent" + agent
	case EventKubeClusterCreate:
		return "Registered the Kubernetes cluster" + e.with(" ", "name")
	case EventKubeClusterUpdate:
		return "Changed the Kubernetes cluster" + e.with(" ", "name")
	case EventKubeClusterDelete:
		return "Removed the Kubernetes cluster" + e.with(" ", "name")
	}
	return ""
}

// sayKube is Summary for what people do in clusters.
func (e Event) sayKube() string {
	pod := e.with("the pod ", "kubernetes_pod_name")
	if name := e.with(" ", "resource_name"); pod == "" && name != "" {
		pod = strings.TrimSpace(e.with("", "resource_kind") + name)
	}
	if ns := cmp.Or(e.text("kubernetes_pod_namespace"), e.text("resource_namespace")); pod != "" && ns != "" {
		pod += " of the namespace " + quoteName(ns)
	}
	in, to := "", ""
	if pod != "" {
		in, to = " in "+pod, " to "+pod
	}
	why := e.with(": ", "error")
	if why == "" {
		why = e.with(": ", "reason")
	}
	switch e.Event {
	case EventKubeRequest:
		return e.sayRequest()
	case EventSessionStart:
		return "Started a session" + in + e.with(", running ", "initial_command")
	case EventSessionEnd:
		return "Ended a session" + in + why
	case EventExec:
		return "Ran a command" + in + e.with(": ", "command") + e.with(", exit code ", "exitCode") + e.with(": ", "exitError") + e.with(": ", "error")
	case EventPort:
		if e.Outcome() != OutcomeOK {
			return "Could not forward a port" + to + why
		}
		return "Forwarded a port" + to + e.with(": ", "ports")
	case EventClientDisconnect:
		return "Was cut off" + e.with(" from ", "request_path") + why
	}
	return ""
}

// sayRequest is Summary for a request to a cluster.
func (e Event) sayRequest() string {
	what := cmp.Or(e.kubeVerb(), "a request")
	if status, err := strconv.Atoi(e.text("response_code")); err == nil && status > 0 {
		what += fmt.Sprintf(" → %d", status)
		if text := http.StatusText(status); text != "" {
			what += " " + text
		}
	}
	if who := e.with("", "requested_user"); who != "" {
		what += ", as " + who
	}
	return what + e.attempts() + e.with(": ", "error")
}

func (e Event) kubeVerb() string {
	kind := e.text("resource_kind")
	if kind == "" {
		return strings.TrimSpace(CleanText(e.text("verb"), maxSummaryName) + e.with(" ", "request_path"))
	}
	verb := cmp.Or(e.text("kubernetes_verb"), e.text("verb"))
	return quoteName(verb) + " " + quoteName(kind) + e.with(" ", "resource_name") + e.with(" in ", "resource_namespace")
}

// sayAudit is Summary for what the log says of itself.
func (e Event) sayAudit() string {
	switch e.Event {
	case EventForwardSkipped:
		return "The audit forwarder" + e.with(" ", "name") + " did not send " + e.count() + e.lines() + e.with(": ", "reason")
	case EventClusterBackup:
		return "Took a backup of the cluster's state"
	case EventClusterRecover:
		return "Made replica" + e.with(" ", "server_id") + " the whole cluster: what others had and it had not is lost"
	case EventACMERetry:
		return "Asked for an order of the certificate" + e.with(" of ", "name") + " now"
	case EventAuditExport:
		if e.Code == EventCodeAuditExportRefused {
			return "Was refused a copy of the audit log" + e.with(": ", "error")
		}
		return "Began to take a copy of the audit log" + e.lines()
	case EventAuditRetention:
		return "Old parts of the audit log were deleted" + e.with(", up to line ", "to") + e.with(", because of their ", "reason")
	case EventLost:
		if why := e.with(": ", "reason"); why != "" {
			return "The log lacks " + e.count() + e.lines() + why
		}
		return "The log has a hole here: " + e.count() + " could be kept nowhere"
	case EventMalformed:
		return "A replica wrote something that is no event; its text is kept in the line"
	}
	return ""
}

// count is how many events this one is about.
func (e Event) count() string {
	n := cmp.Or(e.with("", "count"), "some")
	if n == "1" {
		return "1 event"
	}
	return n + " events"
}

// attempts are how many the event stands for, where it is not one.
func (e Event) attempts() string {
	if of := e.with(" of ", "networks", " networks"); of != "" {
		return e.with(" (attempts: ", "attempts") + of + ")"
	}
	return e.with(" (attempts: ", "attempts", ")")
}

// lines are those of the log that this event is about.
func (e Event) lines() string {
	if from := e.with(", line ", "from"); e.text("from") == e.text("to") {
		return from
	}
	return e.with(", lines ", "from") + e.with(" to ", "to")
}

// maxSummaryName and maxSummaryValue bound, in bytes, what a summary says of a value.
const (
	maxSummaryName  = 64
	maxSummaryValue = 200
)

func (e Event) from() string { return e.with(" from ", "addr.remote") }

// with is a field between two texts of ours, or nothing where the field is empty.
func (e Event) with(before, field string, after ...string) string {
	most, quote := maxSummaryName, quoteName
	switch field {
	case "error", "reason", "exitError":
		most, quote = maxSummaryValue, func(s string) string { return s }
	case "request_path":
		most = maxSummaryValue
	}
	text := e.text(field)
	if field == "command" || field == "initial_command" { // one line, as it was typed
		most, text = maxSummaryValue, strings.Join(valueWords(e.Fields[field]), " ")
	}
	clean := CleanText(text, most)
	if clean == "" {
		return ""
	}
	if len(text) > most {
		clean += "…"
	}
	return before + quote(clean) + strings.Join(after, "")
}

// text is the value of a field as people write it: lists with commas.
func (e Event) text(field string) string { return strings.Join(valueWords(e.Fields[field]), ", ") }

// valueWords are the parts of a value, as the log has it or as it was before.
func valueWords(v any) []string {
	switch v := v.(type) {
	case nil:
		return nil
	case string:
		return []string{v}
	case float64:
		return []string{strconv.FormatFloat(v, 'f', -1, 64)}
	case []string:
		return v
	case []any:
		var words []string
		for _, w := range v {
			if _, deeper := w.([]any); !deeper {
				words = append(words, valueWords(w)...)
			}
		}
		return words
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return nil
		}
		return []string{string(b)}
	}
}

// quoteName puts into quotes what does not look like names. What it gets may still
// be a stranger's.
func quoteName(s string) string {
	s = CleanText(s, maxSummaryValue+len("…"))
	plain := func(r rune) bool {
		return '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || strings.ContainsRune("._@:/+-*[]…=?&%", r)
	}
	for part := range strings.SplitSeq(s, ", ") {
		if part == "" || strings.ContainsFunc(part, func(r rune) bool { return !plain(r) }) {
			return strconv.Quote(s)
		}
	}
	return s
}
