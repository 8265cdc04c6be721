"""One log behind two doors: what is written through either is read through the other, byte for byte."""

import json
import socket
import struct
import subprocess

from consume import commit, fill, member, places
from door import BOOTSTRAP, CONSUME, EARLIEST, Reader, admin, eventually, fine, fresh, main, make, produce, read_all, record, refused, same, shape
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.structs import OffsetAndMetadata
from produce import batch

from millrace.v1 import consume_pb2, record_pb2

STAMP = 1_700_000_000_000

# key, value, headers, timestamp
SHAPES = [
    (b"k", b"v", [("h", b"1"), ("h", b"2"), ("utf8-ü", "wert-ß".encode())], STAMP),
    (None, b"no key", [], STAMP + 1),
    (b"no value", None, [("empty", b""), ("null", None)], STAMP + 2),
    (b"", b"", [("", b"")], STAMP + 3),
    (bytes(range(256)), bytes(reversed(range(256))), [("bytes", bytes(range(256)))], STAMP - 4),
]


def kafka_reader(*topics, **config):
    return KafkaConsumer(*topics, **{"bootstrap_servers": BOOTSTRAP, "auto_offset_reset": "earliest", "consumer_timeout_ms": 15_000, **config})


def kafka_shapes(topic, count):
    """What kafka-python reads: shapes by offset of partition 0."""
    out = {}
    for r in kafka_reader(topic):
        out[r.offset] = (r.key, r.value, [tuple(h) for h in r.headers], r.timestamp)
        if len(out) == count:
            break
    return [out.get(offset) for offset in range(count)]


def kafka_python():
    """Nulls, empties, repeated headers, all 256 bytes, times that go back: there and back with kafka-python."""
    topic = make("python")
    made = [record(value, key, headers, stamp) for key, value, headers, stamp in SHAPES]
    for one in made:
        produce(topic, one)
    produce(topic, *made)
    same("gRPC to Kafka", SHAPES * 2, kafka_shapes(topic, 10))
    for codec in (None, "gzip", "snappy", "lz4", "zstd"):
        topic = make(f"python-{codec}")
        producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all", compression_type=codec, linger_ms=50)
        # kafka-python sends no headers without a value.
        shapes = [(key, value, [h for h in headers if h[1] is not None], stamp) for key, value, headers, stamp in SHAPES]
        for key, value, headers, stamp in shapes * 20:
            producer.send(topic, key=key, value=value, headers=headers, timestamp_ms=stamp)
        producer.flush(30)
        producer.close()
        same(f"Kafka by {codec} to gRPC", shapes * 20, [shape(r) for _, _, r in read_all(topic, 100)])


def kcat():
    """There and back with kcat, which prints what it read as JSON or in a format of ours."""
    topic = make("kcat")
    records = [(b"k%d" % n, b"value %d" % n, [("a", b"%d" % n), ("b", b"x y"), ("a", b"again")], STAMP + n) for n in range(500)]
    for low in range(0, 500, 50):
        produce(topic, *[record(v, k, h, stamp) for k, v, h, stamp in records[low : low + 50]])
    out = run_kcat("-C", "-q", "-e", "-o", "beginning", "-t", topic, "-f", r"%o\t%T\t%h\t%k\t%s\n")
    expected = "".join(f"{n}\t{stamp}\t{','.join(f'{name}={x.decode()}' for name, x in h)}\t{k.decode()}\t{v.decode()}\n" for n, (k, v, h, stamp) in enumerate(records))
    same("gRPC to kcat", expected, out)

    topic = make("kcat-back")
    lines = "".join(f"key{n}\tvalue {n}\n" for n in range(500))
    run_kcat("-P", "-t", topic, "-p", "0", "-K", "\t", "-H", "a=1", "-H", "b=two", "-H", "a=3", "-z", "lz4", stdin=lines)
    got = [shape(r) for _, _, r in read_all(topic, 500)]
    same("kcat to gRPC", [(b"key%d" % n, b"value %d" % n, [("a", b"1"), ("b", b"two"), ("a", b"3")]) for n in range(500)], [s[:3] for s in got])
    out = run_kcat("-C", "-q", "-e", "-o", "beginning", "-t", topic, "-J").splitlines()
    same("times by both doors", [json.loads(line)["ts"] for line in out], [s[3] for s in got])


