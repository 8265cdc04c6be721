"""What the checks of the gRPC door share: channel, stubs, words for streams and refusals. The checks stand in the modules beside
this one, each a function; `python MODULE.py NAME` runs one, an exception is its failure. GRPC and BOOTSTRAP name the broker."""

import contextlib
import inspect
import os
import queue
import sys
import threading
import time
import uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from millrace.v1 import admin_pb2, admin_pb2_grpc, consume_pb2, consume_pb2_grpc, produce_pb2, produce_pb2_grpc, record_pb2

BOOTSTRAP = os.environ.get("BOOTSTRAP", "")
SUFFIX = uuid.uuid4().hex[:8]
# A call on loopback that takes this long hangs.
PATIENCE = 30

CHANNEL = grpc.insecure_channel(os.environ["GRPC"], options=[("grpc.max_receive_message_length", 64 << 20), ("grpc.enable_http_proxy", 0)])
ADMIN = admin_pb2_grpc.AdminServiceStub(CHANNEL)
CONSUME = consume_pb2_grpc.ConsumeServiceStub(CHANNEL)
PRODUCE = produce_pb2_grpc.ProduceServiceStub(CHANNEL)

EARLIEST = record_pb2.Position(edge=record_pb2.EDGE_EARLIEST)
LATEST = record_pb2.Position(edge=record_pb2.EDGE_LATEST)


def main():
    checks = inspect.getmodule(inspect.stack()[1].frame)
    getattr(checks, sys.argv[1])()


def fresh(name):
    return f"compat-grpc-{name}-{SUFFIX}"


def same(what, expected, got):
    assert expected == got, f"{what}: expected {expected!r}, got {got!r}"


def eventually(seconds, what, holds):
    """Waits until `holds()` is true, and returns what it said."""
    deadline = time.monotonic() + seconds
    while not (said := holds()):
        assert time.monotonic() < deadline, f"never in {seconds} s: {what}"
        time.sleep(0.05)
    return said


# Calls ----------------------------------------------------------------------------------------------------------------------


def admin(call, **fields):
    """One call of AdminService: the request's type is named after it."""
    return getattr(ADMIN, call)(getattr(admin_pb2, call + "Request")(**fields), timeout=PATIENCE)


def make(name, partitions=1, **configs):
    topic = fresh(name)
    entries = [admin_pb2.ConfigEntry(name=n.replace("_", "."), value=v) for n, v in configs.items()]
    admin("CreateTopic", name=topic, partitions=partitions, configs=entries)
    return topic


def record(value=None, key=None, headers=(), stamp=None):
    made = [record_pb2.Header(key=k, value=v) for k, v in headers]
    return record_pb2.Record(key=key, value=value, headers=made, timestamp_ms=stamp)


def produce(topic, *records, **fields):
    """Writes records as one batch and returns the answer; one record goes as `record`, several as `records`."""
    if len(records) == 1:
        fields["record"] = records[0]
    elif records:
        fields["records"] = produce_pb2.Records(records=records)
    return PRODUCE.Produce(produce_pb2.ProduceRequest(topic=topic, **fields), timeout=PATIENCE)


def at(topic, partition=0):
    return record_pb2.TopicPartition(topic=topic, partition=partition)


def shape(r):
    """A record's content without its offset, with the difference between null and empty."""
    headers = [(h.key, h.value if h.HasField("value") else None) for h in r.headers]
    return (r.key if r.HasField("key") else None, r.value if r.HasField("value") else None, headers, r.timestamp_ms)


# Refusals -------------------------------------------------------------------------------------------------------------------


class Refused:
    code = reason = message = domain = retry_ms = None
    metadata = {}


@contextlib.contextmanager
def refused(code, reason):
    """The block ends in this gRPC status, whose google.rpc.ErrorInfo has this reason. What else it says is in the yielded object."""
    said = Refused()
    try:
        yield said
    except grpc.RpcError as error:
        read(error, said)
        same(f"refusal ({said.message})", (code, reason), (said.code, said.reason))
    else:
        raise AssertionError(f"not refused with {code} {reason}")


