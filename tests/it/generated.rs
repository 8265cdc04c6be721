//! Code that is generated and committed: proves it current, and with `UPDATE=1` makes it so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::repository::{files, root};

/// Every contract that Rust is generated from, below `proto/`.
const CONTRACTS: &[&str] = &[
    "millrace/v1/record.proto",
    "millrace/v1/produce.proto",
    "millrace/v1/consume.proto",
    "millrace/v1/admin.proto",
];

/// The compiled contracts themselves, for server reflection.
const DESCRIPTORS: &str = "millrace.v1.bin";

/// Compiles the contracts without protoc and returns each generated file's name with its content.
fn generate() -> Vec<(String, Vec<u8>)> {
    let descriptors = protox::compile(CONTRACTS, [root().join("proto")]).unwrap();
    let encoded = descriptors.encode_to_vec();
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .out_dir(out.path())
        .compile_fds(descriptors)
        .unwrap();
    let mut generated: Vec<_> = fs::read_dir(out.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    generated.push((DESCRIPTORS.to_owned(), encoded));
    generated.sort();
    generated
}

#[test]
fn generated_code_is_current() {
    let folder = root().join("proto/src/gen");
    let generated = generate();
    let mut committed: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    committed.sort();
    if std::env::var_os("UPDATE").is_some() {
        committed.iter().for_each(|path| fs::remove_file(path).unwrap());
        generated.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
        return;
    }
    let expected: Vec<PathBuf> = generated.iter().map(|(name, _)| folder.join(name)).collect();
    assert_eq!(committed, expected, "run UPDATE=1 cargo test -p millrace-tests generated");
    for (path, (_, bytes)) in committed.iter().zip(&generated) {
        assert_current(path, bytes);
    }
}

fn assert_current(path: &Path, bytes: &[u8]) {
    let is_current = fs::read(path).unwrap() == bytes;
    assert!(
        is_current,
        "{} is old: UPDATE=1 cargo test -p millrace-tests generated",
        path.display()
    );
}

#[test]
fn every_contract_is_generated_from() {
    let contracts = files("proto/millrace");
    let mut listed: Vec<_> = CONTRACTS.iter().map(|path| format!("proto/{path}")).collect();
    listed.sort();
    assert_eq!(contracts, listed);
}

/// What generators for other languages ask of a contract, and what buf's linter would.
#[test]
fn contracts_suit_generators_of_other_languages() {
    let descriptors = protox::compile(CONTRACTS, [root().join("proto")]).unwrap();
    for file in descriptors.file {
        let name = file.name();
        // Without it protoc-gen-go asks for a flag for each file; all are one package of Go.
        let package = file.options.as_ref().map(|options| options.go_package());
        assert_eq!(package, Some("millrace/v1;millracev1"), "{name}");
        let nested = file.message_type.iter().flat_map(|message| &message.enum_type);
        for it in file.enum_type.iter().chain(nested) {
            let prefix = shouted(it.name());
            let values: Vec<_> = it.value.iter().map(|value| value.name()).collect();
            assert_eq!(values[0], format!("{prefix}_UNSPECIFIED"), "{name}");
            let strange = values.iter().find(|value| !value.starts_with(&prefix));
            assert_eq!(strange, None, "{name}: in C++ values of all enums share one scope");
        }
        for call in file.service.iter().flat_map(|service| &service.method) {
            assert!(call.input_type().ends_with("Request"), "{name}");
            assert!(call.output_type().ends_with("Response"), "{name}");
        }
    }
}

/// `StartAt` as the prefix of its values: `START_AT`.
fn shouted(name: &str) -> String {
    let mut shouted = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !shouted.is_empty() {
            shouted.push('_');
        }
        shouted.push(letter.to_ascii_uppercase());
    }
    shouted
}
