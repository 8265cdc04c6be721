"""Reading through the gRPC door, from partitions and as a group."""

import random

from door import CONSUME, EARLIEST, LATEST, Reader, admin, at, eventually, fine, fresh, main, make, produce, record, refused, same, shape
from kafka.record.memory_records import MemoryRecords

from millrace.v1 import consume_pb2, record_pb2

STAMP = 1_700_000_000_000


def position(**of):
    return record_pb2.Position(**of)


def fill(topic, count, partition=0, size=0, first=0):
    """Records with number, header and time, ten to a batch."""
    numbers = range(first, first + count)
    made = [record(b"%d" % n + bytes(size), b"k%d" % n, [("n", b"%d" % n)], STAMP + 10 * n) for n in numbers]
    for low in range(0, count, 10):
        produce(topic, *made[low : low + 10], partition=partition)
    return [shape(r) for r in made]


def first_offset(topic, place):
    reader = Reader((topic, 0, place))
    started = reader.expect("assigned").partitions
    same("assigned", [(topic, 0)], [(s.topic, s.partition) for s in started])
    return reader, started[0].offset


def positions():
    """From the ends, an offset and a time, and on into what comes later."""
    topic = make("positions")
    sent = fill(topic, 100)
    for place, offset in [
        (EARLIEST, 0),
        (position(offset=42), 42),
        (position(timestamp_ms=STAMP + 495), 50),
        (position(timestamp_ms=STAMP + 10_000), 100),
        (LATEST, 100),
        (position(offset=100), 100),
    ]:
        reader, started = first_offset(topic, place)
        same(f"start at {place}", offset, started)
        got = reader.records(100 - offset)
        same(f"records from {place}", (list(range(offset, 100)), sent[offset:]), ([r.offset for _, _, r in got], [shape(r) for _, _, r in got]))
        reader.end()
    reader, _ = first_offset(topic, LATEST)
    reader.silent(0.5)
    produce(topic, record(b"new"))
    answer = reader.expect("records")
    same("what came", ([(100, b"new")], 101, 101), ([(r.offset, r.value) for r in answer.records], answer.next_offset, answer.high_watermark))
    reader.end()
    for beyond in (102, -1):
        with refused("OUT_OF_RANGE", "OFFSET_OUT_OF_RANGE"):
            Reader((topic, 0, position(offset=beyond))).drain()


def many_partitions():
    """One stream over all partitions of two topics; each in its order."""
    topics = [make(f"many{n}", 3) for n in range(2)]
    sent = {(t, p): fill(t, 60, p) for t in topics for p in range(3)}
    reader = Reader(*[(t, p, EARLIEST) for t, p in sent], answer_bytes_max=512)
    same("assigned", set(sent), {(s.topic, s.partition) for s in reader.expect("assigned").partitions})
    got = {place: [] for place in sent}
    for topic, partition, r in reader.records(360):
        got[topic, partition].append(shape(r))
    same("records", sent, got)
    reader.end()


def batches():
    """As batches: whole ones, which kafka-python unpacks to what was sent, in answers that join without a gap."""
    topic = make("batches")
    sent = fill(topic, 300, size=50)
    reader = Reader((topic, 0, position(offset=25)), format=consume_pb2.FORMAT_BATCHES, answer_bytes_max=4096)
    same("start", 25, reader.expect("assigned").partitions[0].offset)
    got, expected = {}, 20
    while len(got) < 280:
        answer = reader.expect("records")
        same("single records", 0, len(answer.records))
        assert len(answer.batches) <= 4096, len(answer.batches)
        whole = MemoryRecords(answer.batches)
        while (batch := whole.next_batch()) is not None:
            assert batch.validate_crc()
            same("base offset", expected, batch.base_offset)
            for r in batch:
                got[r.offset] = (r.key, r.value, list(r.headers), r.timestamp)
                expected = r.offset + 1
        same("next offset", expected, answer.next_offset)
    same("records", dict(enumerate(sent[20:], 20)), got)
    reader.end()


def credits():
    """No more comes than was asked for and one answer; what is given goes on."""
    topic = make("credits")
    fill(topic, 400, size=1000)
    granted, answer_max = 64 << 10, 16 << 10
    reader = Reader((topic, 0, EARLIEST), initial_credit_bytes=granted, answer_bytes_max=answer_max)
    reader.expect("assigned")
    taken = expected = 0
    for _ in range(4):
        while taken < granted:
            answer = reader.expect("records")
            assert answer.credit_bytes >= sum(len(r.value) for r in answer.records), answer.credit_bytes
            taken += answer.credit_bytes
            same("first offset", expected, answer.records[0].offset)
            expected = answer.next_offset
        assert taken <= granted + answer_max, (taken, granted)
        reader.silent(0.5)
        granted += 32 << 10
        reader.say(credit_bytes=32 << 10)
    reader.end()
    reader = Reader((topic, 0, EARLIEST), initial_credit_bytes=0)
    reader.expect("assigned")
    reader.silent(0.5)
    reader.say(credit_bytes=1 << 20)
    reader.records(400)
    reader.end()


