{{/* The chart's pods. Each is restricted, reads the configuration, and can write to /work and /tmp only. */}}

{{/* A Job; takes (dict "root" $ "name" SUFFIX "annotations" (dict …)), and the options of
     "apportion.jobspec". */}}
{{- define "apportion.job" -}}
apiVersion: batch/v1
kind: Job
metadata:
  {{- $labels := dict "app.kubernetes.io/component" .name }}
  {{- include "apportion.metadata" (dict "root" .root "name" .name "labels" $labels) | nindent 2 }}
  annotations:
    {{- toYaml .annotations | nindent 4 }}
    {{- include "apportion.skips" . | trim | nindent 4 }}
spec:
  {{- include "apportion.jobspec" . | nindent 2 }}
{{- end }}

{{/* Annotations of a hook: its Job is created again at every install and upgrade. A finished Job is kept for
     its log, until ttlSecondsAfterFinished is over or the next Job replaces it. */}}
{{- define "apportion.hook" -}}
helm.sh/hook: {{ .hook }}
helm.sh/hook-weight: {{ .weight | default 0 | quote }}
helm.sh/hook-delete-policy: before-hook-creation
{{- end }}

{{/* Takes name and command, and what the command needs: secrets (list "s3" "mlflow"), kfp, api (the
     Kubernetes API). lenient: the pod also starts where Secrets or the certificate authority are missing, and
     reports that itself. */}}
{{- define "apportion.jobspec" -}}
{{- $ := .root -}}
{{- $jobs := $.Values.jobs -}}
{{- $lenient := .lenient | default false -}}
{{- $labels := merge (include "apportion.selector" $ | fromYaml) (include "apportion.part" $ | fromYaml)
    (dict "app.kubernetes.io/component" .name) -}}
{{- if $.Values.serviceAccount.azureClientId -}}
{{- $_ := set $labels "azure.workload.identity/use" "true" -}}
{{- end -}}
backoffLimit: {{ .backoffLimit | default $jobs.backoffLimit | int }}
activeDeadlineSeconds: {{ $jobs.activeDeadlineSeconds | int }}
ttlSecondsAfterFinished: {{ $jobs.ttlSecondsAfterFinished | int }}
template:
  metadata:
    labels:
      {{- merge $labels $jobs.podLabels | toYaml | nindent 6 }}
    annotations:
      {{- $checksum := dict "checksum/config" (include "apportion.config" $ | sha256sum) }}
      {{- merge $checksum $jobs.podAnnotations | toYaml | nindent 6 }}
  spec:
    serviceAccountName: {{ include "apportion.jobsaccount" $ | quote }}
    automountServiceAccountToken: {{ .api | default false }}
    enableServiceLinks: false
    restartPolicy: Never
    securityContext:
      runAsNonRoot: true
      runAsUser: 10001
      runAsGroup: 10001
      fsGroup: 10001
      seccompProfile: {type: RuntimeDefault}
    {{- with $.Values.images.pullSecrets }}
    imagePullSecrets:
      {{- range . }}
      - name: {{ . | quote }}
      {{- end }}
    {{- end }}
    {{- with $jobs.priorityClassName | default (include "apportion.priorityclass" $) }}
    priorityClassName: {{ . | quote }}
    {{- end }}
    {{- with $jobs.nodeSelector }}
    nodeSelector:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $jobs.tolerations }}
    tolerations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $jobs.affinity }}
    affinity:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    containers:
      - name: {{ .name }}
        image: {{ include "apportion.image" (dict "root" $ "image" $.Values.images.cpu) | quote }}
        imagePullPolicy: {{ $.Values.images.pullPolicy }}
        command: {{ toJson .command }}
        env:
          {{- include "apportion.jobenv" . | trim | nindent 10 }}
        resources:
          {{- toYaml $jobs.resources | nindent 10 }}
        securityContext:
          runAsNonRoot: true
          runAsUser: 10001
          runAsGroup: 10001
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {drop: [ALL]}
          seccompProfile: {type: RuntimeDefault}
        volumeMounts:
          - {name: config, mountPath: /etc/apportion/config, readOnly: true}
          - {name: work, mountPath: /work}
          - {name: tmp, mountPath: /tmp}
          {{- if $.Values.ca.configMap }}
          - {name: ca, mountPath: /etc/apportion/ca, readOnly: true}
          {{- end }}
          {{- if include "apportion.kfptoken" . }}
          - {name: kfp-token, mountPath: /var/run/secrets/kubeflow/pipelines, readOnly: true}
          {{- end }}
    volumes:
      - name: config
        configMap: {name: {{ include "apportion.fullname" $ | quote }}}
      - name: work
        emptyDir: {sizeLimit: 1Gi}
      - name: tmp
        emptyDir: {sizeLimit: 1Gi}
      {{- with $.Values.ca }}
      {{- if .configMap }}
      - name: ca
        configMap:
          name: {{ .configMap | quote }}
          items: [{key: {{ .key | quote }}, path: {{ .key | quote }}}]
          optional: {{ $lenient }}
      {{- end }}
      {{- end }}
      {{- if include "apportion.kfptoken" . }}
      - name: kfp-token
        projected:
          sources:
            - serviceAccountToken:
                audience: {{ $.Values.kfp.audience | quote }}
                expirationSeconds: 3600
                path: token
      {{- end }}
{{- end }}

