package api

import "slices"

// eventTable are the events that this version writes, each with its codes.
func eventTable() []eventKind {
	return []eventKind{
		{EventUserLogin, []string{EventCodeUserLogin, EventCodeUserLoginRefused, EventCodeSSOLogin, EventCodeSSOLoginRefused}},
		{EventUserCreate, []string{EventCodeUserCreate}},
		{EventUserUpdate, []string{EventCodeUserUpdate}},
		{EventUserDelete, []string{EventCodeUserDelete}},
		{EventUserPasswordChange, []string{EventCodeUserPasswordChange}},
		{EventResetTokenCreate, []string{EventCodeResetTokenCreate}},
		{EventUserReset, []string{EventCodeUserReset}},
		{EventUserLogout, []string{EventCodeUserLogout}},
		{EventFactorAdd, []string{EventCodeFactorAdd}},
		{EventFactorDelete, []string{EventCodeFactorDelete}},
		{EventAuthPreference, []string{EventCodeAuthPreference}},
		{EventRoleCreated, []string{EventCodeRoleCreated}},
		{EventRoleUpdated, []string{EventCodeRoleUpdated}},
		{EventRoleDeleted, []string{EventCodeRoleDeleted}},
		{EventKubeRequest, []string{EventCodeKubeRequest, EventCodeKubeRequestRefused, EventCodeKubeRequestFailed}},
		{EventTokenCreate, []string{EventCodeTokenCreate}},
		{EventTokenDelete, []string{EventCodeTokenDelete}},
		{EventAgentJoin, []string{EventCodeAgentJoin, EventCodeAgentJoinRefused}},
		{EventAgentRenew, []string{EventCodeAgentRenew}},
		{EventAgentLock, []string{EventCodeAgentLock}},
		{EventAgentDelete, []string{EventCodeAgentDelete}},
		{EventKubeClusterCreate, []string{EventCodeKubeClusterCreate}},
		{EventKubeClusterUpdate, []string{EventCodeKubeClusterUpdate}},
		{EventKubeClusterDelete, []string{EventCodeKubeClusterDelete}},
		{EventGithubCreated, []string{EventCodeGithubCreated}},
		{EventGithubUpdated, []string{EventCodeGithubUpdated}},
		{EventGithubDeleted, []string{EventCodeGithubDeleted}},
		{EventOIDCCreated, []string{EventCodeOIDCCreated}},
		{EventOIDCUpdated, []string{EventCodeOIDCUpdated}},
		{EventOIDCDeleted, []string{EventCodeOIDCDeleted}},
		{EventSAMLCreated, []string{EventCodeSAMLCreated}},
		{EventSAMLUpdated, []string{EventCodeSAMLUpdated}},
		{EventSAMLDeleted, []string{EventCodeSAMLDeleted}},
		{EventSSOTest, []string{EventCodeSSOTest}},
		{EventConnectorSecrets, []string{EventCodeConnectorSecrets}},
		{EventSessionStart, []string{EventCodeSessionStart}},
		{EventSessionEnd, []string{EventCodeSessionEnd}},
		{EventExec, []string{EventCodeExec, EventCodeExecFailed}},
		{EventPort, []string{EventCodePort, EventCodePortFailed}},
		{EventClientDisconnect, []string{EventCodeClientDisconnect}},
		{EventAuthAttempt, []string{EventCodeAuthAttempt}},
		{EventCertCreate, []string{EventCodeCertCreate}},
		{EventForwarderCreated, []string{EventCodeForwarderCreated}},
		{EventForwarderUpdated, []string{EventCodeForwarderUpdated}},
		{EventForwarderDeleted, []string{EventCodeForwarderDeleted}},
		{EventForwarderSecrets, []string{EventCodeForwarderSecrets}},
		{EventForwardSkipped, []string{EventCodeForwardSkipped}},
		{EventClusterBackup, []string{EventCodeClusterBackup}},
		{EventClusterRecover, []string{EventCodeClusterRecover}},
		{EventACMERetry, []string{EventCodeACMERetry}},
		{EventAuditExport, []string{EventCodeAuditExport, EventCodeAuditExportRefused}},
		{EventAuditRetention, []string{EventCodeAuditRetention}},
		{EventLost, []string{EventCodeLost}},
		{EventMalformed, []string{EventCodeMalformed}},
	}
}

type eventKind struct {
	name  string
	codes []string
}

// EventNames are the names of all events that this version writes, sorted.
func EventNames() (names []string) {
	for _, e := range eventTable() {
		names = append(names, e.name)
	}
	slices.Sort(names)
	return names
}

// EventCodes are the codes of all events that this version writes, sorted.
func EventCodes() (codes []string) {
	for _, e := range eventTable() {
		codes = append(codes, e.codes...)
	}
	slices.Sort(codes)
	return codes
}