def run_kcat(*words, stdin=""):
    done = subprocess.run(["kcat", "-b", BOOTSTRAP, "-m", "20", *words], input=stdin, capture_output=True, text=True, timeout=40)
    assert done.returncode == 0, done.stderr
    return done.stdout


def raw_fetch(topic, offset):
    """The record bytes of partition 0, as Kafka's door sends them (Fetch version 4, by hand)."""
    host, port = BOOTSTRAP.split(":")
    name = topic.encode()
    body = struct.pack(">iiiib", -1, 500, 1, 1 << 24, 0) + struct.pack(">ih", 1, len(name)) + name
    body += struct.pack(">iiqi", 1, 0, offset, 1 << 24)
    frame = struct.pack(">hhih", 1, 4, 1, -1) + body
    with socket.create_connection((host, int(port)), timeout=15) as s:
        s.sendall(struct.pack(">i", len(frame)) + frame)
        with s.makefile("rb") as answers:
            answer = answers.read(struct.unpack(">i", answers.read(4))[0])
    at = 4 + 4 + 4 + 2 + len(name) + 4 + 4 + 2 + 8 + 8
    aborted = struct.unpack_from(">i", answer, at)[0]
    same("aborted transactions", True, aborted <= 0)
    size = struct.unpack_from(">i", answer, at + 4)[0]
    return answer[at + 8 : at + 8 + size]


def bytes_of_the_log():
    """FORMAT_BATCHES gives the very bytes that Kafka's door gives, and a batch is stored as the producer built it."""
    topic = make("bytes")
    stored = []
    for codec in range(5):
        sent = batch(*[(stamp, key, value, headers) for key, value, headers, stamp in SHAPES], codec=codec)
        base = produce(topic, batch=sent, partition=0).base_offset
        stored.append((base, sent))
    fill(topic, 50)
    through_kafka = raw_fetch(topic, 0)
    reader = Reader((topic, 0, EARLIEST), format=consume_pb2.FORMAT_BATCHES)
    reader.expect("assigned")
    through_grpc = b""
    while len(through_grpc) < len(through_kafka):
        through_grpc += reader.expect("records").batches
    reader.end()
    same("bytes through both doors", through_kafka, through_grpc)
    for base, sent in stored:
        head = struct.pack(">q", base) + sent[8:12]
        at = through_kafka.index(head)
        # Offset and leader epoch are the broker's; the checksum covers the rest.
        same(f"batch at {base}", sent[16:], through_kafka[at + 16 : at + len(sent)])


def idempotent():
    """A batch that came through Kafka's door is known behind the other: sent again there, it is not written again."""
    topic = make("idempotent")
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, enable_idempotence=True)
    for n in range(3):
        same("offset", n, producer.send(topic, value=b"%d" % n).get(30).offset)
    producer.close()
    log = raw_fetch(topic, 0)
    first = log[: 12 + struct.unpack_from(">i", log, 8)[0]]
    same("offset of the first, again", 0, produce(topic, batch=first, partition=0).base_offset)
    same("records", 3, admin("DescribeTopic", name=topic).partitions[0].high_watermark)


class KafkaMember:
    """A member on kafka-python that is polled by hand."""

    def __init__(self, group, topic):
        self.reader = kafka_reader(
            group_id=group,
            enable_auto_commit=False,
            session_timeout_ms=6000,
            heartbeat_interval_ms=500,
            partition_assignment_strategy=[RangePartitionAssignor],
        )
        assert self.reader.partitions_for_topic(topic)
        self.reader.subscribe([topic])
        self.seen = []

    def poll(self):
        for records in self.reader.poll(timeout_ms=100).values():
            self.seen += [(r.partition, r.offset) for r in records]
        return sorted(tp.partition for tp in self.reader.assignment())


