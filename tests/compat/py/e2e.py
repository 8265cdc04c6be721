"""The main job from end to end, while everything that may die is killed.

Services publish the events of five repositories (topic = repository, key = path, value = the line, headers `line` and `mark` with
its number, time = a beginning and its number) through both doors: kcat, kafka-python, Apache Kafka's producer and franz-go through
Kafka's, and a Python, a Go and a Rust client through gRPC's, with acks=all and idempotent; two topics have a service at each door,
which share the keys. Three groups read everything and write what they read to files before they commit: one of clients of Kafka's
door, one of clients of the gRPC door (Python, Go and Rust), one of both. Meanwhile the broker is SIGKILLed three times, and members are killed, each
command of E2E_GRPC_MEMBER once and others at random, and started again. In the end every line must be there once per group, in the file's order per key, with key, headers and time as
they were sent and the SHA-256 sums of the data's README; all groups must have read the same from the same places; kcat and
ConsumerGroupCommand must agree on every offset; and DumpLogSegments must read every file without a mismatch.

Four facts of kcat shape the test. It gives all messages of one invocation the same headers, so its topic has no headers: there
the line's number is recovered from the value, which is exact because no line occurs twice in the file (checked). It cannot be told
a record's time: that must be of the hour of the run, and the same for every group. And its
offsets are stored, and so committed, before the record is printed: whether by SIGKILL or by SIGTERM, a kcat that ends in mid-stream
may lose its group a record (seen, against Apache Kafka). So kcat members are not killed but frozen past their session and woken. And
librdkafka 2.0.2 gives up (out of order sequence) when of several requests in flight the first is refused as "not leader" by a broker
that is starting, as Apache Kafka does; with one request in flight it retries as it should.
"""

import collections
import gzip
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib

HERE = pathlib.Path(os.environ["COMPAT_HERE"])
CACHE = pathlib.Path(os.environ["COMPAT_CACHE"])
KAFKA_HOME = os.environ["KAFKA_HOME"]
SPREAD = float(os.environ.get("E2E_SECONDS", "60"))
LINES = int(os.environ.get("E2E_LINES", "0"))
GRPC_PRODUCER = os.environ.get("E2E_GRPC_PRODUCER", "")
GRPC_MEMBER = os.environ.get("E2E_GRPC_MEMBER", "")
GRPC_IDEMPOTENT = os.environ.get("E2E_GRPC_IDEMPOTENT", "1") == "1"
SEED = int(os.environ.get("E2E_SEED", time.time_ns() % 1_000_000_000))
WORK = CACHE / "e2e"
BROKER_KILLS = 3
PARTITIONS = 4

