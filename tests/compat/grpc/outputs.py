"""What `millrace ... --output json` prints, held against the shapes that broker/docs/cli.md documents.

`outputs.py NAME` runs one check. MILLRACE is the binary, GRPC and HTTP are the broker's doors, DOCUMENT is the page. Each shape is
read from the page's table and compared field by field, so neither the page nor the program can change alone; what the fields hold
is checked where this program knows it.
"""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid

MILLRACE = os.environ.get("MILLRACE", "millrace")
BROKER = "http://" + os.environ.get("GRPC", "")
OPS = "http://" + os.environ.get("HTTP", "")
PAGE = os.environ["DOCUMENT"]
SUFFIX = uuid.uuid4().hex[:8]
PATIENCE = 60

# What fields of these names hold; every other one is text. Null stands for "there is none".
NUMBERS = re.compile(
    r"(.*_)?(bytes|ms|seconds|per_second|connections|offset)|partitions?|replication_factor|records|leader|leader_epoch|start|end|lag|committed|at"
    r"|coordinator|members|before|after|sync_ms_mean|rate_asked|mean|p[0-9]+|max|replicas|in_sync_replicas"
)
TRUTHS = {"internal", "dry_run", "read_only", "sensitive", "current"}
# Commands of the table by the check that holds them; `documented` proves the list complete.
HELD = {
    "topics": ["topic create", "topic list", "topic describe", "topic alter", "topic delete"],
    "records": ["produce", "consume"],
    "offsets": ["offsets"],
    "groups": ["group list", "group describe", "group members", "group reset-offsets", "group delete"],
    "configs": ["config get", "config set"],
    "top": ["top"],
    "bench": ["bench"],
    "doctor": ["doctor"],
    "contexts": ["context"],
}


def fresh(name):
    return f"compat-cli-{name}-{SUFFIX}"


def same(what, expected, got):
    assert expected == got, f"{what}: expected {expected!r}, got {got!r}"


# Shapes ---------------------------------------------------------------------------------------------------------------------


class Shape:
    """The page's notation: {"name", "name":SHAPE}, [SHAPE], {key:value} for any names, and a word for a plain value."""

    def __init__(self, text):
        self.text, self.at = text, 0

    @staticmethod
    def parse(text):
        reader = Shape(text)
        shape = reader.value()
        assert reader.at == len(text), f"the page's shape is odd at {text[reader.at:]!r}: {text}"
        return shape

    def take(self, pattern):
        found = re.compile(r"\s*(" + pattern + ")").match(self.text, self.at)
        if found:
            self.at = found.end()
            return found[1]
        return None

    def value(self):
        if self.take(r"\{key:value\}"):
            return dict
        if self.take(r"\{"):
            fields = {}
            while True:
                name = self.take(r'"[a-z0-9_]+"')
                assert name, f"no field's name at {self.text[self.at:]!r}"
                fields[name.strip('"')] = self.value() if self.take(":") else None
                if not self.take(","):
                    break
            assert self.take(r"\}"), f"no end of an object at {self.text[self.at:]!r}"
            return fields
        if self.take(r"\["):
            inner = self.value()
            assert self.take(r"\]"), f"no end of a list at {self.text[self.at:]!r}"
            return [inner]
        assert self.take(r"\w+"), f"no value at {self.text[self.at:]!r}"
        return None


def shapes():
    """command -> shape, from the table; and that of a record and of an error, from their examples."""
    text = open(PAGE, encoding="utf-8").read()
    examples = [json.loads(block) for block in re.findall(r"^```json\n(.*?)\n```$", text, re.M | re.S)]
    found = {}
    for commands, shape in re.findall(r"^\| ((?:`[a-z -]+`(?:, )?)+) \| (.*) \|$", text, re.M):
        for command in re.findall(r"`([^`]+)`", commands):
            document = re.match(r"`([^`]+)`", shape)
            found[command] = Shape.parse(document[1]) if document else shape
    found["consume"] = next(like(e) for e in examples if "offset" in e)
    found["error"] = next(like(e) for e in examples if "error" in e)
    return found


def like(example):
    if isinstance(example, dict):
        return {name: like(value) for name, value in example.items()}
    if isinstance(example, list):
        return [like(example[0])]
    return None


def fits(where, shape, value):
    if shape is dict:
        assert isinstance(value, dict), f"{where} is no object: {value!r}"
    elif isinstance(shape, dict):
        if value is None:
            return
        assert isinstance(value, dict), f"{where} is no object: {value!r}"
        assert set(value) == set(shape), f"{where}: not documented {sorted(set(value) - set(shape))}, missing {sorted(set(shape) - set(value))}"
        for name, inner in shape.items():
            fits(f"{where}.{name}", inner, value[name])
    elif isinstance(shape, list):
        assert isinstance(value, list), f"{where} is no list: {value!r}"
        for n, one in enumerate(value):
            fits(f"{where}[{n}]", shape[0], one)
    else:
        plain(where, value)


