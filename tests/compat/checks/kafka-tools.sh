# Apache Kafka's own command-line tools.
# needs: kafka

B=(--bootstrap-server "$BOOTSTRAP")
topics() { kafka_tool TopicCommand "${B[@]}" "$@"; }
groups() { kafka_tool consumer.group.ConsumerGroupCommand "${B[@]}" "$@"; }
configs() { java_run kafka.admin.ConfigCommand "${B[@]}" "$@"; }
ends() { kafka_tool GetOffsetShell "${B[@]}" --topic "$1" --time "${2:-latest}"; }
total() { ends "$@" | awk -F: '{ n += $3 } END { print n + 0 }'; }
make() { topics --create --topic "$1" --partitions "$2"; }
# fill TOPIC COUNT: COUNT records with key and value.
fill() { seq "$2" | sed 's/.*/k&:v&/' | kafka_tool ConsoleProducer "${B[@]}" --topic "$1" --reader-property parse.key=true --reader-property key.separator=:; }
drain() { kafka_tool consumer.ConsoleConsumer "${B[@]}" --topic "$1" --from-beginning --timeout-ms 20000 --max-messages "$2" "${@:3}"; }

check_broker_api_versions() { # 60
  local out
  out=$(kafka_tool BrokerApiVersionsCommand "${B[@]}")
  hides 'ERROR' "$out"
  # The ranges that old librdkafka looks for, and what every client needs.
  local api
  for api in 'Produce\(0\): 0 to' 'Fetch\(1\): 4 to' 'ListOffsets\(2\): 1 to' 'Metadata\(3\): 0 to' 'OffsetCommit\(8\): 2 to' \
    'OffsetFetch\(9\): 1 to' 'FindCoordinator\(10\): 0 to' 'JoinGroup\(11\): 0 to' 'Heartbeat\(12\): 0 to' 'LeaveGroup\(13\): 0 to' \
    'SyncGroup\(14\): 0 to' 'DescribeGroups\(15\): 0 to' 'ListGroups\(16\): 0 to' 'ApiVersions\(18\): 0 to' 'CreateTopics\(19\): 2 to' \
    'DeleteTopics\(20\): 1 to' 'DeleteRecords\(21\): 0 to' 'InitProducerId\(22\): 0 to' 'OffsetForLeaderEpoch\(23\): 2' \
    'DescribeAcls\(29\): 1 to' 'DescribeConfigs\(32\): 1 to' 'AlterConfigs\(33\): 0 to' 'DescribeLogDirs\(35\): 1 to' \
    'CreatePartitions\(37\): 0 to' 'DeleteGroups\(42\): 0 to' 'IncrementalAlterConfigs\(44\): 0 to' 'OffsetDelete\(47\): 0' \
    'DescribeCluster\(60\): 0 to'; do
    shows "$api" "$out"
  done
}

check_client_compatibility_test() { # 120
  local t
  t=$(fresh cct)
  make "$t" 1
  topics --delete --topic newtopic --if-exists # the tool creates it
  kafka_tool ClientCompatibilityTest "${B[@]}" --topic "$t" --num-cluster-nodes 1 --offsets-for-times-supported True \
    --cluster-id-supported True --expect-record-too-large-exception False --create-topics-supported True \
    --describe-acls-supported True --describe-configs-supported True --idempotent-producer-supported True | tee "$work/out"
  shows '^SUCCESS' "$(cat "$work/out")"
}

check_cluster_tool() { # 60
  local out
  out=$(kafka_tool ClusterTool cluster-id "${B[@]}")
  shows '^Cluster ID: .{22}$' "$out"
  same 'the cluster id is stable' "$out" "$(kafka_tool ClusterTool cluster-id "${B[@]}")"
  shows "${BOOTSTRAP#*:}" "$(kafka_tool ClusterTool list-endpoints "${B[@]}")"
}

