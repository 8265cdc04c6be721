"""Looking after topics, groups and settings through the gRPC door."""

import base64
import time

from consume import fill, member, position
from door import ADMIN, BOOTSTRAP, CONSUME, EARLIEST, LATEST, PATIENCE, Reader, admin, at, eventually, fine, fresh, main, make, produce, record, refused, same

import grpc

from millrace.v1 import admin_pb2, consume_pb2, record_pb2

STAMP = 1_700_000_000_000


def topics():
    """Created, listed, described, grown, deleted; a dry run changes nothing; another one of the same name has another id."""
    name = fresh("topics")
    kept = admin_pb2.ConfigEntry(name="retention.ms", value="3600000")
    admin("CreateTopic", name=name, partitions=2, configs=[kept], validate_only=True)
    with refused("NOT_FOUND", "UNKNOWN_TOPIC_OR_PARTITION"):
        admin("DescribeTopic", name=name)
    made = admin("CreateTopic", name=name, partitions=2, configs=[kept]).topic
    same("made", (name, 2, 1, False), (made.name, made.partitions, made.replication_factor, made.internal))
    same("bytes of the id, as Kafka writes ids", 16, len(base64.urlsafe_b64decode(made.id + "==")))
    with refused("ALREADY_EXISTS", "TOPIC_ALREADY_EXISTS"):
        admin("CreateTopic", name=name, partitions=2)
    for reason, bad in [
        ("INVALID_TOPIC_EXCEPTION", dict(name="no/name")),
        ("INVALID_PARTITIONS", dict(name=fresh("bad"), partitions=-3)),
        ("INVALID_REPLICATION_FACTOR", dict(name=fresh("bad"), partitions=1, replication_factor=3)),
        ("INVALID_CONFIG", dict(name=fresh("bad"), partitions=1, configs=[admin_pb2.ConfigEntry(name="no.such", value="1")])),
    ]:
        with refused("INVALID_ARGUMENT", reason):
            admin("CreateTopic", **bad)
    same("broker's partitions", 4, admin("CreateTopic", name=fresh("default")).topic.partitions)

    produce(name, record(b"v"), partition=1)
    described = admin("DescribeTopic", name=name)
    same("topic", made, described.topic)
    same("configs", [("retention.ms", "3600000")], [(c.name, c.value) for c in described.configs])
    same("ends", [(0, 0, 0), (1, 0, 1)], [(p.partition, p.log_start, p.high_watermark) for p in described.partitions])
    one = described.partitions[1]
    assert one.size_bytes > 60 and list(one.replicas) == list(one.in_sync_replicas) == [one.leader], one

    listed = admin("ListTopics").topics
    same("order", sorted(t.name for t in listed), [t.name for t in listed])
    assert made in listed and not any(t.internal for t in listed)
    admin("AddPartitions", topic=name, partitions=5, validate_only=True)
    same("after a dry run", 2, admin("DescribeTopic", name=name).topic.partitions)
    admin("AddPartitions", topic=name, partitions=5)
    same("after adding", 5, len(admin("DescribeTopic", name=name).partitions))
    same("the new one takes records", 4, produce(name, record(b"v"), partition=4).partition)
    with refused("INVALID_ARGUMENT", "INVALID_PARTITIONS"):
        admin("AddPartitions", topic=name, partitions=5)

    admin("DeleteTopic", name=name)
    for call in ("DescribeTopic", "DeleteTopic"):
        with refused("NOT_FOUND", "UNKNOWN_TOPIC_OR_PARTITION"):
            admin(call, name=name)
    again = admin("CreateTopic", name=name, partitions=1).topic
    assert again.id != made.id
    same("empty again", 0, admin("DescribeTopic", name=name).partitions[0].high_watermark)


def internal():
    """The broker's own topics are shown when asked for, and are not deleted."""
    topic, group = make("internal"), fresh("internal")
    made = record_pb2.CommittedOffset(topic=topic, partition=0, offset=0)
    CONSUME.Commit(consume_pb2.CommitRequest(group=group, offsets=[made]))
    listed = {t.name: t.internal for t in admin("ListTopics", include_internal=True).topics}
    assert listed["__consumer_offsets"] and not listed[topic], listed
    with refused("FAILED_PRECONDITION", "INVALID_TOPIC_EXCEPTION"):
        admin("DeleteTopic", name="__consumer_offsets")