def plain(where, value):
    name = re.sub(r"\[\d+\]$", "", where).rpartition(".")[2]
    for one in value if isinstance(value, list) else [value]:
        if one is None:
            continue
        if name in TRUTHS:
            assert isinstance(one, bool), f"{where} is neither true nor false: {one!r}"
        elif NUMBERS.fullmatch(name):
            assert isinstance(one, (int, float)) and not isinstance(one, bool), f"{where} is no number: {one!r}"
        else:
            assert isinstance(one, str), f"{where} is no text: {one!r}"


# Calls ----------------------------------------------------------------------------------------------------------------------

HOME = tempfile.TemporaryDirectory()
ENVIRONMENT = {n: v for n, v in os.environ.items() if not n.startswith("MILLRACE")} | {"XDG_CONFIG_HOME": HOME.name, "HOME": HOME.name}


def run(*words, stdin=b"", code=0, broker=BROKER):
    where = ["--broker", broker] if broker else []
    done = subprocess.run([MILLRACE, *words, "--output", "json", *where], input=stdin, capture_output=True, timeout=PATIENCE, env=ENVIRONMENT)
    codes = code if isinstance(code, tuple) else (code,)
    assert done.returncode in codes, f"{words}: exit {done.returncode}, standard error: {done.stderr[-1000:]!r}"
    return done


def ask(command, *words, **how):
    """Runs a command, which prints one document on one line of the documented shape."""
    done = run(*command.split(), *words, **how)
    lines = done.stdout.decode().splitlines()
    same(f"lines of {command}", 1, len(lines))
    document = json.loads(lines[0])
    shape = "context" if command.startswith("context") else "bench" if command.startswith("bench") else command
    fits(command, SHAPES[shape], document)
    return document


def create(name, partitions=1, *more):
    topic = fresh(name)
    ask("topic create", topic, "--partitions", str(partitions), *more)
    return topic


def consume(*words):
    out = [json.loads(line) for line in run("consume", *words).stdout.decode().splitlines()]
    for n, one in enumerate(out):
        fits_record(f"consume[{n}]", one)
    return out


def fits_record(where, record):
    """A record's texts may be {"base64"} as well."""
    copy = json.loads(json.dumps(record))
    for holder, name in [(copy, "key"), (copy, "value")] + [(h, "value") for h in copy["headers"]]:
        if isinstance(holder[name], dict):
            same(f"{where}: bytes", ["base64"], list(holder[name]))
            holder[name] = "bytes"
    fits(where, SHAPES["consume"], copy)


# The checks -----------------------------------------------------------------------------------------------------------------


def documented():
    """Every row of the page's table is held by a check here."""
    rows = sorted(set(SHAPES) - {"error"})
    same("rows", sorted(sum(HELD.values(), [])), rows)
    unread = [command for command, shape in SHAPES.items() if isinstance(shape, str)]
    same("rows without a shape", [], unread)


def topics():
    name = fresh("topics")
    made = ask("topic create", name, name + "-b", "--partitions", "3", "--set", "retention.ms=3600000")["topics"]
    same("created", [(name, 3, False), (name + "-b", 3, False)], [(t["name"], t["partitions"], t["internal"]) for t in made])
    listed = ask("topic list")["topics"]
    assert made[0] in listed, listed
    assert {t["internal"] for t in ask("topic list", "--internal")["topics"]} <= {True, False}
    run("produce", name, "--partition", "1", stdin=b"a\nb\n")
    described = ask("topic describe", name)
    same("described", (name, made[0]["id"], 2, {"retention.ms": "3600000"}), tuple(described[f] for f in ("name", "id", "records", "settings")))
    same("partitions", [(0, 0, 0), (1, 0, 2), (2, 0, 0)], [(p["partition"], p["start"], p["end"]) for p in described["partitions"]])
    assert described["size_bytes"] == sum(p["size_bytes"] for p in described["partitions"]) > 0, described
    altered = ask("topic alter", name, "--partitions", "5", "--set", "max.message.bytes=2000000", "--unset", "retention.ms")
    same("altered", (5, {"max.message.bytes": "2000000"}), (len(altered["partitions"]), altered["settings"]))
    same("deleted", {"deleted": [name, name + "-b"]}, ask("topic delete", name, name + "-b"))
    assert name not in {t["name"] for t in ask("topic list")["topics"]}


