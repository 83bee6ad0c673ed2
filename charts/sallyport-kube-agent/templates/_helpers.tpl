{{- define "sallyport-kube-agent.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Metadata of one thing: (dict "root" $ "name" NAME "labels" MAP "annotations" MAP); "cluster" true: without a namespace. */}}
{{- define "sallyport-kube-agent.metadata" -}}
name: {{ .name | quote }}
{{- if not .cluster }}
namespace: {{ .namespace | default .root.Release.Namespace | quote }}
{{- end }}
labels:
  {{- include "sallyport-kube-agent.labels" .root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "sallyport-kube-agent.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default .Values.serviceAccountName | default (ternary .Release.Name "default" (not (not .Values.serviceAccount.create))) -}}
{{- end -}}

{{- define "sallyport-kube-agent.clusterRoleName" -}}
{{- printf "sallyport-kube-agent:%s:%s" .Release.Namespace .Release.Name -}}
{{- end -}}

{{- define "sallyport-kube-agent.tokenSecretName" -}}
{{- .Values.joinTokenSecret.name | default .Values.secretName | default (printf "%s-join-token" .Release.Name) -}}
{{- end -}}

{{/* The identity of the pod with an ordinal: (list $ ORDINAL). The pod's own name is before -identity. */}}
{{- define "sallyport-kube-agent.identity" -}}
{{- printf "%s-%d-identity" (index . 0).Release.Name (index . 1 | int) -}}
{{- end -}}

{{- define "sallyport-kube-agent.replicas" -}}
{{- .Values.highAvailability.replicaCount | int -}}
{{- end -}}

{{- define "sallyport-kube-agent.token" -}}
{{- $named := ternary .Values.joinParams.tokenName "" (eq .Values.joinParams.method "token") -}}
{{- .Values.authToken | default $named -}}
{{- end -}}

{{- define "sallyport-kube-agent.pins" -}}
{{- if kindIs "string" .Values.caPin }}{{ .Values.caPin }}{{ else }}{{ join "," (.Values.caPin | default list) }}{{ end -}}
{{- end -}}

{{- define "sallyport-kube-agent.audience" -}}
{{- .Values.joinParams.clusterName | default .Values.teleportClusterName | default (regexReplaceAll ":[0-9]+$" .Values.proxyAddr "") -}}
{{- end -}}

{{/* Service accounts that may be impersonated, as a JSON list of NAMESPACE:NAME. A user's name may be one's, too. */}}
{{- define "sallyport-kube-agent.impersonatedAccounts" -}}
{{- $out := .Values.impersonation.serviceAccounts | default list -}}
{{- range .Values.impersonation.users -}}
{{- if hasPrefix "system:serviceaccount:" . -}}{{- $out = append $out (trimPrefix "system:serviceaccount:" .) -}}{{- end -}}
{{- end -}}
{{- $out | uniq | sortAlpha | toJson -}}
{{- end -}}

{{- define "sallyport-kube-agent.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A value as text. Helm has whole numbers of a values file as floats, and would write 12345678 as 1.2345678e+07. */}}
{{- define "sallyport-kube-agent.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else if not (kindIs "invalid" .) -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* In our words or in Teleport's. */}}
{{- define "sallyport-kube-agent.logLevel" -}}
{{- $level := .Values.log.level | default "info" | lower -}}
{{- get (dict "warning" "warn" "err" "error") $level | default $level -}}
{{- end -}}

{{/* The environment of the container, which holds all settings; the user's comes behind it. */}}
{{- define "sallyport-kube-agent.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- {name: SALLYPORT_AGENT_PROXY, value: {{ .Values.proxyAddr | quote }}}
- {name: SALLYPORT_AGENT_KUBE_CLUSTER_NAME, value: {{ .Values.kubeClusterName | quote }}}
- {name: SALLYPORT_AGENT_STATE_SECRET, value: $(POD_NAME)-identity}
{{- if eq .Values.joinParams.method "kubernetes" }}
- {name: SALLYPORT_AGENT_JOIN_METHOD, value: kubernetes}
- {name: SALLYPORT_AGENT_TOKEN, value: {{ .Values.joinParams.tokenName | quote }}}
- {name: SALLYPORT_AGENT_KUBERNETES_TOKEN_PATH, value: /var/run/secrets/tokens/sallyport}
{{- else }}
- {name: SALLYPORT_AGENT_TOKEN_FILE, value: /etc/sallyport/join/auth-token}
{{- end }}
{{- with include "sallyport-kube-agent.pins" . }}
- {name: SALLYPORT_AGENT_CA_PIN, value: {{ . | quote }}}
{{- end }}
{{- if .Values.insecureSkipProxyTLSVerify }}
- {name: SALLYPORT_AGENT_INSECURE, value: "true"}
{{- end }}
{{- with .Values.labels }}
{{- $labels := list }}
{{- range $key, $value := . }}
{{- $labels = append $labels (printf "%s=%s" $key (include "sallyport-kube-agent.text" $value)) }}
{{- end }}
- {name: SALLYPORT_AGENT_LABELS, value: {{ join "," $labels | quote }}}
{{- end }}
- {name: SALLYPORT_AGENT_DIAG_ADDR, value: ":3000"}
- {name: SALLYPORT_AGENT_DRAIN_TIMEOUT, value: {{ printf "%ds" (max 1 (sub (.Values.terminationGracePeriodSeconds | int) 5)) | quote }}}
- {name: SALLYPORT_AGENT_LOG_LEVEL, value: {{ include "sallyport-kube-agent.logLevel" . | quote }}}
- {name: SALLYPORT_AGENT_LOG_FORMAT, value: {{ .Values.log.format | default "text" | lower | quote }}}
{{- if .Values.tls.existingCASecretName }}
- {name: SSL_CERT_FILE, value: /etc/sallyport/ca/ca.pem}
{{- end }}
{{- end -}}
