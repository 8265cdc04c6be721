# One function a tool, called by setup with errexit on. The last line printed is the version, or the reason why not.

kafka_python_version=3.0.12
grpcio_version=1.85.1
grpcurl_version=1.9.4

# apt_get WORDS...: as root, in whatever way this machine allows.
apt_get() {
  local sudo=
  if [ "$(id -u)" != 0 ]; then sudo="sudo -n"; fi
  DEBIAN_FRONTEND=noninteractive $sudo apt-get "$@" || { echo "apt-get $1 failed"; return 1; }
}

setup_kcat() {
  if ! command -v kcat > /dev/null; then
    apt_get update
    apt_get install -y --no-install-recommends kcat
  fi
  kcat -V | grep Version
}

setup_python() {
  command -v python3 > /dev/null || { echo "no python3"; return 1; }
  if [ ! -e "$cache/venv/ready-$kafka_python_version" ]; then
    rm -rf "$cache/venv"
    python3 -m venv "$cache/venv" || { echo "python3 -m venv failed"; return 1; }
    "$cache/venv/bin/pip" install -q "kafka-python==$kafka_python_version" lz4==4.4.5 python-snappy==0.7.3 zstandard==0.25.0 ||
      { echo "pip could not install kafka-python"; return 1; }
    touch "$cache/venv/ready-$kafka_python_version"
  fi
  "$python" -c 'import kafka; print("kafka-python", kafka.__version__)'
}

setup_kafka() {
  [ -e "$peer" ] || { echo "no $peer"; return 1; }
  command -v java > /dev/null || { echo "no java"; return 1; }
  # Any tool call downloads the jars first.
  bash "$peer" tool TopicCommand --version || { echo "Apache Kafka's jars could not be had"; return 1; }
  ls "$KAFKA_HOME"/libs/kafka-clients-*.jar | sed 's,.*/,,'
}

setup_java() {
  [ -d "$KAFKA_HOME/libs" ] || { echo "no jars of Apache Kafka"; return 1; }
  command -v javac > /dev/null || { echo "no javac"; return 1; }
  rm -rf "$java_classes"
  mkdir -p "$java_classes"
  javac -cp "$KAFKA_HOME/libs/*" -d "$java_classes" "$here"/java/*.java || { echo "javac failed"; return 1; }
  javac -version
}

setup_go() {
  command -v go > /dev/null || { echo "no go"; return 1; }
  cd "$here/judge"
  go build -o "$judge" . || { echo "the franz-go programs do not build"; return 1; }
  go list -m -f '{{.Path}} {{.Version}}' github.com/twmb/franz-go
}

setup_kgo() {
  command -v go > /dev/null || { echo "no go"; return 1; }
  cd "$here/judge"
  go test -c -o "$kgo_test" github.com/twmb/franz-go/pkg/kgo || { echo "franz-go's kgo tests do not build"; return 1; }
  go list -f '{{.Dir}}' github.com/twmb/franz-go/pkg/kgo > "$cache/kgo.dir"
  "$kgo_test" -test.list . | grep -c ^Test | sed 's/$/ tests of kgo/'
}

# The Python client of the gRPC door, generated afresh: pip brings protoc, too.
setup_grpc-python() {
  [ -x "$python" ] || { echo "no virtual environment, see kafka-python"; return 1; }
  if [ ! -e "$cache/venv/ready-grpcio-$grpcio_version" ]; then
    "$cache/venv/bin/pip" install -q "grpcio==$grpcio_version" "grpcio-tools==$grpcio_version" "grpcio-status==$grpcio_version" ||
      { echo "pip could not install grpcio"; return 1; }
    touch "$cache/venv/ready-grpcio-$grpcio_version"
  fi
  rm -rf "$grpc_py"
  mkdir -p "$grpc_py"
  generate --python_out="$grpc_py" --grpc_python_out="$grpc_py"
  PYTHONPATH=$grpc_py "$python" -c 'import grpc; from millrace.v1 import admin_pb2_grpc, consume_pb2_grpc, produce_pb2_grpc; print("grpcio", grpc.__version__)'
}

# generate OUTPUT...: protoc over the .proto files.
generate() {
  "$python" -m grpc_tools.protoc -I "$root/proto" "$@" "$root"/proto/millrace/v1/*.proto || { echo "protoc refuses the .proto files"; return 1; }
}

# The Go client: the generators are pinned in go.mod, and what they write is built with the checks in a folder of the cache.
setup_grpc-go() {
  command -v go > /dev/null || { echo "no go"; return 1; }
  "$python" -c 'import grpc_tools' || { echo "no protoc, see grpc-python"; return 1; }
  local made=$cache/grpc-go
  rm -rf "$made"
  mkdir -p "$made" "$bin"
  cp "$here"/grpc/go/* "$made"
  cd "$made"
  go build -o "$bin/" tool || { echo "protoc-gen-go and protoc-gen-go-grpc do not build"; return 1; }
  PATH=$bin:$PATH generate --go_out="$made" --go-grpc_out="$made"
  go vet ./... && go build -o "$grpc_judge" . || { echo "the checks in Go do not build"; return 1; }
  go list -m -f '{{.Path}} {{.Version}}' google.golang.org/grpc
}

setup_grpcurl() {
  if ! grep -qs "$grpcurl_version" "$bin/grpcurl.version"; then
    command -v go > /dev/null || { echo "no go"; return 1; }
    GOBIN=$bin go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@v$grpcurl_version" || { echo "grpcurl does not build"; return 1; }
    echo "$grpcurl_version" > "$bin/grpcurl.version"
  fi
  echo "grpcurl $(cat "$bin/grpcurl.version")"
}

# Out of Debian's package of Prometheus, which is taken apart and not installed: it would start a service.
setup_promtool() {
  if [ ! -x "$bin/promtool" ]; then
    local work
    work=$(mktemp -d)
    trap "rm -rf '$work'" EXIT
    chmod 755 "$work"
    cd "$work"
    apt-cache policy prometheus | grep 'Candidate: [0-9]' > /dev/null || apt_get update
    apt-get download prometheus || { echo "apt-get download prometheus failed"; return 1; }
    dpkg-deb -x prometheus_*.deb . || { echo "Debian's package of prometheus cannot be unpacked"; return 1; }
    mkdir -p "$bin"
    mv usr/bin/promtool "$bin/"
  fi
  "$bin/promtool" --version 2>&1 | head -1
}
