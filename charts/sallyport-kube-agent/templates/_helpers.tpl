{{- define "agent.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* Metadata of one thing: (dict "root" $ "name" NAME "labels" MAP "annotations" MAP); "cluster" true: without a namespace. */ -}}
{{- define "agent.metadata" -}}
name: {{ .name | quote }}
{{- if not .cluster }}
namespace: {{ .namespace | default .root.Release.Namespace | quote }}
{{- end }}
labels:
  {{- include "agent.labels" .root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "agent.serviceAccount" -}}
{{- .Values.serviceAccount.name | default .Values.serviceAccountName | default (ternary .Release.Name "default" (not (not .Values.serviceAccount.create))) -}}
{{- end -}}

{{- define "agent.clusterWide" -}}
{{- printf "sallyport-kube-agent:%s:%s" .Release.Namespace .Release.Name -}}
{{- end -}}

{{- define "agent.tokenSecret" -}}
{{- .Values.joinTokenSecret.name | default .Values.secretName | default (printf "%s-join-token" .Release.Name) -}}
{{- end -}}

{{- /* The identity of the pod with an ordinal: (list $ ORDINAL). The pod's own name is before -identity. */ -}}
{{- define "agent.identity" -}}
{{- printf "%s-%d-identity" (index . 0).Release.Name (index . 1 | int) -}}
{{- end -}}

{{- define "agent.replicas" -}}
{{- .Values.highAvailability.replicaCount | int -}}
{{- end -}}

{{- define "agent.token" -}}
{{- $named := ternary .Values.joinParams.tokenName "" (eq .Values.joinParams.method "token") -}}
{{- .Values.authToken | default $named -}}
{{- end -}}

{{- define "agent.pins" -}}
{{- if kindIs "string" .Values.caPin }}{{ .Values.caPin }}{{ else }}{{ join "," (.Values.caPin | default list) }}{{ end -}}
{{- end -}}

{{- define "agent.audience" -}}
{{- .Values.joinParams.clusterName | default .Values.teleportClusterName | default (regexReplaceAll ":[0-9]+$" .Values.proxyAddr "") -}}
{{- end -}}

{{- /* Service accounts that may be impersonated, as a JSON list of NAMESPACE:NAME. A user's name may be one's, too. */ -}}
{{- define "agent.impersonatedAccounts" -}}
{{- $out := .Values.impersonation.serviceAccounts | default list -}}
{{- range .Values.impersonation.users -}}
{{- if hasPrefix "system:serviceaccount:" . -}}{{- $out = append $out (trimPrefix "system:serviceaccount:" .) -}}{{- end -}}
{{- end -}}
{{- $out | uniq | sortAlpha | toJson -}}
{{- end -}}

{{- define "agent.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* In our words or in the incumbent's. */ -}}
{{- define "agent.logLevel" -}}
{{- $level := .Values.log.level | default "info" | lower -}}
{{- get (dict "warning" "warn" "err" "error") $level | default $level -}}
{{- end -}}
