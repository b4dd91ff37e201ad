{{/* Names, labels, and references to images, accounts and Secrets. Every text is quoted: `no` and `123` are
     names too, and YAML would read them as something else. */}}

{{/* At most 43 characters, so that the longest suffix fits into a label. A name that is cut gets a hash, so
     that two releases never share a name. */}}
{{- define "apportion.fullname" -}}
{{- $chart := .Values.nameOverride | default .Chart.Name -}}
{{- $both := contains $chart .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $chart) -}}
{{- $name := .Values.fullnameOverride | default $both -}}
{{- if gt (len $name) 43 -}}
{{- $name = printf "%s-%s" (trunc 36 $name | trimSuffix "-" | trimSuffix ".") (sha256sum $name | trunc 6) -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{/* The name of objects that the whole cluster or KFP shares: the namespace is part of it. A hash is added
     where two releases could otherwise have the same name, as `b-c` in namespace `a` and `c` in namespace
     `a-b`. */}}
{{- define "apportion.clustername" -}}
{{- $full := include "apportion.fullname" . -}}
{{- $name := printf "%s-%s" .Release.Namespace $full | replace "." "-" -}}
{{- if or (gt (len $name) 52) (contains "-" .Release.Namespace) (contains "." $full) -}}
{{- $hash := printf "%s/%s" .Release.Namespace $full | sha256sum | trunc 6 -}}
{{- $name = printf "%s-%s" (trunc 45 $name | trimSuffix "-") $hash -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{- define "apportion.selector" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* The label that the pods of runs and Jobs have; network policies and monitors select by it. */}}
{{- define "apportion.part" -}}
app.kubernetes.io/part-of: apportion
{{- end }}

{{- define "apportion.labels" -}}
{{- $own := dict "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63)
    "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $selector := include "apportion.selector" . | fromYaml -}}
{{- merge $own $selector (include "apportion.part" . | fromYaml) .Values.commonLabels | toYaml -}}
{{- end }}

{{/* The metadata of an object in the release's namespace; takes (dict "root" $ "name" SUFFIX), or "as" for
     the whole name, and optionally "labels". */}}
{{- define "apportion.metadata" -}}
name: {{ list (.as | default (include "apportion.fullname" .root)) .name | compact | join "-" | quote }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- $common := include "apportion.labels" .root | fromYaml }}
  {{- merge (dict) (.labels | default dict) $common | toYaml | nindent 2 }}
{{- end }}

{{- define "apportion.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The name of the account that the chart makes for runs. */}}
{{- define "apportion.account" -}}
{{- $own := .Values.serviceAccount.create | ternary (include "apportion.fullname" .) "default" -}}
{{- .Values.serviceAccount.name | default $own -}}
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

{{/* The name of the Secret of s3, mlflow or kfp; takes (dict "root" $ "of" "s3"). */}}
{{- define "apportion.secret" -}}
{{- $own := printf "%s-%s" (include "apportion.fullname" .root) .of -}}
{{- (index .root.Values .of).existingSecret | default $own -}}
{{- end }}

{{/* "true" where values say that the Secret exists or will be made. Pods then wait for it; otherwise they
     start without it. */}}
{{- define "apportion.expected" -}}
{{- $of := index .root.Values .of -}}
{{- if or $of.existingSecret (and .root.Values.externalSecrets.enabled $of.externalKey) }}true{{ end -}}
{{- end }}

{{/* Annotations of a service account: those of the cloud's identity replace those of `annotations`; takes
     (dict "root" $ "annotations" (dict …)). */}}
{{- define "apportion.identity" -}}
{{- $own := dict -}}
{{- with .root.Values.serviceAccount -}}
{{- range $key, $value := dict "eks.amazonaws.com/role-arn" .awsRoleArn
    "iam.gke.io/gcp-service-account" .gcpServiceAccount
    "azure.workload.identity/client-id" .azureClientId "azure.workload.identity/tenant-id" .azureTenantId -}}
{{- if $value }}{{ $_ := set $own $key $value }}{{ end -}}
{{- end -}}
{{- end -}}
{{- merge $own .annotations | toYaml -}}
{{- end }}

{{/* The name of the PriorityClass that the chart makes; empty where it makes none. The name contains every
     field that Kubernetes does not allow to change. */}}
{{- define "apportion.priorityclass" -}}
{{- with .Values.priorityClass -}}
{{- if .create -}}
{{- $value := .value | int | toString | replace "-" "n" -}}
{{- $policy := eq .preemptionPolicy "Never" | ternary "never" "preempt" -}}
{{- printf "%s-%s-%s" (include "apportion.clustername" $) $value $policy -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The environment variables of s3, mlflow or kfp, each with the key of its Secret, as JSON; takes (dict
     "root" $ "of" "s3"). */}}
{{- define "apportion.keys" -}}
{{- with .root.Values -}}
{{- if eq $.of "s3" -}}
{{- dict "AWS_ACCESS_KEY_ID" .s3.accessKeyIdKey "AWS_SECRET_ACCESS_KEY" .s3.secretAccessKeyKey | toJson -}}
{{- else if eq $.of "kfp" -}}
{{- dict "KFP_TOKEN" .kfp.tokenKey | toJson -}}
{{- else if .mlflow.tokenKey -}}
{{- dict "MLFLOW_TRACKING_TOKEN" .mlflow.tokenKey | toJson -}}
{{- else -}}
{{- dict
    "MLFLOW_TRACKING_USERNAME" .mlflow.usernameKey
    "MLFLOW_TRACKING_PASSWORD" .mlflow.passwordKey
    | toJson -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The names of the Secrets that runs and Jobs refer to, as a JSON list. */}}
{{- define "apportion.secretnames" -}}
{{- $names := .Values.images.pullSecrets -}}
{{- range $of := .Values.mlflow.enabled | ternary (list "s3" "mlflow") (list "s3") -}}
{{- $names = append $names (include "apportion.secret" (dict "root" $ "of" $of)) -}}
{{- end -}}
{{- $kfp := dict "root" . "of" "kfp" -}}
{{- if include "apportion.expected" $kfp -}}
{{- $names = append $names (include "apportion.secret" $kfp) -}}
{{- end -}}
{{- $names | uniq | sortAlpha | toJson -}}
{{- end }}
