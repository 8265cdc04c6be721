# Shared by the scripts of this folder: where things are, which foreign tools there are, how each is called.
# Sourced, never run. Needs bash; changes nothing but variables.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# Everything that is downloaded, built or written by the checks lives here.
cache=${COMPAT_CACHE:-$root/target/compat}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
BOOTSTRAP=${BOOTSTRAP:-127.0.0.1:9092}

# Go keeps to the cache too; -modcacherw so that `rm -rf target` works.
export GOPATH=$cache/go GOCACHE=${GOCACHE:-$cache/go/build} GOFLAGS="-modcacherw -buildvcs=false"

peer=${KAFKA_PEER:-$root/../shared/peers/kafka.sh}
default_kafka_home=${TMPDIR:-/tmp}/kafka-${KAFKA_VERSION:-4.3.1}
if [ -z "${KAFKA_HOME:-}" ]; then
  if [ -d "$default_kafka_home/libs" ]; then KAFKA_HOME=$default_kafka_home; else KAFKA_HOME=$cache/kafka; fi
fi
export KAFKA_HOME

python=$cache/venv/bin/python
judge=$cache/judge
kgo_test=$cache/kgo.test
java_classes=$cache/java
# Of the gRPC door: what protoc wrote for Python, the checks in Go, and tools that are single files.
grpc_py=$cache/grpc-py
grpc_judge=$cache/grpc-judge
bin=$cache/bin

# A tool is there when setup left its mark; the mark of a missing tool holds the reason.
has() { [ -e "$cache/have/$1" ]; }
why_not() { cat "$cache/missing/$1" 2> /dev/null || echo "not set up: run tests/compat/setup"; }

# JVM flags for short-lived tools on few cores.
java_run() { local -; set +x; local heap=${HEAP:-512M}; java -Xmx"$heap" -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$java_classes:$KAFKA_HOME/libs/*" "$@" 2> >(grep -v SLF4J >&2); }
kafka_tool() { local class=$1; shift; java_run "org.apache.kafka.tools.$class" "$@"; }

# binary: the program under test.
binary() {
  local candidate
  for candidate in "${BROKER_BIN:-}" "${CARGO_TARGET_DIR:-$root/target}/release/millrace" "${CARGO_TARGET_DIR:-$root/target}/debug/millrace"; do
    if [ -x "$candidate" ]; then echo "$candidate"; return; fi
  done
  echo "no millrace binary: cargo build --release" >&2
  return 1
}

# alone NAME: this script's data in the cache is its own; a second run at the same time would delete it under the first.
alone() {
  exec 8> "$cache/.lock-$1"
  flock -n 8 || { echo "another $1 is running in $cache: wait for it, or set COMPAT_CACHE" >&2; exit 1; }
}
