{{/* What peers and seeds have in common: the template of a pod. Takes `root`, `facts`, `node` and `section`. */}}
{{- define "darter.pod" -}}
{{- $root := .root -}}
{{- $node := .node -}}
{{- $section := .section -}}
{{- $values := $root.Values -}}
{{- $pull := $section.pullPolicy | default $values.image.pullPolicy -}}
metadata:
  labels:
    {{- include "darter.labels" (dict "root" $root "component" $node.component) | nindent 4 }}
    {{- with $section.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ toYaml $node.config | sha256sum }}
    {{- with $section.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- if $node.isOnHost }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: {{ $section.terminationGracePeriodSeconds | default 45 }}
  securityContext:
    fsGroup: 65532
    seccompProfile: { type: RuntimeDefault }
  {{- with $section.pullSecrets | default $values.global.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- range $key := list "hostAliases" "nodeSelector" "tolerations" "priorityClassName" }}
  {{- with get $section $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- if $section.affinity }}
  affinity:
    {{- toYaml $section.affinity | nindent 4 }}
  {{- else if not $node.isPeer }}
  affinity:
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels:
                {{- include "darter.selector" (dict "root" $root "component" $node.component) | nindent 16 }}
  {{- end }}
  {{- include "darter.initContainers" . | nindent 2 }}
  containers:
    - name: darter
      image: {{ include "darter.image" $root }}
      imagePullPolicy: {{ $pull }}
      command: [/usr/local/bin/darter]
      args:
        - serve
        - --config=/etc/darter/darter.yaml
        {{- if $node.clustered }}
        - --peer-listen={{ $node.peerListen }}
        - --peer-advertise=$(POD_IP)
        {{- end }}
      env:
        - name: POD_IP
          valueFrom: { fieldRef: { fieldPath: status.podIP } }
        {{- with $section.extraEnvVars }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: admin
          containerPort: {{ $node.admin.port }}
          protocol: TCP
        {{- if $node.isPeer }}
        - name: front
          containerPort: {{ $node.front.port }}
          {{- if not $node.isOnHost }}
          hostPort: {{ $section.hostPort }}
          hostIP: 127.0.0.1
          {{- end }}
          protocol: TCP
        {{- end }}
        {{- if $node.clustered }}
        - name: peers
          containerPort: {{ $node.peerPort }}
          protocol: UDP
        - name: peers-tcp
          containerPort: {{ $node.peerPort }}
          protocol: TCP
        {{- end }}
      {{- range $probe, $times := dict "startupProbe" (dict "path" "/healthz" "periodSeconds" 2 "failureThreshold" 60) "livenessProbe" (dict "path" "/healthz" "periodSeconds" 10 "failureThreshold" 3) "readinessProbe" (dict "path" "/readyz" "periodSeconds" 5 "failureThreshold" 2) }}
      {{ $probe }}:
        httpGet:
          path: {{ $times.path }}
          port: {{ $node.admin.port }}
          {{- with $node.probeHost }}
          host: {{ . | quote }}
          {{- end }}
        timeoutSeconds: 5
        periodSeconds: {{ $times.periodSeconds }}
        failureThreshold: {{ $times.failureThreshold }}
      {{- end }}
      resources:
        {{- toYaml $section.resources | nindent 8 }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: { drop: [ALL] }
        seccompProfile:
          type: {{ $values.seccomp.type }}
          {{- if eq $values.seccomp.type "Localhost" }}
          localhostProfile: {{ $values.seccomp.localhostProfile }}
          {{- end }}
      volumeMounts:
        - { name: config, mountPath: /etc/darter/darter.yaml, subPath: darter.yaml, readOnly: true }
        {{- if $node.clustered }}
        - { name: secret, mountPath: /etc/darter/cluster, readOnly: true }
        {{- end }}
        - { name: data, mountPath: {{ $node.dataDir | quote }} }
        {{- with $section.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: { name: {{ $node.name }} }
    {{- if $node.clustered }}
    - name: secret
      secret:
        secretName: {{ ternary .facts.secrets.peer .facts.secrets.seed $node.isPeer }}
        defaultMode: 0440
        items: [{ key: cluster, path: cluster }]
    {{- end }}
    {{- if $node.isPeer }}
    - name: data
      {{- if $section.mountDataDirAsHostPath }}
      hostPath: { path: {{ $node.dataDir | quote }}, type: DirectoryOrCreate }
      {{- else }}
      emptyDir: {}
      {{- end }}
    {{- else if not $section.persistence.enable }}
    - name: data
      emptyDir: {}
    {{- end }}
    {{- if and (eq $values.seccomp.type "Localhost") $values.seccomp.install }}
    - name: seccomp
      configMap: { name: {{ include "darter.fullname" $root }}-seccomp }
    - name: kubelet-seccomp
      hostPath: { path: {{ printf "%s/seccomp" $values.seccomp.kubeletDir | quote }}, type: DirectoryOrCreate }
    {{- end }}
    {{- if and $node.isPeer (or $values.containerRuntime.containerd.enable $values.containerRuntime.crio.enable) }}
    - name: host-init
      hostPath: { path: /var/lib/darter/init, type: DirectoryOrCreate }
    {{- if $values.containerRuntime.containerd.enable }}
    - name: host-containerd
      hostPath: { path: /etc/containerd, type: DirectoryOrCreate }
    {{- end }}
    {{- if $values.containerRuntime.crio.enable }}
    - name: host-containers
      hostPath: { path: /etc/containers, type: DirectoryOrCreate }
    {{- end }}
    {{- end }}
    {{- with $section.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* The steps before the daemon, each as root of its container and with what it needs. Takes what the pod takes. */}}
{{- define "darter.initContainers" -}}
{{- $values := .root.Values -}}
{{- $node := .node -}}
{{- $image := include "darter.image" .root -}}
{{- $pull := .section.pullPolicy | default $values.image.pullPolicy -}}
{{- $steps := list -}}
{{- if and (eq $values.seccomp.type "Localhost") $values.seccomp.install -}}
{{- $file := printf "/kubelet/%s" $values.seccomp.localhostProfile -}}
{{- $steps = append $steps (dict "name" "seccomp-profile" "command" (list "/bin/sh" "-c" "mkdir -p \"$(dirname \"$0\")\" && cp /profile/darter.json \"$0.new\" && mv \"$0.new\" \"$0\"" $file) "mounts" (list (dict "name" "seccomp" "mountPath" "/profile" "readOnly" true) (dict "name" "kubelet-seccomp" "mountPath" "/kubelet")) "capabilities" list) -}}
{{- end -}}
{{- if and $node.isPeer .section.mountDataDirAsHostPath -}}
{{- $steps = append $steps (dict "name" "data-directory" "command" (list "/bin/sh" "-c" "chmod 700 \"$0\" && chown 65532:65532 \"$0\"" $node.dataDir) "mounts" (list (dict "name" "data" "mountPath" $node.dataDir)) "capabilities" (list "CHOWN" "FOWNER")) -}}
{{- end -}}
{{- if $node.isPeer -}}
{{- range $client, $place := dict "containerd" (dict "volume" "host-containerd" "path" "/host/etc/containerd") "crio" (dict "volume" "host-containers" "path" "/host/etc/containers") -}}
{{- $runtime := get $values.containerRuntime $client -}}
{{- if $runtime.enable -}}
{{- $host := ternary "127.0.0.1" $node.front.listen (or (not $node.isOnHost) (has $node.front.listen (list "0.0.0.0" "::" "127.0.0.1"))) -}}
{{- $port := ternary $node.front.port $.section.hostPort $node.isOnHost -}}
{{- $args := list "init" $client "--root=/host" (printf "--front=%s:%v" $host $port) -}}
{{- range $registry := ternary $runtime.registries (list (first ($runtime.registries | default (list "")))) (eq $client "containerd") -}}
{{- if $registry -}}{{- $args = append $args (printf "--registry=%s" $registry) -}}{{- end -}}
{{- end -}}
{{- $command := concat (list "/usr/local/bin/darter") $args -}}
{{- if $runtime.undo -}}
{{- /* 3: there is nothing to undo. */ -}}
{{- $command = list "/bin/sh" "-c" "/usr/local/bin/darter init \"$0\" --root=/host --undo || [ $? -eq 3 ]" $client -}}
{{- end -}}
{{- $steps = append $steps (dict "name" (printf "init-%s" $client) "command" $command "mounts" (list (dict "name" $place.volume "mountPath" $place.path) (dict "name" "host-init" "mountPath" "/host/var/lib/darter/init")) "capabilities" (list "CHOWN" "DAC_OVERRIDE" "FOWNER")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $steps -}}
initContainers:
{{- range $step := $steps }}
  - name: {{ $step.name }}
    image: {{ $image }}
    imagePullPolicy: {{ $pull }}
    command:
      {{- toYaml $step.command | nindent 6 }}
    resources:
      requests: { cpu: 10m, memory: 32Mi }
      limits: { memory: 128Mi }
    securityContext:
      runAsNonRoot: false
      runAsUser: 0
      runAsGroup: 0
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop: [ALL]
        {{- with $step.capabilities }}
        add:
          {{- toYaml . | nindent 10 }}
        {{- end }}
    volumeMounts:
      {{- toYaml $step.mounts | nindent 6 }}
{{- end }}
{{- end -}}
{{- end -}}
