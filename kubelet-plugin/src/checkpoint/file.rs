//! One log file: opened with repair, appended to durably, compacted by rename. Used by one thread at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vnpu_driver::record::{Checkpoint, Record, RecordError};
use vnpu_driver::time::WallTime;

use super::error::StoreError;
use super::frame::{self, Damage, Scan};
use crate::crash_at;

/// The log is compacted when it is longer than this and mostly history.
const COMPACT_ABOVE: u64 = 1 << 20;

/// Which bytes are in the file, as seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
}

/// The open log.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: Arc<File>,
    stamp: Stamp,
    /// So many bytes are known to be on the disk.
    flushed: u64,
    compacted: u64,
}

/// What opening found.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) log: LogFile,
    pub(super) state: Checkpoint,
    /// Where a log with a damaged body was put aside; its whole records are in `state` all the same.
    pub(super) quarantined: Option<PathBuf>,
    /// Bytes of a cut-off write that were removed from the end.
    pub(super) truncated: u64,
}

/// What a log says, read without changing anything.
#[derive(Debug)]
struct Content {
    state: Checkpoint,
    damage: Damage,
    length: u64,
}

impl Content {
    /// `None` when there is no log.
    fn read(path: &Path) -> Result<Option<Self>, StoreError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("read", path, e)),
        };
        let (payloads, mut damage) = match frame::scan(&bytes) {
            Scan::Newer(found) => {
                return Err(StoreError::NewerFormat { path: path.to_owned(), found, known: frame::FORMAT });
            }
            Scan::Frames { payloads, damage } => (payloads, damage),
        };
        let mut state = Checkpoint::default();
        for payload in payloads {
            match Record::decode(payload) {
                Ok(record) => state.apply(&record),
                Err(source @ RecordError::Newer { .. }) => {
                    return Err(StoreError::NewerRecord { path: path.to_owned(), source });
                }
                Err(RecordError::Malformed(_)) => damage = Damage::Body,
            }
        }
        Ok(Some(Self { state, damage, length: bytes.len() as u64 }))
    }
}

/// Says what the log under `state_dir` is like, for `--check`.
///
/// # Errors
/// What would keep the plugin from starting: I/O, or a log of a newer version.
pub fn inspect(state_dir: &Path) -> Result<String, StoreError> {
    Ok(match Content::read(&state_dir.join("checkpoint.log"))? {
        None => "none yet".to_owned(),
        Some(Content { state, damage: Damage::Body, .. }) => format!(
            "damaged: the start puts it aside, takes over the {} claims that are whole in it, and finds the others by \
             their CDI files and the API server",
            state.plans().count()
        ),
        Some(Content { state, .. }) => format!("{} claims", state.plans().count()),
    })
}

impl LogFile {
    /// Opens `<state_dir>/checkpoint.log`, making it when absent, repairing it when damaged. The caller holds
    /// the operation lock.
    pub(super) fn open(state_dir: &Path, now: WallTime) -> Result<Opened, StoreError> {
        let path = state_dir.join("checkpoint.log");
        // Of a compaction that a crash cut off; the log itself is whole then.
        let _ = fs::remove_file(path.with_extension("log.tmp"));
        let Some(Content { state, damage, length }) = Content::read(&path)? else {
            let log = Self::replace(&path, &Checkpoint::default(), now)?;
            return Ok(Opened { log, state: Checkpoint::default(), quarantined: None, truncated: 0 });
        };
        if damage == Damage::Body {
            let aside = quarantine(&path, now)?;
            let log = Self::replace(&path, &state, now)?;
            return Ok(Opened { log, state, quarantined: Some(aside), truncated: 0 });
        }
        let file =
            OpenOptions::new().append(true).open(&path).map_err(|e| StoreError::io("open", &path, e))?;
        let mut truncated = 0;
        if let Damage::Tail(whole) = damage {
            let whole = whole as u64;
            truncated = length.saturating_sub(whole);
            file.set_len(whole)
                .and_then(|()| file.sync_all())
                .map_err(|e| StoreError::io("repair", &path, e))?;
        }
        let stamp = stamp_of(&file, &path)?;
        // What a process wrote that was killed before its flush is believed, and told, from now on.
        file.sync_data().map_err(|e| StoreError::io("flush", &path, e))?;
        let log = Self { path, file: Arc::new(file), stamp, flushed: stamp.length, compacted: 0 };
        Ok(Opened { log, state, quarantined: None, truncated })
    }

    /// The log's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether somebody removed the log.
    pub(super) fn is_missing(&self) -> bool {
        matches!(fs::metadata(&self.path), Err(e) if e.kind() == io::ErrorKind::NotFound)
    }