def seek():
    """Back, ahead and by time; what follows `sought` is from the new place."""
    topic = make("seek")
    fill(topic, 100)
    reader, _ = first_offset(topic, EARLIEST)
    reader.records(100)
    for place, offset in [(position(offset=10), 10), (position(timestamp_ms=STAMP + 701), 71), (EARLIEST, 0), (LATEST, 100), (position(offset=99), 99)]:
        reader.say(seek=consume_pb2.Seek(topic=topic, partition=0, position=place))
        sought = reader.until("sought")
        same("sought", (topic, 0, offset), (sought.topic, sought.partition, sought.offset))
        got = reader.records(100 - offset)
        same("records", list(range(offset, 100)), [r.offset for _, _, r in got])
    reader.end()


def pause():
    """A paused partition is silent while another goes on; resumed it goes on where it stood."""
    topic = make("pause", 2)
    reader = Reader((topic, 0, EARLIEST), (topic, 1, EARLIEST))
    reader.expect("assigned")
    fill(topic, 10)
    reader.records(10)
    reader.say(pause=consume_pb2.Partitions(partitions=[at(topic)]))
    # A seek is answered in turn: when its answer is here, the pause holds.
    reader.say(seek=consume_pb2.Seek(topic=topic, partition=1, position=EARLIEST))
    reader.until("sought")
    fill(topic, 10, first=10)
    fill(topic, 10, partition=1)
    same("while paused", {1}, {p for _, p, _ in reader.records(10)})
    reader.silent(0.5)
    reader.say(resume=consume_pb2.Partitions(partitions=[at(topic)]))
    same("resumed", [(0, n) for n in range(10, 20)], [(p, r.offset) for _, p, r in reader.records(10)])
    reader.end()


# Groups ---------------------------------------------------------------------------------------------------------------------


def member(group, topic, **fields):
    fields = {"protocols": ["range"], "session_timeout_ms": 6000, "reset": EARLIEST, "client_id": "python", **fields}
    return Reader(group=consume_pb2.GroupMember(group=group, topics=[topic], **fields))


def places(items):
    return sorted((i.topic, i.partition) for i in items)


def commit(reader, number, *offsets):
    """Commits (topic, partition, offset) on the stream, and returns the results; records meanwhile are dropped."""
    made = [record_pb2.CommittedOffset(topic=t, partition=p, offset=o, metadata=f"at {o}") for t, p, o in offsets]
    reader.say(commit=consume_pb2.StreamCommit(offsets=made, request_id=number))
    answer = reader.until("committed")
    same("request", number, answer.request_id)
    same("results", sorted((t, p) for t, p, _ in offsets), places(answer.results))
    return answer.results


def group():
    """Two members share four partitions; each goes on where the other committed."""
    topic, name = make("group", 4), fresh("group")
    for p in range(4):
        fill(topic, 10, p)
    one = member(name, topic)
    first = one.expect("assigned")
    all_four = [(topic, p) for p in range(4)]
    same("alone", (all_four, "range"), (places(first.partitions), first.protocol))
    assert first.member_id and first.generation >= 1, first
    one.records(40)
    for result in commit(one, 7, *[(topic, p, 5) for p in range(4)]):
        fine(result.status)

    two = member(name, topic)
    revoked = one.until("revoked")
    same("revoked", (all_four, False), (places(revoked.partitions), revoked.lost))
    # Still ours until it is released.
    for result in commit(one, 8, (topic, 0, 6), (topic, 3, 9)):
        fine(result.status)
    one.say(released=consume_pb2.Released())
    halves = [reader.until("assigned") for reader in (one, two)]
    same("generations", {first.generation + 1}, {h.generation for h in halves})
    same("sizes", [2, 2], [len(h.partitions) for h in halves])
    same("shared", all_four, sorted(places(halves[0].partitions) + places(halves[1].partitions)))
    committed = {0: 6, 1: 5, 2: 5, 3: 9}
    for reader, half in zip((one, two), halves):
        same("starts", [committed[s.partition] for s in half.partitions], [s.offset for s in half.partitions])
        got = reader.records(sum(10 - committed[s.partition] for s in half.partitions))
        same("partitions read", {s.partition for s in half.partitions}, {p for _, p, _ in got})

    described = admin("DescribeGroup", group=name)
    same("group", ("Stable", "consumer", "range", 2), (described.group.state, described.group.protocol_type, described.protocol, len(described.members)))
    same("clients", {"python"}, {m.client_id for m in described.members})
    two.end()
    one.until("revoked")
    one.say(released=consume_pb2.Released())
    same("alone again", all_four, places(one.until("assigned").partitions))
    one.end()
    eventually(20, "the group is empty", lambda: admin("DescribeGroup", group=name).group.state == "Empty")


