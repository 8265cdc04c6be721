"""A producing service and a group member on the gRPC door, for the end-to-end test.

    member.py produce TOPIC                          lines "number TAB key TAB value" from standard input
    member.py consume records|batches GROUP FILE TOPIC..  appends "topic partition offset time headers key value" lines, then commits

GRPC is the broker's address; a record's time is E2E_STAMP and its number. Both go on when the broker dies and comes back.
"""

import collections
import os
import queue
import signal
import sys
import threading
import time

import grpc
from kafka.partitioner.default import murmur2
from kafka.record.memory_records import MemoryRecords

from millrace.v1 import admin_pb2, admin_pb2_grpc, consume_pb2, consume_pb2_grpc, produce_pb2, produce_pb2_grpc, record_pb2

STAMP = int(os.environ.get("E2E_STAMP", "0"))
AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}
AGAIN_CODES = {code.value[0] for code in AGAIN}
PAUSE = 0.05
OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]


def say(*words):
    print(*words, file=sys.stderr, flush=True)


class Stream:
    """One bidirectional call. Its answers go to the queue of events, as (stream, answer); (stream, None) when it is over."""

    def __init__(self, call, events):
        self.requests = queue.SimpleQueue()
        self.call = call(iter(self.requests.get, None))
        self.error = None
        threading.Thread(target=self.pump, args=(events,), daemon=True).start()

    def pump(self, events):
        try:
            for answer in self.call:
                events.put((self, answer))
        except grpc.RpcError as error:
            self.error = error
        events.put((self, None))

    def check(self):
        """The stream is over: raises what is no reason to try again."""
        if self.error is not None:
            say("stream ended:", self.error.code(), self.error.details())
            if self.error.code() not in AGAIN:
                raise self.error


def patient(call, request):
    """A call that is repeated while the broker is away."""
    while True:
        try:
            return call(request, timeout=10)
        except grpc.RpcError as error:
            if error.code() not in AGAIN | {grpc.StatusCode.DEADLINE_EXCEEDED}:
                raise
            time.sleep(PAUSE)


# A service ------------------------------------------------------------------------------------------------------------------


class Publisher:
    """Writes records exactly once: requests of one partition carry sequence numbers, and what is not answered when a stream breaks
    is sent again on the next one, in order."""

    # Fewer than the batches that the broker remembers of a producer.
    IN_FLIGHT = 4
    BATCH = 500
    UNANSWERED = 20_000

    def __init__(self, channel, topic):
        self.topic = topic
        self.stub = produce_pb2_grpc.ProduceServiceStub(channel)
        described = patient(admin_pb2_grpc.AdminServiceStub(channel).DescribeTopic, admin_pb2.DescribeTopicRequest(name=topic))
        self.partitions = len(described.partitions)
        self.me = patient(self.stub.InitProducer, produce_pb2.InitProducerRequest())
        self.events = queue.SimpleQueue()
        self.room = threading.Semaphore(self.UNANSWERED)
        self.pending = [collections.deque() for _ in range(self.partitions)]
        self.flight = [collections.deque() for _ in range(self.partitions)]
        self.sequence = [0] * self.partitions
        self.serial = self.acked = self.read = 0

    def lines(self):
        for line in sys.stdin.buffer:
            number, key, value = line.rstrip(b"\n").split(b"\t", 2)
            headers = [record_pb2.Header(key="line", value=number), record_pb2.Header(key="mark", value="ü".encode() + number)]
            made = record_pb2.Record(key=key, value=value, headers=headers, timestamp_ms=STAMP + int(number))
            self.room.acquire()
            self.events.put(("line", ((murmur2(key) & 0x7FFFFFFF) % self.partitions, made)))
        self.events.put(("end", None))

    def run(self):
        threading.Thread(target=self.lines, daemon=True).start()
        self.open()
        ended = False
        while not ended or self.acked < self.read:
            source, what = self.events.get()
            if source == "line":
                self.read += 1
                self.pending[what[0]].append(what[1])
                self.send(what[0])
            elif source == "end":
                ended = True
            elif source is self.stream:
                self.answered(what)
        self.stream.requests.put(None)
        print("acked", self.acked)

    def open(self):
        self.stream = Stream(self.stub.ProduceStream, self.events)
        for flight in self.flight:
            for request in flight:
                self.stream.requests.put(request)

    def send(self, partition):
        pending, flight = self.pending[partition], self.flight[partition]
        while pending and len(flight) < self.IN_FLIGHT:
            records = [pending.popleft() for _ in range(min(len(pending), self.BATCH))]
            sequence = produce_pb2.Sequence(producer_id=self.me.producer_id, producer_epoch=self.me.producer_epoch, base_sequence=self.sequence[partition])
            self.sequence[partition] += len(records)
            self.serial += 1
            request = produce_pb2.ProduceRequest(
                topic=self.topic, partition=partition, records=produce_pb2.Records(records=records), sequence=sequence, request_id=self.serial
            )
            flight.append(request)
            self.stream.requests.put(request)

    def answered(self, answer):
        if answer is None:
            self.stream.check()
            time.sleep(PAUSE)
            self.open()
        elif answer.WhichOneof("result") == "refused":
            say("refused:", answer.refused)
            if answer.refused.code not in AGAIN_CODES:
                raise SystemExit(f"refused: {answer.refused}")
            # What was behind it may be refused for the gap: all of it again, in order.
            self.stream.call.cancel()
            time.sleep(PAUSE)
            self.open()
        else:
            partition = answer.written.partition
            first = self.flight[partition].popleft()
            if first.request_id != answer.request_id:
                raise SystemExit(f"request {answer.request_id} was answered before {first.request_id}")
            count = len(first.records.records)
            self.acked += count
            self.room.release(count)
            self.send(partition)


