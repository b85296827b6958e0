{{- /* Waxwing refuses such times too, but only at its start. */ -}}
{{- define "waxwing.checkLeaderElection" -}}
{{- $zero := toDate "2006" "2000" -}}
{{- $lease := (mustDateModify .leaseDuration $zero).UnixMilli -}}
{{- $renew := (mustDateModify .renewDeadline $zero).UnixMilli -}}
{{- $retry := (mustDateModify .retryPeriod $zero).UnixMilli -}}
{{- if le $lease $renew -}}
{{- fail (printf "leaderElection.leaseDuration (%s) must be longer than renewDeadline (%s): try 15s and 10s, and keep the proportion" .leaseDuration .renewDeadline) -}}
{{- else if le $renew $retry -}}
{{- fail (printf "leaderElection.renewDeadline (%s) must be longer than retryPeriod (%s): try 10s and 2s, and keep the proportion" .renewDeadline .retryPeriod) -}}
{{- else if lt $retry (mustDateModify "100ms" $zero).UnixMilli -}}
{{- fail (printf "leaderElection.retryPeriod (%s) must be at least 100ms" .retryPeriod) -}}
{{- else if gt $lease (mustDateModify "10m" $zero).UnixMilli -}}
{{- fail (printf "leaderElection.leaseDuration (%s) must be at most 10m: a dead leader is waited for that long" .leaseDuration) -}}
{{- end -}}
{{- end -}}
