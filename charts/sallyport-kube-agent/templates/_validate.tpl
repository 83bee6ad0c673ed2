{{/* Blocks that are null, or that a --reuse-values from an older chart doesn't have: everything else may be null. In front
of each template, because nobody knows which is rendered first. */}}
{{- define "sallyport-kube-agent.complete" -}}
{{- range $name := list "adminClusterRoleBinding" "annotations" "extraLabels" "highAvailability" "image" "impersonation" "joinParams" "joinTokenSecret" "log" "podMonitor" "rbac" "serviceAccount" "storage" "tls" -}}
{{- if kindIs "invalid" (index $.Values $name) -}}
{{- fail (printf "%s is missing, or null: leave it out, and its defaults hold. If helm upgrade --reuse-values has lost it, because the chart has it since a newer version, use --reset-then-reuse-values (Helm 3.14)" $name) -}}
{{- end -}}
{{- end -}}
{{- if kindIs "invalid" .Values.highAvailability.podDisruptionBudget -}}
{{- fail "highAvailability.podDisruptionBudget is null: write highAvailability.podDisruptionBudget.enabled=false instead" -}}
{{- end -}}
{{- end -}}

{{/* What can't work or means something else here, told all at once, with what to write instead. */}}
{{- define "sallyport-kube-agent.validate" -}}
{{- $wrong := concat
      (include "sallyport-kube-agent.wrong" . | fromYamlArray)
      (include "sallyport-kube-agent.foreign" . | fromYamlArray)
      (include "sallyport-kube-agent.unjoined" . | fromYamlArray) -}}
{{- if eq (len $wrong) 1 -}}
{{- fail (first $wrong) -}}
{{- else if $wrong -}}
{{- fail (printf "\n\n- %s\n" (join "\n- " $wrong)) -}}
{{- end -}}
{{- end -}}

