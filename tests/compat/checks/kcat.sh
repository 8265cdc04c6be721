# kcat 1.7.1 on librdkafka 2.0.2: the old client among the judges.
# needs: kcat

K=(kcat -b "$BOOTSTRAP" -m 20)
put() { "${K[@]}" -P -t "$1" "${@:2}"; }
get() { "${K[@]}" -C -q -e -o beginning -t "$1" "${@:2}"; }

check_kcat_metadata() { # 60
  local t out
  t=$(fresh kcat-meta)
  echo x | put "$t"
  out=$("${K[@]}" -L -t "$t")
  shows "broker [0-9]+ at ${BOOTSTRAP}" "$out"
  shows "topic \"$t\" with 4 partitions" "$out"
  shows 'partition 3, leader [0-9]+, replicas: [0-9]+, isrs: [0-9]+' "$out"
  shows "\"topic\":\"$t\"" "$("${K[@]}" -L -J)"
  # A read of a topic that is not there must not hang.
  shows 'Unknown topic|0 partitions|4 partitions' "$("${K[@]}" -L -t "$t-none" 2>&1 || true)"
}

check_kcat_api_version_0() { # 60
  # Clients older than version negotiation by ApiVersions v3.
  local t
  t=$(fresh kcat-old)
  echo old | put "$t" -X api.version.request=true -X broker.version.fallback=0.11.0
  same 'a record by the fallback path' old "$(get "$t" -X broker.version.fallback=0.11.0)"
}

kcat_codec() {
  local t sent out
  t=$(fresh "kcat-$1")
  sent=$(seq 2000 | sed 's/.*/k&:value number & of a batch that compresses well/')
  put "$t" -K : -z "$1" -X linger.ms=100 <<< "$sent"
  same "2000 records by $1" "$(sort <<< "$sent")" "$(get "$t" -K : | sort)"
}
check_kcat_codec_none() { # 60
  kcat_codec none
}
check_kcat_codec_gzip() { # 60
  kcat_codec gzip
}
check_kcat_codec_snappy() { # 60
  kcat_codec snappy
}
check_kcat_codec_lz4() { # 60
  kcat_codec lz4
}
check_kcat_codec_zstd() { # 60
  kcat_codec zstd
}

check_kcat_compresses() { # 60
  # Old librdkafka sends plain batches when the broker's Produce range lacks version 0: the bytes on the wire tell.
  local t
  t=$(fresh kcat-wire)
  seq -f 'the same words again and again %g' 5000 | put "$t" -z gzip -X linger.ms=200
  python3 - "$BOOTSTRAP" "$t" << 'P'
import socket, struct, sys
# A fetch by hand (version 4) of partition 0..3: the codec bits of each batch's attributes.
host, port = sys.argv[1].split(":")
topic = sys.argv[2].encode()
s = socket.create_connection((host, int(port)))
codecs = set()
for partition in range(4):
    body = struct.pack(">iiiib", -1, 500, 1, 1 << 20, 0) + struct.pack(">i", 1) + struct.pack(">h", len(topic)) + topic
    body += struct.pack(">iiqi", 1, partition, 0, 1 << 20)
    frame = struct.pack(">hhih", 1, 4, partition, -1) + body
    s.sendall(struct.pack(">i", len(frame)) + frame)
    def read(n):
        out = b""
        while len(out) < n:
            piece = s.recv(n - len(out))
            assert piece, "closed"
            out += piece
        return out
    answer = read(struct.unpack(">i", read(4))[0])
    at = 4 + 4 + 4 + 2 + len(topic) + 4 + 4 + 2 + 8 + 8 + 4
    size = struct.unpack(">i", answer[at:at + 4])[0]
    batches = answer[at + 4:at + 4 + size]
    while len(batches) > 61:
        # A batch of a few records stays plain, because gzip would make it longer.
        if struct.unpack(">i", batches[57:61])[0] >= 20:
            codecs.add(struct.unpack(">h", batches[21:23])[0] & 7)
        batches = batches[12 + struct.unpack(">i", batches[8:12])[0]:]
assert codecs == {1}, f"codec bits on the wire: {codecs}"
P
}

check_kcat_headers_keys_nulls() { # 60
  local t
  t=$(fresh kcat-shapes)
  "${K[@]}" -L > /dev/null
  printf 'k1:v1\n' | put "$t" -p 0 -K : -H a=1 -H b=2 -H a=3
  printf ':\n' | put "$t" -p 0 -K : -Z
  printf 'only a value\n' | put "$t" -p 0
  printf 'k4:\n' | put "$t" -p 0 -K :
  same 'shapes of records' "$(printf '%s\n' '0|a=1,b=2,a=3|2|k1|2|v1' '1||-1||-1|' '2||-1||12|only a value' '3||2|k4|0|')" \
    "$(get "$t" -p 0 -f '%o|%h|%K|%k|%S|%s\n')"
}

