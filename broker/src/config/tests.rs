use super::*;

fn env(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn refused(raw: RawConfig) -> String {
    raw.check().expect_err("these settings are wrong").to_string()
}

#[test]
fn nothing_given_is_the_ready_broker_of_the_readme() {
    let config = RawConfig::default().check().unwrap();
    assert_eq!(config.data_dir, Path::new("./millrace-data"));
    assert_eq!(config.kafka_listen.to_string(), "127.0.0.1:9092");
    assert_eq!(config.grpc_listen.to_string(), "127.0.0.1:9095");
    assert_eq!(config.http_listen.to_string(), "127.0.0.1:9644");
    assert_eq!(config.node_id, NodeId(1));
    assert!(config.auto_create_topics);
    assert!(config.settings().all(|setting| setting.origin.is_none()));
}

#[test]
fn keys_are_unique_and_environment_variables_name_exactly_one() {
    let mut names: Vec<_> = keys::KEYS.iter().map(|key| key.name).collect();
    for name in &names {
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'.'), "{name}");
    }
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(keys::KAFKA_ONLY.iter().all(|(name, _)| keys::find(name).is_none()));
}

#[test]
fn flags_overrule_environment_overrules_file() {
    let config = RawConfig::default()
        .file_text(Path::new("f"), "num.partitions=2\ngroup.max.size=7\nfetch.max.bytes=2048")
        .environment(env(&[
            ("MILLRACE_NUM_PARTITIONS", "3"),
            ("MILLRACE_GROUP_MAX_SIZE", "8"),
            ("HOME", "/"),
        ]))
        .assignment("num.partitions=4")
        .check()
        .unwrap();
    assert_eq!(config.num_partitions, 4);
    assert_eq!(config.group_size_max, 8);
    assert_eq!(config.fetch_max_bytes, 2048);
    let given = config.settings().find(|setting| setting.key.name == "fetch.max.bytes").unwrap();
    let origin = Origin::File { path: "f".into(), line: 3 };
    assert_eq!((given.value, given.origin), ("2048", Some(&origin)));
}

#[test]
fn kafkas_families_resolve_as_in_kafka() {
    let config = |text: &str| RawConfig::default().file_text(Path::new("f"), text).check().unwrap();
    assert_eq!(config("broker.id=5").node_id, NodeId(5));
    assert_eq!(config("node.id=6\nbroker.id=5").node_id, NodeId(6));
    assert_eq!(config("log.dir=a").data_dir, Path::new("a"));
    assert_eq!(config("log.dirs=b\nlog.dir=a").data_dir, Path::new("b"));
}

#[test]
fn every_topic_setting_with_a_twin_has_its_row_and_its_default() {
    let config = RawConfig::default().check().unwrap();
    assert_eq!(config.topic_defaults, TopicConfig::default());
    for row in topic_config::ROWS {
        let Some(name) = row.broker_name else { continue };
        let key = keys::find(name).unwrap_or_else(|| panic!("{name} has no row"));
        assert_eq!(key.kind, row.kind, "{name}");
        assert!(key.default == row.default || key.default.is_empty(), "{name}");
        assert_eq!(keys::family(row)[0], (name, 1));
        assert!(keys::family(row).iter().all(|(member, _)| keys::find(member).is_some()));
    }
}

#[test]
fn the_brokers_default_of_a_topic_setting_comes_in_the_topics_unit() {
    let shown = |assignments: &[&str]| {
        let raw = assignments.iter().fold(RawConfig::default(), |raw, text| raw.assignment(text));
        let config = raw.check().unwrap();
        let row = topic_config::row("retention.ms").unwrap();
        let default = config.topic_default(row);
        let shown = default.map(|setting| (setting.key.name, setting.value.to_owned()));
        (config.topic_defaults.retention_ms, shown)
    };
    let hours = ("log.retention.hours", "7200000".to_owned());
    let minutes = ("log.retention.minutes", "180000".to_owned());
    let forever = ("log.retention.ms", "-1".to_owned());
    assert_eq!(shown(&[]), (604_800_000, None));
    assert_eq!(shown(&["log.retention.hours=2"]), (7_200_000, Some(hours)));
    let both = ["log.retention.hours=2", "log.retention.minutes=3"];
    assert_eq!(shown(&both), (180_000, Some(minutes)));
    let all = ["log.retention.hours=2", "log.retention.minutes=3", "log.retention.ms=-1"];
    assert_eq!(shown(&all), (-1, Some(forever)));
    let told = refused(RawConfig::default().assignment("log.segment.bytes=10"));
    assert!(told.ends_with("it must be from 1048576 to 2147483647"), "{told}");
}