def group_late():
    """A member that does not release in time loses its partitions, and is told."""
    topic, name = make("late", 2), fresh("late")
    one = member(name, topic, rebalance_timeout_ms=2000)
    one.expect("assigned")
    two = member(name, topic, rebalance_timeout_ms=2000)
    assert not one.until("revoked").lost
    same("the other has all", 2, len(two.expect("assigned").partitions))
    assert one.until("revoked").lost
    one.end()
    two.end()


def group_commits():
    """Commits beside the stream: those of a member, of a stranger, and of an empty group."""
    topic, name = make("commits", 1), fresh("commits")
    fill(topic, 10)

    def beside(offset, **who):
        made = [record_pb2.CommittedOffset(topic=topic, partition=0, offset=offset, metadata="a note")]
        return CONSUME.Commit(consume_pb2.CommitRequest(group=name, offsets=made, **who)).results[0].status

    fine(beside(3))
    reader = member(name, topic)
    assigned = reader.expect("assigned")
    same("goes on where the empty group was set", 3, assigned.partitions[0].offset)
    fine(beside(4, member_id=assigned.member_id, generation=assigned.generation))
    with refused("FAILED_PRECONDITION", "UNKNOWN_MEMBER_ID"):
        beside(5)
    with refused("FAILED_PRECONDITION", "ILLEGAL_GENERATION"):
        beside(5, member_id=assigned.member_id, generation=assigned.generation + 7)
    lag = admin("DescribeGroup", group=name).partitions[0]
    same("committed", (4, "a note", 10, 6, assigned.member_id), (lag.committed, lag.metadata, lag.high_watermark, lag.lag, lag.member_id))
    reader.end()
    eventually(20, "the group is empty", lambda: admin("DescribeGroup", group=name).group.state == "Empty")
    fine(beside(10))
    same("lag", (0, 0), (lambda p: (p.lag, p.lag_ms))(admin("DescribeGroup", group=name).partitions[0]))


def group_reset():
    """Without a committed offset the member begins where it says; if it does not say, the stream ends."""
    topic = make("reset")
    fill(topic, 10)
    for place, offset in ((EARLIEST, 0), (LATEST, 10), (position(timestamp_ms=STAMP + 31), 4)):
        reader = member(fresh(f"reset{offset}"), topic, reset=place)
        same("start", offset, reader.expect("assigned").partitions[0].offset)
        reader.end()
    with refused("OUT_OF_RANGE", "OFFSET_OUT_OF_RANGE"):
        member(fresh("reset-none"), topic, reset=None).drain()


def group_protocols():
    """Members that do not agree how to assign: the second is refused. Round robin spreads over topics."""
    topic, name = make("protocols", 4), fresh("protocols")
    one = member(name, topic, protocols=["roundrobin"])
    same("protocol", "roundrobin", one.expect("assigned").protocol)
    with refused("FAILED_PRECONDITION", "INCONSISTENT_GROUP_PROTOCOL"):
        member(name, topic, protocols=["range"]).drain()
    one.end()


def group_again():
    """A member whose stream broke goes on by its id, and the stream before it takes nothing along."""
    topic, name = make("again", 2), fresh("again")
    fill(topic, 10)
    before = member(name, topic)
    first = before.expect("assigned")
    after = member(name, topic, member_id=first.member_id)
    again = after.expect("assigned")
    same("the same again", (first.member_id, first.generation, places(first.partitions)), (again.member_id, again.generation, places(again.partitions)))
    with refused("FAILED_PRECONDITION", "FENCED_INSTANCE_ID"):
        before.drain()
    after.records(10)
    fine(commit(after, 1, (topic, 0, 10))[0].status)
    same("members", [first.member_id], [m.member_id for m in admin("DescribeGroup", group=name).members])
    after.end()
    eventually(20, "the group is empty", lambda: admin("DescribeGroup", group=name).group.state == "Empty")
    stranger = member(name, topic, member_id=first.member_id)
    assert stranger.expect("assigned").member_id != first.member_id, "the group has forgotten it"
    stranger.end()


def group_static():
    """A member with a lasting name that comes back within its session has its partitions without a rebalance of the others."""
    topic, name = make("static", 4), fresh("static")
    one = member(name, topic, instance_id="one")
    one.expect("assigned")
    two = member(name, topic, instance_id="two")
    one.until("revoked")
    one.say(released=consume_pb2.Released())
    mine = places(one.until("assigned").partitions)
    theirs = two.until("assigned")
    one.end()
    one = member(name, topic, instance_id="one")
    again = one.expect("assigned")
    same("the same again", (mine, theirs.generation), (places(again.partitions), again.generation))
    two.silent(1)
    one.end()
    two.end()


def flood():
    """A reader that takes nothing for a while loses nothing."""
    topic = make("flood")
    value = random.Random(1).randbytes(100_000)
    for _ in range(200):
        produce(topic, record(value), partition=0)
    reader, _ = first_offset(topic, EARLIEST)
    same("records", [(n, value) for n in range(200)], [(r.offset, r.value) for _, _, r in reader.records(200)])
    reader.end()


if __name__ == "__main__":
    main()
