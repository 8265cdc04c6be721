//! Read-only maps of files, slices of them as `Bytes`, and the guard that turns SIGBUS into a poisoned map.
//!
//! The only home of `unsafe` in the broker. What makes it sound, and who keeps it so:
//!
//! - a. The data directory is locked: nobody else writes our files (`data_dir.rs`).
//! - b. A slice is made only over bytes below the published end, which is stored with Release after the write returned
//!   and loaded with Acquire before the slice is made (`segment.rs`, `log/reader.rs`).
//! - c. Bytes under a live slice never change and the file never shrinks below one: appends go behind, truncation moves
//!   the kept prefix to a new file if slices live, deletion unlinks and the last reader unmaps (`log.rs`).
//! - d. What leaves is `Bytes` whose owner holds the map; nobody stores a bare slice (this file).
//! - e. No `&mut` over a shared map exists; writes go by pwrite (this file: the maps are read-only).
//!
//! A page that cannot be read (bad medium, a file cut from outside) raises SIGBUS at whoever touches it. The guard puts
//! a page of zeros in its place and marks the map as poisoned; whoever reads bytes asks [`Map::poisoned`] before the
//! result leaves. Without the guard the process dies, as by default.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use memmap2::{Advice, MmapOptions, MmapRaw};

use super::Map;

/// A read-only MAP_SHARED map of a file.
#[derive(Clone, Debug)]
pub struct RealMap(Arc<Mapped>);

#[derive(Debug)]
struct Mapped {
    raw: MmapRaw,
    /// Where the SIGBUS guard finds this map; `None` when all slots are taken (more maps than the kernel allows).
    slot: Option<usize>,
}

impl RealMap {
    pub(super) fn new(file: &fs::File, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let raw = MmapOptions::new().len(len).map_raw_read_only(file)?;
        let start = raw.as_ptr() as usize;
        Ok(Self(Arc::new(Mapped { slot: register(start..start + len), raw })))
    }

    /// A pointer to `len` bytes at `at`, which lie inside the map.
    fn at(&self, at: u64, len: usize) -> *const u8 {
        let end = at.checked_add(len as u64).expect("positions are far below u64::MAX");
        assert!(end <= self.0.raw.len() as u64, "bytes {at}..{end} lie outside the map");
        // SAFETY: `at` lies inside the one allocation that the map is, as just asserted.
        unsafe { self.0.raw.as_ptr().add(at as usize) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            unregister(slot);
        }
    }
}

impl Map for RealMap {
    fn len(&self) -> u64 {
        self.0.raw.len() as u64
    }

    fn slice(&self, range: Range<u64>) -> Bytes {
        let len = usize::try_from(range.end - range.start).expect("a range inside a map");
        if len == 0 {
            return Bytes::new();
        }
        let start = self.at(range.start, len);
        Bytes::from_owner(Slice { start, len, _map: self.clone() })
    }

    fn copy(&self, at: u64, buf: &mut [u8]) {
        let from = self.at(at, buf.len());
        // SAFETY: `from` points at `buf.len()` mapped bytes; the map outlives the call; `buf` is exclusively ours and
        // so does not overlap. The bytes are published and no longer change (rules b and c).
        unsafe { ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) }
    }

    fn resident(&self, range: Range<u64>) -> bool {
        const PAGES: usize = 512;
        let page = page_bytes() as u64;
        let mut at = range.start / page * page;
        let mut pages = [0u8; PAGES];
        while at < range.end {
            let len = (range.end - at).min(PAGES as u64 * page);
            let start = self.at(at, len as usize);
            // SAFETY: page-aligned start inside a live map; the vector has a byte for each of at most PAGES pages.
            let result =
                unsafe { libc::mincore(start.cast_mut().cast(), len as usize, pages.as_mut_ptr()) };
            let count = len.div_ceil(page) as usize;
            if result != 0 || pages[..count].iter().any(|page| page & 1 == 0) {
                return false;
            }
            at += len;
        }
        true
    }

    fn populate(&self, range: Range<u64>) -> io::Result<()> {
        let (start, len) = (range.start as usize, (range.end - range.start) as usize);
        if len == 0 {
            return Ok(());
        }
        match self.0.raw.advise_range(Advice::PopulateRead, start, len) {
            // Kernels before 5.14 do not know it: touch every page instead.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let page = page_bytes() as u64;
                let mut at = range.start;
                while at < range.end {
                    self.copy(at, &mut [0]);
                    at = (at / page + 1) * page;
                }
                Ok(())
            }
            other => other,
        }
    }

    fn poisoned(&self) -> bool {
        self.0.slot.is_some_and(|slot| SLOTS[slot].poisoned.load(Ordering::Acquire))
    }

    fn shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// Owner of the bytes of one slice.
