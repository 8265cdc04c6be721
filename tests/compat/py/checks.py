"""Checks of a broker with kafka-python: checks.py NAME BOOTSTRAP. Each function is one check; an exception is its failure."""

import sys
import threading
import time
import uuid

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import MessageSizeTooLargeError, TopicAlreadyExistsError
from kafka.structs import OffsetAndMetadata

BOOTSTRAP = sys.argv[2]
SUFFIX = uuid.uuid4().hex[:8]


def fresh(name):
    return f"compat-py-{name}-{SUFFIX}"


def make(topic, partitions=1):
    admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    admin.create_topics([NewTopic(topic, partitions, 1)])
    admin.close()


def consumer(*topics, **config):
    settings = dict(bootstrap_servers=BOOTSTRAP, auto_offset_reset="earliest", consumer_timeout_ms=15_000)
    return KafkaConsumer(*topics, **{**settings, **config})


def take(reader, count):
    out = []
    for record in reader:
        out.append(record)
        if len(out) == count:
            return out
    raise AssertionError(f"{len(out)} of {count} records in time")


def producer_consumer():
    """Keys, values, headers, timestamps, nulls come back as sent, at the offset of the acknowledgement."""
    topic = fresh("shapes")
    make(topic)
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all")
    shapes = [
        (b"k", b"v", [("h", b"1"), ("h", b"2"), ("utf8-ü", "wert-ß".encode())], 1_700_000_000_000),
        (None, b"no key", [], 1_700_000_000_001),
        (b"no value", None, [("empty", b"")], 1_700_000_000_002),
        (b"", b"", [("", b"")], 1_700_000_000_003),
        (b"\x00\xff", bytes(range(256)), [], 1_700_000_000_004),
    ]
    for offset, (key, value, headers, stamp) in enumerate(shapes):
        meta = producer.send(topic, key=key, value=value, headers=headers, timestamp_ms=stamp).get(30)
        assert meta.offset == offset and meta.partition == 0, meta
    producer.close()
    got = take(consumer(topic), len(shapes))
    for record, (key, value, headers, stamp) in zip(got, shapes):
        assert (record.key, record.value, list(record.headers), record.timestamp) == (key, value, headers, stamp), record


def codec(name):
    topic = fresh(f"codec-{name}")
    make(topic, 2)
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all", compression_type=None if name == "none" else name, linger_ms=50)
    sent = [b"a value that compresses, number %d" % n for n in range(1000)]
    for value in sent:
        producer.send(topic, value=value)
    producer.flush(30)
    producer.close()
    assert sorted(r.value for r in take(consumer(topic), 1000)) == sorted(sent)


def codec_none():
    codec("none")


def codec_gzip():
    codec("gzip")


def codec_snappy():
    codec("snappy")


def codec_lz4():
    codec("lz4")


def codec_zstd():
    codec("zstd")


def idempotent():
    topic = fresh("idempotent")
    make(topic, 3)
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, enable_idempotence=True, linger_ms=1)
    for n in range(3000):
        producer.send(topic, key=b"%d" % (n % 7), value=b"%d" % n)
    producer.flush(30)
    producer.close()
    last = {}
    got = take(consumer(topic), 3000)
    for record in got:
        n = int(record.value)
        assert last.get(record.key, -1) < n, f"key {record.key} out of order at {n}"
        last[record.key] = n
    assert len({r.value for r in got}) == 3000


def acks():
    topic = fresh("acks")
    make(topic)
    for setting in (0, 1, "all"):
        producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, acks=setting, enable_idempotence=False)
        producer.send(topic, value=str(setting).encode()).get(30)
        producer.flush(30)
        producer.close()
    assert [r.value for r in take(consumer(topic), 3)] == [b"0", b"1", b"all"]


def too_large():
    topic = fresh("large")
    make(topic)
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, max_request_size=10_000_000)
    try:
        producer.send(topic, value=bytes(2_000_000)).get(30)
    except MessageSizeTooLargeError:
        pass
    else:
        raise AssertionError("2 MB were taken where the limit is 1 MiB")
    producer.close()
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, max_request_size=10_000_000)
    assert producer.send(topic, value=bytes(900_000)).get(30).offset == 0
    producer.close()


def offsets():
    """Beginning, end, by time; seek; positions."""
    topic = fresh("offsets")
    make(topic)
    tp = TopicPartition(topic, 0)
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all")
    for n in range(100):
        producer.send(topic, value=b"%d" % n, timestamp_ms=1_700_000_000_000 + n * 10)
    producer.flush(30)
    producer.close()
    reader = consumer()
    assert reader.partitions_for_topic(topic) == {0}
    assert reader.beginning_offsets([tp]) == {tp: 0}
    assert reader.end_offsets([tp]) == {tp: 100}
    found = reader.offsets_for_times({tp: 1_700_000_000_000 + 495})[tp]
    assert (found.offset, found.timestamp) == (50, 1_700_000_000_500), found
    assert reader.offsets_for_times({tp: 1_900_000_000_000})[tp] is None
    reader.assign([tp])
    reader.seek(tp, 42)
    assert take(reader, 1)[0].offset == 42
    assert reader.position(tp) == 43
    reader.seek_to_end(tp)
    assert reader.position(tp) == 100
    reader.seek_to_beginning(tp)
    assert take(reader, 1)[0].value == b"0"
    reader.close()


