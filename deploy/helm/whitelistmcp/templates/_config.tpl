{{/* What both processes read. */}}
{{- define "whitelistmcp.shared" -}}
{{- $config := .root.Values.config -}}
{{- $shutdown := index .root.Values .component "shutdown" -}}
{{- $document := dict
  "oidc" $config.oidc
  "health" (merge (dict "listen" (printf "%s:8082" .root.Values.listenAddress)) (deepCopy $config.health))
  "shutdown" (dict "lame_duck" (printf "%ds" (int $shutdown.lameDuckSeconds)) "grace" (printf "%ds" (int $shutdown.graceSeconds)))
-}}
{{- range $section := list "limits" "telemetry" "tls" -}}
{{- with index $config $section }}{{ $_ := set $document $section . }}{{ end -}}
{{- end -}}
{{- with .root.Values.redis -}}
{{- if .url -}}
{{- $redis := dict "url" .url "prefix" .prefix -}}
{{- if .password.secret }}{{ $_ := set $redis "password_file" "/etc/whitelistmcp/redis/password" }}{{ end -}}
{{- if .ca.secret }}{{ $_ := set $redis "ca" "/etc/whitelistmcp/redis/ca.crt" }}{{ end -}}
{{- $_ := set $document "redis" $redis -}}
{{- end -}}
{{- end -}}
{{- if .root.Values.apiKeys.secret }}{{ $_ := set $document "api_keys" (dict "file" "/etc/whitelistmcp/keys.toml") }}{{ end -}}
{{- toJson $document -}}
{{- end -}}

{{- define "whitelistmcp.edgeConfig" -}}
{{- $ := . -}}
{{- $document := include "whitelistmcp.shared" (dict "root" . "component" "edge") | fromJson -}}
{{- $link := include "whitelistmcp.link" (dict "root" . "component" "edge") -}}
{{- $edge := deepCopy .Values.config.edge -}}
{{- $_ := set $edge "listen" (printf "%s:8080" .Values.listenAddress) -}}
{{- $_ := set $edge "public_url" .Values.publicUrl -}}
{{- if eq .Values.edge.tls.from "proxy" -}}
{{- $_ := set $edge "plaintext" true -}}
{{- else -}}
{{- $_ := set $edge "tls" (dict "certificate" "/etc/whitelistmcp/certs/public/tls.crt" "key" "/etc/whitelistmcp/certs/public/tls.key") -}}
{{- end -}}
{{- with .Values.edge.trustedProxies -}}
{{- $_ := set $edge "trusted_proxies" . -}}
{{- $_ := set $edge "forwarded_by" $.Values.edge.forwardedBy -}}
{{- end -}}
{{- $_ := set $edge "sealing_key" "/etc/whitelistmcp/sealing.key" -}}
{{- $_ := set $edge "backend" (dict
  "address" (printf "%s-core.%s.svc:8443" (include "whitelistmcp.name" .) .Release.Namespace)
  "certificate" (printf "%s/tls.crt" $link)
  "key" (printf "%s/tls.key" $link)
  "ca" (printf "%s/ca.crt" $link)) -}}
{{- $_ := set $document "edge" $edge -}}
{{- include "whitelistmcp.toml" (dict "path" "" "table" (mergeOverwrite $document (deepCopy .Values.edge.overrides))) | trim -}}
{{- end -}}