{{/* Values of this chart that can't be right, as a YAML list. */}}
{{- define "sallyport-kube-agent.wrong" -}}
{{- $v := .Values -}}
{{- $wrong := list -}}
{{- if kindIs "slice" $v.kubeClusterName -}}
{{- $wrong = append $wrong (printf "you typed {%s}, write ${%s}" (join "," $v.kubeClusterName) (join "," $v.kubeClusterName)) -}}
{{- else if not $v.kubeClusterName -}}
{{- $wrong = append $wrong "kubeClusterName is missing: say what this Kubernetes cluster is to be called, such as --set kubeClusterName=cookie" -}}
{{- else if regexMatch "[{}$]" $v.kubeClusterName -}}
{{- $wrong = append $wrong (printf "kubeClusterName: %q is a shell variable that no shell has filled in: write ${CLUSTER?} in double quotes or none, and set CLUSTER" $v.kubeClusterName) -}}
{{- end -}}
{{- if not $v.proxyAddr -}}
{{- $wrong = append $wrong "proxyAddr is missing: say where Sallyport is, such as --set proxyAddr=tele.example.com:443" -}}
{{- else if regexMatch "^[a-z]+://|/|@| " $v.proxyAddr -}}
{{- $wrong = append $wrong (printf "proxyAddr: %q is no address: write HOST:PORT as users type it, such as tele.example.com:443" $v.proxyAddr) -}}
{{- else if hasSuffix ":3026" $v.proxyAddr -}}
{{- $wrong = append $wrong (printf "proxyAddr: %s is the port for kubectl alone, which lets no agent in: write the address that users type, such as %s:443" $v.proxyAddr (trimSuffix ":3026" $v.proxyAddr)) -}}
{{- end -}}
{{- if and $v.insecureSkipProxyTLSVerify (include "sallyport-kube-agent.pins" .) -}}
{{- $wrong = append $wrong "insecureSkipProxyTLSVerify checks nothing, so caPin would mean nothing: take one of them out" -}}
{{- end -}}
{{- range $key, $value := $v.labels -}}
{{- if contains "," (printf "%s%v" $key $value) -}}
{{- $wrong = append $wrong (printf "labels.%s: a comma can't be in a label here: %q" $key (toString $value)) -}}
{{- end -}}
{{- end -}}
{{- $names := list -}}
{{- range include "sallyport-kube-agent.env" . | fromYamlArray -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- /* Those too that the chart sets in other cases alone: what the values say of trust and joining holds. */ -}}
{{- $own := dict "SALLYPORT_AGENT_INSECURE" "insecureSkipProxyTLSVerify" "SALLYPORT_AGENT_CA_PIN" "caPin" "SALLYPORT_AGENT_TOKEN" "authToken" "SALLYPORT_AGENT_TOKEN_FILE" "authToken" "SALLYPORT_AGENT_JOIN_METHOD" "joinParams.method" "SALLYPORT_AGENT_KUBERNETES_TOKEN_PATH" "joinParams.method" "SALLYPORT_AGENT_LABELS" "labels" -}}
{{- range $v.extraEnv -}}
{{- if has .name $names -}}
{{- $wrong = append $wrong (printf "extraEnv: the chart sets %s already: use its own value for that" .name) -}}
{{- else if hasKey $own .name -}}
{{- $wrong = append $wrong (printf "extraEnv: %s is what the chart sets: write %s instead" .name (get $own .name)) -}}
{{- end -}}
{{- end -}}
{{- range $kind, $labels := $v.extraLabels -}}
{{- range $key, $_ := $labels -}}
{{- if or (hasPrefix "app.kubernetes.io/" $key) (eq $key "helm.sh/chart") (and (eq $kind "pod") (eq $key "app")) -}}
{{- $wrong = append $wrong (printf "extraLabels.%s: the chart sets %s already: choose another label" $kind $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $v.impersonation.serviceAccounts -}}
{{- if not (regexMatch "^[^:]+:[^:]+$" .) -}}
{{- $wrong = append $wrong (printf "impersonation.serviceAccounts: %q: write NAMESPACE:NAME" .) -}}
{{- end -}}
{{- end -}}
{{- if and $v.rbac.create (not $v.serviceAccount.create) (not $v.serviceAccount.name) (not $v.serviceAccountName) -}}
{{- $wrong = append $wrong "serviceAccount.create=false without serviceAccount.name would let every pod of the namespace, by its account \"default\", impersonate anyone: name an account of the agents' own" -}}
{{- end -}}
{{- if gt (len .Release.Name) 52 -}}
{{- $wrong = append $wrong (printf "the release's name %q is too long for a StatefulSet: write at most 52 letters" .Release.Name) -}}
{{- end -}}
{{ toYaml $wrong }}
{{- end -}}

{{/* Values of Teleport's chart that mean something else here, as a YAML list. The schema admits them so that this can
say what to write. */}}
{{- define "sallyport-kube-agent.foreign" -}}
{{- $v := .Values -}}
{{- $wrong := list -}}
{{- range (regexSplit "[, ]+" ($v.roles | trim) -1) -}}
{{- if ne . "kube" -}}
{{- $wrong = append $wrong (printf "roles: %q: this agent is for Kubernetes alone: write roles=kube" .) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "apps" "appResources" "databases" "databaseResources" "awsDatabases" "azureDatabases" "kubernetesDiscovery" "jamfApiEndpoint" "jamfClientId" "jamfClientSecret" "jamfCredentialsSecret" -}}
{{- if get $v $name -}}
{{- $wrong = append $wrong (printf "%s: this agent is for Kubernetes alone: take %s out" $name $name) -}}
{{- end -}}
{{- end -}}
{{- if $v.teleportConfig -}}
{{- $wrong = append $wrong "teleportConfig: Sallyport has other settings: write flags in extraArgs or variables in extraEnv (see `sallyport agent --help`)" -}}
{{- end -}}
{{- if ($v.updater | default dict).enabled -}}
{{- $wrong = append $wrong "updater.enabled: there is no updater, `helm upgrade` takes its place: take updater out" -}}
{{- end -}}
{{- with $v.teleportVersionOverride -}}
{{- $wrong = append $wrong (printf "teleportVersionOverride=%s: write image.tag=%s instead" . .) -}}
{{- end -}}
{{- if kindIs "string" $v.image -}}
{{- $wrong = append $wrong (printf "image=%s: write image.repository and image.tag instead" $v.image) -}}
{{- end -}}
{{- if ($v.podSecurityPolicy | default dict).enabled -}}
{{- $wrong = append $wrong "podSecurityPolicy.enabled: Kubernetes has none since 1.25. The pods pass the level restricted: kubectl label namespace NAMESPACE pod-security.kubernetes.io/enforce=restricted" -}}
{{- end -}}
{{- if not (has (lower ($v.log.output | default "stderr")) (list "stderr" "stdout")) -}}
{{- $wrong = append $wrong (printf "log.output=%s: agents log to standard error, which `kubectl logs` shows: take log.output out" $v.log.output) -}}
{{- end -}}
{{- with $v.log.extraFields -}}
{{- $wrong = append $wrong "log.extraFields: the fields of the log are fixed; log.format=json writes all of them: take log.extraFields out" -}}
{{- end -}}
{{ toYaml $wrong }}
{{- end -}}

{{/* What agents would miss, or have too much of, to join. An agent that has an identity needs no token; `helm template`
knows no cluster to look for it in. */}}
{{- define "sallyport-kube-agent.unjoined" -}}
{{- $v := .Values -}}
{{- $wrong := list -}}
{{- $method := $v.joinParams.method -}}
{{- $token := include "sallyport-kube-agent.token" . -}}
{{- if eq $method "kubernetes" -}}
{{- if $v.authToken -}}
{{- $wrong = append $wrong "authToken is for the method token: with joinParams.method=kubernetes write the token's name in joinParams.tokenName alone" -}}
{{- end -}}
{{- if not $v.joinParams.tokenName -}}
{{- $wrong = append $wrong "joinParams.tokenName is missing: the name of the token of the method kubernetes, as `tctl get tokens` shows it" -}}
{{- end -}}
{{- else if ne $method "token" -}}
{{- $wrong = append $wrong (printf "joinParams.method=%s: Sallyport has the methods token and kubernetes" $method) -}}
{{- else if and $token (not $v.joinTokenSecret.create) -}}
{{- $wrong = append $wrong "joinTokenSecret.create is false, so nobody would read authToken: put the token into that Secret, under the key auth-token" -}}
{{- else if and (not $token) $v.joinTokenSecret.create -}}
{{- $missing := list -}}
{{- $known := include "sallyport-kube-agent.identities" . | fromYamlArray -}}
{{- range $i := until (include "sallyport-kube-agent.replicas" . | int) -}}
{{- if not (has (include "sallyport-kube-agent.identity" (list $ $i)) $known) -}}
{{- $missing = append $missing (printf "%s-%d" $.Release.Name $i) -}}
{{- end -}}
{{- end -}}
{{- if $missing -}}
{{- $wrong = append $wrong (printf "authToken is missing, and %s has no identity yet: make a token with `tctl nodes add --roles=kube --kube-clusters=%s` and give it with --set authToken=TOKEN (on an upgrade, --reset-then-reuse-values keeps the one that was given)" (join ", " $missing) (toString $v.kubeClusterName)) -}}
{{- end -}}
{{- end -}}
{{ toYaml $wrong }}
{{- end -}}

{{/* Secrets with identities that the agents of this release find, as a YAML list of names. */}}
{{- define "sallyport-kube-agent.identities" -}}
{{- $names := list -}}
{{- range $i := until (include "sallyport-kube-agent.replicas" . | int) -}}
{{- $name := include "sallyport-kube-agent.identity" (list $ $i) -}}
{{- if get ((lookup "v1" "Secret" $.Release.Namespace $name).data | default dict) "identity.json" -}}
{{- $names = append $names $name -}}
{{- end -}}
{{- end -}}
{{ toYaml $names }}
{{- end -}}
