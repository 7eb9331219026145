{{/* A table as TOML; {path, table}. Helm's own toToml writes whole numbers as fractions, which are refused where a count is meant. */}}
{{- define "whitelistmcp.toml" -}}
{{- $path := .path -}}
{{- $plain := dict -}}
{{- $tables := dict -}}
{{- range $key, $value := .table -}}
{{- if kindIs "invalid" $value -}}
{{- else if or (kindIs "map" $value) (and (kindIs "slice" $value) (gt (len $value) 0) (kindIs "map" (first $value))) -}}
{{- $_ := set $tables $key $value -}}
{{- else -}}
{{- $_ := set $plain $key $value -}}
{{- end -}}
{{- end -}}
{{- if and $path (not .header) (or $plain (not $tables)) }}

[{{ $path }}]
{{- end -}}
{{- range $key, $value := $plain }}
{{ include "whitelistmcp.tomlKey" $key }} = {{ toRawJson $value }}
{{- end -}}
{{- range $key, $value := $tables -}}
{{- $inner := include "whitelistmcp.tomlKey" $key -}}
{{- if $path -}}
{{- $inner = printf "%s.%s" $path $inner -}}
{{- end -}}
{{- if kindIs "map" $value -}}
{{- include "whitelistmcp.toml" (dict "path" $inner "table" $value) -}}
{{- else -}}
{{- range $entry := $value }}

[[{{ $inner }}]]
{{- include "whitelistmcp.toml" (dict "path" $inner "table" $entry "header" true) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "whitelistmcp.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toRawJson . }}{{ end -}}
{{- end -}}