check_topic_command() { # 240
  local t out
  t=$(fresh topics)
  shows "Created topic $t" "$(topics --create --topic "$t" --partitions 2 --config retention.ms=3600000)"
  # The same name again is refused, and accepted with --if-not-exists.
  if out=$(topics --create --topic "$t" --partitions 2 2>&1); then same 'create of a topic that exists' fails passes; fi
  shows 'already exists' "$out"
  topics --create --topic "$t" --partitions 2 --if-not-exists
  if out=$(topics --create --topic "$t-rf" --partitions 1 --replication-factor 3 2>&1); then same 'replication factor 3 on one broker' fails passes; fi
  shows '[Rr]eplication.[Ff]actor' "$out"
  if topics --create --topic 'no/slash' --partitions 1; then same 'an illegal name' fails passes; fi
  if out=$(topics --create --topic "$t-c" --partitions 1 --config no.such.key=1 2>&1); then same 'an unknown config' fails passes; fi
  out=$(topics --describe --topic "$t")
  shows "Topic: $t.*TopicId: .{22}.*PartitionCount: 2.*ReplicationFactor: 1.*retention.ms=3600000" "$out"
  shows "Topic: $t.*Partition: 1.*Leader: [0-9]+.*Replicas: [0-9]+.*Isr: [0-9]+" "$out"
  topics --alter --topic "$t" --partitions 5
  shows 'PartitionCount: 5' "$(topics --describe --topic "$t")"
  if topics --alter --topic "$t" --partitions 3; then same 'fewer partitions' fails passes; fi
  shows "^$t\$" "$(topics --list)"
  hides . "$(topics --describe --under-replicated-partitions)"
  hides . "$(topics --describe --unavailable-partitions)"
  topics --delete --topic "$t"
  hides "^$t\$" "$(topics --list)"
  if topics --describe --topic "$t"; then same 'describe of a deleted topic' fails passes; fi
  # The same name again is a new topic: new id, empty.
  make "$t" 1
  same 'a topic made again is empty' "$t:0:0" "$(ends "$t")"
  topics --delete --topic "$t"
}

check_console_producer_consumer() { # 120
  local t out
  t=$(fresh console)
  make "$t" 1
  printf '%s\n' 'h1:a,h2:b|k1|v1' 'h1:|k2|v2' 'h1:a,h1:b|NULL|v3' 'h:x|k4|NULL' |
    kafka_tool ConsoleProducer "${B[@]}" --topic "$t" --reader-property parse.key=true --reader-property parse.headers=true \
      --reader-property 'key.separator=|' --reader-property 'headers.delimiter=|' --reader-property null.marker=NULL
  out=$(drain "$t" 4 --formatter-property print.key=true --formatter-property print.headers=true --formatter-property print.offset=true \
    --formatter-property print.partition=true --formatter-property 'key.separator=|' --formatter-property 'headers.separator=,')
  same 'records with keys, headers, nulls and a repeated header' "$(printf '%s\n' 'Partition:0|Offset:0|h1:a,h2:b|k1|v1' 'Partition:0|Offset:1|h1:|k2|v2' \
    'Partition:0|Offset:2|h1:a,h1:b|null|v3' 'Partition:0|Offset:3|h:x|k4|null')" "$out"
  # From an offset of a partition.
  same 'from offset 2' 'v3' "$(kafka_tool consumer.ConsoleConsumer "${B[@]}" --topic "$t" --partition 0 --offset 2 --max-messages 1 --timeout-ms 20000)"
  same 'read committed reads all that is not transactional' 4 "$(drain "$t" 4 --isolation-level read_committed | wc -l)"
}

console_codec() {
  local t sent
  t=$(fresh "console-$1")
  sent=$(lines 1 500)
  kafka_tool ConsoleProducer "${B[@]}" --topic "$t" --compression-codec "$1" <<< "$sent" # the topic is created by this
  same "500 records by $1" "$(sort <<< "$sent")" "$(drain "$t" 500 | sort)"
}
check_console_codec_none() { # 60
  console_codec none
}
check_console_codec_gzip() { # 60
  console_codec gzip
}
check_console_codec_snappy() { # 60
  console_codec snappy
}
check_console_codec_lz4() { # 60
  console_codec lz4
}
check_console_codec_zstd() { # 60
  console_codec zstd
}

check_console_acks() { # 60
  local t acks
  t=$(fresh acks)
  make "$t" 1
  for acks in 0 1 all; do
    echo "acks-$acks" | kafka_tool ConsoleProducer "${B[@]}" --topic "$t" --command-property "acks=$acks" --command-property enable.idempotence=false
  done
  same 'one record by each acks setting' "$(printf 'acks-0\nacks-1\nacks-all')" "$(drain "$t" 3)"
}

