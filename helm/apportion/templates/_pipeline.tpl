{{/* The compiled pipeline, and whether it is installed as objects or registered by a Job. */}}

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

{{/* The objects, as a JSON list: one Pipeline and one PipelineVersion; a manifest with anything else is
     refused. Their text is parsed and never run as a template: it contains double braces for KFP. */}}
{{- define "apportion.objects" -}}
{{- $objects := list -}}
{{- $kinds := list -}}
{{- $manifest := .Values.pipeline.manifest | default (.Files.Get "files/attribution-kubernetes.yaml") -}}
{{- range regexSplit "(?m)^---.*$" $manifest -1 -}}
{{- with fromYaml . -}}
{{- $objects = append $objects . -}}
{{- $version := .apiVersion | default "" -}}
{{- $whole := and .kind (eq $version "pipelines.kubeflow.org/v2beta1") (dig "metadata" "name" "" .) -}}
{{- $other := printf "another object (%s)" (.kind | default "no YAML") -}}
{{- $kinds = append $kinds (empty $whole | ternary $other .kind) -}}
{{- end -}}
{{- end -}}
{{- $contents := $kinds | sortAlpha | join ", " -}}
{{- if ne $contents "Pipeline, PipelineVersion" -}}
{{- fail (printf (print "pipeline.manifest: found %s, expected one Pipeline and one PipelineVersion of "
    "pipelines.kubeflow.org/v2beta1, as `python -m pipelines compile --kubernetes` writes them; pass it by "
    "--set-file") ($contents | default "nothing")) -}}
{{- end -}}
{{- toJson $objects -}}
{{- end }}

{{/* Why the objects do not match these values; empty where they match. The chart's own objects are compiled
     from files/cluster.yaml. Objects from pipeline.manifest are used as they are if they run this release's
     images. */}}
{{- define "apportion.misfit" -}}
{{- if .Values.pipeline.manifest -}}
{{- $cpu := include "apportion.image" (dict "root" . "image" .Values.images.cpu) -}}
{{- $gpu := include "apportion.image" (dict "root" . "image" .Values.images.gpu) -}}
{{- $others := list -}}
{{- range include "apportion.objects" . | fromJsonArray -}}
{{- range $executor := dig "spec" "pipelineSpec" "deploymentSpec" "executors" dict . -}}
{{- $image := $executor.container.image -}}
{{- if not (has $image (list $cpu $gpu)) }}{{ $others = append $others $image }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with $others | uniq | sortAlpha | join ", " -}}
pipeline.manifest runs {{ . }} where images.* say {{ $cpu }}, {{ $gpu }}
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

{{/* What a version runs, as JSON, to compare two versions: without the version of the SDK, which is not part
     of the hash in its name either. */}}
{{- define "apportion.content" -}}
{{- $pipeline := omit (.spec.pipelineSpec | default dict) "sdkVersion" -}}
{{- dict "pipeline" $pipeline "platform" (.spec.platformSpec | default dict) | toJson -}}
{{- end }}