def group():
    """One group of members of both doors, whoever leads; each goes on where the other committed."""
    topic = make("group", 4)
    for p in range(4):
        fill(topic, 10, p)
    for first in ("grpc", "kafka"):
        name = fresh(f"group-{first}")
        # The first one in leads the group and assigns.
        if first == "grpc":
            ours = member(name, topic)
            same("alone", 4, len(ours.expect("assigned").partitions))
            theirs = KafkaMember(name, topic)
            theirs.poll()
            ours.until("revoked")
            ours.say(released=consume_pb2.Released())
        else:
            theirs = KafkaMember(name, topic)
            eventually(20, "kafka-python has all", lambda: len(theirs.poll()) == 4)
            ours = member(name, topic)
        half = eventually(20, "kafka-python has half", lambda: (lambda p: p if len(p) == 2 else None)(theirs.poll()))
        assigned = ours.until("assigned")
        same("shared", list(range(4)), sorted(half + [p for _, p in places(assigned.partitions)]))
        described = admin("DescribeGroup", group=name)
        same("described", ("Stable", "range", 2), (described.group.state, described.protocol, len(described.members)))

        mine = [p for _, p in places(assigned.partitions)]
        for result in commit(ours, 1, *[(topic, p, 4) for p in mine]):
            fine(result.status)
        theirs.reader.commit({TopicPartition(topic, p): OffsetAndMetadata(6, "a note", -1) for p in half})
        ours.end()
        eventually(20, "kafka-python has all again", lambda: len(theirs.poll()) == 4)
        for p in mine:
            same("where the other stood", (4, "at 4"), (lambda c: (c.offset, c.metadata))(theirs.reader.committed(TopicPartition(topic, p), metadata=True)))
        theirs.reader.close(autocommit=False)
        ours = member(name, topic)
        same("and back", [4 if p in mine else 6 for p in range(4)], [s.offset for s in sorted(ours.until("assigned").partitions, key=lambda s: s.partition)])
        ours.end()


def offsets_shared():
    """Offsets that one door committed, reset or forgot are so at the other."""
    topic, name = make("shared", 1), fresh("shared")
    fill(topic, 10)
    made = record_pb2.CommittedOffset(topic=topic, partition=0, offset=7, metadata="by gRPC")
    fine(CONSUME.Commit(consume_pb2.CommitRequest(group=name, offsets=[made])).results[0].status)
    client = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    tp = TopicPartition(topic, 0)

    def by_kafka():
        offsets = client.list_group_offsets(name)
        return offsets.get(name, offsets).get(tp)

    same("at Kafka's door", (7, "by gRPC"), (by_kafka().offset, by_kafka().metadata))
    reader = kafka_reader(topic, group_id=name, enable_auto_commit=False)
    same("a member of Kafka's begins there", 7, next(reader).offset)
    reader.commit({tp: OffsetAndMetadata(9, "by Kafka", -1)})
    with refused("FAILED_PRECONDITION", "NON_EMPTY_GROUP"):
        admin("DeleteGroup", group=name)
    reader.close(autocommit=False)
    eventually(20, "the group is empty", lambda: admin("DescribeGroup", group=name).group.state == "Empty")
    lag = admin("DescribeGroup", group=name).partitions[0]
    same("at the gRPC door", (9, "by Kafka", 1), (lag.committed, lag.metadata, lag.lag))
    admin("ResetOffsets", group=name, topic=topic, position=EARLIEST)
    same("reset", 0, by_kafka().offset)
    admin("DeleteGroup", group=name)
    assert name not in str(client.list_groups())
    client.close()


if __name__ == "__main__":
    main()
