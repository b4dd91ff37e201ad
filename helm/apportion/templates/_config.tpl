{{/* The configuration: the user's, or the demo's with the user's sections, and `cluster`, made from the other values. */}}

{{- define "apportion.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if not (hasKey $config "data") -}}
{{- range $key, $section := .Files.Get "files/openmoji.yaml" | fromYaml -}}
{{- if not (hasKey $config $key) }}{{ $_ := set $config $key $section }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $tracking := $config.tracking | default dict -}}
{{- if not .Values.mlflow.enabled -}}
{{- $tracking = dict "uri" nil "artifacts" nil -}}
{{- else if not (hasKey $tracking "artifacts") -}}
{{- $_ := set $tracking "artifacts" nil -}}
{{- end -}}
{{- $_ := set $config "tracking" $tracking -}}
{{- $_ := set $config "cluster" (include "apportion.cluster" . | fromYaml) -}}
{{- toYaml $config -}}
{{- end }}

{{- define "apportion.cluster" -}}
images:
  cpu: {{ include "apportion.image" (dict "root" . "image" .Values.images.cpu) }}
  gpu: {{ include "apportion.image" (dict "root" . "image" .Values.images.gpu) }}
pull_policy: {{ .Values.images.pullPolicy }}
pull_secrets: {{ toJson .Values.images.pullSecrets }}
secrets:
  {{- range $of := .Values.mlflow.enabled | ternary (list "s3" "mlflow") (list "s3") }}
  {{- $which := dict "root" $ "of" $of }}
  - name: {{ include "apportion.secret" $which }}
    env: {{ include "apportion.keys" $which }}
    optional: {{ empty (include "apportion.expected" $which) }}
  {{- end }}
env: {{ include "apportion.env" . }}
ca: {{ if .Values.ca.configMap }}{config_map: {{ .Values.ca.configMap }}, key: {{ .Values.ca.key | quote }}}{{ else }}null{{ end }}
volumes: {{ toJson .Values.volumes }}
pools:
  {{- range $name, $pool := .Values.pools }}
  {{ $name }}: {{ include "apportion.pool" $pool }}
  {{- end }}
stages: {{ toJson .Values.runs.stages }}
retries: {{ .Values.runs.retries | int }}
timeout: {{ .Values.runs.timeout }}
labels: {{ include "apportion.runlabels" . | fromYaml | toJson }}
kfp:
  host: {{ .Values.kfp.host | default nil | toJson }}
  namespace: {{ .Values.kfp.multiUser | ternary .Release.Namespace nil | toJson }}
  experiment: {{ .Values.kfp.experiment | quote }}
  service_account: {{ include "apportion.runsaccount" . }}
  cron: {{ .Values.schedule.cron | quote }}
{{- end }}

{{- define "apportion.pool" -}}
{{- $tolerations := list -}}
{{- range .tolerations -}}
{{- $tolerations = append $tolerations (dict "key" .key "operator" (.operator | default "Equal") "value" .value "effect" .effect) -}}
{{- end -}}
{{- dict "cpu" .cpu "cpu_limit" (.cpuLimit | default nil) "memory" .memory "accelerator" (.accelerator | default nil)
    "accelerators" (.accelerators | default 0 | int) "node_selector" (.nodeSelector | default dict) "tolerations" $tolerations
    "shm" (.shm | default nil) | toJson -}}
{{- end }}

{{/* Plain variables of runs and Jobs, as JSON. */}}
{{- define "apportion.env" -}}
{{- $env := deepCopy .Values.env -}}
{{- with .Values.s3.endpoint }}{{ $_ := set $env "AWS_ENDPOINT_URL_S3" . }}{{ end -}}
{{- range $name := list "AWS_REGION" "AWS_DEFAULT_REGION" -}}{{/* boto3, by which MLflow reaches artifacts, reads only the latter */}}
{{- with $.Values.s3.region }}{{ $_ := set $env $name . }}{{ end -}}
{{- end -}}
{{- if ne .Values.s3.addressing "auto" }}{{ $_ := set $env "APPORTION_S3_ADDRESSING" .Values.s3.addressing }}{{ end -}}
{{- with .Values.s3.sse }}{{ $_ := set $env "APPORTION_S3_SSE" . }}{{ end -}}
{{- with .Values.s3.kmsKey }}{{ $_ := set $env "APPORTION_S3_KMS_KEY" . }}{{ end -}}
{{- toJson $env -}}
{{- end }}

{{/* Labels of runs' pods. */}}
{{- define "apportion.runlabels" -}}
{{ include "apportion.part" . }}
{{- with .Values.kueue.queue }}
kueue.x-k8s.io/queue-name: {{ . }}
{{- end }}
{{- with .Values.kueue.priorityClass }}
kueue.x-k8s.io/priority-class: {{ . }}
{{- end }}
{{- if .Values.serviceAccount.azureClientId }}
azure.workload.identity/use: "true"
{{- end }}
{{- with .Values.runs.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}