def offsets():
    """By end and by time; records deleted from the front are gone for readers."""
    topic = make("offsets", 2)
    fill(topic, 100)

    def find(place, partitions=()):
        answer = admin("ListOffsets", topic=topic, partitions=partitions, position=place).offsets
        for found in answer:
            fine(found.status)
        return {f.partition: (f.offset, f.timestamp_ms if f.HasField("timestamp_ms") else None) for f in answer}

    same("starts", {0: (0, None), 1: (0, None)}, find(EARLIEST))
    same("ends", {0: (100, None), 1: (0, None)}, find(LATEST))
    same("by time", {0: (50, STAMP + 500)}, find(position(timestamp_ms=STAMP + 495), [0]))
    same("later than all", {0: (100, None), 1: (0, None)}, find(position(timestamp_ms=STAMP + 10_000)))
    answer = admin("ListOffsets", topic=topic, partitions=[0, 9], position=LATEST).offsets
    same("one that is not there", [(0, 100, ""), (9, -1, "UNKNOWN_TOPIC_OR_PARTITION")], [(f.partition, f.offset, f.status.reason) for f in answer])
    with refused("NOT_FOUND", "UNKNOWN_TOPIC_OR_PARTITION"):
        admin("ListOffsets", topic=fresh("none"), position=LATEST)

    answer = admin("DeleteRecords", topic=topic, partitions=[{"partition": 0, "before": 30}, {"partition": 1, "before": -1}]).partitions
    same("deleted", [(0, 30, 0), (1, 0, 0)], [(p.partition, p.log_start, p.status.code) for p in answer])
    same("starts", {0: (30, None), 1: (0, None)}, find(EARLIEST))
    reader = Reader((topic, 0, EARLIEST))
    same("first", 30, reader.expect("assigned").partitions[0].offset)
    same("first record", 30, reader.expect("records").records[0].offset)
    reader.end()
    with refused("OUT_OF_RANGE", "OFFSET_OUT_OF_RANGE"):
        Reader((topic, 0, position(offset=29))).drain()
    answer = admin("DeleteRecords", topic=topic, partitions=[{"partition": 0, "before": 101}]).partitions[0]
    same("beyond the end", (11, "OFFSET_OUT_OF_RANGE"), (answer.status.code, answer.status.reason))


def groups():
    """Listed and described with lag; reset, forgotten and deleted once nobody is in."""
    topic, name = make("groups", 2), fresh("groups")
    fill(topic, 100)
    fill(topic, 50, 1)
    reader = member(name, topic)
    me = reader.expect("assigned").member_id
    reader.records(150)
    made = [record_pb2.CommittedOffset(topic=topic, partition=0, offset=60)]
    reader.say(commit=consume_pb2.StreamCommit(offsets=made))
    fine(reader.expect("committed").results[0].status)

    def named(*states):
        return [g for g in admin("ListGroups", states=states).groups if g.group == name]

    same("listed", [("Stable", "consumer")], [(g.state, g.protocol_type) for g in named()])
    same("by state", (1, 0), (len(named("Stable", "Empty")), len(named("Empty"))))
    lags = {p.partition: p for p in admin("DescribeGroup", group=name).partitions}
    same("lag", [(60, 100, 40, me), (None, 50, 50, me)], [(lags[p].committed if lags[p].HasField("committed") else None, lags[p].high_watermark, lags[p].lag, lags[p].member_id) for p in (0, 1)])
    # The first record that is not committed is from November 2023.
    age = time.time() * 1000 - (STAMP + 600)
    assert abs(lags[0].lag_ms - age) < 60_000, (lags[0].lag_ms, age)
    lag = next(ADMIN.WatchLag(admin_pb2.WatchLagRequest(group=name, interval_ms=100), timeout=PATIENCE))
    same("watched", ("Stable", [40, 50]), (lag.state, [p.lag for p in sorted(lag.partitions, key=lambda p: p.partition)]))

    for call, fields in [("DeleteGroup", {}), ("ResetOffsets", dict(topic=topic, position=EARLIEST))]:
        with refused("FAILED_PRECONDITION", "NON_EMPTY_GROUP"):
            admin(call, group=name, **fields)
    reader.end()
    eventually(20, "the group is empty", lambda: admin("DescribeGroup", group=name).group.state == "Empty")

    def reset(place, dry_run=False, partitions=()):
        answer = admin("ResetOffsets", group=name, topic=topic, partitions=partitions, position=place, dry_run=dry_run).offsets
        for one in answer:
            fine(one.status)
        return [(o.partition, o.before if o.HasField("before") else None, o.after) for o in answer]

    same("dry run", [(0, 60, 0), (1, None, 0)], reset(EARLIEST, dry_run=True))
    same("to a time", [(0, 60, 20), (1, None, 20)], reset(position(timestamp_ms=STAMP + 195)))
    same("one to an offset", [(1, 20, 33)], reset(position(offset=33), partitions=[1]))
    same("beyond", [(0, 20, 100), (1, 33, 50)], reset(position(offset=1000)))
    same("to the start", [(0, 100, 0), (1, 50, 0)], reset(EARLIEST))
    reader = member(name, topic, reset=LATEST)
    same("a member begins there", [0, 0], [s.offset for s in reader.expect("assigned").partitions])
    reader.end()
    eventually(20, "the group is empty", lambda: admin("DescribeGroup", group=name).group.state == "Empty")

    for forgotten in admin("DeleteOffsets", group=name, partitions=[at(topic, 0)]).partitions:
        same("forgotten", (topic, 0), (forgotten.topic, forgotten.partition))
        fine(forgotten.status)
    same("left", [1], [p.partition for p in admin("DescribeGroup", group=name).partitions if p.HasField("committed")])
    admin("DeleteGroup", group=name)
    for call in ("DescribeGroup", "DeleteGroup"):
        with refused("NOT_FOUND", "GROUP_ID_NOT_FOUND"):
            admin(call, group=name)
    same("listed", [], named())


