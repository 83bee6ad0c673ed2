package yamldoc

import (
	"slices"
	"strings"
)

// teleportKinds are documents of Teleport's that have no counterpart here yet.
// People bring whole directories of them: an answer that names the difference is
// worth more than "unknown".
func teleportKinds() []string {
	return []string{
		"access_list", "access_request", "app", "app_server", "auth_server", "autoupdate_config", "bot", "cert_authority", "cluster_auth_config",
		"cluster_maintenance_config", "cluster_networking_config", "connectors", "db", "db_server", "device", "git_server", "health_check_config",
		"installer", "integration", "kube_cluster", "kube_server", "lock", "login_rule", "network_restrictions", "node", "okta_assignment",
		"okta_import_rule", "provisioning_token", "proxy", "remote_cluster", "saml_idp_service_provider", "session_recording_config",
		"static_host_user", "static_tokens", "token", "trusted_cluster", "tunnel", "ui_config", "windows_desktop", "windows_desktop_service", "workload_identity",
	}
}

// teleportFields are fields of Teleport's users, roles, authentication
// preferences and connectors. Only those that a document of ours lacks are looked up here.
func teleportFields() []string {
	return []string{
		// header and metadata
		"sub_kind", "namespace", "expires", "id",
		// users
		"created_by", "github_identities", "local_auth", "oidc_identities", "saml_identities", "saml_single_logout", "status", "trusted_device_ids",
		// options of roles
		"cert_extensions", "cert_format", "client_idle_timeout", "create_db_user", "create_db_user_mode", "create_desktop_user", "create_host_user",
		"create_host_user_default_shell", "create_host_user_mode", "desktop_clipboard", "desktop_directory_sharing", "device_trust_mode",
		"disconnect_expired_cert", "enhanced_recording", "forward_agent", "idp", "lock", "max_connections", "max_kubernetes_connections", "max_sessions",
		"mfa_verification_interval", "permit_x11_forwarding", "pin_source_ip", "port_forwarding", "record_session", "request_access", "request_prompt",
		"require_session_mfa", "ssh_file_copy", "ssh_port_forwarding",
		// conditions of roles
		"account_assignments", "app_labels", "app_labels_expression", "aws_role_arns", "azure_identities", "cluster_labels", "cluster_labels_expression",
		"db_labels", "db_labels_expression", "db_names", "db_permissions", "db_roles", "db_service_labels", "db_users", "desktop_groups", "gcp_service_accounts",
		"github_permissions", "group_labels", "host_groups", "host_sudoers", "impersonate", "join_sessions", "kubernetes_labels_expression", "kubernetes_resources",
		"mcp", "node_labels", "node_labels_expression", "request", "require_session_join", "review_requests", "spiffe", "windows_desktop_labels",
		"windows_desktop_labels_expression", "windows_desktop_logins", "workload_identity_labels", "actions", "where",
		// authentication preferences
		"allow_browser_authentication", "allow_headless", "allow_local_auth", "allow_passwordless", "attestation_allowed_cas", "attestation_denied_cas",
		"default_session_ttl", "device_trust", "disabled", "hardware_key", "locking_mode", "message_of_the_day", "okta", "piv_slot",
		"second_factors", "signature_algorithm_suite", "stable_unix_user_config", "u2f",
		// connectors
		"allow_as_multiple", "allow_idp_initiated", "allow_unverified_email", "client_redirect_settings", "entra_id_groups_provider", "force_authn",
		"google_admin_email", "google_service_account", "google_service_account_uri", "include_subject", "mfa", "preferred_request_binding", "provider",
		"request_object_mode", "single_logout_url", "user_matchers",
	}
}

// ofTeleport says whether the last name of a path is a field of Teleport's.
func ofTeleport(path string) bool {
	name := path[strings.LastIndexByte(path, '.')+1:]
	return slices.Contains(teleportFields(), name)
}
