"""A producing service and a group member on kafka-python, for the end-to-end test.

    member.py produce BOOTSTRAP TOPIC               lines "number TAB key TAB value" from standard input
    member.py consume BOOTSTRAP GROUP FILE TOPIC..  appends "topic partition offset time headers key value" lines, then commits

A record's time is E2E_STAMP and its number.
"""

import os
import signal
import sys

from kafka import KafkaConsumer, KafkaProducer
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import KafkaError


def produce(bootstrap, topic):
    stamp = int(os.environ["E2E_STAMP"])
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        compression_type="gzip",
        linger_ms=5,
        delivery_timeout_ms=300_000,
        request_timeout_ms=5_000,
        max_block_ms=300_000,
        reconnect_backoff_max_ms=200,
    )
    acked = 0
    failures = []

    def on_ack(_):
        nonlocal acked
        acked += 1

    for line in sys.stdin.buffer:
        number, key, value = line.rstrip(b"\n").split(b"\t", 2)
        headers = [("line", number), ("mark", "ü".encode() + number)]
        future = producer.send(topic, key=key, value=value, headers=headers, timestamp_ms=stamp + int(number))
        future.add_callback(on_ack)
        future.add_errback(failures.append)
        if failures:
            break
    producer.flush(timeout=300)
    producer.close()
    print("acked", acked)
    if failures:
        raise failures[0]


def commit(consumer):
    """Commits what was written; a rebalance or a broker that is down only means that records are read again."""
    try:
        consumer.commit(timeout_ms=5000)
    except (KafkaError, AssertionError) as error:
        print("not committed:", repr(error), file=sys.stderr)


def consume(bootstrap, group, path, topics):
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        client_id="kafka-python",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=6_000,
        heartbeat_interval_ms=1_000,
        partition_assignment_strategy=[RangePartitionAssignor],
        reconnect_backoff_max_ms=200,
    )
    consumer.subscribe(topics)
    with open(path, "ab") as out:
        while not stop:
            batches = consumer.poll(timeout_ms=200)
            for records in batches.values():
                for r in records:
                    headers = b",".join(name.encode() + b"=" + value for name, value in r.headers)
                    out.write(b"%s\t%d\t%d\t%d\t%s\t%s\t%s\n" % (r.topic.encode(), r.partition, r.offset, r.timestamp, headers, r.key, r.value))
            # Committed after every poll, so a rebalance finds nothing left to commit.
            if batches:
                out.flush()
                commit(consumer)
        commit(consumer)
        consumer.close(autocommit=False)


if __name__ == "__main__":
    if sys.argv[1] == "produce":
        produce(*sys.argv[2:4])
    else:
        consume(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
