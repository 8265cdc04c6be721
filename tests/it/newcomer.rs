//! What somebody meets who does not know the command line yet: wrong words, wrong ports, wrong files. Each time it must say
//! what is wrong, in words that are not those of the code, and what to do.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use millrace_tests::ask::fresh;

use crate::broker::broker;
use crate::cli::{bare, command, done, done_with, refused, run};

#[test]
fn what_is_not_there_is_named_with_what_to_do() {
    let broker = broker(&[]);
    let missing = fresh("missing");
    for arguments in [
        &["topic", "describe"][..],
        &["topic", "delete"],
        &["topic", "alter", "-p", "9"],
        &["consume"],
        &["offsets"],
        &["config", "get", "--topic"],
    ] {
        let ended = run(command(&broker, &[arguments, &[&missing]].concat()), b"");
        let words = format!("topic {missing} does not exist on this broker");
        refused(&ended, 1, &[&words, "millrace topic list", "millrace topic create"]);
    }
    let topic = fresh("there");
    done(&broker, &["topic", "create", &topic, "--partitions", "2"]);
    let fewer = run(command(&broker, &["topic", "alter", &topic, "-p", "2"]), b"");
    refused(&fewer, 1, &["2 is not more than the number of partitions that the topic has, 2"]);
    let like = run(command(&broker, &["config", "get", "--topic", &topic, "retention"]), b"");
    refused(&like, 1, &["has no setting retention", "did you mean retention."]);
    let unlike = run(command(&broker, &["config", "get", "zzz"]), b"");
    refused(&unlike, 1, &["the broker has no setting zzz", "lists them all"]);
}

#[test]
fn a_row_of_deletions_says_how_far_it_came() {
    let broker = broker(&[]);
    let (first, last) = (fresh("first"), fresh("last"));
    done(&broker, &["topic", "create", &first, &last]);
    let ended = run(command(&broker, &["topic", "delete", &first, "not-there", &last]), b"");
    refused(&ended, 1, &["cannot delete topic not-there", &format!("(deleted before: {first})")]);
    done(&broker, &["topic", "describe", &last]);
}

#[test]
fn numbers_and_words_that_are_none_are_told_in_plain_words() {
    for (arguments, words) in [
        (&["topic", "create", "a", "-p", "three"][..], &["--partitions", "no whole number"][..]),
        (&["topic", "create", "a", "-p", "99999999999"], &["--partitions", "99999999999"]),
        (&["consume", "a", "--limit", "many"], &["--limit", "no whole number"]),
        (&["group", "list", "--state", "Bogus"], &["Empty", "PreparingRebalance", "Stable"]),
        (&["bench", "produce", "--seconds", "0"], &["--seconds", "from 0.1"]),
        (&["consume", "a", "--from", "yesterday"], &["earliest", "2026-01-02T03:04:05Z", "-15m"]),
        (&["topics", "list"], &["similar", "topic"]),
    ] {
        let ended = run(bare(arguments), b"");
        refused(&ended, 2, words);
        assert!(!ended.stderr.contains("digit"), "{}", ended.stderr);
    }
}

#[test]
fn times_need_no_letters() {
    let broker = broker(&[]);
    let topic = fresh("times");
    done(&broker, &["topic", "create", &topic, "--partitions", "1"]);
    let old = br#"{"value":"old","timestamp_ms":1767323045000}"#;
    done_with(&broker, &["produce", &topic, "--input", "json"], old);
    done_with(&broker, &["produce", &topic], b"new");
    for (time, read) in [
        ("2026-01-02 03:04:05", "old\nnew\n"),
        ("2026-01-02T03:04", "old\nnew\n"),
        ("2026-01-02 03:04:06", "new\n"),
    ] {
        assert_eq!(done(&broker, &["consume", &topic, "--from", time]), read, "{time}");
    }
}

#[test]
fn a_wrong_port_is_told_as_such() {
    let broker = broker(&[]);
    let advice = "is it the broker's gRPC port (9095";
    let url = format!("http://{}", broker.http);
    let ended = run(bare(&["topic", "list", "--broker", &url]), b"");
    refused(&ended, 1, &["cannot list topics", advice]);
    // The Kafka door closes what is no frame of Kafka's. The command goes on trying, but not in silence.
    let url = format!("http://{}", broker.kafka);
    let mut tries = bare(&["topic", "list", "--broker", &url]);
    let mut tries = tries.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(tries.stderr.take().unwrap()).read_line(&mut said).unwrap();
    let is_running = tries.try_wait().unwrap().is_none();
    let _ = tries.kill();
    tries.wait().unwrap();
    assert!(said.contains(advice) && said.contains("still trying") && is_running, "{said}");
    let groups = run(command(&broker, &["group", "describe", "nobody"]), b"");
    refused(&groups, 1, &["millrace group list"]);
    assert!(!groups.stderr.contains("9095 by default"), "{}", groups.stderr);
}

#[test]
fn what_cannot_be_read_or_written_is_named() {
    let broker = broker(&[]);
    let topic = fresh("files");
    done(&broker, &["topic", "create", &topic]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("huge");
    for path in [folder.path(), &folder.path().join("missing")] {
        let path = path.to_str().unwrap();
        let ended = run(command(&broker, &["produce", &topic, "--file", path]), b"");
        refused(&ended, 1, &["cannot read", path]);
        assert!(!ended.stderr.contains("acknowledged"), "nothing was: {}", ended.stderr);
    }
    std::fs::write(&file, vec![b'x'; 3 << 20]).unwrap();
    let ended = run(command(&broker, &["produce", &topic, "--file", file.to_str().unwrap()]), b"");
    refused(&ended, 1, &["larger than max.message.bytes", "millrace config set"]);
    // A mistake in the midst: what stood before it is safe, and counted.
    let two = b"{\"value\":\"a\"}\n{\"value\":\"b\"}\nno json\n";
    let ended = run(command(&broker, &["produce", &topic, "--input", "json"]), two);
    refused(&ended, 1, &["line 3", "no record in JSON", "(2 records acknowledged before)"]);
    let topic = fresh("bytes");
    // What is no text comes out as it went in.
    let bytes = b"a\xff\xfe\0b";
    done_with(&broker, &["produce", &topic], bytes);
    let record = done(&broker, &["consume", &topic, "--format", "json"]);
    assert!(record.contains(r#""value":{"base64":"Yf/+AGI="}"#), "{record}");
}
