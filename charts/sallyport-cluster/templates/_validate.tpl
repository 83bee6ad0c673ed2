{{/* Blocks that are null, or that a --reuse-values from an older chart doesn't have: everything else may be null. In front
of each template, because nobody knows which is rendered first. */}}
{{- define "sallyport-cluster.complete" -}}
{{- range $name := list "annotations" "audit" "clusterSecret" "highAvailability" "image" "kubernetesJoin" "log" "networkPolicy" "persistence" "podMonitor" "postStart" "rbac" "service" "serviceAccount" "serviceMonitor" "tls" -}}
{{- if kindIs "invalid" (index $.Values $name) -}}
{{- fail (printf "%s is missing, or null: leave it out, and its defaults hold. If helm upgrade --reuse-values has lost it, because the chart has it since a newer version, use --reset-then-reuse-values (Helm 3.14)" $name) -}}
{{- end -}}
{{- end -}}
{{- if kindIs "invalid" .Values.highAvailability.podDisruptionBudget -}}
{{- fail "highAvailability.podDisruptionBudget is null: write highAvailability.podDisruptionBudget.enabled=false instead" -}}
{{- end -}}
{{- end -}}

{{/* What can't work or means something else here, told all at once, with what to write instead. */}}
{{- define "sallyport-cluster.validate" -}}
{{- $wrong := concat
      (include "sallyport-cluster.wrong" . | fromYamlArray)
      (include "sallyport-cluster.foreign" . | fromYamlArray)
      (include "sallyport-cluster.fixed" . | fromYamlArray)
      (include "sallyport-cluster.lowered" . | fromYamlArray)
      (include "sallyport-cluster.outage" . | fromYamlArray)
      (include "sallyport-cluster.lostSecret" . | fromYamlArray) -}}
{{- if eq (len $wrong) 1 -}}
{{- fail (first $wrong) -}}
{{- else if $wrong -}}
{{- fail (printf "\n\n- %s\n" (join "\n- " $wrong)) -}}
{{- end -}}
{{- end -}}

