{{/* The compiled pipeline, and whether it becomes objects or a Job registers it. */}}

{{- define "apportion.api.pipelines" -}}
{{- if .Capabilities.APIVersions.Has "pipelines.kubeflow.org/v2beta1" }}true{{ end -}}
{{- end }}

{{/* native, job or none. */}}
{{- define "apportion.mode" -}}
{{- if ne .Values.pipeline.mode "auto" -}}
{{- .Values.pipeline.mode -}}
{{- else if and (include "apportion.api.pipelines" .) (not (include "apportion.misfit" .)) -}}
native
{{- else -}}
job
{{- end -}}
{{- end }}

{{/* The objects, as a JSON list: a Pipeline and a PipelineVersion, whatever a manifest holds. Their text is parsed and never a template: it
     holds double braces that KFP fills. */}}
{{- define "apportion.objects" -}}
{{- $objects := list -}}
{{- $kinds := list -}}
{{- range regexSplit "(?m)^---.*$" (.Values.pipeline.manifest | default (.Files.Get "files/attribution-kubernetes.yaml")) -1 -}}
{{- with fromYaml . -}}
{{- $objects = append $objects . -}}
{{- $whole := and .kind (eq (.apiVersion | default "") "pipelines.kubeflow.org/v2beta1") (dig "metadata" "name" "" .) -}}
{{- $kinds = append $kinds (empty $whole | ternary (printf "what is no such object (%s)" (.kind | default "no YAML")) .kind) -}}
{{- end -}}
{{- end -}}
{{- $found := $kinds | sortAlpha | join ", " -}}
{{- if ne $found "Pipeline, PipelineVersion" -}}
{{- fail (printf "pipeline.manifest: found %s, expected one Pipeline and one PipelineVersion of pipelines.kubeflow.org/v2beta1, as `python -m pipelines compile --kubernetes` writes them; pass it by --set-file" ($found | default "nothing")) -}}
{{- end -}}
{{- toJson $objects -}}
{{- end }}

{{/* Why the objects are not what these values say; empty where they are. The chart's own are compiled from files/cluster.yaml; yours are
     taken as you compiled them, if they run this release's images. */}}
{{- define "apportion.misfit" -}}
{{- if .Values.pipeline.manifest -}}
{{- $images := list (include "apportion.image" (dict "root" . "image" .Values.images.cpu)) (include "apportion.image" (dict "root" . "image" .Values.images.gpu)) -}}
{{- $found := list -}}
{{- range include "apportion.objects" . | fromJsonArray -}}
{{- range $executor := dig "spec" "pipelineSpec" "deploymentSpec" "executors" dict . -}}
{{- if not (has $executor.container.image $images) }}{{ $found = append $found $executor.container.image }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with $found | uniq | sortAlpha | join ", " -}}
pipeline.manifest runs {{ . }} where images.* say {{ join ", " $images }}
{{- end -}}
{{- else -}}
{{- $own := omit (include "apportion.cluster" . | fromJson) "kfp" -}}
{{- $compiled := .Files.Get "files/cluster.yaml" | fromYaml -}}
{{- $other := list -}}
{{- range $key, $value := $own -}}
{{- if not (deepEqual $value (get $compiled $key)) }}{{ $other = append $other $key }}{{ end -}}
{{- end -}}
{{- with $other | sortAlpha | join ", " -}}
the chart's compiled pipeline is for other values of {{ . }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* What a version runs, to be compared, as JSON: without the SDK that wrote it, which its name says nothing of either. */}}
{{- define "apportion.content" -}}
{{- dict "pipeline" (omit (.spec.pipelineSpec | default dict) "sdkVersion") "platform" (.spec.platformSpec | default dict) | toJson -}}
{{- end }}
