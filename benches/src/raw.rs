//! What the disk gives without a broker: the loop of a group commit. Append to each of some files, make all durable, again.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{fdatasync, syncfs};
use serde::{Deserialize, Serialize};

use crate::batch::Noise;
use crate::clock;
use crate::error::LoadError;
use crate::histogram::{Histogram, Latency};

/// One loop to be measured.
#[derive(Clone, Debug)]
pub struct RawPlan {
    /// Where the files come and go.
    pub directory: PathBuf,
    pub files: usize,
    /// Written to each file before each sync.
    pub bytes: usize,
    pub sync: SyncCall,
    /// Write over bytes that are there, so that no file grows and no journal commit is needed.
    pub overwrite: bool,
    pub measure: Duration,
    pub total_bytes_max: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SyncCall {
    /// One file: fdatasync; more: one syncfs.
    Auto,
    /// One after the other.
    Fdatasync,
    Syncfs,
}

/// What a loop gave; latency is that of the sync alone.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct RawReport {
    pub groups_per_second: f64,
    pub mb_per_second: f64,
    /// Write and sync.
    pub group: Latency,
    /// The sync alone.
    pub sync: Latency,
}

/// Runs the loop; its files are gone afterwards.
///
/// # Errors
/// When the disk refuses.
pub fn run(plan: &RawPlan) -> Result<RawReport, LoadError> {
    let directory = plan.directory.join(format!("raw-{}", std::process::id()));
    fs::create_dir_all(&directory).map_err(LoadError::io("making the directory"))?;
    let outcome = run_in(plan, &directory);
    fs::remove_dir_all(&directory).map_err(LoadError::io("removing the directory"))?;
    outcome
}

fn run_in(plan: &RawPlan, directory: &Path) -> Result<RawReport, LoadError> {
    let io = LoadError::io("writing");
    let mut noise = Noise(1);
    let body: Vec<u8> = (0..plan.bytes).map(|_| (noise.number() >> 32) as u8).collect();
    let mut files = Vec::with_capacity(plan.files);
    for index in 0..plan.files {
        let mut file = File::create(directory.join(index.to_string())).map_err(&io)?;
        if plan.overwrite {
            file.write_all(&body).map_err(&io)?;
        }
        files.push(file);
    }
    rustix::fs::sync();
    let (mut groups, mut syncs) = (Histogram::default(), Histogram::default());
    let begin = clock::now();
    let end = begin + plan.measure.as_nanos() as u64;
    let group_bytes = (plan.bytes * plan.files) as u64;
    let mut at = 0;
    loop {
        let start = clock::now();
        if start >= end || groups.count() * group_bytes >= plan.total_bytes_max {
            break;
        }
        for file in &files {
            file.write_all_at(&body, at).map_err(&io)?;
        }
        at += if plan.overwrite { 0 } else { plan.bytes as u64 };
        let written = clock::now();
        sync(plan.sync, &files)?;
        let done = clock::now();
        syncs.record(done - written);
        groups.record(done - start);
    }
    let seconds = clock::seconds(clock::now() - begin);
    let per_second = groups.count() as f64 / seconds;
    Ok(RawReport {
        groups_per_second: per_second,
        mb_per_second: per_second * group_bytes as f64 / 1e6,
        group: groups.summary(),
        sync: syncs.summary(),
    })
}

fn sync(call: SyncCall, files: &[File]) -> Result<(), LoadError> {
    let os = LoadError::os("syncing");
    let whole = call == SyncCall::Syncfs || (call == SyncCall::Auto && files.len() > 1);
    match files.first() {
        Some(first) if whole => syncfs(first).map_err(os),
        _ => files.iter().try_for_each(|file| fdatasync(file).map_err(&os)),
    }
}