{{/* Values of this chart that can't be right, as a YAML list. */}}
{{- define "sallyport-cluster.wrong" -}}
{{- $v := .Values -}}
{{- $ha := $v.highAvailability -}}
{{- $wrong := list -}}
{{- if not $v.clusterName -}}
{{- $wrong = append $wrong "clusterName is missing: the public DNS name that users will type, such as --set clusterName=tele.example.com" -}}
{{- else if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$" $v.clusterName) -}}
{{- $wrong = append $wrong (printf "clusterName: %q is no DNS name: write lower-case letters, digits, - and dots, without a port, such as tele.example.com" $v.clusterName) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "sallyport-cluster.fullname" .)) -}}
{{- $wrong = append $wrong (printf "%q can't be the name of a Service: begin it with a letter and write lower-case letters, digits and - alone, in the release's name or in fullnameOverride" (include "sallyport-cluster.fullname" .)) -}}
{{- end -}}
{{- if and $v.rbac.create (not $v.serviceAccount.create) (not $v.serviceAccount.name) -}}
{{- $wrong = append $wrong "serviceAccount.create=false without serviceAccount.name would let every pod of the namespace, by its account \"default\", impersonate anyone: name an account of the replicas' own" -}}
{{- end -}}
{{- range $name := list "publicAddr" "publicKubeAddr" -}}
{{- $addr := get $v $name -}}
{{- if and $addr (not (regexMatch "^[^:/@ ]+:[0-9]{1,5}$" $addr)) -}}
{{- $wrong = append $wrong (printf "%s: %q is no address: write HOST:PORT, such as tele.example.com:443" $name $addr) -}}
{{- end -}}
{{- end -}}
{{- if and $v.acme $v.tls.existingSecretName -}}
{{- $wrong = append $wrong "acme=true and tls.existingSecretName contradict each other: the certificate comes from one of them; take the other out" -}}
{{- end -}}
{{- if not $v.acme -}}
{{- range $name := list "acmeURI" "acmeHTTPPort" "acmeCASecretName" -}}
{{- if get $v $name -}}
{{- $wrong = append $wrong (printf "%s does nothing without ACME: add acme=true, or take it out" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if has (int $v.acmeHTTPPort) (list 443 3026) -}}
{{- $wrong = append $wrong (printf "acmeHTTPPort=%d is a port of the Service already: authorities ask on 80" (int $v.acmeHTTPPort)) -}}
{{- end -}}
{{- if and (ne (include "sallyport-cluster.proxyProtocol" .) "off") (not $v.trustedProxies) -}}
{{- $wrong = append $wrong (printf "proxyProtocol=%s without trustedProxies believes nobody: give the networks of your load balancers, such as trustedProxies={10.0.7.0/24}" (include "sallyport-cluster.proxyProtocol" .)) -}}
{{- end -}}
{{- if and $v.trustedProxies (eq (include "sallyport-cluster.proxyProtocol" .) "off") -}}
{{- $wrong = append $wrong "trustedProxies does nothing while proxyProtocol is off: set it to on or require, or take trustedProxies out" -}}
{{- end -}}
{{- range $key, $value := $v.labels -}}
{{- if contains "," (toString $value) -}}
{{- $wrong = append $wrong (printf "labels.%s: a comma can't be in a label here: %q" $key (toString $value)) -}}
{{- end -}}
{{- end -}}
{{- if lt (int $v.terminationGracePeriodSeconds) (add (int $v.shutdownDelaySeconds) 15 | int) -}}
{{- $wrong = append $wrong (printf "terminationGracePeriodSeconds=%d leaves streams no time to end: write at least shutdownDelaySeconds + 15, which is %d" (int $v.terminationGracePeriodSeconds) (add (int $v.shutdownDelaySeconds) 15)) -}}
{{- end -}}
{{- if and $v.persistence.existingClaimName (or (gt (int $ha.replicaCount) 1) (not $v.persistence.enabled)) -}}
{{- $wrong = append $wrong (printf "persistence.existingClaimName is for one replica with a volume (highAvailability.replicaCount=1, persistence.enabled=true): each of several has its own. Make claims named data-%s-0, -1 … beforehand, and they are taken" (include "sallyport-cluster.fullname" .)) -}}
{{- end -}}
{{- if and $ha.requireAntiAffinity ($v.affinity | default dict).podAntiAffinity -}}
{{- $wrong = append $wrong "highAvailability.requireAntiAffinity and affinity.podAntiAffinity say the same twice: take one of them out" -}}
{{- end -}}
{{- if and $v.serviceMonitor.enabled $v.podMonitor.enabled -}}
{{- $wrong = append $wrong "serviceMonitor.enabled and podMonitor.enabled would count everything twice: choose one" -}}
{{- end -}}
{{- range $name := list "app" "app.kubernetes.io/name" "app.kubernetes.io/instance" -}}
{{- if hasKey ($v.podLabels | default dict) $name -}}
{{- $wrong = append $wrong (printf "podLabels: %s is what replicas are found by: choose another label" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "type" "ports" "selector" -}}
{{- if hasKey ($v.service.spec | default dict) $name -}}
{{- $wrong = append $wrong (printf "service.spec.%s: %s" $name (get (dict "type" "write service.type instead" "ports" "the ports are 443 and 3026; for those on nodes write service.nodePorts" "selector" "it is the replicas', and can't be another") $name)) -}}
{{- end -}}
{{- end -}}
{{- $names := list -}}
{{- range include "sallyport-cluster.env" . | fromYamlArray -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- range $v.extraEnv -}}
{{- if has .name $names -}}
{{- $wrong = append $wrong (printf "extraEnv: the chart sets %s already: use its own value for that" .name) -}}
{{- end -}}
{{- end -}}
{{ toYaml $wrong }}
{{- end -}}

{{/* Values of Teleport's chart that mean something else here, and of this chart that are gone, whose defaults --reuse-values
brings: as a YAML list. The schema admits them so that this can
say what to write. */}}
{{- define "sallyport-cluster.foreign" -}}
{{- $v := .Values -}}
{{- $wrong := list -}}
{{- if not (has ($v.chartMode | default "standalone") (list "standalone")) -}}
{{- $wrong = append $wrong (printf "chartMode=%s: Sallyport keeps its state itself, in the replicas' volumes, and needs no cloud for it: take chartMode out" $v.chartMode) -}}
{{- end -}}
{{- if not (has ($v.proxyListenerMode | default "multiplex") (list "multiplex")) -}}
{{- $wrong = append $wrong (printf "proxyListenerMode=%s: all protocols share port 443 here, and kubectl has 3026 beside it: take proxyListenerMode out" $v.proxyListenerMode) -}}
{{- end -}}
{{- if not (has ($v.authenticationType | default "local") (list "local")) -}}
{{- $wrong = append $wrong (printf "authenticationType=%s: the chart sets up no logins: create the connector with `tctl create -f`, and users choose it by `tsh login --auth=NAME`; take authenticationType out" $v.authenticationType) -}}
{{- end -}}
{{- with $v.teleportVersionOverride -}}
{{- $wrong = append $wrong (printf "teleportVersionOverride=%s: write image.tag=%s instead" . .) -}}
{{- end -}}
{{- with $v.enterpriseImage -}}
{{- $wrong = append $wrong "enterpriseImage: there is one edition and one image: write image.repository and image.tag instead" -}}
{{- end -}}
{{- if kindIs "string" $v.image -}}
{{- $wrong = append $wrong (printf "image=%s: write image.repository and image.tag instead" $v.image) -}}
{{- end -}}
{{- with ($v.highAvailability.certManager | default dict).enabled -}}
{{- $wrong = append $wrong "highAvailability.certManager.enabled: replicas share one certificate by themselves: use acme=true, or tls.existingSecretName with the Secret of a cert-manager Certificate" -}}
{{- end -}}
{{- if ($v.podSecurityPolicy | default dict).enabled -}}
{{- $wrong = append $wrong "podSecurityPolicy.enabled: Kubernetes has none since 1.25. The pods pass the level restricted: kubectl label namespace NAMESPACE pod-security.kubernetes.io/enforce=restricted" -}}
{{- end -}}
{{- with $v.standalone -}}
{{- range $name, $value := . -}}
{{- if $value -}}
{{- $wrong = append $wrong (printf "standalone.%s: write persistence.%s=%v instead" $name $name $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not (has ($v.log.output | default "stderr") (list "stderr")) -}}
{{- $wrong = append $wrong (printf "log.output=%s: replicas log to standard error, which `kubectl logs` shows: take log.output out" $v.log.output) -}}
{{- end -}}
{{- with $v.nameOverride -}}
{{- $wrong = append $wrong (printf "nameOverride=%s: the label app.kubernetes.io/name is the chart's name now, and fullnameOverride names the objects: take nameOverride out" .) -}}
{{- end -}}
{{- if ne (int ($v.clusterSecret.ttlSecondsAfterFinished | default 600)) 600 -}}
{{- $wrong = append $wrong (printf "clusterSecret.ttlSecondsAfterFinished=%d: the Job that makes the secret is removed after 600 seconds now: take it out" (int $v.clusterSecret.ttlSecondsAfterFinished)) -}}
{{- end -}}
{{- range $name, $env := dict "segmentSize" "SALLYPORT_AUDIT_SEGMENT_SIZE" "spoolSize" "SALLYPORT_AUDIT_SPOOL_SIZE" -}}
{{- with get $v.audit $name -}}
{{- $wrong = append $wrong (printf "audit.%s=%s: write it as %s in extraEnv, and take audit.%s out" $name (include "sallyport-cluster.text" .) $env $name) -}}
{{- end -}}
{{- end -}}
{{- with $v.log.extraFields -}}
{{- $wrong = append $wrong "log.extraFields: the fields of the log are fixed; log.format=json writes all of them: take log.extraFields out" -}}
{{- end -}}
{{ toYaml $wrong }}
{{- end -}}

{{/* What can't be changed while there is a StatefulSet that has it: the cluster's name, which is in every certificate (a
replica under another would end again and again), and the volumes, of which Kubernetes says without a way out that it is
forbidden. */}}
{{- define "sallyport-cluster.fixed" -}}
{{- $wrong := list -}}
{{- $name := .Values.clusterName | default "" -}}
{{- $persistence := .Values.persistence -}}
{{- $now := (lookup "apps/v1" "StatefulSet" .Release.Namespace (include "sallyport-cluster.fullname" .)).spec | default dict -}}
{{- range (dig "template" "spec" "containers" list $now) -}}
{{- if eq .name "sallyport" -}}
{{- range .env -}}
{{- if and (eq .name "SALLYPORT_CLUSTER_NAME") (ne .value $name) -}}
{{- $wrong = append $wrong (printf "clusterName=%s: this is the cluster %s, and that is in every certificate and can't be changed: set it back, clusterName=%s. A new name is a new cluster: install it as another release, or, if this one's state is of no use any more, uninstall this one and delete its claims first" $name .value .value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $persistence.enabled (not $persistence.existingClaimName) -}}
{{- range $now.volumeClaimTemplates -}}
{{- $how := "the chart can't change those that there are: leave it, or do as docs/ha.md, \"Larger volumes\", says" -}}
{{- $size := $persistence.volumeSize | default "10Gi" -}}
{{- $has := .spec.resources.requests.storage -}}
{{- if ne (include "sallyport-cluster.bytes" $size) (include "sallyport-cluster.bytes" $has) -}}
{{- $wrong = append $wrong (printf "persistence.volumeSize=%s: the volumes are of %s, and %s" $size $has $how) -}}
{{- end -}}
{{- $class := .spec.storageClassName | default "" -}}
{{- if ne ($persistence.storageClassName | default "") $class -}}
{{- $wrong = append $wrong (printf "persistence.storageClassName=%q: the volumes are of %q, and %s" ($persistence.storageClassName | default "") $class $how) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ toYaml $wrong }}
{{- end -}}

{{/* The number of replicas is not lowered: those that go would still be counted for the majority. Nor by an install over
volumes that an uninstall has left. `helm template` knows no cluster to look at; then nobody can tell. */}}
{{- define "sallyport-cluster.lowered" -}}
{{- $wrong := list -}}
{{- $fullname := include "sallyport-cluster.fullname" . -}}
{{- $want := int .Values.highAvailability.replicaCount -}}
{{- $now := lookup "apps/v1" "StatefulSet" .Release.Namespace $fullname -}}
{{- $claim := printf "data-%s-%d" $fullname $want -}}
{{- if and $now (gt (int ($now.spec | default dict).replicas) $want) -}}
{{- $wrong = append $wrong (printf "highAvailability.replicaCount=%d: there are %d replicas, and a cluster can't be made smaller yet, because those that go would still count for the majority: leave it at %d" $want (int $now.spec.replicas) (int $now.spec.replicas)) -}}
{{- else if lookup "v1" "PersistentVolumeClaim" .Release.Namespace $claim -}}
{{- $wrong = append $wrong (printf "highAvailability.replicaCount=%d: there is the claim %s of one replica more, which still counts for the majority: set replicaCount to what it was. If the state is of no use any more, delete the claims of %s first" $want $claim $fullname) -}}
{{- end -}}
{{ toYaml $wrong }}
{{- end -}}

{{/* Kubernetes replaces the last replica first, whichever is down, and goes on to the one before when that is ready. So what
counts is the last one:

- It is down: it is replaced first, which costs nothing. If it becomes ready, one more than before are up, and each further
  step takes one of these; if it doesn't, the rollout stops there. No majority is lost that is there now: of three with 2
  down two stay up, of five with 4 and any other down three do. So the upgrade that mends it isn't kept from it.
- It is ready, and just a majority is: of three with 0 or 1 down, of five with two of 0 to 3 down. The first step would leave
  none before it came to those that are down, even if this upgrade mends them. That is refused, whether the replicas are at
  rest or another rollout is under way (which then is stuck, or over in a minute).
- It is ready, and more than a majority are: of five with one of 0 to 3 down. Four less one are three.
- There is no majority: nothing is left to lose.

Pods are asked one by one: the StatefulSet says only how many are ready. With OnDelete no upgrade replaces any. */}}
{{- define "sallyport-cluster.outage" -}}
{{- $wrong := list -}}
{{- $fullname := include "sallyport-cluster.fullname" . -}}
{{- $replicas := int ((lookup "apps/v1" "StatefulSet" .Release.Namespace $fullname).spec | default dict).replicas -}}
{{- if and $replicas (not .Values.highAvailability.upgradeWhileDown) (ne (.Values.updateStrategy | default dict).type "OnDelete") -}}
{{- $down := list -}}
{{- range $i := until $replicas -}}
{{- $name := printf "%s-%d" $fullname $i -}}
{{- $pod := lookup "v1" "Pod" $.Release.Namespace $name -}}
{{- $ready := false -}}
{{- range ($pod.status | default dict).conditions -}}
{{- if and (eq .type "Ready") (eq .status "True") -}}
{{- $ready = not $pod.metadata.deletionTimestamp -}}
{{- end -}}
{{- end -}}
{{- if not $ready -}}
{{- $down = append $down $name -}}
{{- end -}}
{{- end -}}
{{- $last := printf "%s-%d" $fullname (sub $replicas 1) -}}
{{- $up := sub $replicas (len $down) | int -}}
{{- if and $down (not (has $last $down)) (eq $up (add (div $replicas 2) 1 | int)) -}}
{{- $wrong = append $wrong (printf "%d of %d replicas are ready, just a majority, and an upgrade begins with one of these, %s: nobody could log in until that is back. Mend %s first (kubectl -n %s get pods -l app=%s), or if this upgrade is what mends, add --set highAvailability.upgradeWhileDown=true to it" $up $replicas $last (join ", " $down) .Release.Namespace .Release.Name) -}}
{{- end -}}
{{- end -}}
{{ toYaml $wrong }}
{{- end -}}

{{/* Replicas that run hold the last copy of a Secret that somebody deleted. The Job would make another in its place,
and the kubelet would put that over the copies. */}}
{{- define "sallyport-cluster.lostSecret" -}}
{{- $wrong := list -}}
{{- $now := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "sallyport-cluster.fullname" .) | default dict -}}
{{- if and (not .Values.clusterSecret.existingSecret) (gt (int ($now.status | default dict).readyReplicas) 0) -}}
{{- $name := include "sallyport-cluster.secretName" . -}}
{{- if not (lookup "v1" "Secret" .Release.Namespace $name) -}}
{{- $wrong = append $wrong (printf "the Secret %s is gone, and what replicas have stored opens with nothing else. Before anything restarts, make it again from one that runs: kubectl -n %s exec %s-0 -- cat /etc/sallyport/cluster-secret/cluster-secret >cluster-secret && kubectl -n %s create secret generic %s --from-file=cluster-secret" $name .Release.Namespace (include "sallyport-cluster.fullname" .) .Release.Namespace $name) -}}
{{- end -}}
{{- end -}}
{{ toYaml $wrong }}
{{- end -}}
