//! What the disk itself costs, and directories that are in memory as `/run` of a node is.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};

/// Appends that are timed.
const APPENDS: usize = 200;
/// About the length of a record of the checkpoint.
const RECORD: [u8; 700] = [b'x'; 700];

/// Median and 99th percentile, ms, of appending a record to a file and flushing it: no driver that keeps its
/// word can answer sooner.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn flush_times(directory: &Path) -> Result<(f64, f64)> {
    let path = directory.join("flush-probe");
    let mut file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let mut times = Vec::with_capacity(APPENDS);
    for _ in 0..APPENDS {
        file.write_all(&RECORD)?;
        let begun = Instant::now();
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    fs::remove_file(&path)?;
    times.sort_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    Ok((at(APPENDS / 2), at(APPENDS * 99 / 100)))
}

/// A directory on a tmpfs, removed when dropped.
#[derive(Debug)]
pub(crate) struct Volatile(PathBuf);

impl Volatile {
    /// In the machine's shared memory; `None` where there is none.
    ///
    /// # Errors
    /// It is there and cannot be used.
    pub(crate) fn below_memory(id: &str) -> Result<Option<Self>> {
        let memory = Path::new("/dev/shm");
        if !fs::read_to_string("/proc/self/mounts")?.lines().any(|l| l.split(' ').nth(1) == memory.to_str()) {
            return Ok(None);
        }
        let path = memory.join(format!("vnpu-bench-{id}"));
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Some(Self(path)))
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Volatile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
