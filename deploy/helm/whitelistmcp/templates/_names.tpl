{{- define "whitelistmcp.name" -}}
{{- default (ternary .Release.Name (printf "%s-whitelistmcp" .Release.Name) (contains "whitelistmcp" .Release.Name)) .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* What selects the pods of one component; a selector cannot be changed later, so nothing else is in it. */}}
{{- define "whitelistmcp.selector" -}}
app.kubernetes.io/name: whitelistmcp
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "whitelistmcp.labels" -}}
{{ include "whitelistmcp.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: whitelistmcp
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{/* name, namespace and labels; {root, component, name} */}}
{{- define "whitelistmcp.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "whitelistmcp.labels" . | nindent 2 }}
{{- end -}}

{{- define "whitelistmcp.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "whitelistmcp.serviceAccount" -}}
{{- default (printf "%s-core" (include "whitelistmcp.name" .)) .Values.core.serviceAccount.name -}}
{{- end -}}

{{/* The host of the public URL. */}}
{{- define "whitelistmcp.host" -}}
{{- (urlParse .Values.publicUrl).hostname -}}
{{- end -}}

{{/* The port that a URL names, or what its scheme means; {url, otherwise} */}}
{{- define "whitelistmcp.port" -}}
{{- $host := (urlParse .url).host -}}
{{- if regexMatch ":[0-9]+$" $host }}{{ regexFind "[0-9]+$" $host }}{{ else }}{{ .otherwise }}{{ end -}}
{{- end -}}

{{/* Where keys, metadata and introspection of the issuers are, as `{"ports": {PORT: [HOST, …]}}`. */}}
{{- define "whitelistmcp.issuers" -}}
{{- $urls := list -}}
{{- range $oidc := list .Values.config.oidc (default dict .Values.edge.overrides.oidc) (default dict .Values.core.overrides.oidc) -}}
{{- range $_, $issuer := $oidc -}}
{{- with $issuer.issuer }}{{ $urls = append $urls . }}{{ end -}}
{{- range $issuer.origins }}{{ $urls = append $urls . }}{{ end -}}
{{- with $issuer.introspection }}{{ with .endpoint }}{{ $urls = append $urls . }}{{ end }}{{ end -}}
{{- end -}}
{{- end -}}
{{- range .Values.networkPolicy.issuerNames }}{{ $urls = append $urls (printf "https://%s" .) }}{{ end -}}
{{- $ports := dict -}}
{{- range $url := $urls -}}
{{- $port := include "whitelistmcp.port" (dict "url" $url "otherwise" 443) -}}
{{- $_ := set $ports $port (append (default list (index $ports $port)) (urlParse $url).hostname | uniq | sortAlpha) -}}
{{- end -}}
{{- toJson (dict "ports" $ports) -}}
{{- end -}}

{{- define "whitelistmcp.edgeServicePort" -}}
{{- if .Values.edge.service.port }}{{ .Values.edge.service.port }}{{ else }}{{ ternary 80 443 (eq .Values.edge.tls.from "proxy") }}{{ end -}}
{{- end -}}

{{- define "whitelistmcp.region" -}}
{{- .Values.core.identity.region | default (first (first .Values.config.aws.accounts).regions) -}}
{{- end -}}

{{- define "whitelistmcp.edgeSecret" -}}
{{- ternary (printf "%s-edge" (include "whitelistmcp.name" .)) .Values.certificates.secrets.edge (eq .Values.certificates.from "certManager") -}}
{{- end -}}

{{- define "whitelistmcp.coreSecret" -}}
{{- ternary (printf "%s-core" (include "whitelistmcp.name" .)) .Values.certificates.secrets.core (eq .Values.certificates.from "certManager") -}}
{{- end -}}

{{- define "whitelistmcp.publicSecret" -}}
{{- ternary (printf "%s-public" (include "whitelistmcp.name" .)) .Values.edge.tls.secret (eq .Values.edge.tls.from "certManager") -}}
{{- end -}}
