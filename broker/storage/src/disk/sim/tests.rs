//! The simulated disk keeps its promises, the bad ones too.

use super::*;
use crate::disk::{read_file, write_all};

fn write(disk: &SimDisk, path: &str, bytes: &[u8]) -> SimFile {
    let file = disk.open(Path::new(path), OpenMode::OpenOrCreate).unwrap();
    write_all(&file, &mut [IoSlice::new(bytes)], 0).unwrap();
    file
}

fn read(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    read_file(disk, Path::new(path)).ok()
}

#[test]
fn only_what_was_synced_surely_survives() {
    let (mut gone, mut torn) = (0, 0);
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        write(&disk, "a", &[1; 10_000]).sync().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let file = write(&disk, "b", &[2; 10_000]);
        file.sync().unwrap();
        let file = write(&disk, "a", &[3; 10_000]);
        drop(file);
        let after = disk.crash();
        let a = read(&after, "a").unwrap();
        assert!(a.iter().all(|byte| [1, 3].contains(byte)));
        torn += u32::from(a.contains(&1) && a.contains(&3));
        match read(&after, "b") {
            None => gone += 1,
            Some(bytes) => assert_eq!(bytes, [2; 10_000]),
        }
        assert!(disk.exists(Path::new("a")).is_err(), "the old disk is dead");
    }
    assert!(gone > 10 && torn > 10, "{gone} {torn}");
}

#[test]
fn sync_all_covers_bytes_and_names() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        disk.create_dir(Path::new("/d")).unwrap();
        write(&disk, "/d/a", b"x");
        disk.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
        disk.sync_all().unwrap();
        assert_eq!(read(&disk.crash(), "/d/b").unwrap(), b"x");
    }
}

#[test]
fn a_failed_sync_is_told_once_and_the_next_one_lies() {
    let disk = SimDisk::new(1);
    let file = write(&disk, "a", b"old");
    disk.sync_all().unwrap();
    let other = disk.open(Path::new("a"), OpenMode::ReadWrite).unwrap();
    write(&disk, "a", b"new");
    disk.fault_at(disk.operations() + 1, Fault::Eio);
    assert!(file.sync().is_err());
    assert!(file.sync().is_ok());
    assert!(other.sync().is_err());
    assert!(disk.sync_all().is_err());
    assert!(disk.sync_all().is_ok());
    assert_eq!(read(&disk, "a").unwrap(), b"new");
    assert_eq!(read(&disk.crash(), "a").unwrap(), b"old");
}

#[test]
fn a_full_disk_takes_what_fits() {
    let disk = SimDisk::new(1);
    disk.set_capacity(10);
    let file = disk.open(Path::new("a"), OpenMode::Create).unwrap();
    assert_eq!(file.write_at(&[IoSlice::new(&[1; 20])], 0).unwrap(), 10);
    let error = file.write_at(&[IoSlice::new(&[1; 20])], 10).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.write_at(&[IoSlice::new(&[2; 5])], 3).unwrap(), 5);
}

#[test]
#[should_panic(expected = "under a live slice")]
fn bytes_under_a_live_slice_must_not_change() {
    let disk = SimDisk::new(1);
    let file = write(&disk, "a", b"hello");
    let slice = file.map(100).unwrap().slice(1..3);
    file.write_at(&[IoSlice::new(b"h")], 0).unwrap();
    file.write_at(&[IoSlice::new(b"e")], 1).unwrap();
    assert_eq!(slice, "el");
    file.write_at(&[IoSlice::new(b"x")], 2).unwrap();
}

#[test]
#[should_panic(expected = "under a live slice")]
fn a_file_must_not_be_cut_under_a_live_slice() {
    let disk = SimDisk::new(1);
    let file = write(&disk, "a", b"hello");
    let _slice = file.map(100).unwrap().slice(1..3);
    file.truncate(3).unwrap();
    file.truncate(2).unwrap();
}
