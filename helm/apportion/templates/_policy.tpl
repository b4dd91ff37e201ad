{{/* Network policies: which peers and ports an address means. Rules and ports are JSON lists. */}}

{{/* Where an address is, as JSON: the namespace of a service; of a host of two labels, which may be one or not, its second; and the port. */}}
{{- define "apportion.place" -}}
{{- $url := urlParse (.url | default "https://any.host.outside") -}}
{{- $host := regexReplaceAll ":[0-9]+$" $url.host "" | trimSuffix "." -}}
{{- $labels := splitList "." $host -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (eq $url.scheme "http" | ternary "80" "443") | int -}}
{{- $service := regexFind "[.][^.]+[.]svc([.]|$)" $host -}}
{{- if hasPrefix "[" $host -}}{{/* an IPv6 address */}}
{{- dict "inside" "" "outside" true "port" $port | toJson -}}
{{- else if $service -}}
{{- dict "inside" (index (splitList "." $service) 1) "outside" false "port" $port | toJson -}}
{{- else if eq (len $labels) 1 -}}
{{- dict "inside" .root.Release.Namespace "outside" false "port" $port | toJson -}}
{{- else -}}
{{- dict "inside" (eq (len $labels) 2 | ternary (last $labels) "") "outside" true "port" $port | toJson -}}
{{- end -}}
{{- end }}

{{/* Egress rules for an address; takes (dict "root" $ "url" URL "to" PEERS "ports" PORTS). A service of the cluster is its namespace, on any
     port, as that of its pods is not in the address; anything else the world without the addresses where clouds serve credentials. */}}
{{- define "apportion.egress" -}}
{{- $place := include "apportion.place" . | fromJson -}}
{{- $rules := list -}}
{{- $port := .ports | default (list $place.port) -}}
{{- if .to -}}
{{- $rules = append $rules (include "apportion.rule" (dict "to" .to "ports" (empty $place.inside | ternary $port .ports)) | fromJson) -}}
{{- else -}}
{{- with $place.inside -}}
{{- $rules = append $rules (include "apportion.rule" (dict "to" (list (include "apportion.namespace" . | fromJson)) "ports" $.ports) | fromJson) -}}
{{- end -}}
{{- if $place.outside -}}
{{- $world := list
    (dict "ipBlock" (dict "cidr" "0.0.0.0/0" "except" (list "169.254.0.0/16")))
    (dict "ipBlock" (dict "cidr" "::/0" "except" (list "fe80::/10" "fd00:ec2::254/128"))) -}}
{{- $rules = append $rules (include "apportion.rule" (dict "to" $world "ports" $port) | fromJson) -}}
{{- end -}}
{{- end -}}
{{- toJson $rules -}}
{{- end }}

{{/* One rule, for TCP or the protocols that are named; without ports for any. */}}
{{- define "apportion.rule" -}}
{{- $ports := list -}}
{{- range $port := .ports -}}
{{- range $protocol := $.protocols | default (list "TCP") }}{{ $ports = append $ports (dict "protocol" $protocol "port" ($port | int)) }}{{ end -}}
{{- end -}}
{{- $rule := dict -}}
{{- with .to }}{{ $_ := set $rule "to" . }}{{ end -}}
{{- with $ports }}{{ $_ := set $rule "ports" . }}{{ end -}}
{{- toJson $rule -}}
{{- end }}

{{- define "apportion.namespace" -}}
{{- dict "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" .)) | toJson -}}
{{- end }}

{{/* What runs and Jobs reach of KFP: its own services, and the address of its API server where that is elsewhere. */}}
{{- define "apportion.kfprules" -}}
{{- $told := .Values.networkPolicy.kfp -}}
{{- $kfp := .Values.kfp -}}
{{- $peers := $told.to | default (list (include "apportion.namespace" $kfp.namespace | fromJson)) -}}
{{- $rules := list (include "apportion.rule" (dict "to" $peers "ports" $told.ports) | fromJson) -}}
{{- if $kfp.host -}}
{{- if ne (include "apportion.place" (dict "root" . "url" $kfp.host) | fromJson).inside $kfp.namespace -}}
{{- $rules = concat $rules (include "apportion.egress" (dict "root" . "url" $kfp.host "to" $told.to) | fromJsonArray) -}}
{{- end -}}
{{- end -}}
{{- toJson $rules -}}
{{- end }}

{{/* A NetworkPolicy for egress; takes (dict "root" $ "name" SUFFIX "rules" LIST "not" (list COMPONENTS that do without)). */}}
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
    {{- toYaml .rules | nindent 4 }}
{{- end }}

{{/* "true" where pods are to be scraped and the cluster knows how. */}}
{{- define "apportion.podmonitor" -}}
{{- if and .Values.monitoring.podMonitor.enabled (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") }}true{{ end -}}
{{- end }}
