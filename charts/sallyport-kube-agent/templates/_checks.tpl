{{- /* What can't work fails here, with what to do about it. */ -}}
{{- define "agent.check" -}}
{{- include "agent.check.complete" . -}}
{{- include "agent.check.name" . -}}
{{- include "agent.check.incumbent" . -}}
{{- include "agent.check.join" . -}}
{{- $v := .Values -}}
{{- if not $v.proxyAddr -}}{{- fail "proxyAddr is missing: say where Sallyport is, such as --set proxyAddr=tele.example.com:443" -}}{{- end -}}
{{- if regexMatch "^[a-z]+://|/|@| " $v.proxyAddr -}}{{- fail (printf "proxyAddr %q: want HOST:PORT as users type it, such as tele.example.com:443" $v.proxyAddr) -}}{{- end -}}
{{- if and $v.insecureSkipProxyTLSVerify (include "agent.pins" .) -}}
  {{- fail "insecureSkipProxyTLSVerify checks nothing, so caPin would mean nothing: give one of them" -}}
{{- end -}}
{{- range $key, $value := $v.labels -}}
  {{- if contains "," (printf "%s%v" $key $value) -}}{{- fail (printf "labels: %s: a label can't hold a comma" $key) -}}{{- end -}}
{{- end -}}
{{- range $v.extraEnv -}}
  {{- if regexMatch "^(POD_NAME|SALLYPORT_AGENT_(PROXY|KUBE_CLUSTER_NAME|STATE_SECRET|JOIN_METHOD|TOKEN|TOKEN_FILE|KUBERNETES_TOKEN_PATH|CA_PIN|INSECURE|LABELS|DIAG_ADDR|DRAIN_TIMEOUT|LOG_LEVEL|LOG_FORMAT))$" .name -}}
    {{- fail (printf "extraEnv: the chart sets %s already, by a value of its own" .name) -}}
  {{- end -}}
  {{- if and (eq .name "SSL_CERT_FILE") $v.tls.existingCASecretName -}}{{- fail "extraEnv: SSL_CERT_FILE is set by tls.existingCASecretName: give one of them" -}}{{- end -}}
{{- end -}}
{{- range $kind, $labels := $v.extraLabels -}}
  {{- range $key, $_ := $labels -}}
    {{- if or (hasPrefix "app.kubernetes.io/" $key) (eq $key "helm.sh/chart") (and (eq $kind "pod") (eq $key "app")) -}}
      {{- fail (printf "extraLabels.%s: the chart sets %s already" $kind $key) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $v.impersonation.serviceAccounts -}}
  {{- if not (regexMatch "^[^:]+:[^:]+$" .) -}}{{- fail (printf "impersonation.serviceAccounts: %q: want NAMESPACE:NAME" .) -}}{{- end -}}
{{- end -}}
{{- if and $v.rbac.create (not $v.serviceAccount.create) (not $v.serviceAccount.name) (not $v.serviceAccountName) -}}
  {{- fail "serviceAccount.create=false without serviceAccount.name would let every pod of the namespace, by its account \"default\", impersonate anyone: name an account of the agents' own" -}}
{{- end -}}
{{- if gt (len .Release.Name) 52 -}}
  {{- fail (printf "the release's name %q is too long for a StatefulSet: at most 52 letters" .Release.Name) -}}
{{- end -}}
{{- end -}}

{{- /* Blocks that are null, or that a --reuse-values from an older chart doesn't have. Everything else may be null. */ -}}
{{- define "agent.check.complete" -}}
{{- range $name := list "adminClusterRoleBinding" "annotations" "extraLabels" "highAvailability" "image" "impersonation" "joinParams" "joinTokenSecret" "log" "podMonitor" "rbac" "serviceAccount" "storage" "tls" -}}
  {{- if kindIs "invalid" (index $.Values $name) -}}
    {{- fail (printf "%s is missing, or null: leave it out, and its defaults hold. If helm upgrade --reuse-values has lost it, because the chart has it since a newer version, use --reset-then-reuse-values (Helm 3.14)" $name) -}}
  {{- end -}}
{{- end -}}
{{- if kindIs "invalid" .Values.highAvailability.podDisruptionBudget -}}
  {{- fail "highAvailability.podDisruptionBudget is null: write highAvailability.podDisruptionBudget.enabled=false instead" -}}
{{- end -}}
{{- end -}}

