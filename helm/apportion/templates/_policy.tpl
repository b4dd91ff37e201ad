{{/* Network policies: which peers and ports an address means. */}}

{{/* An egress rule; takes (dict "url" URL "to" PEERS "ports" PORTS). A service of the cluster is its namespace, anything else the world
     without the addresses where clouds serve credentials. */}}
{{- define "apportion.egress" -}}
{{- $url := urlParse (.url | default "https://any") -}}
{{- $host := regexReplaceAll ":[0-9]+$" $url.host "" -}}
{{- $service := regexFind "^[^.]+[.][^.]+[.]svc([.]|$)" $host -}}
{{- $to := .to -}}
{{- if not $to -}}
{{- if $service -}}
{{- $to = list (dict "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" (index (splitList "." $host) 1)))) -}}
{{- else if contains "." $host | or (eq $host "any") -}}
{{- $to = list (dict "ipBlock" (dict "cidr" "0.0.0.0/0" "except" (list "169.254.0.0/16"))) -}}
{{- else -}}
{{- $to = list (dict "podSelector" dict) -}}
{{- end -}}
{{- end -}}
{{- $ports := .ports -}}
{{- if and (not $ports) (not $service) (or (contains "." $host) (eq $host "any")) -}}
{{- $ports = list (regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (eq $url.scheme "http" | ternary "80" "443") | int) -}}
{{- end -}}
- to:
    {{- toYaml $to | nindent 4 }}
  {{- include "apportion.ports" (dict "ports" $ports "protocols" (list "TCP")) | nindent 2 }}
{{- end }}

{{- define "apportion.ports" -}}
{{- $protocols := .protocols -}}
{{- with .ports -}}
ports:
  {{- range $port := . }}
  {{- range $protocols }}
  - {protocol: {{ . }}, port: {{ $port | int }}}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{/* A NetworkPolicy for egress; takes (dict "root" $ "name" SUFFIX "rules" YAML "not" (list COMPONENTS that do without)). */}}
{{- define "apportion.policy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "apportion.metadata" (dict "root" .root "name" .name) | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "apportion.part" .root | nindent 6 }}
    {{- with .not }}
    matchExpressions:
      - {key: app.kubernetes.io/component, operator: NotIn, values: {{ toJson . }}}
    {{- end }}
  policyTypes: [Egress]
  egress:
    {{- .rules | nindent 4 }}
{{- end }}

{{/* "true" where pods are to be scraped and the cluster knows how. */}}
{{- define "apportion.podmonitor" -}}
{{- if and .Values.monitoring.podMonitor.enabled (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") }}true{{ end -}}
{{- end }}
