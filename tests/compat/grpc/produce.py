"""Writing through the gRPC door."""

import time

from door import PRODUCE, Stream, admin, fine, fresh, main, make, produce, read_all, record, refused, same, shape, Reader, EARLIEST
from kafka.partitioner.default import murmur2
from kafka.record.default_records import DefaultRecordBatchBuilder

from millrace.v1 import produce_pb2

STAMP = 1_700_000_000_000


def batch(*records, codec=0, producer=(-1, -1, -1)):
    """A record batch, built by kafka-python, of (timestamp, key, value, headers)."""
    builder = DefaultRecordBatchBuilder(2, codec, False, *producer, 1 << 20)
    for offset, (stamp, key, value, headers) in enumerate(records):
        assert builder.append(offset, stamp, key, value, headers)
    return bytes(builder.build())


def unary():
    """Single records and several, nulls and empties, headers that repeat, timestamps: read back as they were sent."""
    topic = make("unary")
    shapes = [
        (b"k", b"v", [("h", b"1"), ("h", b"2"), ("utf8-ü", "wert-ß".encode())], STAMP),
        (None, b"no key", [], STAMP + 1),
        (b"no value", None, [("null", None), ("empty", b"")], STAMP + 2),
        (b"", b"", [("", b"")], STAMP + 3),
        (b"\x00\xff", bytes(range(256)), [], STAMP - 4),
    ]
    made = [record(value, key, headers, stamp) for key, value, headers, stamp in shapes]
    for offset, one in enumerate(made):
        answer = produce(topic, one, partition=0)
        same("answer", (0, offset, False), (answer.partition, answer.base_offset, answer.HasField("log_append_time_ms")))
    same("answer for several", (0, 5), (lambda a: (a.partition, a.base_offset))(produce(topic, *made, partition=0)))
    got = read_all(topic, 10)
    same("offsets", list(range(10)), [r.offset for _, _, r in got])
    same("records", shapes * 2, [shape(r) for _, _, r in got])


def unary_batch():
    """A record batch with each codec is stored as it is; one that is damaged is refused."""
    topic = make("batch")
    records = [(STAMP + n, b"k%d" % n, b"a value that compresses %d" % n, [("h", b"%d" % n), ("null", None)]) for n in range(50)]
    for codec in range(5):
        answer = produce(topic, batch=batch(*records, codec=codec), partition=0)
        same("base offset", codec * 50, answer.base_offset)
    got = read_all(topic, 250)
    same("records", [(k, v, h, stamp) for stamp, k, v, h in records] * 5, [shape(r) for _, _, r in got])
    whole = batch(*records)
    with refused("INVALID_ARGUMENT", "CORRUPT_MESSAGE"):
        produce(topic, batch=whole[:80] + bytes([whole[80] ^ 1]) + whole[81:], partition=0)
    with refused("INVALID_ARGUMENT", "INVALID_REQUEST"):
        produce(topic, batch=whole)


def time_of_the_broker():
    """Without a timestamp the broker's clock counts; a topic with LogAppendTime says what it wrote."""
    before = int(time.time() * 1000)
    topic = make("clock")
    produce(topic, record(b"v"))
    stamp = read_all(topic, 1)[0][2].timestamp_ms
    assert before - 1000 <= stamp <= time.time() * 1000 + 1000, stamp
    topic = make("append", message_timestamp_type="LogAppendTime")
    answer = produce(topic, record(b"v", stamp=STAMP))
    assert before - 1000 <= answer.log_append_time_ms <= time.time() * 1000 + 1000, answer
    same("time in the log", answer.log_append_time_ms, read_all(topic, 1)[0][2].timestamp_ms)


def partitions():
    """By key the partition of Kafka's default partitioner; without a key any; explicit where it is said."""
    topic = make("partitions", 7)
    for n in range(200):
        key = b"key-%d" % n
        same(f"partition of {key}", (murmur2(key) & 0x7FFFFFFF) % 7, produce(topic, record(b"", key)).partition)
    same("partition of an empty key", (murmur2(b"") & 0x7FFFFFFF) % 7, produce(topic, record(b"", b"")).partition)
    assert 0 <= produce(topic, record(b"keyless")).partition < 7
    same("explicit partition", 6, produce(topic, record(b"", b"key-0"), partition=6).partition)
    with refused("NOT_FOUND", "UNKNOWN_TOPIC_OR_PARTITION"):
        produce(topic, record(b"v"), partition=7)


