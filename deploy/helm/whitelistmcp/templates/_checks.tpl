{{/* What a schema cannot say. */}}
{{- define "whitelistmcp.checks" -}}
{{- $v := .Values -}}
{{- range $section, $keys := dict
  "edge" (list "listen" "public_url" "tls" "plaintext" "trusted_proxies" "forwarded_by" "sealing_key" "backend")
  "core" (list "listen" "client_ca" "tls")
  "aws" (list "credentials_file")
  "audit" (list "directory" "signing_key")
  "health" (list "listen") -}}
{{- range $key := $keys -}}
{{- if hasKey (index $v.config $section) $key -}}
{{- fail (printf "config.%s.%s is set by the chart; take it out (values.yaml says what stands for it)" $section $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if hasKey $v.config.edge "websocket_listen" }}{{ fail "config.edge.websocket_listen: the chart opens one port; WebSockets are served there as well, at /ws and /mcp" }}{{ end -}}
{{- if hasKey (default dict $v.config.edge.events) "file" }}{{ fail "config.edge.events.file: an edge has no disk to write to here; its events leave by OTLP (telemetry.endpoint)" }}{{ end -}}
{{- if and $v.policies (hasKey $v.config.policy "file") }}{{ fail "policies and config.policy.file say the same; take one out" }}{{ end -}}
{{- if eq $v.edge.tls.from "proxy" -}}
{{- if eq $v.edge.exposure "loadBalancer" }}{{ fail "edge.tls.from is `proxy` and edge.exposure is `loadBalancer`: nothing would do TLS. Take `ingress` or `gateway`, or let the edge do it (`certManager`, `secret`)" }}{{ end -}}
{{- if not $v.edge.trustedProxies }}{{ fail "edge.tls.from is `proxy`: the edge serves plain HTTP to declared proxies alone; name the networks of the ingress controller's or gateway's pods in edge.trustedProxies" }}{{ end -}}
{{- end -}}
{{- if and (eq $v.edge.tls.from "certManager") (not $v.edge.tls.issuerRef) }}{{ fail "edge.tls.from is `certManager`: name in edge.tls.issuerRef who signs the public certificate, such as {name: letsencrypt, kind: ClusterIssuer}" }}{{ end -}}
{{- if and (eq $v.edge.tls.from "secret") (not $v.edge.tls.secret) }}{{ fail "edge.tls.from is `secret`: name it in edge.tls.secret (tls.crt and tls.key)" }}{{ end -}}
{{- if and (eq $v.edge.exposure "ingress") (not $v.edge.ingress.tlsSecret) }}{{ fail "edge.exposure is `ingress`: name in edge.ingress.tlsSecret the secret of the certificate that it shows" }}{{ end -}}
{{- if and (eq $v.edge.exposure "gateway") (not $v.edge.gateway.parentRefs) }}{{ fail "edge.exposure is `gateway`: name the Gateway in edge.gateway.parentRefs" }}{{ end -}}
{{- if and (eq $v.edge.exposure "gateway") (ne $v.edge.tls.from "proxy") }}{{ fail "edge.exposure is `gateway`: the gateway does TLS and speaks HTTP to the edge, so edge.tls.from is `proxy`" }}{{ end -}}
{{- if and (eq $v.certificates.from "secrets") (not (and $v.certificates.secrets.edge $v.certificates.secrets.core)) }}{{ fail "certificates.from is `secrets`: name both in certificates.secrets (edge, core)" }}{{ end -}}
{{- if and (eq $v.certificates.from "spire") (not $v.certificates.spire.image) }}{{ fail "certificates.from is `spire`: name spiffe-helper's image in certificates.spire.image" }}{{ end -}}
{{- if and (has $v.core.identity.from (list "irsa" "webIdentity")) (not $v.core.identity.roleArn) }}{{ fail (printf "core.identity.from is `%s`: name the role in core.identity.roleArn" $v.core.identity.from) }}{{ end -}}
{{- if and (eq $v.core.identity.from "credentials") (not $v.core.identity.secret) }}{{ fail "core.identity.from is `credentials`: name the secret in core.identity.secret" }}{{ end -}}
{{- if and $v.config.approvals (not $v.redis.url) (gt (int $v.core.replicas) 1) }}{{ fail "config.approvals with more than one core needs redis.url, where they are kept; or set core.replicas to 1" }}{{ end -}}
{{- if and $v.edge.autoscaling.enabled (eq $v.edge.autoscaling.on "requests") (not $v.telemetry.endpoint) }}{{ fail "edge.autoscaling.on is `requests`: the metric is sent to telemetry.endpoint, and without it edges would never be scaled; name it, or take `cpu`" }}{{ end -}}
{{- range $variable := list "OTEL_EXPORTER_OTLP_ENDPOINT" "OTEL_EXPORTER_OTLP_PROTOCOL" "OTEL_RESOURCE_ATTRIBUTES" -}}
{{- if hasKey $v.telemetry.variables $variable }}{{ fail (printf "telemetry.variables.%s is set by the chart; take it out (telemetry.endpoint, telemetry.protocol; the attributes say which pod it is)" $variable) }}{{ end -}}
{{- end -}}
{{- if and $v.redis.url (not (hasPrefix "rediss://" $v.redis.url)) }}{{ fail "redis.url must be rediss://: nothing else is spoken over a network" }}{{ end -}}
{{- with $v.networkPolicy -}}
{{- if .enabled -}}
{{- if and (eq .engine "kubernetes") (not .issuers) }}{{ fail "networkPolicy.issuers: name the addresses of your issuers, which edge and core fetch keys from; [0.0.0.0/0] lets the edge reach everything outside, AWS among it" }}{{ end -}}
{{- if and .callerEntities (ne .engine "cilium") }}{{ fail "networkPolicy.callerEntities: only Cilium knows entities; set networkPolicy.engine to `cilium`, or name the callers in networkPolicy.callers" }}{{ end -}}
{{- if and (ne $v.edge.exposure "loadBalancer") (not .callers) (not .callerEntities) }}{{ fail "networkPolicy.callers: say where the ingress controller or gateway runs, such as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: haproxy-controller}}}]; for Cilium's own it is networkPolicy.callerEntities: [ingress]" }}{{ end -}}
{{- if and $v.telemetry.endpoint (not .telemetry) }}{{ fail "networkPolicy.telemetry: say where telemetry.endpoint is" }}{{ end -}}
{{- if and $v.redis.url (not .redis) }}{{ fail "networkPolicy.redis: say where redis.url is" }}{{ end -}}
{{- end -}}
{{- end -}}
{{- range $component := list "edge" "core" -}}
{{- $text := include (printf "whitelistmcp.%sConfig" $component) $ -}}
{{- range (index $v $component).files -}}
{{- if not (contains (printf "\"/etc/whitelistmcp/%s\"" .path) $text) }}{{ fail (printf "%s.files: the configuration does not speak of /etc/whitelistmcp/%s" $component .path) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
