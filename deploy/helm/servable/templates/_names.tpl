{{- define "servable.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "servable.selector" -}}
app.kubernetes.io/name: servable
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "servable.metadata" -}}
name: {{ include "servable.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "servable.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{- /* Of cache.sizeLimit, what copies of models may take. */}}
{{- define "servable.modelBytes" -}}
{{- $limit := .Values.cache.sizeLimit }}
{{- $powers := dict "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "" 1 }}
{{- $bytes := mulf (regexFind "^[0-9.]+" $limit) (get $powers (regexFind "[A-Za-z]*$" $limit)) }}
{{- $models := int64 (.Values.cache.modelBytes | default (mulf $bytes 0.8)) }}
{{- if gt $models (int64 $bytes) }}
{{- fail (printf "cache.modelBytes (%d) is more than cache.sizeLimit (%s)" $models $limit) }}
{{- end }}
{{- $models }}
{{- end }}