def stream():
    """Thousands in flight: each is answered once, in order per partition, and a refusal in between ends nothing."""
    topic = make("stream", 4)
    flow = Stream(PRODUCE.ProduceStream)
    total, bad = 4000, {1000, 2001, 3999}
    for n in range(total):
        request = produce_pb2.ProduceRequest(topic=topic, partition=n % 4, request_id=n, record=record(b"%d" % n, b"k", [("n", b"%d" % n)], STAMP + n))
        if n in bad:
            request.partition = 99
        flow.put(request)
    written = {p: [] for p in range(4)}
    answers = flow.end()
    same("answers", list(range(total)), sorted(a.request_id for a in answers))
    for answer in answers:
        if answer.request_id in bad:
            same("refusal", (5, "UNKNOWN_TOPIC_OR_PARTITION"), (answer.refused.code, answer.refused.reason))
        else:
            same("result", "written", answer.WhichOneof("result"))
            written[answer.written.partition].append((answer.request_id, answer.written.base_offset))
    for partition, mine in written.items():
        same("order of answers", sorted(mine), mine)
        same("offsets", list(range(len(mine))), [offset for _, offset in mine])
    where = {(p, offset): n for p, mine in written.items() for n, offset in mine}
    for _, p, r in read_all(topic, total - len(bad), 4):
        n = where[p, r.offset]
        same(f"record {n}", (b"k", b"%d" % n, [("n", b"%d" % n)], STAMP + n), shape(r))


def idempotent():
    """What is sent twice is written once, by records and by batch; a gap is refused."""
    topic = make("idempotent", 2)
    me = PRODUCE.InitProducer(produce_pb2.InitProducerRequest())
    other = PRODUCE.InitProducer(produce_pb2.InitProducerRequest())
    assert me.producer_id != other.producer_id, me

    def send(base, count, partition=0):
        sequence = produce_pb2.Sequence(producer_id=me.producer_id, producer_epoch=me.producer_epoch, base_sequence=base)
        made = [record(b"%d" % n) for n in range(base, base + count)]
        return produce(topic, *made, partition=partition, sequence=sequence).base_offset

    for again in range(2):
        same(f"records, time {again}", [0, 3, 4], [send(0, 3), send(3, 1), send(4, 2)])
    with refused("FAILED_PRECONDITION", "OUT_OF_ORDER_SEQUENCE_NUMBER"):
        send(9, 1)
    same("the other partition counts by itself", 0, send(0, 1, partition=1))
    theirs = batch((STAMP, None, b"batch", []), producer=(other.producer_id, other.producer_epoch, 0))
    same("batch twice", [6, 6], [produce(topic, batch=theirs, partition=0).base_offset for _ in range(2)])
    same("values", [b"0", b"1", b"2", b"3", b"4", b"5", b"batch"], [r.value for _, _, r in read_all(topic, 7)])
    with refused("INVALID_ARGUMENT", "INVALID_REQUEST"):
        produce(topic, record(b"v"), sequence=produce_pb2.Sequence(producer_id=me.producer_id))


def refusals():
    """Each refusal has Kafka's name and number of the error, and our domain."""
    topic = make("refusals")
    with refused("INVALID_ARGUMENT", "INVALID_TOPIC_EXCEPTION") as said:
        produce("no/such topic", record(b"v"))
    same("details", ("millrace", "17", None), (said.domain, said.metadata["kafka_code"], said.retry_ms))
    with refused("INVALID_ARGUMENT", "INVALID_REQUEST"):
        produce(topic, partition=0)
    with refused("INVALID_ARGUMENT", "MESSAGE_TOO_LARGE") as said:
        produce(topic, record(bytes(2_000_000)), partition=0)
    same("number", "10", said.metadata["kafka_code"])
    with refused("NOT_FOUND", "UNKNOWN_TOPIC_OR_PARTITION") as said:
        Reader((fresh("none"), 0, EARLIEST)).drain()
    same("number", "3", said.metadata["kafka_code"])
    # A list answers each item by itself.
    answer = admin("DeleteRecords", topic=topic, partitions=[{"partition": 0, "before": 0}, {"partition": 8, "before": 0}])
    by = {p.partition: p.status for p in answer.partitions}
    fine(by[0])
    same("item", (5, "UNKNOWN_TOPIC_OR_PARTITION"), (by[8].code, by[8].reason))


if __name__ == "__main__":
    main()