def read(error, said):
    said.code, said.message = error.code().name, error.details()
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            said.reason, said.domain, said.metadata = info.reason, info.domain, dict(info.metadata)
        elif detail.Unpack(retry):
            said.retry_ms = retry.retry_delay.ToMilliseconds()


def fine(status):
    same(f"status ({status.message})", 0, status.code)


# Streams --------------------------------------------------------------------------------------------------------------------


class Stream:
    """A bidirectional call: requests are sent as they are given, answers wait here until they are asked for."""

    def __init__(self, call, *first, timeout=None):
        self.requests, self.answers = queue.SimpleQueue(), queue.SimpleQueue()
        for request in first:
            self.requests.put(request)
        self.call = call(iter(self.requests.get, None), timeout=timeout)
        threading.Thread(target=self.pump, daemon=True).start()

    def pump(self):
        try:
            for answer in self.call:
                self.answers.put(answer)
            self.answers.put(None)
        except grpc.RpcError as error:
            self.answers.put(error)

    def put(self, request):
        self.requests.put(request)

    def take(self, seconds=PATIENCE):
        """The next answer; None when the broker ended the stream. A refusal is raised."""
        try:
            answer = self.answers.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"no answer in {seconds} s") from None
        if isinstance(answer, grpc.RpcError):
            raise answer
        return answer

    def end(self):
        """Says that no more requests come, and takes what is still answered."""
        self.requests.put(None)
        rest = []
        while (answer := self.take()) is not None:
            rest.append(answer)
        return rest

    def cancel(self):
        self.call.cancel()


class Reader(Stream):
    """A Consume stream."""

    def __init__(self, *places, group=None, timeout=None, **start):
        """`places` are (topic, partition, position)."""
        if group is None:
            start["partitions"] = consume_pb2.AssignedPartitions(
                partitions=[consume_pb2.StartPartition(topic=t, partition=p, position=position) for t, p, position in places]
            )
        else:
            start["group"] = group
        super().__init__(CONSUME.Consume, consume_pb2.ConsumeRequest(start=consume_pb2.Start(**start)), timeout=timeout)

    def end(self):
        """A reader ends its stream by cancelling it; to send no more requests only means that none come."""
        self.cancel()

    def say(self, **request):
        self.put(consume_pb2.ConsumeRequest(**request))

    def expect(self, kind, seconds=PATIENCE):
        """The next answer, which must be of this kind."""
        answer = self.take(seconds)
        assert answer is not None, f"the broker ended the stream, {kind} was to come"
        same("kind of answer", kind, answer.WhichOneof("response"))
        return getattr(answer, kind)

    def until(self, kind, seconds=PATIENCE):
        """The next answer of this kind; records before it are dropped."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self.take(max(0, deadline - time.monotonic()))
            assert answer is not None, f"the broker ended the stream, {kind} was to come"
            if answer.WhichOneof("response") == kind:
                return getattr(answer, kind)
            same(f"kind of answer before {kind}", "records", answer.WhichOneof("response"))

    def records(self, count):
        """As many records as that, as (topic, partition, record); the answers must hold exactly these."""
        out = []
        while len(out) < count:
            answer = self.expect("records")
            out += [(answer.topic, answer.partition, r) for r in answer.records]
        same("records", count, len(out))
        return out

    def drain(self):
        """Takes answers until the stream is refused or ends."""
        while self.take() is not None:
            pass

    def silent(self, seconds):
        """Nothing comes for a while."""
        with contextlib.suppress(queue.Empty):
            answer = self.answers.get(timeout=seconds)
            raise AssertionError(f"an answer where none was to come: {str(answer)[:300]}")


def read_all(topic, count, partitions=1, **start):
    """Records from the beginning of each partition, in order of partition and offset."""
    reader = Reader(*[(topic, p, EARLIEST) for p in range(partitions)], **start)
    reader.expect("assigned")
    got = reader.records(count)
    reader.end()
    return sorted(got, key=lambda r: (r[1], r[2].offset))