{{/* "true" where a Job connects to KFP with a token of its own service account. */}}
{{- define "apportion.kfptoken" -}}
{{- if and .kfp (not (include "apportion.expected" (dict "root" .root "of" "kfp"))) }}true{{ end -}}
{{- end }}

{{- define "apportion.jobenv" -}}
{{- $ := .root -}}
{{- $lenient := .lenient | default false -}}
{{- range $name, $value := include "apportion.env" $ | fromJson }}
- {name: {{ $name | quote }}, value: {{ $value | quote }}}
{{- end }}
{{- if $.Values.ca.configMap }}
{{- range list "AWS_CA_BUNDLE" "REQUESTS_CA_BUNDLE" "SSL_CERT_FILE" }}
- {name: {{ . }}, value: {{ printf "/etc/apportion/ca/%s" $.Values.ca.key | quote }}}
{{- end }}
{{- end }}
{{- $of := .secrets | default list }}
{{- if and .kfp (not (include "apportion.kfptoken" .)) }}{{ $of = append $of "kfp" }}{{ end }}
{{- range $of }}
{{- $which := dict "root" $ "of" . }}
{{- range $name, $key := include "apportion.keys" $which | fromJson }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ include "apportion.secret" $which | quote }}
      key: {{ $key | quote }}
      optional: {{ or $lenient (empty (include "apportion.expected" $which)) }}
{{- end }}
{{- end }}
{{- if include "apportion.kfptoken" . }}
- {name: KFP_TOKEN_FILE, value: /var/run/secrets/kubeflow/pipelines/token}
{{- end }}
{{- range $entry := deepCopy $.Values.jobs.extraEnv }}
{{- range $kind := list "secretKeyRef" "configMapKeyRef" }}
{{- with dig "valueFrom" $kind dict $entry }}
{{- if $lenient }}{{ $_ := set . "optional" true }}{{ end }}
{{- end }}
{{- end }}
- {{ toJson $entry }}
{{- end }}
{{- end }}

{{/* The checks that checkov skips, and why. */}}
{{- define "apportion.skips" -}}
{{- $ := .root -}}
{{- if ne $.Values.images.pullPolicy "Always" }}
checkov.io/skip1: CKV_K8S_15=the image is named by digest or by a version that is never pushed twice, so pods start while the registry is down
{{- end }}
{{- if not $.Values.images.cpu.digest }}
checkov.io/skip2: CKV_K8S_43=the digest is a value (images.cpu.digest); a default cannot know the digest in your registry
{{- end }}
{{- if or .secrets (and .kfp (not (include "apportion.kfptoken" .))) }}
checkov.io/skip3: CKV_K8S_35=boto3, MLflow and KFP read their credentials from variables; none is in a command line or the configuration
{{- end }}
{{- if .api }}
checkov.io/skip4: CKV_K8S_38=the doctor asks the Kubernetes API about Secrets, nodes and permissions
{{- end }}
{{- end }}