#[test]
fn unknown_keys_are_refused_with_advice() {
    for (key, expected) in [
        ("num.partition", "did you mean num.partitions?"),
        ("auto.create.topic.enable", "did you mean auto.create.topics.enable?"),
        ("kafka.listen", "--help-settings"),
        ("process.roles", "though Kafka has it: every broker is its own controller"),
        ("xyzzy", "--help-settings"),
    ] {
        let told = refused(RawConfig::default().assignment(&format!("{key}=1")));
        assert!(told.starts_with(&format!("flag --set: there is no setting {key}")), "{told}");
        assert!(told.contains(expected), "{told}");
    }
    let told = refused(RawConfig::default().environment(env(&[("MILLRACE_NUM_PARTITION", "1")])));
    assert!(told.starts_with("environment variable MILLRACE_NUM_PARTITION: "), "{told}");
}

#[test]
fn every_problem_is_told_with_its_place() {
    let told = refused(
        RawConfig::default()
            .file_text(Path::new("f.properties"), "num.partitions=many\n\nnum.partitions=2")
            .assignment("group.max.size")
            .assignment("fetch.max.bytes=1")
            .flag("--grpc-listen", "grpc.listen", "nowhere".to_owned()),
    );
    let mut lines: Vec<_> = told.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "f.properties, line 1: num.partitions = \"many\": it is no whole number",
            "f.properties, line 3: num.partitions is given twice, first on line 1",
            "flag --grpc-listen: grpc.listen = \"nowhere\": it has no port; write HOST:PORT, for \
             example 127.0.0.1:9092",
            "flag --set: \"group.max.size\" is no key=value",
            "flag --set: fetch.max.bytes = \"1\": it must be from 1024 to 2147483647",
        ]
    );
}

#[test]
fn listeners_beyond_loopback_need_the_flag_that_says_insecure() {
    let raw = || RawConfig::default().assignment("listeners=PLAINTEXT://:9092");
    let told = refused(raw());
    assert!(told.contains("no authentication") && told.contains("--insecure-public-listeners"));
    let config = raw().assignment("insecure.public.listeners=true").check().unwrap();
    assert!(config.kafka_listen.is_wildcard());
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (assignments, expected) in [
        (
            ["group.min.session.timeout.ms=10", "group.max.session.timeout.ms=9"],
            "group.min.session.timeout.ms = 10 is above group.max.session.timeout.ms = 9",
        ),
        (
            ["queued.max.request.bytes=1048576", "socket.request.max.bytes=2000000"],
            "socket.request.max.bytes = 2000000 is above queued.max.request.bytes = 1048576",
        ),
        (
            ["advertised.listeners=PLAINTEXT://:9092", "num.partitions=1"],
            "advertised.listeners = 0.0.0.0:9092 cannot be told to clients: give a host that they \
             can reach",
        ),
    ] {
        let raw = assignments.iter().fold(RawConfig::default(), |raw, text| raw.assignment(text));
        assert_eq!(refused(raw), expected);
    }
}

#[test]
fn spans_go_where_they_can_be_sent() {
    let given = |text: &str| RawConfig::default().assignment(text);
    assert_eq!(RawConfig::default().check().unwrap().tracing_otlp_endpoint, None);
    for text in ["http://127.0.0.1:4317", "http://127.0.0.1:4317/"] {
        let config = given(&format!("tracing.otlp.endpoint={text}")).check().unwrap();
        assert_eq!(config.tracing_otlp_endpoint.unwrap().to_string(), "127.0.0.1:4317");
    }
    for text in ["https://collector:4317", "collector:4317", "http://collector", "http://"] {
        refused(given(&format!("tracing.otlp.endpoint={text}")));
    }
    for (text, ratio) in [("0", 0.0), ("0.25", 0.25), ("1", 1.0)] {
        let config = given(&format!("tracing.otlp.sample.ratio={text}")).check().unwrap();
        assert_eq!(config.tracing_otlp_sample_ratio, ratio);
    }
    for text in ["-0.1", "1.5", "NaN", "all", ""] {
        refused(given(&format!("tracing.otlp.sample.ratio={text}")));
    }
}

#[test]
fn a_duration_without_end_is_a_century_and_not_an_overflow() {
    for value in ["-1", &i64::MAX.to_string()] {
        let raw = RawConfig::default().assignment(&format!("connections.max.idle.ms={value}"));
        let idle = raw.check().unwrap().connections_max_idle;
        assert!(std::time::Instant::now().checked_add(idle).is_some());
    }
}