check_verifiable_producer_consumer() { # 120
  local t out
  t=$(fresh verifiable)
  make "$t" 4
  out=$(kafka_tool VerifiableProducer "${B[@]}" --topic "$t" --max-messages 2000 --acks -1 --repeating-keys 50)
  same 'acknowledged sends' 2000 "$(grep -c '"name":"producer_send_success"' <<< "$out")"
  hides '"name":"producer_send_error"' "$out"
  out=$(kafka_tool VerifiableConsumer "${B[@]}" --topic "$t" --group-id "$t" --max-messages 2000 --reset-policy earliest --verbose)
  same 'consumed records' 2000 "$(grep -c '"name":"record_data"' <<< "$out")"
  hides '"success":false' "$out"
  shows '"name":"offsets_committed".*"success":true' "$out"
  same 'lag after the verified read' 0 "$(groups --describe --group "$t" --offsets | awk -v t="$t" '$2 == t { n += $6 } END { print n + 0 }')"
}

check_verifiable_consumer_pair() { # 120
  # Two members, one static: both get partitions, together they read everything.
  local t pids
  t=$(fresh pair)
  make "$t" 4
  for member in one two; do
    # Not through the function: the background job must be the JVM itself.
    java -Xmx256M -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$KAFKA_HOME/libs/*" org.apache.kafka.tools.VerifiableConsumer "${B[@]}" \
      --topic "$t" --group-id "$t" --session-timeout 6000 --group-instance-id "$member" --assignment-strategy org.apache.kafka.clients.consumer.CooperativeStickyAssignor \
      > "$work/$member" 2> "$work/$member.err" &
    pids+=" $!"
  done
  both_own() { for m in one two; do grep '"name":"partitions_assigned"' "$work/$m" | grep -q '"partition"' || return 1; done; }
  eventually 40 both_own
  shows 'one.*two|two.*one' "$(groups --describe --group "$t" --members --verbose | tr '\n' ' ')"
  kafka_tool VerifiableProducer "${B[@]}" --topic "$t" --max-messages 1000 > /dev/null
  all_read() { [ "$(cat "$work/one" "$work/two" | sed -nE 's/.*"name":"records_consumed".*"count":([0-9]+).*/\1/p; s/.*"count":([0-9]+).*"name":"records_consumed".*/\1/p' | awk '{ n += $1 } END { print n + 0 }')" -ge 1000 ]; }
  eventually 30 all_read
  kill $pids
  wait || true
}

check_get_offset_shell() { # 90
  local t stamp
  t=$(fresh offsets)
  make "$t" 1
  same 'an empty topic' "$t:0:0" "$(ends "$t")"
  kafka_tool VerifiableProducer "${B[@]}" --topic "$t" --max-messages 10 --message-create-time 1700000000000 > /dev/null
  same latest "$t:0:10" "$(ends "$t" latest)"
  same earliest "$t:0:0" "$(ends "$t" earliest)"
  # VerifiableProducer counts the timestamp up from the given one, record by record.
  same 'max timestamp' "$t:0:9" "$(ends "$t" max-timestamp)"
  same 'by timestamp' "$t:0:0" "$(ends "$t" 1700000000000)"
  same 'no record has so late a timestamp' '' "$(ends "$t" 1800000000000)"
  same 'earliest local' "$t:0:0" "$(ends "$t" earliest-local)"
  same 'a pattern' "$t:0:10" "$(kafka_tool GetOffsetShell "${B[@]}" --topic-partitions "$t:0-3")"
}

# a group that read TOPIC wholly: 20 records on 2 partitions, committed
read_group() {
  make "$1" 2
  fill "$1" 20
  drain "$1" 20 --group "$1" > /dev/null
}

