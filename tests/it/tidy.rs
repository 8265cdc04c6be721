//! The walls and the map: what the compiler cannot check of the house rules, read from the sources.

use std::collections::BTreeSet;

use crate::repository::{files, read, root};

/// One package: where it lives, which of ours it may use, which outside crates. Dev-dependencies may be more.
struct Package {
    folder: &'static str,
    ours: &'static [&'static str],
    /// `None`: as needed.
    outside: Option<&'static [&'static str]>,
    /// Words that its code must not contain, each with the files (or folders, ending in `/`) that may.
    banned: &'static [(&'static str, &'static [&'static str])],
}

const PACKAGES: &[Package] = &[
    Package {
        folder: "broker/model",
        ours: &[],
        outside: Some(&[
            "base64",
            "bytes",
            "crc-fast",
            "crc32fast",
            "flate2",
            "lz4_flex",
            "snap",
            "thiserror",
            "zstd",
        ]),
        banned: &[
            ("std::fs", &[]),
            ("std::net", &[]),
            ("std::thread", &[]),
            ("Instant", &[]),
            ("SystemTime", &[]),
            ("tracing", &[]),
            ("async", &[]),
            ("unsafe", &[]),
        ],
    },
    Package {
        folder: "broker/storage",
        ours: &["millrace-model"],
        outside: Some(&[
            "bytes",
            "crc32fast",
            "libc",
            "memmap2",
            "rustix",
            "signal-hook-registry",
            "thiserror",
            "tracing",
        ]),
        banned: &[
            ("tokio", &[]),
            ("async", &[]),
            ("std::thread", &[]),
            ("Instant", &[]),
            ("SystemTime", &[]),
            ("HashMap", &[]),
            ("HashSet", &[]),
            ("std::fs", &["disk/"]),
            ("std::net", &[]),
            ("memmap2", &["disk/mmap.rs"]),
            ("unsafe", &["disk/mmap.rs"]),
        ],
    },
    Package {
        folder: "broker/kernel",
        ours: &["millrace-model", "millrace-storage"],
        outside: Some(&["bytes", "prost", "thiserror", "tracing"]),
        banned: &[
            ("tokio", &[]),
            ("async", &[]),
            ("std::fs", &[]),
            ("std::net", &[]),
            ("std::thread", &[]),
            ("Instant", &[]),
            ("SystemTime", &[]),
            ("rand", &[]),
            ("HashMap", &[]),
            ("HashSet", &[]),
            ("unsafe", &[]),
        ],
    },
    Package {
        folder: "broker/wire",
        ours: &[],
        outside: Some(&["bytes", "kafka-protocol", "thiserror", "uuid"]),
        banned: &[
            ("tokio", &[]),
            ("async", &[]),
            ("std::fs", &[]),
            ("std::net", &[]),
            ("std::thread", &[]),
            ("kafka_protocol", &["cold.rs", "cold/"]),
            ("unsafe", &[]),
        ],
    },
    Package {
        folder: "proto",
        ours: &[],
        outside: Some(&["prost", "tonic", "tonic-prost"]),
        banned: &[("unsafe", &[])],
    },
    Package {
        folder: "client",
        ours: &["millrace-model", "millrace-proto"],
        outside: None,
        banned: &[("tonic_prost", &[]), ("unsafe", &[])],
    },
    Package {
        folder: "broker",
        ours: &[
            "millrace-client",
            "millrace-kernel",
            "millrace-model",
            "millrace-proto",
            "millrace-storage",
            "millrace-wire",
        ],
        outside: None,
        banned: &[
            ("kafka_protocol", &[]),
            ("memmap2", &[]),
            ("unsafe", &[]),
            ("millrace_wire", &["kafka.rs", "kafka/", "error/", "metrics.rs"]),
            ("millrace_proto", &["grpc.rs", "grpc/"]),
            ("tonic", &["grpc.rs", "grpc/"]),
            ("axum", &["ops/"]),
            ("clap", &["cli.rs", "cli/"]),
        ],
    },
];

/// Inside the shell: what a room may not import.
const ROOMS: &[(&str, &[&str])] = &[
    ("kafka", &["grpc", "ops", "cli", "node"]),
    ("grpc", &["kafka", "ops", "cli", "node"]),
    ("ops", &["kafka", "grpc", "cli", "node", "service", "partition", "controller"]),
    ("service", &["kafka", "grpc", "ops", "cli", "node"]),
    ("partition", &["kafka", "grpc", "cli", "node"]),
    ("controller", &["kafka", "grpc", "ops", "cli", "node"]),
    ("metrics", &["kafka", "grpc", "ops", "cli", "node", "service", "partition", "controller"]),
    ("config", &["kafka", "grpc", "ops", "cli", "node", "service", "partition", "controller"]),
];

