//! Regions for tests, and processes that take slots in them as the interposer does.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::quantity::{Bytes, Percent};
use vnpu_driver::share::{ChipShare, ClaimShares, ComputeMode, OnFailure, Overhead};
use vnpu_quota_abi::slot::{self, SlotTable};
use vnpu_quota_abi::view::{Mapping, UsageView};

pub fn uid(n: u32) -> ClaimUid {
    ClaimUid::new(format!("{n:08x}-0000-4000-8000-000000000000")).unwrap()
}

pub fn chip(name: &str, memory: u64) -> ChipShare {
    ChipShare {
        uuid: DeviceUuid::new(name).unwrap(),
        phys_id: 3,
        memory: Bytes::gib(memory),
        cores: Percent(10),
        mode: ComputeMode::Elastic,
        priority: 5,
        on_failure: OnFailure::Closed,
        overhead: Overhead::Charge,
    }
}

pub fn shares(n: u32, chips: &[(&str, u64)]) -> ClaimShares {
    ClaimShares { claim: uid(n), chips: chips.iter().map(|(name, gib)| chip(name, *gib)).collect() }
}

pub fn map(path: &Path) -> (memmap2::MmapRaw, Mapping) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let raw = memmap2::MmapOptions::new().map_raw(&file).unwrap();
    let base = NonNull::new(raw.as_mut_ptr()).unwrap();
    // SAFETY: the mapping is returned beside its view and outlives it.
    let mapping = unsafe { Mapping::new(base, raw.len()) };
    (raw, mapping)
}

pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Starts a process that takes slot `slot` of the usage file the way the interposer does, with `bytes` committed
/// on chip 0, and returns its pid once it has.
pub fn process_with_slot(usage: &Path, slot: usize, bytes: u64) -> i32 {
    let (_raw, mapping) = map(usage);
    let view = UsageView::open(mapping).unwrap();
    // SAFETY: the child only calls async-signal-safe functions and works on mapped memory.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let path = std::ffi::CString::new(usage.as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: as above; the descriptor stays open until the process is killed.
        unsafe {
            // A test that fails must not leave it behind.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let fd = libc::open(path.as_ptr(), libc::O_RDWR);
            let mut lock: libc::flock = std::mem::zeroed();
            lock.l_type = libc::F_WRLCK as _;
            lock.l_start = slot as _;
            lock.l_len = 1;
            if libc::fcntl(fd, libc::F_SETLK, &raw const lock) != 0 {
                libc::_exit(1);
            }
            view.cell(slot, 0).unwrap().committed.store(bytes, Ordering::SeqCst);
            // As in a container without `/proc`.
            slot::claim(&view, slot, slot::owner_word(libc::getpid() as u32, 0), 0);
            libc::pause();
            libc::_exit(0);
        }
    }
    while view.head(slot).unwrap().owner.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    pid
}

pub fn kill(pid: i32) {
    // SAFETY: signals and reaps a child of this test.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}