check_consumer_group_describe() { # 240
  local g out
  g=$(fresh describe)
  read_group "$g"
  shows "^$g\$" "$(groups --list)"
  shows "^$g +Empty" "$(groups --list --state Empty)"
  out=$(groups --describe --group "$g")
  same 'two partitions, read to the end' '2 20 20 0' "$(awk -v t="$g" '$2 == t { p++; c += $4; e += $5; l += $6 } END { print p, c, e, l }' <<< "$out")"
  shows 'Empty +0' "$(groups --describe --group "$g" --state)"
  shows "no active members" "$(groups --describe --group "$g" 2>&1)"
  fill "$g" 5
  same 'lag after five more' 5 "$(groups --describe --group "$g" | awk -v t="$g" '$2 == t { l += $6 } END { print l }')"
  shows "^$g\$" "$(kafka_tool GroupsCommand "${B[@]}" --list | awk '{ print $1 }')"
  shows 'does not exist|not found' "$(groups --describe --group "$g-none" 2>&1 || true)"
  shows "$g" "$(groups --describe --all-groups)"
}

check_consumer_group_members() { # 120
  local g pid out
  g=$(fresh members)
  make "$g" 3
  java -Xmx256M -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$KAFKA_HOME/libs/*" org.apache.kafka.tools.consumer.ConsoleConsumer "${B[@]}" --topic "$g" --group "$g" \
    --command-property client.id=looker --command-property session.timeout.ms=6000 > "$work/read" 2> /dev/null &
  pid=$!
  stable() { groups --describe --group "$g" --state 2>&1 | grep -q Stable; }
  eventually 60 stable
  shows 'range +Stable +1' "$(groups --describe --group "$g" --state)"
  out=$(groups --describe --group "$g" --members --verbose)
  shows "^$g +looker-[^ ]+ +/127\.0\.0\.1 +looker +3 +.*$g[(:]0,? ?" "$out"
  shows "^$g +classic" "$(groups --list --type classic 2>&1 | awk '{ print $1, "classic" }')"
  # A group with members is neither deleted nor reset.
  shows 'is not empty|NonEmptyGroup|GroupNotEmpty' "$(groups --delete --group "$g" 2>&1 || true)"
  shows 'inactive|is Stable' "$(groups --reset-offsets --group "$g" --topic "$g" --to-earliest --execute 2>&1 || true)"
  kill "$pid"
  wait "$pid" || true
  # It left when it closed: no session timeout is waited for.
  empty() { groups --describe --group "$g" --state 2>&1 | grep -q Empty; }
  eventually 30 empty
}

check_consumer_group_reset_offsets() { # 240
  local g reset lag
  g=$(fresh reset)
  read_group "$g"
  reset() { groups --reset-offsets --group "$g" --topic "$g" "$@" > /dev/null; }
  at() { groups --describe --group "$g" 2> /dev/null | awk -v t="$g" '$2 == t { c += $4 } END { print c }'; }
  reset --to-earliest --dry-run
  same 'a dry run changes nothing' 20 "$(at)"
  reset --to-earliest --execute
  same 'to earliest' 0 "$(at)"
  reset --to-offset 3 --execute
  same 'to offset 3' 6 "$(at)"
  reset --shift-by 2 --execute
  same 'shifted by 2' 10 "$(at)"
  reset --to-latest --execute
  same 'to latest' 20 "$(at)"
  reset --to-datetime 2020-01-01T00:00:00.000 --execute
  same 'to a date before all' 0 "$(at)"
  reset --by-duration PT0S --execute
  same 'to now' 20 "$(at)"
  groups --reset-offsets --group "$g" --topic "$g:0" --to-earliest --execute --export > "$work/plan"
  groups --reset-offsets --group "$g" --from-file "$work/plan" --execute > /dev/null
  # A new group can be given offsets before it reads.
  groups --reset-offsets --group "$g-new" --topic "$g" --to-offset 5 --execute > /dev/null
  same 'a group of its own' 10 "$(groups --describe --group "$g-new" 2> /dev/null | awk -v t="$g" '$2 == t { c += $4 } END { print c }')"
  reset --to-earliest --execute
  same 'and it reads from there again' 20 "$(kafka_tool consumer.ConsoleConsumer "${B[@]}" --topic "$g" --group "$g" --timeout-ms 20000 --max-messages 20 | wc -l)"
}

check_consumer_group_delete_offsets() { # 120
  local g
  g=$(fresh delete-offsets)
  read_group "$g"
  shows "$g +0 +Successful" "$(groups --delete-offsets --group "$g" --topic "$g:0")"
  same 'one partition is left' 1 "$(groups --describe --group "$g" 2> /dev/null | awk -v t="$g" '$2 == t && $4 != "-"' | wc -l)"
  groups --delete-offsets --group "$g" --topic "$g"
}

check_consumer_group_delete() { # 120
  local g
  g=$(fresh delete-group)
  read_group "$g"
  shows 'was successful' "$(groups --delete --group "$g")"
  hides "^$g\$" "$(groups --list)"
  shows 'could not be deleted|not found|does not exist|GroupIdNotFound' "$(groups --delete --group "$g" 2>&1 || true)"
  topics --delete --topic "$g"
}

check_config_command_topic() { # 240
  local t
  t=$(fresh config)
  make "$t" 1
  configs --alter --entity-type topics --entity-name "$t" --add-config retention.ms=60000,max.message.bytes=20000
  shows 'retention.ms=60000' "$(configs --describe --entity-type topics --entity-name "$t")"
  # Every topic config is there with its default and where it comes from.
  local all key
  all=$(configs --describe --entity-type topics --entity-name "$t" --all)
  shows 'max.message.bytes=20000 sensitive=false synonyms=\{DYNAMIC_TOPIC_CONFIG:max.message.bytes=20000, .*DEFAULT_CONFIG:message.max.bytes=1048588\}' "$all"
  for key in cleanup.policy=delete compression.type=producer delete.retention.ms=86400000 file.delete.delay.ms=60000 flush.messages= flush.ms= \
    index.interval.bytes=4096 max.compaction.lag.ms= message.timestamp.type=CreateTime message.timestamp.before.max.ms= \
    message.timestamp.after.max.ms=3600000 min.cleanable.dirty.ratio=0.5 min.compaction.lag.ms=0 min.insync.replicas=1 preallocate=false \
    retention.bytes=-1 segment.bytes=1073741824 segment.index.bytes=10485760 segment.jitter.ms=0 segment.ms=604800000 unclean.leader.election.enable=false; do
    shows "^  $key" "$all"
  done
  # The setting works: a record above the new limit does not get in, until the limit is gone.
  head -c 30000 /dev/zero | tr '\0' x > "$work/big"
  big() { kafka_tool ConsoleProducer "${B[@]}" --topic "$t" < "$work/big" > /dev/null 2>&1; }
  big || true
  same 'a record above max.message.bytes is refused' "$t:0:0" "$(ends "$t")"
  configs --alter --entity-type topics --entity-name "$t" --delete-config max.message.bytes
  hides 'max.message.bytes' "$(configs --describe --entity-type topics --entity-name "$t")"
  big
  same 'and taken without it' "$t:0:1" "$(ends "$t")"
  shows 'retention.ms=60000' "$(configs --describe --entity-type topics --entity-name "$t")"
  if configs --alter --entity-type topics --entity-name "$t" --add-config retention.ms=abc; then same 'a value that is no number' fails passes; fi
  if configs --alter --entity-type topics --entity-name "$t" --add-config no.such.key=1; then same 'an unknown key' fails passes; fi
  if configs --alter --entity-type topics --entity-name "$t-none" --add-config retention.ms=1; then same 'an unknown topic' fails passes; fi
  # Lists can be appended to.
  configs --alter --entity-type topics --entity-name "$t" --add-config 'cleanup.policy=[delete]'
  shows 'cleanup.policy=delete' "$(configs --describe --entity-type topics --entity-name "$t")"
}

check_config_command_broker() { # 240
  local id
  id=$(topics --describe --topic "$(make_one)" | sed -nE 's/.*Leader: ([0-9]+).*/\1/p' | head -1)
  shows 'num.partitions=4' "$(configs --describe --entity-type brokers --entity-name "$id" --all)"
  configs --alter --entity-type brokers --entity-name "$id" --add-config log.retention.ms=7200000
  shows 'log.retention.ms=7200000' "$(configs --describe --entity-type brokers --entity-name "$id")"
  configs --alter --entity-type brokers --entity-name "$id" --delete-config log.retention.ms
  hides 'log.retention.ms' "$(configs --describe --entity-type brokers --entity-name "$id")"
}
check_config_command_broker_default() { # 240
  configs --alter --entity-type brokers --entity-default --add-config message.max.bytes=2000000
  shows 'message.max.bytes=2000000' "$(configs --describe --entity-type brokers --entity-default)"
  configs --alter --entity-type brokers --entity-default --delete-config message.max.bytes
}
make_one() { local t; t=$(fresh one); make "$t" 1 > /dev/null; echo "$t"; }

