{{- define "darter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "darter.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "darter.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The name of the objects of one kind of node. Takes `root` and `section`. */}}
{{- define "darter.nodeName" -}}
{{- $name := .section.nameOverride | default .section.name -}}
{{- .section.fullnameOverride | default (printf "%s-%s" (include "darter.fullname" .root) $name) | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels that never change: selectors stand on them. Takes `root` and `component`. */}}
{{- define "darter.selector" -}}
app: {{ include "darter.name" .root }}
release: {{ .root.Release.Name }}
component: {{ .component }}
{{- end -}}

{{- define "darter.labels" -}}
{{ include "darter.selector" . }}
app.kubernetes.io/name: {{ include "darter.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "darter.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
{{- end -}}

{{/* Puts into `kept` what is known of `value`, and into `unknown` the path of each value that is not. */}}
{{- define "darter.keep" -}}
{{- $call := . -}}
{{- range $key, $value := .value -}}
{{- $path := printf "%s.%s" $call.path $key -}}
{{- if kindIs "invalid" $value -}}
{{- else if not (hasKey $call.known $key) -}}
{{- $_ := set $call.unknown $path "" -}}
{{- else -}}
{{- $known := get $call.known $key -}}
{{- if and (kindIs "map" $known) (kindIs "map" $value) -}}
{{- $below := dict -}}
{{- $_ := include "darter.keep" (dict "value" $value "known" $known "kept" $below "unknown" $call.unknown "path" $path) -}}
{{- if $below -}}{{- $_ := set $call.kept $key $below -}}{{- end -}}
{{- else if kindIs "map" $known -}}
{{- $_ := set $call.unknown $path "" -}}
{{- else if and (kindIs "slice" $known) (kindIs "slice" $value) -}}
{{- $items := list -}}
{{- range $item := $value -}}
{{- $below := dict -}}
{{- $_ := include "darter.keep" (dict "value" $item "known" (first $known) "kept" $below "unknown" $call.unknown "path" (printf "%s[]" $path)) -}}
{{- $items = append $items $below -}}
{{- end -}}
{{- $_ := set $call.kept $key $items -}}
{{- else -}}
{{- $_ := set $call.kept $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* MiB of a quantity. */}}
{{- define "darter.mebibytes" -}}
{{- $found := regexFind "^[0-9]+(Mi|Gi|Ti)$" (toString .) -}}
{{- if not $found -}}
{{- fail (printf "seedPeer.persistence.size is %q, and not in Mi, Gi or Ti: set seedPeer.config.storage.capacity, to 85 %% of it or less" (toString .)) -}}
{{- end -}}
{{- $units := dict "Mi" 1 "Gi" 1024 "Ti" 1048576 -}}
{{- mul (regexFind "^[0-9]+" $found | int64) (get $units (regexFind "[MGT]i$" $found)) -}}
{{- end -}}

{{/*
What one kind of node is: its configuration as darter takes it, and what the manifests need of it. Takes `root`, `section`
(dfdaemon or seedPeer) and `ignored`, which gets what has no meaning. JSON.
*/}}
{{- define "darter.node" -}}
{{- $root := .root -}}
{{- $ignored := .ignored -}}
{{- $section := get $root.Values .section -}}
{{- $isPeer := eq .section "dfdaemon" -}}
{{- $path := .section -}}
{{- $shared := list "enable" "name" "nameOverride" "fullnameOverride" "pullPolicy" "pullSecrets" "hostAliases" "resources" "priorityClassName" "nodeSelector" "affinity" "tolerations" "terminationGracePeriodSeconds" "updateStrategy" "podAnnotations" "podLabels" "extraEnvVars" "extraVolumes" "extraVolumeMounts" "config" "metrics" -}}
{{- $own := ternary (list "hostNetwork" "hostPort" "containerPort" "mountDataDirAsHostPath" "daemonsetAnnotations") (list "replicas" "statefulsetAnnotations" "podDisruptionBudget" "persistence") $isPeer -}}
{{- range $key, $value := $section -}}
{{- if not (or (has $key $shared) (has $key $own) (kindIs "invalid" $value)) -}}
{{- $_ := set $ignored (printf "%s.%s" $path $key) "" -}}
{{- end -}}
{{- end -}}

{{- /* Keys that Dragonfly has in another place. */ -}}
{{- $config := deepCopy ($section.config | default dict) -}}
{{- $peerPort := 65000 -}}
{{- $zone := "" -}}
{{- $uploadRate := "" -}}
{{- $scraped := $section.metrics.enable -}}
{{- with $config.host -}}
{{- if .idc -}}{{- $zone = .idc -}}{{- end -}}
{{- $_ := unset . "idc" -}}
{{- if not . -}}{{- $_ := unset $config "host" -}}{{- end -}}
{{- end -}}
{{- with $config.upload -}}
{{- if .rateLimit -}}{{- $uploadRate = .rateLimit -}}{{- end -}}
{{- $_ := unset . "rateLimit" -}}
{{- if not . -}}{{- $_ := unset $config "upload" -}}{{- end -}}
{{- end -}}
{{- with ((($config.download | default dict).peerGRPC | default dict).tcpListen | default dict).port -}}
{{- $peerPort = . -}}
{{- end -}}
{{- if kindIs "string" $config.metrics -}}
{{- $scraped = true -}}
{{- end -}}

{{- $kept := dict -}}
{{- $keys := $root.Files.Get "files/keys.yaml" | fromYaml -}}
{{- $_ := include "darter.keep" (dict "value" $config "known" $keys "kept" $kept "unknown" $ignored "path" (printf "%s.config" $path)) -}}
{{- if not $isPeer -}}
{{- $peers := dict -}}
{{- $_ := include "darter.keep" (dict "value" (($root.Values.dfdaemon.config).proxy | default dict) "known" $keys.proxy "kept" $peers "unknown" dict "path" "") -}}
{{- $proxy := mergeOverwrite (omit $peers "tcpListen") ($kept.proxy | default dict) -}}
{{- if $proxy -}}{{- $_ := set $kept "proxy" $proxy -}}{{- end -}}
{{- end -}}

{{- $clustered := or (and $root.Values.seedPeer.enable $root.Values.seedPeer.replicas) ($kept.cluster).join -}}
{{- $cluster := $kept.cluster | default dict -}}
{{- $listen := $cluster.listen | default (printf "0.0.0.0:%v" $peerPort) -}}
{{- $peerPort = regexFind "[0-9]+$" $listen | int -}}
{{- $_ := unset $cluster "listen" -}}
{{- if and $zone (not $cluster.zone) -}}{{- $_ := set $cluster "zone" $zone -}}{{- end -}}
{{- if and $uploadRate (not ($cluster.limits).uploadRate) -}}
{{- $_ := set $cluster "limits" (mergeOverwrite (dict "uploadRate" $uploadRate) ($cluster.limits | default dict)) -}}
{{- end -}}
{{- if $clustered -}}
{{- $_ := set $cluster "role" (ternary "peer" "seed" $isPeer) -}}
{{- $_ := set $cluster "secretFile" "/etc/darter/cluster/cluster" -}}
{{- $_ := set $kept "cluster" $cluster -}}
{{- else -}}
{{- $_ := unset $kept "cluster" -}}
{{- end -}}

{{- $isOnHost := and $isPeer $section.hostNetwork -}}
{{- $front := mergeOverwrite (dict "listen" (ternary "127.0.0.1" "0.0.0.0" (or $isOnHost (not $isPeer))) "port" (ternary ($section.containerPort | default 65001) 65001 $isPeer)) (($kept.proxy).tcpListen | default dict) -}}
{{- $admin := mergeOverwrite (dict "listen" (ternary "127.0.0.1" "0.0.0.0" (and $isOnHost (not $scraped))) "port" 40901) (($kept.health).tcpListen | default dict) -}}
{{- $_ := set $kept "proxy" (mergeOverwrite ($kept.proxy | default dict) (dict "tcpListen" $front)) -}}
{{- $_ := set $kept "health" (mergeOverwrite ($kept.health | default dict) (dict "tcpListen" $admin)) -}}
{{- $dataDir := $kept.dataDir | default "/var/lib/darter/data" -}}
{{- $_ := set $kept "dataDir" $dataDir -}}
{{- if and (not $isPeer) $section.persistence.enable (not ($kept.storage).capacity) -}}
{{- $mebibytes := div (mul (include "darter.mebibytes" $section.persistence.size | int64) 85) 100 -}}
{{- $_ := set $kept "storage" (mergeOverwrite ($kept.storage | default dict) (dict "capacity" (printf "%dMiB" $mebibytes))) -}}
{{- end -}}

{{- $probeHost := "" -}}
{{- if $isOnHost -}}
{{- $probeHost = ternary "127.0.0.1" $admin.listen (has $admin.listen (list "0.0.0.0" "::" "127.0.0.1")) -}}
{{- end -}}
{{- dict "name" (include "darter.nodeName" (dict "root" $root "section" $section)) "component" $section.name "isPeer" $isPeer "isOnHost" $isOnHost "clustered" (not (not $clustered)) "config" $kept "front" $front "admin" $admin "peerListen" $listen "peerPort" $peerPort "dataDir" $dataDir "scraped" (not (not $scraped)) "probeHost" $probeHost | toJson -}}
{{- end -}}

{{/* All that the manifests are made of: `peer`, `seed`, `secrets`, and `ignored`: path and reason. JSON. */}}
{{- define "darter.facts" -}}
{{- $ignored := dict -}}
{{- $peer := include "darter.node" (dict "root" . "section" "dfdaemon" "ignored" $ignored) | fromJson -}}
{{- $seed := include "darter.node" (dict "root" . "section" "seedPeer" "ignored" $ignored) | fromJson -}}
{{- $fullname := include "darter.fullname" . -}}
{{- $place := printf "dns://%s.%s.svc.%s:%v" $seed.name .Release.Namespace .Values.clusterDomain $seed.peerPort -}}
{{- range $node := list $peer $seed -}}
{{- if and $node.clustered (not $node.config.cluster.join) -}}
{{- $_ := set $node.config.cluster "join" (list $place) -}}
{{- end -}}
{{- end -}}
{{- $ours := list "global" "nameOverride" "fullnameOverride" "clusterDomain" "image" "cluster" "seccomp" "containerRuntime" "dashboard" "dfdaemon" "seedPeer" -}}
{{- range $key, $value := .Values -}}
{{- if not (or (has $key $ours) (kindIs "invalid" $value)) -}}
{{- $_ := set $ignored $key "" -}}
{{- end -}}
{{- end -}}
{{- range $runtime, $value := .Values.containerRuntime -}}
{{- $known := get (dict "containerd" (list "enable" "registries" "undo") "crio" (list "enable" "registries" "undo")) $runtime | default list -}}
{{- if not $known -}}
{{- $_ := set $ignored (printf "containerRuntime.%s" $runtime) "" -}}
{{- else -}}
{{- range $key, $_ := $value -}}
{{- if not (has $key $known) -}}{{- $_ := set $ignored (printf "containerRuntime.%s.%s" $runtime $key) "" -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $reasons := $.Files.Get "files/ignored.yaml" | fromYaml -}}
{{- range $path, $_ := $ignored -}}
{{- $reason := "has no meaning in darter" -}}
{{- range $pattern, $why := $reasons -}}
{{- if regexMatch (printf "^(%s)$" $pattern) $path -}}{{- $reason = $why -}}{{- end -}}
{{- end -}}
{{- $_ := set $ignored $path $reason -}}
{{- end -}}
{{- $existing := .Values.cluster.existingSecrets -}}
{{- $isMade := and .Values.cluster.createSecrets $seed.clustered .Values.seedPeer.enable (not $existing.seed) (not $existing.peer) -}}
{{- $secrets := dict "isMade" (not (not $isMade)) "name" (printf "%s-cluster" $fullname) "seed" ($existing.seed | default (printf "%s-cluster-seed" $fullname)) "peer" ($existing.peer | default (printf "%s-cluster-peer" $fullname)) -}}
{{- dict "peer" $peer "seed" $seed "secrets" $secrets "ignored" $ignored | toJson -}}
{{- end -}}
