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