    /// Whether another instance wrote since: then all must be read again.
    pub(super) fn changed_outside(&self) -> Result<bool, StoreError> {
        match fs::metadata(&self.path) {
            Ok(now) => Ok(self.stamp != Stamp { inode: now.ino(), length: now.len() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(StoreError::io("look at", &self.path, e)),
        }
    }

    /// Appends a record, which a crash of the process cannot take away any more, and a crash of the machine can
    /// until it is flushed. After an error the log is as it was.
    pub(super) fn append(&mut self, payload: &[u8]) -> Result<(), StoreError> {
        let mut bytes = Vec::with_capacity(payload.len() + 16);
        frame::append(&mut bytes, payload);
        if let Err(error) = self.write(&bytes) {
            // A part of a frame must not stand before the next one. Where even this fails, the part is a cut-off
            // tail for the next start, and a damaged body at worst if more could be appended after it.
            let _ = self.file.set_len(self.stamp.length);
            return Err(StoreError::io("append to", &self.path, error));
        }
        self.stamp.length += bytes.len() as u64;
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = &*self.file;
        #[cfg(feature = "failpoints")]
        if let Some((first, second)) = bytes.split_at_checked(bytes.len() / 2) {
            file.write_all(first)?;
            crash_at!("log.write.half");
            file.write_all(second)?;
        }
        #[cfg(not(feature = "failpoints"))]
        file.write_all(bytes)?;
        crash_at!("log.write.after");
        Ok(())
    }

    /// The file and its length now, to be flushed while others append; then comes [`Self::flushed_to`].
    pub(super) fn to_flush(&self) -> (Arc<File>, u64) {
        (Arc::clone(&self.file), self.stamp.length)
    }

    /// Notes that so many bytes are on the disk.
    pub(super) fn flushed_to(&mut self, length: u64) {
        self.flushed = self.flushed.max(length);
    }

    /// Cuts off what may not be on the disk: after a flush that failed nobody knows what of it is, and a second
    /// flush would not tell (fsync(2), errors).
    pub(super) fn cut_to_flushed(&mut self) -> Result<(), StoreError> {
        self.file.set_len(self.flushed).map_err(|e| StoreError::io("cut back", &self.path, e))?;
        self.stamp.length = self.flushed;
        Ok(())
    }

    /// Whether the log is mostly history.
    pub(super) fn is_long(&self) -> bool {
        self.stamp.length > COMPACT_ABOVE.max(self.compacted.saturating_mul(4))
    }

    /// Rewrites the log to the fewest records. After an error the log is as it was, but for
    /// [`StoreError::Broken`]: then a crash of the machine may bring back the old log, without all that is written
    /// from now on, so nothing must be.
    pub(super) fn compact(&mut self, state: &Checkpoint, now: WallTime) -> Result<(), StoreError> {
        *self = Self::put_in_place(&self.path, state, now)?;
        sync_parent(&self.path).map_err(|error| {
            tracing::error!(%error, "a compacted checkpoint may not last");
            StoreError::Broken
        })
    }

    /// Puts a new log with `state` in place of whatever stands there, atomically and lasting.
    fn replace(path: &Path, state: &Checkpoint, now: WallTime) -> Result<Self, StoreError> {
        let log = Self::put_in_place(path, state, now)?;
        sync_parent(path)?;
        Ok(log)
    }

    /// As [`Self::replace`], but a crash of the machine may bring back what stood there.
    fn put_in_place(path: &Path, state: &Checkpoint, now: WallTime) -> Result<Self, StoreError> {
        let temporary = path.with_extension("log.tmp");
        let result = Self::write_new(&temporary, path, state, now);
        if result.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    fn write_new(
        temporary: &Path,
        path: &Path,
        state: &Checkpoint,
        now: WallTime,
    ) -> Result<Self, StoreError> {
        let mut bytes = frame::header();
        for record in state.compact(now) {
            let payload = record
                .encode()
                .map_err(|e| StoreError::io("encode a record for", path, io::Error::other(e)))?;
            frame::append(&mut bytes, &payload);
        }
        let io = |operation| move |e| StoreError::io(operation, path, e);
        let _ = fs::remove_file(temporary);
        let mut file = OpenOptions::new()
            .create_new(true)
            .append(true)
            // It names the claims of all tenants.
            .mode(0o600)
            .open(temporary)
            .map_err(io("create"))?;
        file.write_all(&bytes).map_err(io("write"))?;
        file.sync_all().map_err(io("flush"))?;
        crash_at!("log.compact.written");
        let stamp = stamp_of(&file, path)?;
        // The last step that can fail: from here on this file is the log.
        fs::rename(temporary, path).map_err(io("rename"))?;
        crash_at!("log.compact.renamed");
        let (file, length) = (Arc::new(file), stamp.length);
        Ok(Self { path: path.to_owned(), file, stamp, flushed: length, compacted: length })
    }
}

fn stamp_of(file: &File, path: &Path) -> Result<Stamp, StoreError> {
    let metadata = file.metadata().map_err(|e| StoreError::io("look at", path, e))?;
    Ok(Stamp { inode: metadata.ino(), length: metadata.len() })
}

fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| StoreError::io("flush", parent, e))
}

/// Keeps a damaged log for people to look at, as `checkpoint.log.corrupt-<time>`.
fn quarantine(path: &Path, now: WallTime) -> Result<PathBuf, StoreError> {
    let seconds = now.since_epoch().as_secs();
    for attempt in 0..1000u32 {
        let suffix = if attempt == 0 { String::new() } else { format!(".{attempt}") };
        let aside = path.with_extension(format!("log.corrupt-{seconds}{suffix}"));
        if aside.exists() {
            continue;
        }
        // A link, not a rename: until the new log stands in its place, the damaged one stays where it was.
        fs::hard_link(path, &aside).map_err(|e| StoreError::io("keep a copy of", path, e))?;
        sync_parent(path)?;
        return Ok(aside);
    }
    Err(StoreError::io("keep a copy of", path, io::Error::other("a thousand copies are there already")))
}
