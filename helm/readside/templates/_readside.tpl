{{/*
What a chart includes. Each takes the root context (`.`) and reads `.Values.readside`.

  readside.sidecar         items for initContainers
  readside.containers      items for containers (with nativeSidecar: false)
  readside.volumes         items for volumes
  readside.volumeMounts    items for volumeMounts of the application
  readside.pod             initContainers and volumes with their keys, for a pod that has neither
  readside.podAnnotations  annotations of the pod
  readside.objects         the ConfigMap and, if wanted, the PodMonitor
  readside.config          the configuration itself
*/}}

{{- define "readside.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end -}}
{{- printf "%s-readside" ($name | trunc 54 | trimSuffix "-") -}}
{{- end }}

{{- define "readside.configMapName" -}}
{{- .Values.readside.existingConfigMap | default (include "readside.name" .) -}}
{{- end }}

{{- define "readside.labels" -}}
app.kubernetes.io/name: readside
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.readside.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "readside.image" -}}
{{- $image := .Values.readside.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Subcharts.readside.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The configuration as given: text keeps the order of its columns, a map can be overlaid by other values. */}}
{{- define "readside.config" -}}
{{- $values := .Values.readside -}}
{{- $config := $values.config -}}
{{- if not $config }}{{ fail "readside.config is missing: the configuration as in docs/REFERENCE.md, or readside.existingConfigMap" }}{{ end -}}
{{- if kindIs "map" $config -}}
{{- range list "kafka" "tables" }}
{{- if not (hasKey $config .) }}{{ fail (printf "readside.config.%s is missing: set readside.config as in docs/REFERENCE.md, or readside.existingConfigMap" .) }}{{ end }}
{{- end }}
{{- toYaml $config -}}
{{- else -}}
{{- $config | trim -}}
{{- end -}}
{{- end }}

{{/* The places that the chart knows, laid over the configuration. */}}
{{- define "readside.env" -}}
{{- $values := .Values.readside -}}
{{- if eq $values.store "sqlite" -}}
- { name: READSIDE__REPLICA__SQLITE__PATH, value: {{ printf "%s/%s" $values.sqlite.mountPath $values.sqlite.file | quote }} }
{{- else if eq $values.store "redis" -}}
- { name: READSIDE__REPLICA__REDIS__URL, value: "redis://127.0.0.1:{{ $values.redis.port }}/0" }
- { name: READSIDE__REPLICA__REDIS__DEDICATED, value: "true" }
{{- end }}
- { name: READSIDE__HTTP__LISTEN, value: "0.0.0.0:{{ $values.ports.http }}" }
- { name: READSIDE__ADMIN__LISTEN, value: "127.0.0.1:{{ $values.ports.admin }}" }
{{- with $values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "readside.podAnnotations" -}}
{{- $values := .Values.readside -}}
{{- if $values.existingConfigMap -}}
checksum/readside: {{ $values.existingConfigMap | sha256sum }}
{{- else -}}
checksum/readside: {{ include "readside.config" . | sha256sum }}
{{- end }}
{{- if $values.scrapeAnnotations }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ $values.ports.http | quote }}
prometheus.io/path: /metrics
{{- end }}
{{- end }}