{{- define "agent.check.name" -}}
{{- $name := .Values.kubeClusterName -}}
{{- if kindIs "slice" $name -}}
  {{- fail (printf "you typed {%s}, write ${%s}" (join "," $name) (join "," $name)) -}}
{{- end -}}
{{- if not $name -}}{{- fail "kubeClusterName is missing: say what this Kubernetes cluster is to be called, such as --set kubeClusterName=cookie" -}}{{- end -}}
{{- if regexMatch "[{}$]" $name -}}
  {{- fail (printf "kubeClusterName %q is a shell variable that no shell has filled in: write ${CLUSTER?} in double quotes or none, and set CLUSTER" $name) -}}
{{- end -}}
{{- end -}}

{{- define "agent.check.join" -}}
{{- $v := .Values -}}
{{- $kubernetes := eq $v.joinParams.method "kubernetes" -}}
{{- if not (has $v.joinParams.method (list "token" "kubernetes")) -}}
  {{- fail (printf "joinParams.method %q: Sallyport has the methods token and kubernetes" $v.joinParams.method) -}}
{{- end -}}
{{- if and $kubernetes $v.authToken -}}{{- fail "authToken is for the method token: with joinParams.method=kubernetes give the token's name in joinParams.tokenName alone" -}}{{- end -}}
{{- if and $kubernetes (not $v.joinParams.tokenName) -}}{{- fail "joinParams.tokenName is missing: the name of the token of the method kubernetes, as `tctl get tokens` shows it" -}}{{- end -}}
{{- $token := include "agent.token" . -}}
{{- if and $token (not $v.joinTokenSecret.create) -}}{{- fail "joinTokenSecret.create is false, so nobody would read authToken: put the token into that Secret, under the key auth-token" -}}{{- end -}}
{{- if and (not $kubernetes) (not $token) $v.joinTokenSecret.create -}}
  {{- $missing := list -}}
  {{- range $i := until (include "agent.replicas" . | int) -}}
    {{- $secret := lookup "v1" "Secret" $.Release.Namespace (include "agent.identity" (list $ $i)) -}}
    {{- if not (get ($secret.data | default dict) "identity.json") -}}{{- $missing = append $missing (printf "%s-%d" $.Release.Name $i) -}}{{- end -}}
  {{- end -}}
  {{- if $missing -}}
    {{- fail (printf "authToken is missing, and %s has no identity yet: make a token with `tctl nodes add --roles=kube --kube-clusters=%s` and give it with --set authToken=TOKEN (on an upgrade, --reset-then-reuse-values keeps the one that was given)" (join ", " $missing) $v.kubeClusterName) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- /* Values of the incumbent's chart that mean what Sallyport doesn't do. */ -}}
{{- define "agent.check.incumbent" -}}
{{- $v := .Values -}}
{{- range (regexSplit "[, ]+" ($v.roles | trim) -1) -}}
  {{- if ne . "kube" -}}{{- fail (printf "roles: %q: this agent is for Kubernetes alone, so write roles=kube" .) -}}{{- end -}}
{{- end -}}
{{- range $key := list "apps" "appResources" "databases" "databaseResources" "awsDatabases" "azureDatabases" "kubernetesDiscovery" "jamfApiEndpoint" "jamfClientId" "jamfClientSecret" "jamfCredentialsSecret" -}}
  {{- if get $v $key -}}{{- fail (printf "%s: this agent is for Kubernetes alone, leave it out" $key) -}}{{- end -}}
{{- end -}}
{{- if $v.teleportConfig -}}{{- fail "teleportConfig: Sallyport has other settings; give flags in extraArgs or variables in extraEnv (see `sallyport agent --help`)" -}}{{- end -}}
{{- if (get ($v.updater | default dict) "enabled") -}}{{- fail "updater.enabled: there is no updater, `helm upgrade` takes its place" -}}{{- end -}}
{{- if kindIs "string" $v.image -}}{{- fail "image: write image.repository and image.tag instead" -}}{{- end -}}
{{- if (get ($v.podSecurityPolicy | default dict) "enabled") -}}{{- fail "podSecurityPolicy.enabled: Kubernetes has none since 1.25. The pods pass the level restricted: kubectl label namespace NAMESPACE pod-security.kubernetes.io/enforce=restricted" -}}{{- end -}}
{{- if $v.teleportVersionOverride -}}{{- fail "teleportVersionOverride: give the version in image.tag" -}}{{- end -}}
{{- if $v.log.extraFields -}}{{- fail "log.extraFields: each line has all fields, leave it out" -}}{{- end -}}
{{- if not (has (lower ($v.log.output | default "stderr")) (list "stderr" "stdout")) -}}{{- fail "log.output: logs go to standard error, leave it out" -}}{{- end -}}
{{- end -}}