check_kcat_query_and_seek() { # 60
  local t stamp
  t=$(fresh kcat-query)
  seq 10 | put "$t" -p 0
  sleep 0.1
  stamp=$(date +%s%3N)
  sleep 0.1
  seq 11 15 | put "$t" -p 0
  shows "\[0\] offset 15" "$("${K[@]}" -Q -t "$t:0:-1")"
  shows "\[0\] offset 0" "$("${K[@]}" -Q -t "$t:0:-2")"
  shows "\[0\] offset 10" "$("${K[@]}" -Q -t "$t:0:$stamp")"
  same 'from a timestamp' "$(seq 11 15)" "$("${K[@]}" -C -q -e -t "$t" -p 0 -o "s@$stamp")"
  same 'the last three' "$(seq 13 15)" "$("${K[@]}" -C -q -e -t "$t" -p 0 -o -3)"
  same 'from offset 14' 15 "$("${K[@]}" -C -q -e -t "$t" -p 0 -o 14)"
  same 'reading on from the end waits for the next record' 16 "$( (sleep 1; echo 16 | put "$t" -p 0) & "${K[@]}" -C -q -c 1 -t "$t" -p 0 -o end)"
}

check_kcat_idempotent() { # 60
  local t
  t=$(fresh kcat-idem)
  seq 5000 | put "$t" -X enable.idempotence=true -X acks=all -z lz4
  same 'each number once' "$(seq 5000 | sort)" "$(get "$t" | sort)"
}

check_kcat_acks() { # 60
  local t acks
  t=$(fresh kcat-acks)
  for acks in 0 1 -1; do echo "$acks" | put "$t" -p 0 -X "acks=$acks"; done
  same 'one record by each acks' "$(printf '0\n1\n-1')" "$(get "$t" -p 0)"
}

check_kcat_large() { # 60
  local t
  t=$(fresh kcat-large)
  head -c 900000 /dev/urandom > "$work/big"
  put "$t" -p 0 "$work/big"
  get "$t" -p 0 -D '' > "$work/back"
  cmp "$work/big" "$work/back"
  head -c 1500000 /dev/urandom > "$work/big"
  shows 'Message size too large|too large' "$(put "$t" -p 0 -X message.max.bytes=3000000 "$work/big" 2>&1 || true)"
}

check_kcat_group() { # 90
  local t
  t=$(fresh kcat-group)
  seq 100 | put "$t"
  # Commits when it closes; the next member of the group goes on from there.
  same 'a group of one reads all' "$(seq 100 | sort)" "$("${K[@]}" -q -G "$t" -c 100 -X auto.offset.reset=earliest "$t" 2> /dev/null | sort)"
  seq 101 105 | put "$t"
  same 'and then only what is new' "$(seq 101 105 | sort)" "$("${K[@]}" -q -G "$t" -c 5 -X auto.offset.reset=earliest "$t" 2> /dev/null | sort)"
}

check_kcat_group_pair() { # 90
  # Two members share the partitions; when one leaves, the other takes its part over.
  local t a b
  t=$(fresh kcat-pair)
  seq 10 | put "$t"
  start() { exec "${K[@]}" -u -G "$t" -X auto.offset.reset=earliest -X session.timeout.ms=6000 -X partition.assignment.strategy="$strategy" "$t" > "$work/$1" 2> "$work/$1.err"; }
  strategy=${1:-range}
  start a & a=$!
  grown() { [ "$(cat "$work"/[ab] 2> /dev/null | sort -u | wc -l)" -ge "$1" ]; }
  eventually 30 grown 10
  start b & b=$!
  shares() { grep -qE "assign(ed|ment).*$t" "$work/b.err"; }
  eventually 30 shares
  seq 11 20 | put "$t"
  eventually 30 grown 20
  kill "$a"
  wait "$a" || true
  seq 21 30 | put "$t"
  eventually 30 grown 30
  kill "$b"
  wait "$b" || true
}
check_kcat_group_pair_cooperative() { # 90
  check_kcat_group_pair cooperative-sticky
}
check_kcat_group_static() { # 90
  # A static member that comes back within its session gets its partitions without a rebalance.
  local t
  t=$(fresh kcat-static)
  seq 50 | put "$t"
  G=("${K[@]}" -q -G "$t" -X auto.offset.reset=earliest -X group.instance.id=me)
  same 'first life' 50 "$("${G[@]}" -c 50 "$t" 2> /dev/null | wc -l)"
  seq 51 60 | put "$t"
  same 'second life goes on' "$(seq 51 60 | sort)" "$("${G[@]}" -c 10 "$t" 2> /dev/null | sort)"
}