class Member(threading.Thread):
    """A group member that only polls, on a thread of its own; what it owns is seen from outside."""

    def __init__(self, topic, group_id, assignor):
        super().__init__(daemon=True)
        self.reader = consumer(group_id=group_id, enable_auto_commit=False, session_timeout_ms=6_000, heartbeat_interval_ms=500, partition_assignment_strategy=[assignor])
        # Known before the join: a leader of this client that lacks the topic's metadata assigns nothing.
        assert len(self.reader.partitions_for_topic(topic)) == 6
        self.reader.subscribe([topic])
        self.owned = set()
        self.stop = False
        self.start()

    def run(self):
        while not self.stop:
            self.reader.poll(timeout_ms=100)
            self.owned = self.reader.assignment()

    def end(self):
        self.stop = True
        self.join()
        return self.reader


def group():
    """Three members share six partitions and one leaves, under each assignor; a commit keeps its metadata."""
    topic = fresh("group")
    make(topic, 6)
    for assignor in (RangePartitionAssignor, RoundRobinPartitionAssignor, StickyPartitionAssignor):
        members = [Member(topic, fresh(f"group-{assignor.name}"), assignor) for _ in range(3)]

        def until(count, what):
            deadline = time.monotonic() + 40
            while sorted(len(m.owned) for m in members) != [count] * len(members) or len(set().union(*(m.owned for m in members))) != 6:
                assert time.monotonic() < deadline, f"{assignor.name}: {what}: {[m.owned for m in members]}"
                time.sleep(0.05)

        until(2, "two partitions each")
        members.pop().end().close()
        until(3, "three partitions each after one left")
        first = members[0].end()
        tp = next(iter(first.assignment()))
        first.commit({tp: OffsetAndMetadata(0, "a note", -1)})
        assert first.committed(tp, metadata=True).metadata == "a note"
        first.close()
        members[1].end().close()


def resume():
    """A group goes on where it committed, record by record."""
    topic, gid = fresh("resume"), fresh("resume")
    make(topic)
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP)
    for n in range(50):
        producer.send(topic, value=b"%d" % n)
    producer.flush(30)
    producer.close()
    seen = []
    for part in (20, 30):
        reader = consumer(topic, group_id=gid, enable_auto_commit=False, max_poll_records=10)
        while len(seen) < part if part == 20 else len(seen) < 50:
            for records in reader.poll(timeout_ms=500).values():
                seen += [int(r.value) for r in records]
            reader.commit()
        reader.close(autocommit=False)
    assert seen == list(range(50)), seen


def admin():
    client = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    topic, gid = fresh("admin"), fresh("admin-group")
    client.create_topics([NewTopic(topic, 2, 1, topic_configs={"retention.ms": "3600000"})])
    try:
        client.create_topics([NewTopic(topic, 2, 1)])
    except TopicAlreadyExistsError:
        pass
    else:
        raise AssertionError("a topic was created twice")
    assert topic in client.list_topics()
    described = client.describe_topics([topic])[0]
    assert len(described["partitions"]) == 2, described
    client.create_partitions({topic: NewPartitions(5)})
    assert len(client.describe_topics([topic])[0]["partitions"]) == 5
    cluster = client.describe_cluster()
    assert len(cluster["brokers"]) == 1 and cluster["cluster_id"], cluster
    configs = str(client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all"))
    assert "retention.ms" in configs and "3600000" in configs and "cleanup.policy" in configs, configs
    client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={"retention.ms": "7200000"})])
    assert "7200000" in str(client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all"))

    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP)
    for n in range(40):
        producer.send(topic, partition=0, value=b"%d" % n)
    producer.flush(30)
    producer.close()
    tp = TopicPartition(topic, 0)
    client.delete_records({tp: 10})
    reader = consumer(topic, group_id=gid)
    assert take(reader, 30)[0].offset == 10
    assert gid in str(client.list_groups())
    group = str(client.describe_groups([gid]))
    assert "Stable" in group and gid in group, group
    reader.close()
    offsets = client.list_group_offsets(gid)
    assert offsets.get(gid, offsets)[tp].offset == 40, offsets
    client.delete_groups([gid])
    assert gid not in str(client.list_groups())
    client.delete_topics([topic])
    assert topic not in client.list_topics()
    client.close()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
