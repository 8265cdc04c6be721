# grpcurl, which knows of the services only what reflection tells.
# needs: grpc-door grpcurl

ask() { "$bin/grpcurl" -plaintext -max-time 20 "${@:3}" ${2:+-d "$2"} "$GRPC" "$1"; }

check_grpcurl_list() { # 60
  local out
  out=$(ask list)
  for service in grpc.health.v1.Health millrace.v1.AdminService millrace.v1.ConsumeService millrace.v1.ProduceService; do
    shows "^$service\$" "$out"
  done
  out=$("$bin/grpcurl" -plaintext "$GRPC" list millrace.v1.ProduceService)
  same 'methods' "$(printf 'millrace.v1.ProduceService.%s\n' InitProducer Produce ProduceStream)" "$out"
}

check_grpcurl_describe() { # 60
  local out
  out=$("$bin/grpcurl" -plaintext "$GRPC" describe millrace.v1.AdminService)
  shows 'rpc CreateTopic \( .millrace.v1.CreateTopicRequest \) returns \( .millrace.v1.CreateTopicResponse \);' "$out"
  shows 'rpc WatchTopics \( .millrace.v1.WatchTopicsRequest \) returns \( stream .millrace.v1.ListTopicsResponse \);' "$out"
  out=$("$bin/grpcurl" -plaintext "$GRPC" describe .millrace.v1.Record)
  shows 'optional bytes key = 1;' "$out"
  shows 'repeated .millrace.v1.Header headers = 3;' "$out"
}

check_grpcurl_health() { # 60
  same 'health' SERVING "$(ask grpc.health.v1.Health/Check '{}' | json "d['status']")"
}

# json EXPRESSION: of what comes in, as `d`.
json() { python3 -c "import json, sys; d = json.load(sys.stdin); print($1)"; }

check_grpcurl_create_and_produce() { # 60
  local t out
  t=$(fresh grpcurl)
  out=$(ask millrace.v1.AdminService/CreateTopic "{\"name\":\"$t\",\"partitions\":2}")
  same 'created' "$t 2" "$(json "d['topic']['name'], d['topic']['partitions']" <<< "$out" | tr -d "(',)")"
  # Bytes are base64 in JSON.
  out=$(ask millrace.v1.ProduceService/Produce "{\"topic\":\"$t\",\"partition\":1,\"record\":{\"key\":\"$(printf k | base64)\",\"value\":\"$(printf 'by hand' | base64)\",\"headers\":[{\"key\":\"h\",\"value\":\"$(printf 1 | base64)\"}],\"timestampMs\":\"1700000000000\"}}")
  same 'offset' '1 0' "$(json "d['partition'], d.get('baseOffset', '0')" <<< "$out" | tr -d "(',)")"
  out=$(ask millrace.v1.AdminService/DescribeTopic "{\"name\":\"$t\"}")
  same 'end' 1 "$(json "d['partitions'][1]['highWatermark']" <<< "$out")"
  # Without a further request it goes on: only its time ends it.
  out=$(echo "{\"start\":{\"partitions\":{\"partitions\":[{\"topic\":\"$t\",\"partition\":1,\"position\":{\"edge\":\"EDGE_EARLIEST\"}}]}}}" |
    timeout 20 "$bin/grpcurl" -plaintext -max-time 3 -d @ "$GRPC" millrace.v1.ConsumeService/Consume || true)
  shows '"assigned"' "$out"
  shows "\"value\": \"$(printf 'by hand' | base64)\"" "$out"
}

check_grpcurl_refusal() { # 60
  local t out
  t=$(fresh grpcurl-none)
  out=$(ask millrace.v1.AdminService/DescribeTopic "{\"name\":\"$t\"}" 2>&1) && { echo "not refused: $out"; return 1; }
  shows 'Code: NotFound' "$out"
  # The details are of google.rpc: as text if reflection describes them, else as bytes.
  shows 'UNKNOWN_TOPIC_OR_PARTITION' "$out$(sed -n 's/.*"@value": "\(.*\)".*/\1/p' <<< "$out" | base64 -d | tr -c 'A-Z_' ' ')"
}
