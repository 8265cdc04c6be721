# Prometheus' own tool reads the metrics page and lints its names and help texts.
# needs: http-door promtool

page() { curl -sS --fail "http://$HTTP/metrics"; }

check_promtool_metrics() { # 60
  # Something of everything is counted first: a topic, records, a group.
  local t
  t=$(fresh promtool)
  if has kcat; then
    seq 100 | kcat -b "$BOOTSTRAP" -P -t "$t"
    kcat -b "$BOOTSTRAP" -q -G "$t" -c 100 -X auto.offset.reset=earliest "$t" > /dev/null 2>&1
  fi
  page > "$work/metrics"
  "$bin/promtool" check metrics < "$work/metrics"
  shows '^millrace_' "$(cat "$work/metrics")"
}