check_log_dirs_command() { # 60
  local t out
  t=$(fresh logdirs)
  make "$t" 2
  fill "$t" 100
  out=$(kafka_tool LogDirsCommand "${B[@]}" --describe --topic-list "$t" | tail -1)
  python3 - "$t" "$out" << 'P'
import json, sys
topic, answer = sys.argv[1], json.loads(sys.argv[2])
partitions = {p["partition"]: p for b in answer["brokers"] for d in b["logDirs"] for p in d["partitions"]}
assert set(partitions) == {f"{topic}-0", f"{topic}-1"}, partitions
assert sum(p["size"] for p in partitions.values()) > 100 * 8, partitions
assert all(p["offsetLag"] == 0 and p["isFuture"] is False for p in partitions.values()), partitions
assert all(d["error"] is None for b in answer["brokers"] for d in b["logDirs"]), answer
P
}

check_delete_records_command() { # 90
  local t
  t=$(fresh delete-records)
  make "$t" 1
  fill "$t" 30
  printf '{"partitions":[{"topic":"%s","partition":0,"offset":12}],"version":1}' "$t" > "$work/delete.json"
  shows 'low_watermark: 12' "$(kafka_tool DeleteRecordsCommand "${B[@]}" --offset-json-file "$work/delete.json")"
  same 'the log starts at 12' "$t:0:12" "$(ends "$t" earliest)"
  same 'and ends where it did' "$t:0:30" "$(ends "$t" latest)"
  same 'the first record left' 'v13' "$(drain "$t" 1)"
  printf '{"partitions":[{"topic":"%s","partition":0,"offset":99}],"version":1}' "$t" > "$work/delete.json"
  shows 'OffsetOutOfRange|not within the range|out of range' "$(kafka_tool DeleteRecordsCommand "${B[@]}" --offset-json-file "$work/delete.json" 2>&1 || true)"
  printf '{"partitions":[{"topic":"%s","partition":0,"offset":-1}],"version":1}' "$t" > "$work/delete.json"
  shows 'low_watermark: 30' "$(kafka_tool DeleteRecordsCommand "${B[@]}" --offset-json-file "$work/delete.json")"
}

