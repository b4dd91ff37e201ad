{{/* Names, labels, and references to images, accounts and Secrets. Whatever stands where a text belongs is quoted: `no` and `123` are names too. */}}

{{/* At most 43 characters, so that the longest suffix fits into a label. What is cut differs by a hash, so that two releases never share a name. */}}
{{- define "apportion.fullname" -}}
{{- $chart := .Values.nameOverride | default .Chart.Name -}}
{{- $name := .Values.fullnameOverride | default (contains $chart .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $chart)) -}}
{{- if gt (len $name) 43 -}}
{{- $name = printf "%s-%s" (trunc 36 $name | trimSuffix "-" | trimSuffix ".") (sha256sum $name | trunc 6) -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{/* For what the cluster, or KFP, shares: the namespace is part of the name. The hash is for what would else be one name: `a-b` in `c`, `a` in `b-c`. */}}
{{- define "apportion.clustername" -}}
{{- $full := include "apportion.fullname" . -}}
{{- $name := printf "%s-%s" .Release.Namespace $full | replace "." "-" -}}
{{- if or (gt (len $name) 52) (contains "-" .Release.Namespace) (contains "." $full) -}}
{{- $name = printf "%s-%s" (trunc 45 $name | trimSuffix "-") (printf "%s/%s" .Release.Namespace $full | sha256sum | trunc 6) -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{- define "apportion.selector" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* The label by which policies and monitors know the pods of runs and Jobs. */}}
{{- define "apportion.part" -}}
app.kubernetes.io/part-of: apportion
{{- end }}

{{- define "apportion.labels" -}}
{{- $own := dict "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63)
    "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/managed-by" .Release.Service -}}
{{- merge $own (include "apportion.selector" . | fromYaml) (include "apportion.part" . | fromYaml) .Values.commonLabels | toYaml -}}
{{- end }}

{{/* Opens the metadata of an object of the release's namespace; takes (dict "root" $ "name" SUFFIX), or "as" for the whole name, and "labels". */}}
{{- define "apportion.metadata" -}}
name: {{ list (.as | default (include "apportion.fullname" .root)) .name | compact | join "-" | quote }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- merge (dict) (.labels | default dict) (include "apportion.labels" .root | fromYaml) | toYaml | nindent 2 }}
{{- end }}

{{- define "apportion.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The account that is made for runs. */}}
{{- define "apportion.account" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "apportion.fullname" .) "default") -}}
{{- end }}

{{- define "apportion.runsaccount" -}}
{{- .Values.runs.serviceAccount | default (include "apportion.account" .) -}}
{{- end }}

{{- define "apportion.jobsaccount" -}}
{{- if .Values.jobs.serviceAccount.create -}}
{{- .Values.jobs.serviceAccount.name | default (printf "%s-jobs" (include "apportion.fullname" .)) -}}
{{- else -}}
{{- .Values.jobs.serviceAccount.name | default (include "apportion.account" .) -}}
{{- end -}}
{{- end }}

{{/* The Secret of s3, mlflow or kfp; takes (dict "root" $ "of" "s3"). */}}
{{- define "apportion.secret" -}}
{{- (index .root.Values .of).existingSecret | default (printf "%s-%s" (include "apportion.fullname" .root) .of) -}}
{{- end }}

{{/* "true" where somebody says that the Secret is there, or will be: pods wait for it then, and do without it otherwise. */}}
{{- define "apportion.expected" -}}
{{- $of := index .root.Values .of -}}
{{- if or $of.existingSecret (and .root.Values.externalSecrets.enabled $of.externalKey) }}true{{ end -}}
{{- end }}

{{/* Annotations of a service account: the cloud's identity over the further ones; takes (dict "root" $ "annotations" (dict …)). */}}
{{- define "apportion.identity" -}}
{{- $own := dict -}}
{{- with .root.Values.serviceAccount -}}
{{- range $key, $value := dict "eks.amazonaws.com/role-arn" .awsRoleArn "iam.gke.io/gcp-service-account" .gcpServiceAccount
    "azure.workload.identity/client-id" .azureClientId "azure.workload.identity/tenant-id" .azureTenantId -}}
{{- if $value }}{{ $_ := set $own $key $value }}{{ end -}}
{{- end -}}
{{- end -}}
{{- merge $own .annotations | toYaml -}}
{{- end }}

{{/* The PriorityClass of the chart's making; empty where it makes none. Its name has all that Kubernetes never changes in it. */}}
{{- define "apportion.priorityclass" -}}
{{- with .Values.priorityClass -}}
{{- if .create -}}
{{ include "apportion.clustername" $ }}-{{ .value | int | toString | replace "-" "n" }}-{{ eq .preemptionPolicy "Never" | ternary "never" "preempt" }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Variables of s3, mlflow or kfp, each with the key of its Secret, as JSON; takes (dict "root" $ "of" "s3"). */}}
{{- define "apportion.keys" -}}
{{- with .root.Values -}}
{{- if eq $.of "s3" -}}
{{- dict "AWS_ACCESS_KEY_ID" .s3.accessKeyIdKey "AWS_SECRET_ACCESS_KEY" .s3.secretAccessKeyKey | toJson -}}
{{- else if eq $.of "kfp" -}}
{{- dict "KFP_TOKEN" .kfp.tokenKey | toJson -}}
{{- else if .mlflow.tokenKey -}}
{{- dict "MLFLOW_TRACKING_TOKEN" .mlflow.tokenKey | toJson -}}
{{- else -}}
{{- dict "MLFLOW_TRACKING_USERNAME" .mlflow.usernameKey "MLFLOW_TRACKING_PASSWORD" .mlflow.passwordKey | toJson -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Every Secret that runs and Jobs refer to, as a JSON list. */}}
{{- define "apportion.secretnames" -}}
{{- $names := .Values.images.pullSecrets -}}
{{- range $of := .Values.mlflow.enabled | ternary (list "s3" "mlflow") (list "s3") -}}
{{- $names = append $names (include "apportion.secret" (dict "root" $ "of" $of)) -}}
{{- end -}}
{{- if include "apportion.expected" (dict "root" . "of" "kfp") }}{{ $names = append $names (include "apportion.secret" (dict "root" . "of" "kfp")) }}{{ end -}}
{{- $names | uniq | sortAlpha | toJson -}}
{{- end }}

{{/* A quantity of Kubernetes as a number. */}}
{{- define "apportion.quantity" -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $units := dict "" 1.0 "m" 0.001 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- mulf ($number | float64) (get $units (trimPrefix $number .)) -}}
{{- end }}