def records():
    """What is produced comes back as documented, and its JSON can be produced again: the copy is the same."""
    topic = create("records", 2)
    sent = ask("produce", topic, "--partition", "0", "--key-separator", ":", "--header", "h=x", stdin="k:v\nschlüssel:wert\n".encode())
    same("sent", (topic, 2, [(0, 2, 0, 1)]), (sent["topic"], sent["records"], [(p["partition"], p["records"], p["first_offset"], p["last_offset"]) for p in sent["partitions"]]))
    binary = {"key": {"base64": "AP8="}, "value": {"base64": base64.b64encode(bytes(range(128, 256))).decode()}, "headers": [{"key": "b", "value": {"base64": "/w=="}}, {"key": "n", "value": None}], "timestamp_ms": 1700000000000}
    empty = {"key": None, "value": None, "headers": [], "timestamp_ms": 1700000000001}
    ask("produce", topic, "--partition", "0", "--input", "json", stdin="".join(json.dumps(r) + "\n" for r in (binary, empty)).encode())
    got = consume(topic)
    same("records", [("k", "v"), ("schlüssel", "wert")], [(r["key"], r["value"]) for r in got[:2]])
    same("headers", [[{"key": "h", "value": "x"}]] * 2, [r["headers"] for r in got[:2]])
    same("bytes and nulls", [binary, empty], [{n: r[n] for n in binary} for r in got[2:]])
    same("place", [(topic, 0, n) for n in range(4)], [(r["topic"], r["partition"], r["offset"]) for r in got])
    same("time as text", "2023-11-14T22:13:20.000Z", got[2]["timestamp"])
    copy = create("copy")
    ask("produce", copy, "--input", "json", stdin=run("consume", topic).stdout)
    content = ("key", "value", "headers", "timestamp_ms", "timestamp")
    same("copy", [[r[n] for n in content] for r in got], [[r[n] for n in content] for r in consume(copy)])
    same("a part", [2], [r["offset"] for r in consume(topic, "--partition", "0", "--from", "2", "--limit", "1")])


def offsets():
    topic, group = create("offsets", 2), fresh("offsets")
    run("produce", topic, "--partition", "0", stdin=b"a\nb\nc\n")
    plain_ones = ask("offsets", topic)
    same("without a group", (3, None, None), (plain_ones["records"], plain_ones["group"], plain_ones["lag"]))
    same("partitions", [(0, 0, 3, 3), (1, 0, 0, 0)], [(p["partition"], p["start"], p["end"], p["records"]) for p in plain_ones["partitions"]])
    run("consume", topic, "--group", group, "--limit", "2")
    mine = ask("offsets", topic, "--group", group, "--at", "1")
    first = mine["partitions"][0]
    same("with a group", (group, 1, 2, 1), (mine["group"], mine["lag"], first["committed"], first["at"]))
    assert mine["lag_ms"] == first["lag_ms"] >= 0, mine


def groups():
    topic, group = create("groups", 2), fresh("groups")
    run("produce", topic, "--partition", "0", stdin=b"a\nb\nc\n")
    follow = subprocess.Popen([MILLRACE, "consume", topic, "--group", group, "--follow", "--output", "json", "--broker", BROKER], stdout=subprocess.PIPE, env=ENVIRONMENT)
    try:
        for _ in range(3):
            fits_record("consume", json.loads(follow.stdout.readline()))
        assert (group, "Stable", "consumer") in {(g["group"], g["state"], g["protocol_type"]) for g in ask("group list")["groups"]}
        described = ask("group describe", group)
        same("described", (group, "Stable", 1), (described["group"], described["state"], described["members"]))
        members = ask("group members", group)
        one = members["members"][0]
        same("member", ("Stable", 1, [(topic, 0), (topic, 1)]), (members["state"], len(members["members"]), sorted((p["topic"], p["partition"]) for p in one["partitions"])))
        refused = run("group", "delete", group, code=1)
        same("refusal", "NON_EMPTY_GROUP", json.loads(refused.stderr)["error"]["reason"])
    finally:
        follow.send_signal(signal.SIGINT)
        follow.communicate(timeout=20)
    same("exit of who was interrupted", 0, follow.returncode)
    deadline = time.monotonic() + 20
    while ask("group describe", group)["state"] != "Empty":
        assert time.monotonic() < deadline, "the group does not become empty"
        time.sleep(0.1)
    described = ask("group describe", group)
    same("committed at the end", (3, 0, 0), (lambda p: (p["committed"], p["lag"], described["lag"]))(described["partitions"][0]))
    dry = ask("group reset-offsets", group, "--topic", topic, "--to", "earliest", "--dry-run")
    real = ask("group reset-offsets", group, "--topic", topic, "--partition", "0", "--to", "1")
    same("dry run", (True, (topic, 0, 3, 0)), (dry["dry_run"], tuple(dry["offsets"][0][n] for n in ("topic", "partition", "before", "after"))))
    same("reset", (False, [(0, 3, 1)]), (real["dry_run"], [(o["partition"], o["before"], o["after"]) for o in real["offsets"]]))
    same("deleted", {"deleted": [group]}, ask("group delete", group))


