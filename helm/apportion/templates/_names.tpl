{{/* Names, labels, and references to images, accounts and Secrets. */}}

{{/* At most 43 characters, so that the longest suffix fits into a label. What is cut differs by a hash, so that two releases never share a name. */}}
{{- define "apportion.fullname" -}}
{{- $chart := .Values.nameOverride | default .Chart.Name -}}
{{- $name := .Values.fullnameOverride | default (contains $chart .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $chart)) -}}
{{- if gt (len $name) 43 -}}
{{- $name = printf "%s-%s" (trunc 36 $name | trimSuffix "-" | trimSuffix ".") (sha256sum $name | trunc 6) -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{/* For what the cluster shares: the namespace is part of the name. */}}
{{- define "apportion.clustername" -}}
{{- $name := printf "%s-%s" .Release.Namespace (include "apportion.fullname" .) -}}
{{- if gt (len $name) 52 -}}
{{- $name = printf "%s-%s" (trunc 45 $name | trimSuffix "-") (sha256sum $name | trunc 6) -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{- define "apportion.selector" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The label by which policies and monitors know the pods of runs and Jobs. */}}
{{- define "apportion.part" -}}
app.kubernetes.io/part-of: apportion
{{- end }}

{{- define "apportion.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{ include "apportion.selector" . }}
{{ include "apportion.part" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Opens the metadata of an object of the release's namespace; takes (dict "root" $ "name" SUFFIX), or "as" for the whole name. */}}
{{- define "apportion.metadata" -}}
name: {{ .as | default (include "apportion.fullname" .root) }}{{ with .name }}-{{ . }}{{ end }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "apportion.labels" .root | nindent 2 }}
{{- end }}

{{- define "apportion.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

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

{{/* The service account's annotations: further ones, and the cloud's identity. */}}
{{- define "apportion.identity" -}}
{{- with .awsRoleArn }}
eks.amazonaws.com/role-arn: {{ . }}
{{- end }}
{{- with .gcpServiceAccount }}
iam.gke.io/gcp-service-account: {{ . }}
{{- end }}
{{- with .azureClientId }}
azure.workload.identity/client-id: {{ . }}
{{- end }}
{{- with .azureTenantId }}
azure.workload.identity/tenant-id: {{ . }}
{{- end }}
{{- with .annotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The PriorityClass of the chart's making; empty where it makes none. */}}
{{- define "apportion.priorityclass" -}}
{{- if .Values.priorityClass.create -}}
{{ include "apportion.clustername" . }}-{{ .Values.priorityClass.value | int | toString | replace "-" "n" }}
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
