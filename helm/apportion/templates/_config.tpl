{{/* The configuration: the user's, or the demo's with the user's sections in place of its own, and the
     section `cluster`, made from the other values. */}}

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
{{- $_ := set $config "cluster" (include "apportion.cluster" . | fromJson) -}}
{{- toYaml $config -}}
{{- end }}

{{/* The section `cluster` as JSON. It is built from values and never written as text, so that no value can
     add an option. */}}
{{- define "apportion.cluster" -}}
{{- $secrets := list -}}
{{- range $of := .Values.mlflow.enabled | ternary (list "s3" "mlflow") (list "s3") -}}
{{- $which := dict "root" $ "of" $of -}}
{{- $secrets = append $secrets (dict "name" (include "apportion.secret" $which)
    "env" (include "apportion.keys" $which | fromJson)
    "optional" (empty (include "apportion.expected" $which))) -}}
{{- end -}}
{{- $pools := dict -}}
{{- range $name, $pool := .Values.pools -}}
{{- $_ := set $pools $name (include "apportion.pool" $pool | fromJson) -}}
{{- end -}}
{{- with .Values -}}
{{- dict
    "images" (dict
      "cpu" (include "apportion.image" (dict "root" $ "image" .images.cpu))
      "gpu" (include "apportion.image" (dict "root" $ "image" .images.gpu)))
    "pull_policy" .images.pullPolicy
    "pull_secrets" .images.pullSecrets
    "secrets" $secrets
    "env" (include "apportion.env" $ | fromJson)
    "ca" (empty .ca.configMap | ternary nil (dict "config_map" .ca.configMap "key" .ca.key))
    "volumes" .volumes
    "pools" $pools
    "stages" .runs.stages
    "retries" (.runs.retries | int)
    "timeout" .runs.timeout
    "labels" (include "apportion.runlabels" $ | fromJson)
    "kfp" (dict
      "host" (.kfp.host | default nil)
      "namespace" (.kfp.multiUser | ternary $.Release.Namespace nil)
      "experiment" .kfp.experiment
      "service_account" (include "apportion.runsaccount" $)
      "cron" .schedule.cron
      "schedule" (include "apportion.clustername" $))
    | toJson -}}
{{- end -}}
{{- end }}

{{- define "apportion.pool" -}}
{{- $tolerations := list -}}
{{- range .tolerations -}}
{{- $tolerations = append $tolerations (dict "key" .key "operator" (.operator | default "Equal")
    "value" .value "effect" .effect) -}}
{{- end -}}
{{- dict
    "cpu" .cpu
    "cpu_limit" (.cpuLimit | default nil)
    "memory" .memory
    "accelerator" (.accelerator | default nil)
    "accelerators" (.accelerators | default 0 | int)
    "node_selector" (.nodeSelector | default dict)
    "tolerations" $tolerations
    "shm" (.shm | default nil)
    | toJson -}}
{{- end }}

{{/* The plain environment variables of runs and Jobs, as JSON: the user's, and those that other values set.
     */}}
{{- define "apportion.env" -}}
{{- merge (include "apportion.ownenv" . | fromJson) .Values.env | toJson -}}
{{- end }}

{{/* boto3, which MLflow uses for artifacts, reads AWS_DEFAULT_REGION only. */}}
{{- define "apportion.ownenv" -}}
{{- $env := dict -}}
{{- with .Values.s3 -}}
{{- range $name, $value := dict
    "AWS_ENDPOINT_URL_S3" .endpoint
    "APPORTION_S3_ADDRESSING" (.addressing | replace "auto" "")
    "APPORTION_S3_SSE" .sse
    "APPORTION_S3_KMS_KEY" .kmsKey
    "AWS_REGION" .region
    "AWS_DEFAULT_REGION" .region -}}
{{- if $value }}{{ $_ := set $env $name $value }}{{ end -}}
{{- end -}}
{{- end -}}
{{- toJson $env -}}
{{- end }}

{{/* The names of the variables that the chart sets in runs or Jobs, as a JSON list. Values may set none of
     them. */}}
{{- define "apportion.given" -}}
{{- $names := concat (include "apportion.ownenv" . | fromJson | keys) (list "KFP_TOKEN" "KFP_TOKEN_FILE") -}}
{{- if .Values.ca.configMap -}}
{{- $names = concat $names (list "AWS_CA_BUNDLE" "REQUESTS_CA_BUNDLE" "SSL_CERT_FILE") -}}
{{- end -}}
{{- range $of := .Values.mlflow.enabled | ternary (list "s3" "mlflow") (list "s3") -}}
{{- $names = concat $names (include "apportion.keys" (dict "root" $ "of" $of) | fromJson | keys) -}}
{{- end -}}
{{- toJson $names -}}
{{- end }}

{{/* The labels of the pods of runs, as JSON. */}}
{{- define "apportion.runlabels" -}}
{{- $labels := include "apportion.part" . | fromYaml -}}
{{- with .Values.kueue.queue }}{{ $_ := set $labels "kueue.x-k8s.io/queue-name" . }}{{ end -}}
{{- with .Values.kueue.priorityClass }}{{ $_ := set $labels "kueue.x-k8s.io/priority-class" . }}{{ end -}}
{{- if .Values.serviceAccount.azureClientId -}}
{{- $_ := set $labels "azure.workload.identity/use" "true" -}}
{{- end -}}
{{- merge $labels .Values.runs.labels | toJson -}}
{{- end }}