#[test]
fn arrows_between_crates_point_down() {
    for package in PACKAGES {
        for name in dependencies(package.folder) {
            let allowed = match (name.starts_with("millrace"), package.outside) {
                (true, _) => package.ours.contains(&name.as_str()),
                (false, Some(outside)) => outside.contains(&name.as_str()),
                (false, None) => true,
            };
            assert!(
                allowed,
                "{} must not depend on {name}: architecture's table of arrows",
                package.folder
            );
        }
    }
}

/// The names under `[dependencies]`, also those of one platform.
fn dependencies(folder: &str) -> Vec<String> {
    let manifest = read(&format!("{folder}/Cargo.toml"));
    let mut in_section = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_section = line.ends_with("dependencies]") && !line.contains("dev-");
        } else if in_section && let Some(name) = line.split(['.', ' ', '=']).next() {
            names.extend((!name.is_empty() && !name.starts_with('#')).then(|| name.to_owned()));
        }
    }
    names
}

#[test]
fn no_crate_contains_what_its_wall_keeps_out() {
    for package in PACKAGES {
        for path in sources(package.folder) {
            let inside = inside(package.folder, &path);
            if inside.starts_with("gen/") {
                continue;
            }
            let code = code_of(&path);
            for (word, homes) in package.banned {
                let is_home = homes.iter().any(|home| is_in(inside, home));
                assert!(is_home || !contains_word(&code, word), "{path} must not say {word}");
            }
        }
    }
}

#[test]
fn unsafe_code_has_one_home() {
    for package in PACKAGES {
        let face = match package.folder {
            "broker" => "broker/src/lib.rs".to_owned(),
            folder => format!("{folder}/src/lib.rs"),
        };
        let wanted = match package.folder {
            "broker/storage" => "#![deny(unsafe_code)]",
            // Its tests count allocations, which takes an unsafe trait.
            "broker/wire" => "#![cfg_attr(not(test), forbid(unsafe_code))]",
            _ => "#![forbid(unsafe_code)]",
        };
        assert!(read(&face).contains(wanted), "{face} must say {wanted}");
    }
}

#[test]
fn doors_do_not_use_each_other_and_the_hall_knows_neither() {
    for path in sources("broker") {
        let inside = inside("broker", &path);
        let imports = imports(&code_of(&path));
        for (room, forbidden) in ROOMS {
            if !is_in(inside, &format!("{room}/")) && inside != format!("{room}.rs") {
                continue;
            }
            for other in *forbidden {
                // The state of health is told to the ops door by the rooms whose health it is.
                let is_told = *other == "ops" && imports.contains("ops::health");
                assert!(!imports.contains(*other) || is_told, "{path} must not use crate::{other}");
            }
        }
        if is_in(inside, "cli/") && inside != "cli/serve.rs" {
            let outside: Vec<_> = imports.iter().filter(|it| !it.starts_with("cli")).collect();
            assert!(outside.is_empty(), "{path} uses {outside:?}: only cli/serve.rs may");
        }
    }
}

#[test]
fn every_room_is_on_the_map_and_the_map_names_no_other() {
    let map = read("broker/ARCHITECTURE.md");
    let sections: Vec<_> = map.split("\n#### ").skip(1).collect();
    let mut mapped = BTreeSet::new();
    for section in sections {
        let folder = section.split([':', '\n', ' ']).next().expect("a heading has a word");
        mapped.insert(folder.to_owned());
        let listing =
            section.split("```").nth(1).unwrap_or_else(|| panic!("{folder} lists nothing"));
        check_section(folder, listing);
    }
    for package in PACKAGES {
        let folder = source_folder(package.folder);
        assert!(mapped.contains(&folder), "the map has no section for {folder}");
    }
}

/// A listing names each file below `folder`, or its folder as `x/*.rs`, and nothing that does not exist.
fn check_section(folder: &str, listing: &str) {
    let words = listing.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '(' | ')'));
    let named: BTreeSet<&str> = words.filter(|word| word.ends_with(".rs")).collect();
    let files: Vec<String> =
        files(folder).into_iter().filter(|path| path.ends_with(".rs")).collect();
    for path in &files {
        let inside = &path[folder.len() + 1..];
        let (parent, name) = inside.rsplit_once('/').unwrap_or(("", inside));
        let is_apart = name == "tests.rs" || parent.ends_with("tests") || parent == "gen";
        let by_folder = named.contains(format!("{parent}/*.rs").as_str());
        assert!(is_apart || by_folder || named.contains(inside), "{path} is not on the map");
    }
    for name in named {
        let exists = match name.strip_suffix("*.rs") {
            Some(parent) => {
                files.iter().any(|path| path.starts_with(&format!("{folder}/{parent}")))
            }
            None => files.contains(&format!("{folder}/{name}")),
        };
        assert!(exists, "the map names {folder}/{name}, which does not exist");
    }
}

