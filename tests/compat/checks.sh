# Words that the checks share. Sourced by run before a file of checks, with errexit, pipefail and xtrace on.

suffix=$(date +%s%N | tail -c 10)
work=$(mktemp -d "${TMPDIR:-/tmp}/compat.XXXXXX")
trap 'rm -rf "$work"' EXIT

# fresh NAME: a topic or group name no other check uses.
fresh() { echo "compat-$1-$suffix"; }

# same WHAT EXPECTED ACTUAL
same() {
  if [ "$2" != "$3" ]; then
    { echo "$1: expected"; echo "$2" | head -20; echo "got"; echo "$3" | head -20; } >&2
    return 1
  fi
}

# shows PATTERN TEXT: the text has a line that matches the extended regex.
shows() {
  if ! grep -qE -- "$1" <<< "$2"; then
    { echo "no line matches $1 in"; echo "$2" | head -40; } >&2
    return 1
  fi
}

# hides PATTERN TEXT
hides() {
  if grep -qE -- "$1" <<< "$2"; then
    { echo "a line matches $1 in"; echo "$2" | head -40; } >&2
    return 1
  fi
}

# eventually SECONDS COMMAND...: until it succeeds.
eventually() {
  local until=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$until" ] || { echo "never in time: $*" >&2; return 1; }
    sleep 0.2
  done
}

lines() { seq -f "%g-value" "$1" "$2"; }

# services_lines PUBLISH READ: the service and the member of the end-to-end test without kills. What `PUBLISH TOPIC` takes from standard
# input, `READ GROUP FILE TOPIC` writes to its file; READ must exec.
services_lines() {
  local t member n
  t=$(fresh "lines-$1")
  kcat -b "$BOOTSTRAP" -L -t "$t" > /dev/null
  for n in $(seq 2000); do printf '%s\tkey%s\tvalue %s\n' "$n" $((n % 17)) "$n"; done > "$work/lines"
  E2E_STAMP=1700000000000 "$1" "$t" < "$work/lines"
  "$2" "$t" "$work/read" "$t" &
  member=$!
  grown() { [ "$(cat "$work/read" 2> /dev/null | wc -l)" -ge 2000 ]; }
  eventually 40 grown
  kill "$member"
  wait "$member"
  same 'each line once' "$(cut -f 1 "$work/lines" | sort)" "$(cut -f 7 "$work/read" | sed 's/value //' | sort)"
  same 'times and headers' '' "$(awk -F '\t' '{ n = substr($7, 7) } $4 != 1700000000000 + n || $5 != "line=" n ",mark=ü" n' "$work/read")"
  same 'left to read' '' "$(kcat -b "$BOOTSTRAP" -q -e -G "$t" -X partition.assignment.strategy=range "$t" 2> /dev/null)"
}