{{- define "readside.securityContext" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{/* The container, without what differs between a native sidecar and a plain container. */}}
{{- define "readside.container" -}}
{{- $values := .Values.readside -}}
name: readside
image: {{ include "readside.image" . | quote }}
imagePullPolicy: {{ $values.image.pullPolicy }}
args: [run]
env:
  {{- include "readside.env" . | nindent 2 }}
ports:
  - { name: readside, containerPort: {{ $values.ports.http }}, protocol: TCP }
livenessProbe:
  httpGet: { path: /livez, port: readside }
  {{- toYaml $values.livenessProbe | nindent 2 }}
{{- if $values.readinessProbe.enabled }}
readinessProbe:
  httpGet: { path: /readyz, port: readside }
  {{- omit $values.readinessProbe "enabled" | toYaml | nindent 2 }}
{{- end }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
securityContext:
  {{- include "readside.securityContext" 65532 | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
  - { name: readside-config, mountPath: /etc/readside, readOnly: true }
  {{- if eq $values.store "sqlite" }}
  - { name: readside-replica, mountPath: {{ $values.sqlite.mountPath }} }
  {{- end }}
  {{- range $name, $_ := $values.secrets }}
  - { name: readside-secret-{{ $name }}, mountPath: /run/secrets/{{ $name }}, readOnly: true }
  {{- end }}
{{- end }}

{{- define "readside.redisContainer" -}}
{{- $redis := .Values.readside.redis -}}
name: readside-redis
image: {{ $redis.image | quote }}
command: [redis-server]
args: [--bind, 127.0.0.1, --port, {{ $redis.port | quote }}, --dir, /data, --save, "", --appendonly, "yes", --maxmemory, {{ $redis.maxmemory | quote }}, --maxmemory-policy, noeviction]
resources:
  {{- toYaml $redis.resources | nindent 2 }}
securityContext:
  {{- include "readside.securityContext" 999 | nindent 2 }}
volumeMounts:
  - { name: readside-redis, mountPath: /data }
{{- end }}

{{- define "readside.sidecar" -}}
{{- $values := .Values.readside -}}
{{- if $values.nativeSidecar -}}
{{- if not (semverCompare ">=1.29.0-0" .Capabilities.KubeVersion.Version) }}
{{- fail (printf "Kubernetes %s has no native sidecars (1.29 and later have): set readside.nativeSidecar to false and include readside.containers, see the README" .Capabilities.KubeVersion.Version) }}
{{- end -}}
{{- if eq $values.store "redis" -}}
- restartPolicy: Always
  {{- include "readside.redisContainer" . | nindent 2 }}
  startupProbe:
    exec: { command: [redis-cli, -p, {{ $values.redis.port | quote }}, ping] }
    periodSeconds: 1
    timeoutSeconds: 2
    failureThreshold: 60
{{ end -}}
- restartPolicy: Always
  {{- include "readside.container" . | nindent 2 }}
  startupProbe:
    httpGet: { path: /startupz, port: readside }
    {{- toYaml $values.startupProbe | nindent 4 }}
{{- end }}
{{- end }}

{{/*
Older clusters: plain containers. The kubelet starts containers in order and waits for the postStart
hook of each, so the one below holds back those that follow. A startupProbe would end the container
while the hook still waits: the hook gives up first.
*/}}
{{- define "readside.containers" -}}
{{- $values := .Values.readside -}}
{{- if not $values.nativeSidecar }}
{{- $patience := mul (int $values.startupProbe.periodSeconds) (int $values.startupProbe.failureThreshold) }}
{{- if eq $values.store "redis" }}
- {{- include "readside.redisContainer" . | nindent 2 }}
{{- end }}
- {{- include "readside.container" . | nindent 2 }}
  lifecycle:
    postStart:
      exec: { command: [/readside, health, startup, --wait, {{ printf "%ds" $patience | quote }}] }
{{- end }}
{{- end }}

{{- define "readside.volumes" -}}
{{- $values := .Values.readside -}}
{{- $volume := $values.sqlite.volume -}}
- name: readside-config
  configMap: { name: {{ include "readside.configMapName" . }} }
{{- if eq $values.store "sqlite" }}
- name: readside-replica
  {{- if eq $volume.type "persistentVolumeClaim" }}
  persistentVolumeClaim: { claimName: {{ required "readside.sqlite.volume.claimName is needed with type persistentVolumeClaim" $volume.claimName }} }
  {{- else if eq $volume.type "memory" }}
  emptyDir: { medium: Memory, sizeLimit: {{ $volume.sizeLimit }} }
  {{- else }}
  emptyDir: { sizeLimit: {{ $volume.sizeLimit }} }
  {{- end }}
{{- else if eq $values.store "redis" }}
- name: readside-redis
  emptyDir: { sizeLimit: {{ $values.redis.sizeLimit }} }
{{- end }}
{{- range $name, $secret := $values.secrets }}
- name: readside-secret-{{ $name }}
  secret: { secretName: {{ $secret.secretName }}, defaultMode: 0444 }
{{- end }}
{{- end }}

{{- define "readside.volumeMounts" -}}
{{- if eq .Values.readside.store "sqlite" -}}
- { name: readside-replica, mountPath: {{ .Values.readside.sqlite.mountPath }}, readOnly: true }
{{- end }}
{{- end }}

{{- define "readside.pod" -}}
initContainers:
  {{- include "readside.sidecar" . | nindent 2 }}
volumes:
  {{- include "readside.volumes" . | nindent 2 }}
{{- end }}

{{- define "readside.objects" -}}
{{- $values := .Values.readside -}}
{{- if not $values.existingConfigMap }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "readside.name" . }}
  labels:
    {{- include "readside.labels" . | nindent 4 }}
data:
  readside.yaml: |
    {{- include "readside.config" . | nindent 4 }}
{{- end }}
{{- if $values.podMonitor.enabled }}
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ include "readside.name" . }}
  labels:
    {{- include "readside.labels" . | nindent 4 }}
    {{- with $values.podMonitor.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels:
      {{- $values.podMonitor.selector | default (dict "app.kubernetes.io/instance" .Release.Name) | toYaml | nindent 6 }}
  podMetricsEndpoints:
    - port: readside
      interval: {{ $values.podMonitor.interval }}
{{- end }}
{{- end }}