struct Slice {
    start: *const u8,
    len: usize,
    /// Invariant: keeps `start..start + len` mapped.
    _map: RealMap,
}

// SAFETY: the pointer leads into read-only memory that `_map` keeps mapped; any thread may read it.
unsafe impl Send for Slice {}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `start` and `len` lie inside the map that `_map` holds; the bytes are published and never change or
        // go away while a slice lives (rules b and c).
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

/// sync_file_range(WRITE): write-back of a range begins, nothing is promised.
pub(super) fn start_writeback(fd: BorrowedFd<'_>, range: Range<u64>) -> io::Result<()> {
    let (at, len) = (range.start as i64, (range.end - range.start) as i64);
    // SAFETY: a system call on a descriptor that the caller borrows; no memory is involved.
    let result =
        unsafe { libc::sync_file_range(fd.as_raw_fd(), at, len, libc::SYNC_FILE_RANGE_WRITE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn page_bytes() -> usize {
    rustix::param::page_size()
}

// ---- The SIGBUS guard: statics and atomics only, because a signal handler may use nothing else. ----

/// At least the kernel's default `vm.max_map_count`.
const SLOT_COUNT: usize = 1 << 16;
const FAULTS_KEPT: usize = 64;

struct Slot {
    /// Address of the map, 0 when the slot is free. Stored last when taken, cleared first when freed.
    start: AtomicUsize,
    end: AtomicUsize,
    poisoned: AtomicBool,
}

static SLOTS: [Slot; SLOT_COUNT] = [const {
    Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0), poisoned: AtomicBool::new(false) }
}; SLOT_COUNT];
/// Slots at and above this were never used.
static SLOTS_USED: AtomicUsize = AtomicUsize::new(0);
/// Guards the list of freed slots; never taken by the handler.
static FREED: Mutex<Vec<usize>> = Mutex::new(Vec::new());

static FAULT_COUNT: AtomicU64 = AtomicU64::new(0);
static FAULTS: [AtomicUsize; FAULTS_KEPT] = [const { AtomicUsize::new(0) }; FAULTS_KEPT];

static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static INSTALLED: OnceLock<bool> = OnceLock::new();

fn register(addresses: Range<usize>) -> Option<usize> {
    let mut freed = FREED.lock().expect("nobody panics with this lock");
    let slot = freed.pop().or_else(|| {
        let next = SLOTS_USED.load(Ordering::Relaxed);
        (next < SLOT_COUNT).then(|| {
            SLOTS_USED.store(next + 1, Ordering::Release);
            next
        })
    })?;
    SLOTS[slot].poisoned.store(false, Ordering::Relaxed);
    SLOTS[slot].end.store(addresses.end, Ordering::Release);
    SLOTS[slot].start.store(addresses.start, Ordering::Release);
    Some(slot)
}

fn unregister(slot: usize) {
    SLOTS[slot].start.store(0, Ordering::Release);
    FREED.lock().expect("nobody panics with this lock").push(slot);
}

/// Installs the SIGBUS handler for this process; later calls change nothing.
///
/// # Errors
/// When the kernel refuses.
pub fn install_guard() -> io::Result<()> {
    if *INSTALLED.get_or_init(install) { Ok(()) } else { Err(io::Error::other("sigaction failed")) }
}

/// Pages that failed to load since the process started, and the addresses of the last few.
pub fn faults() -> (u64, Vec<usize>) {
    let count = FAULT_COUNT.load(Ordering::Acquire);
    let kept = (count as usize).min(FAULTS_KEPT);
    (count, FAULTS[..kept].iter().map(|address| address.load(Ordering::Relaxed)).collect())
}

fn install() -> bool {
    page_bytes(); // cached by rustix before a handler asks
    // SAFETY: all-zero bytes are a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_bus_error as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: all-zero bytes are a valid sigaction.
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only asks for the current action, into memory of ours. Known before ours can run.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &mut previous) } != 0 {
        return false;
    }
    if PREVIOUS.set(previous).is_err() {
        return false;
    }
    // SAFETY: the handler touches atomics, mmap and sigaction only, all of them async-signal-safe.
    unsafe { libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) == 0 }
}

extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: errno's location is valid in every thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let saved = unsafe { *errno };
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let info_ref = unsafe { &*info };
    // SAFETY: SIGBUS carries an address; another sender's garbage matches no registered map or is harmless.
    let address = unsafe { info_ref.si_addr() } as usize;
    if !replace_page(address) {
        chain(signal, info, context);
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

/// Puts zeros where `address` could not be loaded, if it lies in a map of ours.
fn replace_page(address: usize) -> bool {
    let used = SLOTS_USED.load(Ordering::Acquire);
    for slot in &SLOTS[..used] {
        let start = slot.start.load(Ordering::Acquire);
        if start == 0 || address < start || address >= slot.end.load(Ordering::Acquire) {
            continue;
        }
        if slot.start.load(Ordering::Acquire) != start {
            continue; // freed and taken again in between: not the map that faulted, that one is alive
        }
        slot.poisoned.store(true, Ordering::Release);
        let count = FAULT_COUNT.fetch_add(1, Ordering::AcqRel);
        FAULTS[count as usize % FAULTS_KEPT].store(address, Ordering::Relaxed);
        let page = page_bytes();
        let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let at = (address / page * page) as *mut libc::c_void;
        // SAFETY: replaces one page of a read-only map that the faulting thread keeps alive. Its bytes were never
        // loaded, so no one has seen others; readers learn of it by `poisoned`.
        let mapped = unsafe { libc::mmap(at, page, libc::PROT_READ, flags, -1, 0) };
        return mapped != libc::MAP_FAILED;
    }
    false
}

/// Hands the signal to whoever handled it before us.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.get().map_or(libc::SIG_DFL, |action| action.sa_sigaction);
    if previous == libc::SIG_DFL || previous == libc::SIG_IGN {
        // SAFETY: all-zero bytes are a valid sigaction: the default.
        let action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: restores the default; the faulting instruction runs again and ends the process.
        unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
        return;
    }
    type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    // SAFETY: a non-default action is the address of a handler; with fewer parameters it ignores the rest.
    let handler = unsafe { std::mem::transmute::<usize, Handler>(previous) };
    handler(signal, info, context);
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn bytes_beyond_the_end_appear_when_the_file_grows() {
        let mut file = tempfile::tempfile().unwrap();
        let map = RealMap::new(&file, 1 << 30).unwrap();
        file.write_all(b"hello").unwrap();
        assert_eq!(map.slice(0..5), "hello");
        file.write_all(&[7; 10_000]).unwrap();
        let slice = map.slice(5..10_005);
        drop(map);
        assert_eq!(slice, vec![7; 10_000]);
    }

    #[test]
    fn written_pages_are_resident_and_can_be_populated() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 3_000_000]).unwrap();
        let map = RealMap::new(&file, 1 << 22).unwrap();
        map.populate(10..2_999_990).unwrap();
        assert!(map.resident(4_095..2_999_999));
    }

    #[test]
    fn a_page_that_cannot_load_poisons_its_map_and_no_other() {
        install_guard().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 8192]).unwrap();
        let map = RealMap::new(&file, 8192).unwrap();
        let other = RealMap::new(&file, 4096).unwrap();
        file.set_len(4096).unwrap();
        let mut byte = [9];
        map.copy(5_000, &mut byte);
        assert_eq!(byte, [0]);
        assert!(map.poisoned());
        other.copy(0, &mut byte);
        assert_eq!((byte, other.poisoned()), ([1], false));
        assert!(faults().0 >= 1);
    }
}