# A member -------------------------------------------------------------------------------------------------------------------


class Member:
    """Writes what it reads to its file, and commits it then. What was not committed is read again, by whoever has the partition."""

    CREDIT = 1 << 20
    COMMIT_EVERY = 0.5

    def __init__(self, channel, form, group, out, topics):
        self.stub, self.out, self.batches = consume_pb2_grpc.ConsumeServiceStub(channel), out, form == "batches"
        self.start = consume_pb2.Start(
            group=consume_pb2.GroupMember(
                group=group,
                topics=topics,
                reset=record_pb2.Position(edge=record_pb2.EDGE_EARLIEST),
                protocols=["range"],
                session_timeout_ms=6000,
                client_id="grpc-python",
            ),
            initial_credit_bytes=self.CREDIT,
            format=consume_pb2.FORMAT_BATCHES if self.batches else consume_pb2.FORMAT_RECORDS,
        )
        self.events = queue.SimpleQueue()
        self.stopping = False
        signal.signal(signal.SIGTERM, self.stop)

    def stop(self, *_):
        self.stopping = True

    def run(self):
        while not self.stopping:
            self.stream = Stream(self.stub.Consume, self.events)
            self.say(start=self.start)
            # Where this stream stands: what is written, what is committed, what a commit under way says.
            self.written, self.committed, self.asked, self.serial = {}, {}, None, 0
            if not self.serve():
                self.stream.check()
                time.sleep(PAUSE)

    def say(self, **request):
        self.stream.requests.put(consume_pb2.ConsumeRequest(**request))

    def serve(self):
        """One stream to its end; true when it ended because it was told to."""
        due = time.monotonic()
        while not self.stopping or self.asked is not None or self.written != self.committed:
            with_patience = 0.1 if not self.stopping else 0.02
            try:
                source, answer = self.events.get(timeout=with_patience)
            except queue.Empty:
                source, answer = None, None
            if source is self.stream:
                if answer is None:
                    return False
                getattr(self, "on_" + answer.WhichOneof("response"))(answer)
            if self.asked is None and time.monotonic() >= due:
                self.commit()
                due = time.monotonic() + self.COMMIT_EVERY
        # Who cancels its stream has left the group.
        self.stream.call.cancel()
        return True

    def commit(self):
        open_ = {place: offset for place, offset in self.written.items() if self.committed.get(place) != offset}
        if not open_:
            return
        self.serial += 1
        self.asked = (self.serial, open_)
        offsets = [record_pb2.CommittedOffset(topic=t, partition=p, offset=o) for (t, p), o in open_.items()]
        self.say(commit=consume_pb2.StreamCommit(offsets=offsets, request_id=self.serial))

    def on_committed(self, answer):
        if self.asked is None or answer.committed.request_id != self.asked[0]:
            return
        offsets, self.asked = self.asked[1], None
        for result in answer.committed.results:
            place = (result.topic, result.partition)
            if result.status.code:
                say("not committed:", place, result.status)
            elif place in self.written:
                self.committed[place] = offsets[place]

    def on_assigned(self, answer):
        say("assigned", [(s.topic, s.partition, s.offset) for s in answer.assigned.partitions])
        # Should this stream break, the next one is of the same member.
        self.start.group.member_id = answer.assigned.member_id
        self.written = {(s.topic, s.partition): s.offset for s in answer.assigned.partitions}
        self.committed = dict(self.written)
        self.asked = None

    def on_revoked(self, answer):
        say("revoked", len(answer.revoked.partitions), "lost" if answer.revoked.lost else "")
        if not answer.revoked.lost:
            # Requests are taken in their order: this commit is before the release.
            self.asked = None
            self.commit()
            self.say(released=consume_pb2.Released())
        self.written, self.committed = {}, {}

    def on_records(self, answer):
        fetched = answer.records
        self.say(credit_bytes=fetched.credit_bytes)
        place = (fetched.topic, fetched.partition)
        if place not in self.written:
            return  # on its way when the partition was taken
        for offset, stamp, headers, key, value in self.unpack(fetched):
            if offset >= self.written[place]:
                named = b",".join(name.encode() + b"=" + of for name, of in headers)
                self.out.write(b"%s\t%d\t%d\t%d\t%s\t%s\t%s\n" % (place[0].encode(), place[1], offset, stamp, named, key, value))
        self.out.flush()
        self.written[place] = fetched.next_offset

    def unpack(self, fetched):
        if self.batches:
            whole = MemoryRecords(fetched.batches)
            while (batch := whole.next_batch()) is not None:
                for r in batch:
                    yield r.offset, r.timestamp, r.headers, r.key, r.value
        else:
            for r in fetched.records:
                yield r.offset, r.timestamp_ms, [(h.key, h.value) for h in r.headers], r.key, r.value


def main():
    channel = grpc.insecure_channel(os.environ["GRPC"], options=OPTIONS)
    if sys.argv[1] == "produce":
        Publisher(channel, sys.argv[2]).run()
    else:
        form, group, path, *topics = sys.argv[2:]
        with open(path, "ab") as out:
            Member(channel, form, group, out, topics).run()


if __name__ == "__main__":
    main()