JAVA = ["java", "-Xmx256M", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{CACHE}/java:{KAFKA_HOME}/libs/*"]
# Services of one topic share its keys. "grpc-command" is E2E_GRPC_PRODUCER, "grpc-member" is E2E_GRPC_MEMBER; "grpc-batches" is
# grpc-python that unpacks batches itself.
SERVICES = {"etcd": ["kcat"], "iggy": ["python", "grpc-python"], "kafka": ["java"], "redpanda": ["go", "grpc-go"], "nats-server": ["grpc-command"]}
GROUPS = {"kafka": ["python", "go", "java"], "grpc": ["grpc-python", "grpc-go", "grpc-batches", "grpc-member"], "mixed": ["kcat", "grpc-go", "java", "grpc-member"]}
COMMANDS = {"grpc-command": "E2E_GRPC_PRODUCER", "grpc-member": "E2E_GRPC_MEMBER"}
# Who plays the part of a client that is not on this machine.
STANDINS = ["go", "java", "python", "kcat", "grpc-go", "grpc-python"]
# The time of line 0: an hour ago, within every retention.
STAMP = time.time_ns() // 1_000_000 - 3_600_000

Record = collections.namedtuple("Record", "line key value time")


class Failure(Exception):
    pass


def say(text):
    print(f"e2e {time.monotonic() - BEGAN:6.1f} s: {text}", flush=True)


# What the clients are -------------------------------------------------------------------------------------------------------


def has(kind):
    marks = {"kcat": ["kcat"], "python": ["python"], "java": ["kafka", "java"], "go": ["go"]}
    marks |= {"grpc-python": ["python", "grpc-python"], "grpc-batches": ["python", "grpc-python"], "grpc-go": ["grpc-go"]}
    if kind.startswith("grpc") and os.environ.get("BROKER") == "apache":
        return False
    if kind in COMMANDS:
        return bool(os.environ.get(COMMANDS[kind]))
    return all((CACHE / "have" / m).exists() for m in marks[kind])


def producer(kind, topic, env):
    return {
        "kcat": ["kcat", "-b", env["KAFKA"], "-P", "-E", "-q", "-t", topic, "-K", "\t", "-X", "enable.idempotence=true", "-X", "acks=all",
                 "-X", "message.timeout.ms=300000", "-X", "socket.timeout.ms=5000", "-X", "reconnect.backoff.max.ms=200", "-X", "linger.ms=5", "-X", "max.in.flight=1", "-z", "zstd"],
        "python": [f"{CACHE}/venv/bin/python", f"{HERE}/py/member.py", "produce", env["KAFKA"], topic],
        "java": [*JAVA, "Member", "produce", env["KAFKA"], topic],
        "go": [f"{CACHE}/judge", "produce", env["KAFKA"], topic],
        "grpc-python": [f"{CACHE}/venv/bin/python", f"{HERE}/grpc/member.py", "produce", topic],
        "grpc-go": [f"{CACHE}/grpc-judge", "produce", topic],
        "grpc-command": ["sh", "-c", GRPC_PRODUCER],
    }[kind]  # fmt: skip


def consumer(kind, group, path, env):
    topics = list(SERVICES)
    return {
        "kcat": ["kcat", "-b", env["KAFKA"], "-E", "-u", "-q", "-G", group, "-X", "auto.offset.reset=earliest", "-X", "session.timeout.ms=6000",
                 "-X", "heartbeat.interval.ms=1000", "-X", "auto.commit.interval.ms=500", "-X", "partition.assignment.strategy=range",
                 "-X", "reconnect.backoff.max.ms=200", "-f", r"%t\t%p\t%o\t%T\t%h\t%k\t%s\n", *topics],
        "python": [f"{CACHE}/venv/bin/python", f"{HERE}/py/member.py", "consume", env["KAFKA"], group, path, *topics],
        "java": [*JAVA, "Member", "consume", env["KAFKA"], group, path, *topics],
        "go": [f"{CACHE}/judge", "consume", env["KAFKA"], group, path, *topics],
        "grpc-python": [f"{CACHE}/venv/bin/python", f"{HERE}/grpc/member.py", "consume", "records", group, path, *topics],
        "grpc-batches": [f"{CACHE}/venv/bin/python", f"{HERE}/grpc/member.py", "consume", "batches", group, path, *topics],
        "grpc-go": [f"{CACHE}/grpc-judge", "consume", group, path, *topics],
        "grpc-member": ["sh", "-c", f'exec {GRPC_MEMBER} "$@"', "sh", *topics],
    }[kind]  # fmt: skip


def environment(env, **more):
    """Of a client: where the doors are, what time line 0 has, and where protoc's Python is."""
    return {**os.environ, **env, "E2E_STAMP": str(STAMP), "PYTHONPATH": str(CACHE / "grpc-py"), **more}


def sent_as(kind, number):
    """Headers and time that a service of this kind gives to a line; a time of None is the client's own clock."""
    if kind == "kcat":
        return b"", None
    if kind == "grpc-command":
        return b"line=%d" % number, None
    return b"line=%d,mark=%s%d" % (number, "ü".encode(), number), STAMP + number


# The truth ------------------------------------------------------------------------------------------------------------------


def truth():
    """topic -> list of (key, line), and the SHA-256 sums to reach."""
    path = pathlib.Path(os.environ["E2E_DATA"])
    lines = {topic: [] for topic in SERVICES}
    with gzip.open(path, "rb") as data:
        for line in data:
            event = json.loads(line)
            mine = lines[event["repo"]]
            if not LINES or len(mine) < LINES:
                mine.append((event["path"].encode(), line.rstrip(b"\n")))
    sums = {t: hashlib.sha256(b"".join(l + b"\n" for _, l in ls)).hexdigest() for t, ls in lines.items()}
    if not LINES:
        table = dict(re.findall(r"^\| ([a-z-]+) \| \d+ \| ([0-9a-f]{64}) \|$", (path.parent / "README.md").read_text(), re.M))
        for topic, digest in sums.items():
            if table[topic] != digest:
                raise Failure(f"the data is not what its README says: {topic}")
    for topic, ls in lines.items():
        if len({l for _, l in ls}) != len(ls):
            raise Failure(f"{topic} has equal lines, so a value does not name its line")
    return lines, sums


# Running things -------------------------------------------------------------------------------------------------------------


class Broker:
    def __init__(self):
        self.state = WORK / "broker"
        self.call("init")
        self.env = dict(l.split("=") for l in (self.state / "env").read_text().split())

    def call(self, verb):
        done = subprocess.run([HERE / "broker", verb, self.state], capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"broker {verb}: {done.stderr}")
        return done.stdout.strip()


class Clock:
    """Time as the services' pace and the kills see it: it stands still while the broker takes its time to start."""

    def __init__(self):
        self.began, self.lost, self.paused = time.monotonic(), 0.0, None

    def now(self):
        return (self.paused or time.monotonic()) - self.began - self.lost

    def pause(self):
        self.paused = time.monotonic()

    def resume(self):
        self.lost += time.monotonic() - self.paused
        self.paused = None


class Service:
    """A producing service: a client process and the thread that feeds it its lines, (number, key, line), at an even pace."""

    def __init__(self, topic, kind, lines, env, clock):
        self.topic, self.kind, self.lines, self.clock = topic, kind, lines, clock
        self.fed = 0
        self.log = WORK / f"service-{topic}-{kind}.log"
        self.process = subprocess.Popen(
            producer(kind, topic, env), stdin=subprocess.PIPE, stdout=self.log.open("wb"), stderr=subprocess.STDOUT, env=environment(env, TOPIC=topic)
        )
        self.thread = threading.Thread(target=self.feed, daemon=True)
        self.thread.start()

    def feed(self):
        total, pipe = len(self.lines), self.process.stdin
        try:
            while self.fed < total:
                due = min(total, int(total * self.clock.now() / SPREAD) + 1)
                part = []
                for number, key, line in self.lines[self.fed : due]:
                    part.append(b"%s\t%s\n" % (key, line) if self.kind == "kcat" else b"%d\t%s\t%s\n" % (number, key, line))
                pipe.write(b"".join(part))
                pipe.flush()
                self.fed = due
                time.sleep(0.02)
            pipe.close()
        except BrokenPipeError:
            pass  # finish() says why the client ended

    def finish(self):
        try:
            code = self.process.wait(timeout=180)
        except subprocess.TimeoutExpired:
            raise Failure(f"service {self.topic} ({self.kind}) did not get its lines acknowledged in time, see {self.log}") from None
        if code or self.fed < len(self.lines):
            raise Failure(f"service {self.topic} ({self.kind}) ended with {code} after {self.fed} of {len(self.lines)} lines, see {self.log}")


class Member:
    """One place in a group, filled by a client process that is killed and started again. Each life writes a file of its own."""

    def __init__(self, group, slot, kind, env):
        self.group, self.slot, self.kind, self.env = group, slot, kind, env
        self.files, self.lives, self.deaths = [], 0, 0
        self.lock = threading.Lock()
        self.start()

    def start(self):
        self.lives, self.killed = self.lives + 1, False
        path = WORK / f"member-{self.group}-{self.slot}-{self.kind}-{self.lives}.tsv"
        self.files.append(path)
        with open(path, "ab") as out, open(path.with_suffix(".log"), "wb") as log:
            stdout = out if self.kind in ("kcat", "grpc-member") else log
            env = environment(self.env, GROUP=self.group)
            self.process = subprocess.Popen(consumer(self.kind, self.group, str(path), self.env), stdin=subprocess.DEVNULL, stdout=stdout, stderr=log, env=env)

    def kill(self):
        with self.lock:
            if self.kind == "kcat":
                self.process.send_signal(signal.SIGSTOP)
                threading.Timer(8, self.process.send_signal, [signal.SIGCONT]).start()
                return "froze"
            self.killed = True
            self.process.kill()
            self.process.wait()
            return "killed"

    def revive(self):
        """Starts the next life when this one is over; a life that ended unasked counts."""
        with self.lock:
            if self.process.poll() is None:
                return
            self.deaths += not self.killed
            if self.deaths > 20:
                raise Failure(f"member {self.files[-1].stem} does not stay up, see {self.files[-1].with_suffix('.log')}")
            self.start()

    def end(self):
        with self.lock:
            self.process.send_signal(signal.SIGTERM)

    def ended(self):
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failure(f"member {self.files[-1].stem} did not close within 30 s") from None


def writer(topic, key):
    """The kind of the service that publishes this key."""
    kinds = SERVICES_NOW[topic]
    return kinds[zlib.crc32(key) % len(kinds)]


class Readings:
    """What a group has read: (topic, partition, offset) -> record, from the files of all its members' lives."""

    def __init__(self, group, numbers):
        self.group, self.numbers = group, numbers
        self.records = {}
        self.places = {}  # path -> bytes taken
        self.again = 0

    def take(self, members):
        for path in [p for m in members for p in m.files]:
            at = self.places.get(path, 0)
            with open(path, "rb") as file:
                file.seek(at)
                data = file.read()
            whole = data.rfind(b"\n") + 1  # a life that was killed may end in mid-line
            self.places[path] = at + whole
            for row in data[:whole].splitlines():
                self.add(row)

    def add(self, row):
        topic, partition, offset, stamp, headers, key, value = row.split(b"\t")
        topic = topic.decode()
        place = (topic, int(partition), int(offset))
        named = self.numbers[topic].get(value)
        if named is None:
            raise Failure(f"group {self.group} read a value nobody sent from {topic}: {value[:80]}")
        record = Record(named, key, value, int(stamp))
        sent, when = sent_as(writer(topic, key), named)
        if headers != sent:
            raise Failure(f"group {self.group}: {place} has the value of line {named} and headers {headers}, not {sent}")
        if record.time != when if when is not None else not STAMP <= record.time < STAMP + 7_200_000:
            raise Failure(f"group {self.group}: {place} has the value of line {named} and time {record.time}, not {when}")
        before = self.records.setdefault(place, record)
        if before is not record:
            self.again += 1
            if before != record:
                raise Failure(f"group {self.group} read two records at {place}: {before} and {record}")


# The checks at the end ------------------------------------------------------------------------------------------------------


def check_readings(readings, lines, sums, ends):
    """Each line once, key order, sums, dense offsets. Returns how many lines stand twice in the log (only where that is allowed)."""
    twice = 0
    for topic, sent in lines.items():
        mine = sorted((p, o, r) for (t, p, o), r in readings.records.items() if t == topic)
        for partition in range(PARTITIONS):
            offsets = [o for p, o, _ in mine if p == partition]
            if offsets != list(range(ends[topic, partition])):
                missing = sorted(set(range(ends[topic, partition])) - set(offsets))[:5]
                raise Failure(f"group {readings.group} read {len(offsets)} of {ends[topic, partition]} records of {topic}/{partition}, missing offsets {missing}")
        first = {}
        for partition, offset, record in mine:
            if record.line in first:
                if writer(topic, record.key) == "grpc-command" and not GRPC_IDEMPOTENT:
                    twice += 1
                    continue
                raise Failure(f"{topic}: line {record.line} is at {first[record.line]} and at {(partition, offset)}")
            first[record.line] = (partition, offset)
        if len(first) != len(sent):
            lost = sorted(set(range(len(sent))) - set(first))[:5]
            raise Failure(f"{topic}: {len(first)} of {len(sent)} lines are there, lines {lost} are not")
        last = {}
        for partition, offset, record in mine:
            if first[record.line] != (partition, offset):
                continue
            if record.key != sent[record.line][0]:
                raise Failure(f"{topic}: line {record.line} came back with key {record.key}")
            before = last.get(record.key, (partition, -1))
            if before[0] != partition or before[1] >= record.line:
                raise Failure(f"{topic}: key {record.key} has line {record.line} at {(partition, offset)} behind {before}")
            last[record.key] = (partition, record.line)
        values = {r.line: r.value for _, _, r in mine}
        digest = hashlib.sha256(b"".join(values[n] + b"\n" for n in range(len(sent)))).hexdigest()
        if digest != sums[topic]:
            raise Failure(f"{topic}: SHA-256 {digest}, not {sums[topic]}")
    return twice


def check_readings_see_damage(readings):
    """The judge is worth its word: another header, time, key or value than was sent is found, and so are two records at one place."""
    place, good = next((p, r) for p, r in readings.records.items() if sent_as(writer(p[0], r.key), r.line)[1] is not None)
    headers, time_ = sent_as(writer(place[0], good.key), good.line)
    whole = [place[0].encode(), b"%d" % place[1], b"%d" % place[2], b"%d" % time_, headers, good.key, good.value]
    other = next(r for p, r in readings.records.items() if p[0] == place[0] and r.line != good.line and writer(p[0], r.key) == writer(p[0], good.key))
    named, when = sent_as(writer(place[0], other.key), other.line)
    spoiled = [
        whole[:3] + [b"%d" % (time_ + 1)] + whole[4:],
        whole[:4] + [headers.replace(b"mark", b"park")] + whole[5:],
        whole[:5] + [good.key + b"x", good.value],
        whole[:6] + [good.value + b" "],
        whole[:3] + [b"%d" % when, named, other.key, other.value],
    ]
    readings.add(b"\t".join(whole))
    for row in spoiled:
        try:
            readings.add(b"\t".join(row))
        except Failure:
            continue
        raise Failure(f"the judge did not see that {row} is not what was sent")


def kcat_ends(env):
    ends = {}
    for topic in SERVICES:
        query = [x for p in range(PARTITIONS) for x in ("-t", f"{topic}:{p}:-1")]
        out = subprocess.run(["kcat", "-b", env["KAFKA"], "-Q", *query], capture_output=True, text=True, check=True, timeout=60).stdout
        for p, offset in re.findall(r"\[(\d+)\] offset (\d+)", out):
            ends[topic, int(p)] = int(offset)
    return ends


def tool_ends(env):
    out = tool("org.apache.kafka.tools.GetOffsetShell", "--bootstrap-server", env["KAFKA"], "--exclude-internal-topics")
    return {(t, int(p)): int(o) for t, p, o in re.findall(r"^([a-z-]+):(\d+):(\d+)$", out, re.M)}


def tool(name, *args):
    """What the tool printed: DumpLogSegments reports its mismatches on the error stream."""
    done = subprocess.run([*JAVA, name, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    if done.returncode:
        raise Failure(f"{name}: exit {done.returncode}: {done.stdout[-1000:]}")
    return "\n".join(l for l in done.stdout.splitlines() if not l.startswith("SLF4J"))


def check_group_command(env, ends):
    for group in GROUPS:
        out = tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server", env["KAFKA"], "--describe", "--group", group)
        rows = {}
        for line in out.splitlines():
            words = line.split()
            if words[:1] == [group]:
                rows[words[1], int(words[2])] = words[3:6]
        # A partition that never held a record has no committed offset.
        wrong = {k: r for k, r in rows.items() if r != [str(ends[k]), str(ends[k]), "0"] and not (ends[k] == 0 and r[0] in "-0")}
        unnamed = {k for k, end in ends.items() if end and k not in rows}
        if wrong or unnamed:
            raise Failure(f"group {group}: current offset, end offset, lag {wrong}, without a row {unnamed}, kcat says {ends}")


def check_group_by_kcat(env):
    for group in GROUPS:
        command = ["kcat", "-b", env["KAFKA"], "-q", "-e", "-G", group, "-X", "partition.assignment.strategy=range", *SERVICES]
        out = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
        if out:
            raise Failure(f"group {group}: kcat as a new member found records left to read: {out[:200]}")


BAD_DUMP = re.compile(r"mismatch|non-consecutive|non-monotonic|out of order|corrupt|isvalid: false|exception|invalid|error", re.I)


def dump(data, lines, only=None):
    """DumpLogSegments over every file of every partition, or of one. Returns (files, records) seen."""
    files, records = 0, collections.Counter()
    jobs = []
    for directory in sorted(d for d in data.iterdir() if re.search(r"-\d+$", d.name) and only in (None, d.name)):
        mine = sorted(f for f in directory.iterdir() if f.suffix in (".log", ".index", ".timeindex", ".snapshot") and f.stem.isdigit())
        if mine:
            jobs.append((directory, mine))
    # Few JVMs, each with the files of many partitions.
    own = [j for j in jobs if not j[0].name.startswith("__")]
    internal = [j for j in jobs if j[0].name.startswith("__consumer_offsets")]
    rest = [j for j in jobs if j not in own and j not in internal]
    for part, extra in ((own, ["--deep-iteration"]), (internal, ["--offsets-decoder"]), (rest, ["--deep-iteration"])):
        names = [str(f) for _, mine in part for f in mine]
        if not names:
            continue
        files += len(names)
        current = None
        out = tool("org.apache.kafka.tools.DumpLogSegments", *extra, "--files", ",".join(names))
        for line in out.splitlines():
            if line.startswith("Dumping "):
                current = pathlib.Path(line.split(" ", 1)[1])
            elif BAD_DUMP.search(re.sub(r"(key|payload): .*", "", line)):
                raise Failure(f"DumpLogSegments, having read {current}: {line[:300]}")
            elif line.startswith("baseOffset: ") and current is not None:
                if "isvalid: true" not in line:
                    raise Failure(f"DumpLogSegments on {current}: {line[:300]}")
                count = re.search(r" count: (\d+) ", line)
                records[current.parent.name.rpartition("-")[0]] += int(count[1])
        if names and current is None:
            raise Failure(f"DumpLogSegments printed nothing for {len(names)} files")
    for topic, sent in lines.items():
        if records[topic] < len(sent):
            raise Failure(f"DumpLogSegments counts {records[topic]} records in {topic}, {len(sent)} were sent")
    return files, sum(records.values())


def check_dump_sees_damage(copy):
    """The judge is worth its word: one byte changed in a log, in an index entry's offset or in a time index's timestamp is found."""
    for suffix in (".log", ".index", ".timeindex"):
        files = [f for t in SERVICES for p in range(PARTITIONS) for f in (copy / f"{t}-{p}").glob("*" + suffix)]
        path = max(files, key=lambda f: len(f.read_bytes().rstrip(b"\0")))
        whole = path.read_bytes()
        at = {".log": len(whole) // 2, ".index": 3, ".timeindex": 7}[suffix]
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            dump(copy, {}, path.parent.name)
        except Failure:
            path.write_bytes(whole)
        else:
            raise Failure(f"DumpLogSegments did not see a changed byte in {path}")


# The run --------------------------------------------------------------------------------------------------------------------


class Run:
    def __init__(self):
        self.rng = random.Random(SEED)
        self.skips, self.passes = [], []
        self.services, self.members = [], []
        self.broker = None

    def passed(self, text):
        self.passes.append(text)
        say(f"PASS {text}")

    def skipped(self, text):
        self.skips.append(text)
        say(f"SKIP {text}")

    def cast(self, kind):
        """The client that plays this part here."""
        if has(kind):
            return kind
        why = f"{COMMANDS[kind]} is not set" if kind in COMMANDS and not os.environ.get(COMMANDS[kind]) else "not on this machine"
        self.skipped(f"e2e {kind} client: {why}, another stands in")
        for other in STANDINS:
            if has(other):
                return other
        raise Failure("no client at all is on this machine: run tests/compat/setup")

    def all(self):
        say(f"seed {SEED}")
        lines, sums = truth()
        numbers = {t: {l: n for n, (_, l) in enumerate(ls)} for t, ls in lines.items()}
        for topic, kinds in SERVICES.items():
            SERVICES_NOW[topic] = [self.cast(kind) for kind in kinds]
        crew = {group: [self.cast(kind) for kind in kinds] for group, kinds in GROUPS.items()}

        self.broker = Broker()
        self.broker.call("start")
        env = self.broker.env
        if has("go"):
            subprocess.run([f"{CACHE}/judge", "topics", env["KAFKA"], str(PARTITIONS), *SERVICES], check=True)
        elif has("grpc-go"):
            for topic in SERVICES:
                subprocess.run([f"{CACHE}/grpc-judge", "create", topic, str(PARTITIONS)], env=environment(env), check=True)
        say(f"broker on {env['KAFKA']}, {sum(map(len, lines.values()))} lines over {SPREAD:.0f} s by {SERVICES_NOW}, groups {crew}")
        clock = Clock()
        self.members = [Member(g, n, kind, env) for g, kinds in crew.items() for n, kind in enumerate(kinds)]
        for topic, kinds in SERVICES_NOW.items():
            for n, kind in enumerate(kinds):
                share = [(number, key, line) for number, (key, line) in enumerate(lines[topic]) if zlib.crc32(key) % len(kinds) == n]
                self.services.append(Service(topic, kind, share, env, clock))
        readings = {g: Readings(g, numbers) for g in crew}
        self.trouble(readings, clock)
        for service in self.services:
            service.finish()
        say("every service got all its lines acknowledged")
        self.catch_up(readings, lines)
        kinds = ", ".join(s.kind for s in self.services)
        self.passed(f"{len(self.services)} services ({kinds}) published every line with every one acknowledged, through {BROKER_KILLS} broker kills")

        for member in self.members:
            member.end()
        for member in self.members:
            member.ended()
        self.take(readings)
        ends = kcat_ends(env) if has("kcat") else tool_ends(env)
        for group, mine in readings.items():
            twice = check_readings(mine, lines, sums, ends)
            self.passed(f"group {group}: each line once, key order, SHA-256 sums ({mine.again} read again after a kill, {twice} lines twice in the log)")
        first, *others = readings.values()
        for mine in others:
            if mine.records != first.records:
                place = next(p for p in first.records if mine.records.get(p) != first.records[p])
                raise Failure(f"at {place} group {first.group} read {first.records[place]}, group {mine.group} {mine.records.get(place)}")
        check_readings_see_damage(first)
        self.passed(f"all groups read the same {len(first.records)} records from the same places, with their times")
        self.check_tools(env, ends, lines)

    def trouble(self, readings, clock):
        """Kills while the services publish: the broker at three instants, a member in each eighth of the time but the first."""
        first = [member for member in self.members if member.kind == "grpc-member"]
        instants = [("broker", SPREAD * (k + self.rng.uniform(0.6, 1.2)) / (BROKER_KILLS + 1)) for k in range(BROKER_KILLS)]
        instants += [("member", SPREAD * (k + self.rng.random()) / 8) for k in range(1, 8)]
        kills = collections.Counter()
        for what, at in sorted(instants, key=lambda i: i[1]):
            while clock.now() < at:
                self.watch(readings)
            if what == "broker":
                busy = [f"{s.topic} by {s.kind}" for s in self.services if s.fed < len(s.lines)]
                if len(busy) < len(self.services):
                    raise Failure(f"only {busy} still published when the broker was to be killed")
                self.broker.call("kill9")
                time.sleep(self.rng.uniform(0.1, 1.0))
                clock.pause()
                self.broker.call("start")
                clock.resume()
            else:
                member = first.pop() if first else self.rng.choice(self.members)
                say(f"{member.kill()} member {member.files[-1].stem}")
            kills[what] += 1
            if what == "broker":
                say(f"killed and restarted the broker ({kills[what]}), services are at {[s.fed for s in self.services]}")
        self.passed(f"{kills['broker']} broker kills and {kills['member']} member kills while all services published")

    def watch(self, readings):
        time.sleep(0.1)
        for member in self.members:
            member.revive()
        for service in self.services:
            if service.process.poll() not in (None, 0):
                service.finish()

    def take(self, readings):
        for group, mine in readings.items():
            mine.take([m for m in self.members if m.group == group])

    def catch_up(self, readings, lines):
        """Waits until each group has read as many distinct lines as were sent, and then a little for their commits."""
        deadline = time.monotonic() + 180
        want = sum(map(len, lines.values()))
        while True:
            self.watch(readings)
            self.take(readings)
            have = {g: len({(t, r.line) for (t, _, _), r in mine.records.items()}) for g, mine in readings.items()}
            if all(n >= want for n in have.values()):
                break
            if time.monotonic() > deadline:
                raise Failure(f"the groups have read {have} of {want} lines 180 s after the last was sent")
            time.sleep(0.5)
        time.sleep(3)
        died = sum(m.deaths for m in self.members)
        say(f"all groups have read everything; members lived {sum(m.lives for m in self.members)} times, {died} times one ended by itself")

    def check_tools(self, env, ends, lines):
        if has("kcat") and has("java"):
            if (theirs := tool_ends(env)) != ends:
                raise Failure(f"GetOffsetShell and kcat disagree: {theirs} and {ends}")
            check_group_command(env, ends)
            check_group_by_kcat(env)
            self.passed("kcat and ConsumerGroupCommand agree on every offset, lag 0 in all groups")
        else:
            self.skipped("e2e agreement of kcat and ConsumerGroupCommand: one of them is not on this machine")
        self.broker.call("stop")
        if has("java"):
            copy = WORK / "copy"
            shutil.copytree(self.broker.call("logs"), copy)
            files, records = dump(copy, lines)
            self.passed(f"DumpLogSegments read {files} files with {records} records without a mismatch")
            check_dump_sees_damage(copy)
        else:
            self.skipped("e2e DumpLogSegments: Apache Kafka's tools are not on this machine")

    def clean_up(self):
        for thing in self.services + self.members:
            if thing.process.poll() is None:
                thing.process.kill()
                thing.process.wait()
        if self.broker:
            subprocess.run([HERE / "broker", "kill9", self.broker.state], capture_output=True)


BEGAN = time.monotonic()
SERVICES_NOW = {}


def main():
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    run, failed = Run(), 0
    try:
        run.all()
    except (Failure, subprocess.SubprocessError, OSError) as failure:
        failed = 1
        say(f"FAIL {failure}")
        say(f"everything of the run is in {WORK}; E2E_SEED={SEED} repeats its kill instants")
    finally:
        run.clean_up()
    if not failed:
        shutil.rmtree(WORK)
    print(f"{len(run.passes)} passed, {failed} failed, {len(run.skips)} skipped")
    sys.exit(failed)


if __name__ == "__main__":
    main()