def configs():
    topic = create("configs")
    changed = ask("config set", "--topic", topic, "retention.ms=7200000", "--unset", "segment.bytes")
    same("set", (topic, {"retention.ms": "7200000", "segment.bytes": None}, False), tuple(changed[n] for n in ("topic", "changed", "dry_run")))
    got = ask("config get", "--topic", topic, "retention.ms")
    same("get", ("topic", topic, [("retention.ms", "7200000", "DYNAMIC_TOPIC_CONFIG")]), (got["resource"], got["topic"], [(s["key"], s["value"], s["source"]) for s in got["settings"]]))
    broker = ask("config get")
    assert broker["resource"] == "broker" and "num.partitions" in {s["key"] for s in broker["settings"]}, broker


def top():
    topic = create("top")
    run("produce", topic, stdin=b"a\nb\n")
    seen = ask("top", "--count", "1", "--interval", "0.5", "--rows", "100000", "--ops", OPS)
    same("topic", [(1, 2)], [(t["partitions"], t["records"]) for t in seen["topics"] if t["topic"] == topic])
    assert seen["broker"]["memory_bytes"] > 0, seen["broker"]


def bench():
    written = ask("bench produce", "--warm-up", "0.1", "--seconds", "0.5")
    assert written["work"] == "produce" and written["records"] > 0 and written["latency_ms"]["p50"] <= written["latency_ms"]["max"], written
    same("read", ("consume", 20000), (lambda r: (r["work"], r["records"]))(ask("bench consume", "--records", "20000")))
    assert written["topic"] not in {t["name"] for t in ask("topic list")["topics"]}, "the topic of the bench stayed"


def doctor():
    """On a test's machine something may be bad: that is exit code 1, and the verdicts say the same."""
    done = run("doctor", "--ops", OPS, code=(0, 1))
    said = json.loads(done.stdout)
    fits("doctor", SHAPES["doctor"], said)
    verdicts = {c["verdict"] for c in said["checks"]}
    assert verdicts <= {"good", "look", "bad", "unknown"} and len(said["checks"]) > 5, said
    same("exit code", 1 if "bad" in verdicts else 0, done.returncode)


def contexts():
    run("context", "add", "here", BROKER, "--ops", OPS, broker=None)
    run("context", "add", "away", "http://127.0.0.1:1", broker=None)
    said = ask("context list", broker=None)
    same("contexts", [("away", "http://127.0.0.1:1", None, False), ("here", BROKER, OPS, True)], sorted((c["name"], c["broker"], c["ops"], c["current"]) for c in said["contexts"]))
    ask("topic list", broker=None)
    run("context", "use", "away", broker=None)
    run("topic", "list", broker=None, code=3)
    ask("topic list", "--context", "here", broker=None)


def errors():
    """Exit codes, and the document on standard error with Kafka's name of the error."""

    def complaint(*words, **how):
        done = run(*words, **how)
        same("standard output", b"", done.stdout)
        lines = done.stderr.decode().splitlines()
        same("lines of the error", 1, len(lines))
        error = json.loads(lines[0])["error"]
        assert {"message"} <= set(error) <= set(SHAPES["error"]["error"]), error
        for name, value in error.items():
            assert isinstance(value, str) and value, (name, value)
        return error

    none = fresh("none")
    error = complaint("topic", "describe", none, code=1)
    same("reason", "UNKNOWN_TOPIC_OR_PARTITION", error["reason"])
    assert none in error["message"], error
    same("reason", "GROUP_ID_NOT_FOUND", complaint("group", "describe", none, code=1)["reason"])
    topic = create("errors")
    same("reason", "TOPIC_ALREADY_EXISTS", complaint("topic", "create", topic, code=1)["reason"])
    same("reason", "INVALID_CONFIG", complaint("config", "set", "--topic", topic, "no.such=1", code=1)["reason"])
    assert "reason" not in complaint("topic", "list", broker="http://127.0.0.1:1", code=3)
    run("topic", "list", "--context", "nowhere", broker=None, code=2)
    run("no-such-command", code=2)


SHAPES = shapes()

if __name__ == "__main__":
    globals()[sys.argv[1]]()
