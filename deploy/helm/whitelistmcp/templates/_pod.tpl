{{/* What is the same in every pod; {root, component, settings}. */}}
{{- define "whitelistmcp.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
# Secrets and the journal's volume are readable by this group.
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "whitelistmcp.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "whitelistmcp.environment" -}}
- {name: WHITELISTMCP_CONFIG, value: /etc/whitelistmcp/whitelistmcp.toml}
{{- with .root.Values.telemetry }}
{{- if .endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ .protocol | quote }}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name=$(POD_NAMESPACE),k8s.pod.name=$(POD_NAME),service.instance.id=$(POD_NAME)
{{- range $variable, $value := .variables }}
- {name: {{ $variable }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "whitelistmcp.placement" -}}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "whitelistmcp.selector" $ | nindent 8 }}
  {{- end }}
{{- with .settings.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Alive is who answers; who cannot serve is left alone and not killed: it says why, and mends itself. {ready} */}}
{{- define "whitelistmcp.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: health}
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /livez, port: health}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: {{ .ready }}, port: health}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
{{- end -}}

{{/* spiffe-helper, once so that there is an SVID when the process starts, and then beside it for as long as it runs. */}}
{{- define "whitelistmcp.spiffeHelpers" -}}
{{- $root := . -}}
{{- range $name, $arguments := dict "first-svid" (list "-config" "/etc/spiffe-helper/helper.conf" "-daemon-mode=false") "svids" (list "-config" "/etc/spiffe-helper/helper.conf") }}
- name: {{ $name }}
  image: {{ $root.Values.certificates.spire.image | quote }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  {{- if eq $name "svids" }}
  restartPolicy: Always
  {{- end }}
  args: {{ toJson $arguments }}
  resources:
    requests: {cpu: 10m, memory: 32Mi}
    limits: {cpu: 100m, memory: 64Mi}
  securityContext:
    {{- include "whitelistmcp.containerSecurity" $root | nindent 4 }}
  volumeMounts:
    - {name: spiffe-helper, mountPath: /etc/spiffe-helper, readOnly: true}
    - {name: workload-api, mountPath: /spiffe-workload-api, readOnly: true}
    - {name: svids, mountPath: /run/spiffe}
{{- end }}
{{- end -}}

{{- define "whitelistmcp.spiffeVolumes" -}}
- name: spiffe-helper
  configMap: {name: {{ include "whitelistmcp.name" . }}-spiffe-helper}
- name: workload-api
  csi: {driver: {{ .Values.certificates.spire.driver }}, readOnly: true}
# Keys are in memory alone.
- name: svids
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end -}}