#[test]
fn every_module_says_what_lives_in_it() {
    for path in all_sources() {
        let text = read(&path);
        let says = text.starts_with("//!") || path.contains("/gen/") || path.ends_with("/tests.rs");
        assert!(says, "{path} must begin with //!");
        let unfinished = ["TODO", "FIXME", "XXX"].iter().find(|word| contains_word(&text, word));
        assert!(unfinished.is_none() || path.ends_with("it/tidy.rs"), "{path} says {unfinished:?}");
    }
}

#[test]
fn the_top_level_is_the_agreed_one() {
    let agreed = [
        ".cargo",
        ".ci",
        ".git",
        ".gitignore",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "benches",
        "broker",
        "client",
        "clippy.toml",
        "deny.toml",
        "proto",
        "rustfmt.toml",
        "tests",
    ];
    let left_by_runs = ["target", "millrace-data"];
    for entry in std::fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = agreed.contains(&name.as_str()) || left_by_runs.contains(&name.as_str());
        assert!(known, "{name} has no place at the top level");
    }
}

#[test]
fn every_promise_names_tests_that_exist() {
    let promises = read("broker/docs/guarantees.md");
    let tests = all_test_names();
    let mut count = 0;
    for paragraph in promises.split("\n## ").skip(1) {
        let title = paragraph.lines().next().unwrap_or_default();
        let Some((_, proof)) = paragraph.split_once("Held by") else {
            panic!("the promise {title:?} does not say what holds it");
        };
        let named: Vec<_> = proof.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "the promise {title:?} names no test");
        for name in named {
            let exists = tests.contains(name) || root().join(name).exists();
            assert!(exists, "the promise {title:?} names {name}, which does not exist");
        }
        count += 1;
    }
    assert!(count > 0);
}

/// Every function of the repository that follows a `#[test]`, or stands inside `proptest!`.
fn all_test_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in all_sources() {
        let text = read(&path);
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            if let Some(at) = line.find("fn ").filter(|_| is_test) {
                let name = line[at + 3..].split(['(', '<']).next().unwrap_or_default();
                names.insert(name.to_owned());
                is_test = false;
            }
        }
    }
    names
}

/// Every Rust file of the repository.
fn all_sources() -> Vec<String> {
    let folders = ["benches", "broker", "client", "proto", "tests/it", "tests/src"];
    let paths = folders.iter().flat_map(|folder| files(folder));
    paths.filter(|path| path.ends_with(".rs")).collect()
}

fn source_folder(folder: &str) -> String {
    format!("{folder}/src")
}

/// The Rust files of a package, tests apart.
fn sources(folder: &str) -> Vec<String> {
    let is_source = |path: &String| {
        path.ends_with(".rs") && !path.ends_with("/tests.rs") && !path.contains("/tests/")
    };
    files(&source_folder(folder)).into_iter().filter(is_source).collect()
}

fn inside<'a>(folder: &str, path: &'a str) -> &'a str {
    &path[source_folder(folder).len() + 1..]
}

/// `home` is a file, or a folder when it ends in `/`.
fn is_in(inside: &str, home: &str) -> bool {
    if home.ends_with('/') { inside.starts_with(home) } else { inside == home }
}

/// A file without its comments and without the tests at its end.
fn code_of(path: &str) -> String {
    let text = read(path);
    let code = match text.find("#[cfg(test)]\nmod tests {") {
        Some(tests) => &text[..tests],
        None => &text,
    };
    let mut out = String::new();
    for line in code.lines() {
        let line = line.split("//").next().unwrap_or_default();
        if !line.contains("unsafe_code") {
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

/// Is `word` there as a word of its own, not as a part of another name?
fn contains_word(code: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

/// What a file takes from `crate::`, one and two names deep: `use crate::{a, b::c}` gives a, b and b::c.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, start) in code.match_indices("crate::") {
        let rest = &code[at + start.len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                for item in split_group(group) {
                    add_import(&mut found, item.trim());
                }
            }
            None => add_import(&mut found, rest),
        }
    }
    found
}

fn add_import(found: &mut BTreeSet<String>, path: &str) {
    let end = path.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    let mut names = path[..end.unwrap_or(path.len())].split("::").filter(|name| !name.is_empty());
    let Some(first) = names.next() else { return };
    found.insert(first.to_owned());
    if let Some(second) = names.next() {
        found.insert(format!("{first}::{second}"));
    }
}

/// The items of a `{...}` whose brace is already taken, split at its own commas.
fn split_group(group: &str) -> Vec<&str> {
    let mut depth = 0;
    let mut items = Vec::new();
    let mut from = 0;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&group[from..at]);
                return items;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&group[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    items
}

#[test]
fn imports_are_read_from_groups_too() {
    let code = "use crate::{grpc, ops::health::{self, Health}};\nlet x = crate::kafka::run();";
    let found: Vec<_> = imports(code).into_iter().collect();
    assert_eq!(found, ["grpc", "kafka", "kafka::run", "ops", "ops::health"]);
}
