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
