{{/* Network policies: which peers and ports an address stands for. Rules and ports are JSON lists. */}}

{{/* Where an address may be, as JSON. inside: a namespace of the cluster, or empty. outside: whether it may
     be outside the cluster. A host of two labels may be a service (its second label is the namespace) or a
     host elsewhere. */}}
{{- define "apportion.place" -}}
{{- $url := urlParse (.url | default "https://any.host.outside") -}}
{{- $host := regexReplaceAll ":[0-9]+$" $url.host "" | trimSuffix "." -}}
{{- $labels := splitList "." $host -}}
{{- $usual := eq $url.scheme "http" | ternary "80" "443" -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default $usual | int -}}
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

{{/* Egress rules for an address; takes (dict "root" $ "url" URL "to" PEERS "ports" PORTS). For a service of
     the cluster: its namespace on any port, as the address does not contain the ports of its pods. For any
     other address: the world, without the addresses where clouds serve credentials. */}}
{{- define "apportion.egress" -}}
{{- $place := include "apportion.place" . | fromJson -}}
{{- $rules := list -}}
{{- $port := .ports | default (list $place.port) -}}
{{- if .to -}}
{{- $ports := empty $place.inside | ternary $port .ports -}}
{{- $rules = append $rules (include "apportion.rule" (dict "to" .to "ports" $ports) | fromJson) -}}
{{- else -}}
{{- with $place.inside -}}
{{- $peers := list (include "apportion.namespace" . | fromJson) -}}
{{- $rules = append $rules (include "apportion.rule" (dict "to" $peers "ports" $.ports) | fromJson) -}}
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

{{/* One rule; takes "to", "ports" and "protocols" (TCP by default). Without ports the rule is for any port.
     */}}
{{- define "apportion.rule" -}}
{{- $ports := list -}}
{{- range $port := .ports -}}
{{- range $protocol := $.protocols | default (list "TCP") -}}
{{- $ports = append $ports (dict "protocol" $protocol "port" ($port | int)) -}}
{{- end -}}
{{- end -}}
{{- $rule := dict -}}
{{- with .to }}{{ $_ := set $rule "to" . }}{{ end -}}
{{- with $ports }}{{ $_ := set $rule "ports" . }}{{ end -}}
{{- toJson $rule -}}
{{- end }}

{{- define "apportion.namespace" -}}
{{- dict "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" .)) | toJson -}}
{{- end }}

{{/* Rules for what runs and Jobs connect to in KFP: KFP's own services, and the address of its API server
     where that is elsewhere. */}}
{{- define "apportion.kfprules" -}}
{{- $policy := .Values.networkPolicy.kfp -}}
{{- $kfp := .Values.kfp -}}
{{- $peers := $policy.to | default (list (include "apportion.namespace" $kfp.namespace | fromJson)) -}}
{{- $rules := list (include "apportion.rule" (dict "to" $peers "ports" $policy.ports) | fromJson) -}}
{{- if $kfp.host -}}
{{- if ne (include "apportion.place" (dict "root" . "url" $kfp.host) | fromJson).inside $kfp.namespace -}}
{{- $address := dict "root" . "url" $kfp.host "to" $policy.to -}}
{{- $rules = concat $rules (include "apportion.egress" $address | fromJsonArray) -}}
{{- end -}}
{{- end -}}
{{- toJson $rules -}}
{{- end }}

{{/* A NetworkPolicy for egress; takes (dict "root" $ "name" SUFFIX "rules" LIST), and "not": the list of
     components that it does not select. */}}
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

{{/* "true" where metrics of pods are to be scraped and the cluster has the API for it. */}}
{{- define "apportion.podmonitor" -}}
{{- $api := .Capabilities.APIVersions.Has "monitoring.coreos.com/v1" -}}
{{- if and .Values.monitoring.podMonitor.enabled $api }}true{{ end -}}
{{- end }}