perf_codec() {
  local t
  t=$(fresh "perf-$1")
  make "$t" 4
  kafka_tool ProducerPerformance "${B[@]}" --topic "$t" --num-records 50000 --record-size 200 --throughput -1 \
    --command-property acks=all "compression.type=$1" | tee "$work/out"
  shows '^50000 records sent' "$(cat "$work/out")"
  same "50000 records by $1" 50000 "$(total "$t")"
}
check_producer_performance_none() { # 90
  perf_codec none
}
check_producer_performance_gzip() { # 90
  perf_codec gzip
}
check_producer_performance_snappy() { # 90
  perf_codec snappy
}
check_producer_performance_lz4() { # 90
  perf_codec lz4
}
check_producer_performance_zstd() { # 90
  perf_codec zstd
}

check_consumer_performance() { # 90
  local t out
  t=$(fresh perf-read)
  make "$t" 4
  kafka_tool ProducerPerformance "${B[@]}" --topic "$t" --num-records 50000 --record-size 200 --throughput -1 --command-property acks=1 > /dev/null
  out=$(kafka_tool ConsumerPerformance "${B[@]}" --topic "$t" --num-records 50000 --hide-header --timeout 30000)
  same 'records read' 50000 "$(awk -F', ' '{ print $5 }' <<< "$out")"
}

check_end_to_end_latency() { # 90
  local t out
  t=$(fresh latency)
  make "$t" 1
  out=$(kafka_tool EndToEndLatency "${B[@]}" --topic "$t" --num-records 500 --producer-acks all --record-size 100)
  shows 'Percentiles: 50th = ' "$out"
}