{{- define "whitelistmcp.coreConfig" -}}
{{- $document := include "whitelistmcp.shared" (dict "root" . "component" "core") | fromJson -}}
{{- $config := .Values.config -}}
{{- $core := deepCopy $config.core -}}
{{- $_ := set $core "listen" (printf "%s:8443" .Values.listenAddress) -}}
{{- $link := include "whitelistmcp.link" (dict "root" . "component" "core") -}}
{{- $_ := set $core "client_ca" (printf "%s/ca.crt" $link) -}}
{{- $_ := set $core "tls" (dict "certificate" (printf "%s/tls.crt" $link) "key" (printf "%s/tls.key" $link)) -}}
{{- $_ := set $core "peers" (prepend $core.peers (dict "san" .Values.edgeIdentity "role" "edge")) -}}
{{- $_ := set $document "core" $core -}}
{{- $aws := deepCopy $config.aws -}}
{{- if eq .Values.core.identity.from "credentials" }}{{ $_ := set $aws "credentials_file" "/etc/whitelistmcp/aws-credentials" }}{{ end -}}
{{- $_ := set $document "aws" $aws -}}
{{- $audit := merge (dict "directory" "/var/lib/whitelistmcp/journal") (deepCopy $config.audit) -}}
{{- if .Values.core.journal.signingKey.secret }}{{ $_ := set $audit "signing_key" "/etc/whitelistmcp/journal.pem" }}{{ end -}}
{{- $_ := set $document "audit" $audit -}}
{{- $policy := deepCopy $config.policy -}}
{{- if .Values.policies }}{{ $_ := set $policy "file" "/etc/whitelistmcp/policies" }}{{ end -}}
{{- with $policy }}{{ $_ := set $document "policy" . }}{{ end -}}
{{- range $section := list "approvals" "leases" "targets" -}}
{{- with index $config $section }}{{ $_ := set $document $section . }}{{ end -}}
{{- end -}}
{{- include "whitelistmcp.toml" (dict "path" "" "table" (mergeOverwrite $document (deepCopy .Values.core.overrides))) | trim -}}
{{- end -}}

{{/* Everything under /etc/whitelistmcp, as one projected volume: a secret that changes is put there without a restart. {root, component} */}}
{{- define "whitelistmcp.files" -}}
{{- $name := include "whitelistmcp.name" .root -}}
{{- $values := .root.Values -}}
- configMap:
    name: {{ $name }}-{{ .component }}
    items:
      - {key: {{ .component }}.toml, path: whitelistmcp.toml}
{{- if ne $values.certificates.from "spire" }}
- secret:
    name: {{ include (printf "whitelistmcp.%sSecret" .component) .root }}
    items:
      - {key: tls.crt, path: certs/{{ .component }}/tls.crt}
      - {key: tls.key, path: certs/{{ .component }}/tls.key}
      - {key: ca.crt, path: certs/{{ .component }}/ca.crt}
{{- end }}
{{- if eq .component "edge" }}
{{- if ne $values.edge.tls.from "proxy" }}
- secret:
    name: {{ include "whitelistmcp.publicSecret" .root }}
    items:
      - {key: tls.crt, path: certs/public/tls.crt}
      - {key: tls.key, path: certs/public/tls.key}
{{- end }}
{{- include "whitelistmcp.file" (dict "from" $values.edge.sealingKey "path" "sealing.key") }}
{{- else }}
{{- include "whitelistmcp.file" (dict "from" $values.core.journal.signingKey "path" "journal.pem") }}
{{- if eq $values.core.identity.from "credentials" }}
{{- include "whitelistmcp.file" (dict "from" $values.core.identity "path" "aws-credentials") }}
{{- end }}
{{- if $values.policies }}
- configMap:
    name: {{ $name }}-policies
    items:
      {{- range $file, $_ := $values.policies }}
      - {key: {{ $file }}, path: policies/{{ $file }}}
      {{- end }}
{{- end }}
{{- end }}
{{- if $values.redis.url }}
{{- include "whitelistmcp.file" (dict "from" $values.redis.password "path" "redis/password") }}
{{- include "whitelistmcp.file" (dict "from" $values.redis.ca "path" "redis/ca.crt") }}
{{- end }}
{{- include "whitelistmcp.file" (dict "from" $values.apiKeys "path" "keys.toml") }}
{{- range (index $values .component).files }}
{{- include "whitelistmcp.file" (dict "from" . "path" .path) }}
{{- end }}
{{- end -}}

{{- define "whitelistmcp.file" -}}
{{- if .from.secret }}
- secret:
    name: {{ .from.secret }}
    items:
      - {key: {{ .from.key }}, path: {{ .path }}}
{{- end }}
{{- end -}}

{{/* Where the certificate for mTLS is, its key, and the CA that the other side's comes from. */}}
{{- define "whitelistmcp.link" -}}
{{- if eq .root.Values.certificates.from "spire" }}/run/spiffe{{ else }}/etc/whitelistmcp/certs/{{ .component }}{{ end -}}
{{- end -}}
