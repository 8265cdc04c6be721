# One function a tool, called by setup with errexit on. The last line printed is the version, or the reason why not.

kafka_python_version=3.0.12

setup_kcat() {
  if ! command -v kcat > /dev/null; then
    local sudo=
    if [ "$(id -u)" != 0 ]; then sudo="sudo -n"; fi
    $sudo apt-get update || { echo "apt-get update failed"; return 1; }
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y --no-install-recommends kcat || { echo "apt-get install kcat failed"; return 1; }
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