def configs():
    """Settings of a topic and of the broker; altered all or none; cleared back to the default."""
    topic = make("configs")

    def read(*names):
        return {c.name: (c.value, c.source) for c in admin("DescribeConfig", topic=topic, names=names).configs}

    def alter(validate_only=False, **of):
        entries = [admin_pb2.ConfigEntry(name=n.replace("_", "."), value=v) for n, v in of.items()]
        admin("AlterConfig", topic=topic, configs=entries, validate_only=validate_only)

    default = read("retention.ms")
    same("default", {"retention.ms": ("604800000", "DEFAULT_CONFIG")}, default)
    alter(validate_only=True, retention_ms="1")
    same("after a dry run", default, read("retention.ms"))
    alter(retention_ms="7200000", max_message_bytes="2000000")
    changed = {"retention.ms": ("7200000", "DYNAMIC_TOPIC_CONFIG"), "max.message.bytes": ("2000000", "DYNAMIC_TOPIC_CONFIG")}
    same("altered", changed, read("retention.ms", "max.message.bytes"))
    with refused("INVALID_ARGUMENT", "INVALID_CONFIG"):
        alter(max_message_bytes="3000000", retention_ms="soon")
    with refused("INVALID_ARGUMENT", "INVALID_CONFIG"):
        alter(no_such_setting="1")
    same("none of them", changed, read("retention.ms", "max.message.bytes"))
    alter(retention_ms=None)
    same("cleared", default, read("retention.ms"))
    every = admin("DescribeConfig", topic=topic).configs
    assert len(every) > 10 and all(c.type and c.documentation for c in every if c.name == "retention.ms"), every
    broker = {c.name: c for c in admin("DescribeConfig", broker=True).configs}
    same("given to the broker", "4", broker["num.partitions"].value)
    assert not any(c.value for c in broker.values() if c.sensitive)
    with refused("NOT_FOUND", "UNKNOWN_TOPIC_OR_PARTITION"):
        admin("DescribeConfig", topic=fresh("none"))


def cluster():
    answer = admin("DescribeCluster")
    same("brokers", [(answer.controller, BOOTSTRAP)], [(b.id, b.kafka_address) for b in answer.brokers])
    assert answer.cluster_id and answer.brokers[0].version[0].isdigit(), answer


def watch_topics():
    """The picture at once, and another one for each change."""
    watched = ADMIN.WatchTopics(admin_pb2.WatchTopicsRequest(), timeout=PATIENCE)
    name = fresh("watched")

    def until(what, holds):
        for picture in watched:
            mine = [t for t in picture.topics if t.name == name]
            if holds(mine):
                return
        raise AssertionError(f"the stream ended before {what}")

    first = next(watched)
    same("at first", sorted(t.name for t in admin("ListTopics").topics), sorted(t.name for t in first.topics))
    admin("CreateTopic", name=name, partitions=2)
    until("it was created", lambda mine: [t.partitions for t in mine] == [2])
    admin("AddPartitions", topic=name, partitions=3)
    until("it grew", lambda mine: [t.partitions for t in mine] == [3])
    admin("DeleteTopic", name=name)
    until("it was deleted", lambda mine: not mine)
    watched.cancel()


def watch_lag():
    """A group's lag, again and again, as it grows and is worked off."""
    topic, name = make("lag"), fresh("lag")
    made = record_pb2.CommittedOffset(topic=topic, partition=0, offset=0)
    CONSUME.Commit(consume_pb2.CommitRequest(group=name, offsets=[made]))
    watched = ADMIN.WatchLag(admin_pb2.WatchLagRequest(group=name, interval_ms=100), timeout=PATIENCE)
    seen = next(watched)
    same("at first", ("Empty", [0]), (seen.state, [p.lag for p in seen.partitions]))
    fill(topic, 20)
    assert any([p.lag for p in seen.partitions] == [20] for seen in watched)
    made.offset = 15
    CONSUME.Commit(consume_pb2.CommitRequest(group=name, offsets=[made]))
    assert any([p.lag for p in seen.partitions] == [5] for seen in watched)
    watched.cancel()
    with refused("INVALID_ARGUMENT", "INVALID_REQUEST"):
        next(ADMIN.WatchLag(admin_pb2.WatchLagRequest(group=name, interval_ms=1)))


def deadlines():
    """A call's own deadline ends it, also one that waits."""
    topic = make("deadline")
    reader = Reader((topic, 0, EARLIEST), timeout=1)
    reader.expect("assigned")
    try:
        reader.take(10)
    except grpc.RpcError as error:
        same("code", "DEADLINE_EXCEEDED", error.code().name)
    else:
        raise AssertionError("a call went on beyond its deadline")


if __name__ == "__main__":
    main()
