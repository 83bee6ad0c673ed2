{{/* The release's name, as the guide shows: `helm install sallyport-cluster` makes the Service and the StatefulSet
sallyport-cluster. 52: Kubernetes puts ten characters and a dash behind a StatefulSet's name, into a label of 63. */}}
{{- define "sallyport-cluster.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* What never changes in the life of a release. */}}
{{- define "sallyport-cluster.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "sallyport-cluster.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "sallyport-cluster.selectorLabels" . }}
{{- with .Chart.AppVersion }}
app.kubernetes.io/version: {{ . | replace "+" "_" | quote }}
{{- end }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Of replicas, and of no other pod: the guide selects them by app=RELEASE. */}}
{{- define "sallyport-cluster.replicaLabels" -}}
app: {{ .Release.Name | quote }}
{{ include "sallyport-cluster.selectorLabels" . }}
{{- end -}}

{{- define "sallyport-cluster.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "sallyport-cluster.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* Of cluster-wide objects: two releases of one name in two namespaces don't meet. */}}
{{- define "sallyport-cluster.clusterRoleName" -}}
{{- printf "sallyport-cluster:%s:%s" .Release.Namespace (include "sallyport-cluster.fullname" .) -}}
{{- end -}}

{{- define "sallyport-cluster.peers" -}}
{{- printf "%s-peers" (include "sallyport-cluster.fullname" .) -}}
{{- end -}}

{{- define "sallyport-cluster.secretName" -}}
{{- .Values.clusterSecret.existingSecret | default (printf "%s-cluster-secret" (include "sallyport-cluster.fullname" .)) -}}
{{- end -}}

{{- define "sallyport-cluster.image" -}}
{{- with .Values.image -}}
{{- if kindIs "string" . -}}{{- /* refused by validate */ -}}
{{- . -}}
{{- else if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sallyport-cluster.publicAddr" -}}
{{- .Values.publicAddr | default (printf "%s:443" .Values.clusterName) -}}
{{- end -}}

{{/* A value as text. Helm has whole numbers of a values file as floats, and would write 10737418240 as 1.073741824e+10. */}}
{{- define "sallyport-cluster.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else if not (kindIs "invalid" .) -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* A size in whole bytes. Kubernetes has its own spelling of each: 1.5Ti comes back as 1536Gi, 0.1Gi as 107374182400m. */}}
{{- define "sallyport-cluster.bytes" -}}
{{- $unit := regexFind "[A-Za-z]+$" . -}}
{{- $units := dict "" 1.0 "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- printf "%.0f" (mulf (trimSuffix $unit .) (get $units $unit)) -}}
{{- end -}}

{{/* YAML reads an unquoted on and off as true and false. */}}
{{- define "sallyport-cluster.proxyProtocol" -}}
{{- if kindIs "bool" .Values.proxyProtocol -}}
{{- ternary "on" "off" .Values.proxyProtocol -}}
{{- else -}}
{{- .Values.proxyProtocol | default "off" -}}
{{- end -}}
{{- end -}}

{{- define "sallyport-cluster.logLevel" -}}
{{- $level := .Values.log.level | default "info" | lower -}}
{{- get (dict "warning" "warn" "err" "error") $level | default $level -}}
{{- end -}}

{{/* host:port of the port for kubectl alone. */}}
{{- define "sallyport-cluster.publicKubeAddr" -}}
{{- .Values.publicKubeAddr | default (printf "%s:3026" (include "sallyport-cluster.publicAddr" . | splitList ":" | first)) -}}
{{- end -}}

{{/* The environment of the container, which holds all settings; the user's comes behind it. */}}
{{- define "sallyport-cluster.env" -}}
{{- $fullname := include "sallyport-cluster.fullname" . -}}
{{- $peers := printf "%s.%s.svc" (include "sallyport-cluster.peers" .) .Release.Namespace -}}
{{- $replicas := int .Values.highAvailability.replicaCount -}}
- name: POD
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- {name: SALLYPORT_CLUSTER_NAME, value: {{ .Values.clusterName | quote }}}
- {name: SALLYPORT_DATA_DIR, value: /var/lib/sallyport}
- {name: SALLYPORT_CLUSTER_SECRET, value: /etc/sallyport/cluster-secret/cluster-secret}
- {name: SALLYPORT_PUBLIC_ADDR, value: {{ include "sallyport-cluster.publicAddr" . | quote }}}
- {name: SALLYPORT_PUBLIC_KUBE_ADDR, value: {{ include "sallyport-cluster.publicKubeAddr" . | quote }}}
# The pod's own address, not all of them: with that, gossip would look for a private one, and find none in 100.64.0.0/10
# or where pods have public ones. In brackets, which IPv6 needs and IPv4 doesn't mind.
- {name: SALLYPORT_GOSSIP_ADDR, value: "[$(POD_IP)]:7946"}
- {name: SALLYPORT_PEER_ADVERTISE, value: "$(POD).{{ $peers }}:7443"}
- {name: SALLYPORT_BOOTSTRAP_EXPECT, value: {{ $replicas | quote }}}
{{- if gt $replicas 1 }}
- {name: SALLYPORT_JOIN, value: "{{ $peers }}:7946"}
{{- end }}
{{- with .Values.kubeClusterName }}
- {name: SALLYPORT_KUBE_CLUSTER_NAME, value: {{ . | quote }}}
{{- end }}
{{- with .Values.labels }}
{{- $labels := list }}
{{- range $key, $value := . }}
{{- $labels = append $labels (printf "%s=%s" $key (include "sallyport-cluster.text" $value)) }}
{{- end }}
- {name: SALLYPORT_KUBE_LABELS, value: {{ join "," $labels | quote }}}
{{- end }}
{{- if .Values.acme }}
- {name: SALLYPORT_ACME, value: "true"}
{{- with .Values.acmeEmail }}
- {name: SALLYPORT_ACME_EMAIL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.acmeURI }}
- {name: SALLYPORT_ACME_URI, value: {{ . | quote }}}
{{- end }}
- {name: SALLYPORT_ACME_HTTP_ADDR, value: {{ ternary ":3081" "off" (not (not .Values.acmeHTTPPort)) | quote }}}
{{- if has .Values.acmePreflight (list "off" false) }}
- {name: SALLYPORT_ACME_PREFLIGHT, value: "off"}
{{- end }}
{{- if .Values.acmeCASecretName }}
- {name: SALLYPORT_ACME_CA_FILE, value: /etc/sallyport/acme-ca/{{ .Values.acmeCASecretKeyName | default "ca.pem" }}}
{{- end }}
{{- end }}
{{- if .Values.tls.existingSecretName }}
- {name: SALLYPORT_CERT_FILE, value: /etc/sallyport/tls/tls.crt}
- {name: SALLYPORT_KEY_FILE, value: /etc/sallyport/tls/tls.key}
{{- end }}
{{- if .Values.tls.existingCASecretName }}
- {name: SSL_CERT_FILE, value: /etc/sallyport/ca/{{ .Values.tls.existingCASecretKeyName | default "ca.pem" }}}
{{- end }}
{{- with include "sallyport-cluster.proxyProtocol" . }}
{{- if ne . "off" }}
- {name: SALLYPORT_PROXY_PROTOCOL, value: {{ . | quote }}}
- {name: SALLYPORT_TRUSTED_PROXIES, value: {{ join "," $.Values.trustedProxies | quote }}}
{{- end }}
{{- end }}
{{- range $name, $value := dict "MAX_STALE" .Values.maxStale "AUDIT_POLICY" .Values.audit.policy "AUDIT_MAX_AGE" .Values.audit.maxAge "AUDIT_MAX_SIZE" .Values.audit.maxSize }}
{{- with include "sallyport-cluster.text" $value }}
- {name: SALLYPORT_{{ $name }}, value: {{ . | quote }}}
{{- end }}
{{- end }}
- {name: SALLYPORT_LOG_LEVEL, value: {{ include "sallyport-cluster.logLevel" . | quote }}}
- {name: SALLYPORT_LOG_FORMAT, value: {{ .Values.log.format | default "text" | lower | quote }}}
- {name: SALLYPORT_SHUTDOWN_DELAY, value: "{{ int .Values.shutdownDelaySeconds }}s"}
# What is left of the grace period is for handing over leadership and closing the state.
- {name: SALLYPORT_DRAIN_TIMEOUT, value: "{{ sub (int .Values.terminationGracePeriodSeconds) (add (int .Values.shutdownDelaySeconds) 10) }}s"}
{{- end -}}

{{/* Rules by which replicas stay apart: the user's, and ours for what theirs doesn't say. */}}
{{- define "sallyport-cluster.affinity" -}}
{{- $affinity := deepCopy (.Values.affinity | default dict) -}}
{{- if not $affinity.podAntiAffinity -}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (include "sallyport-cluster.replicaLabels" . | fromYaml)) -}}
{{- if .Values.highAvailability.requireAntiAffinity -}}
{{- $_ := set $affinity "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) -}}
{{- else -}}
{{- $_ := set $affinity "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list (dict "weight" 100 "podAffinityTerm" $term))) -}}
{{- end -}}
{{- end -}}
{{ toYaml $affinity }}
{{- end -}}

{{- define "sallyport-cluster.topologySpread" -}}
{{- $selector := dict "matchLabels" (include "sallyport-cluster.replicaLabels" . | fromYaml) -}}
{{- $zones := dict "maxSkew" 1 "topologyKey" "topology.kubernetes.io/zone" "whenUnsatisfiable" "ScheduleAnyway" -}}
{{- $out := list -}}
{{- range .Values.topologySpreadConstraints | default (list $zones) -}}
{{- $out = append $out (hasKey . "labelSelector" | ternary . (set (deepCopy .) "labelSelector" $selector)) -}}
{{- end -}}
{{ toYaml $out }}
{{- end -}}
