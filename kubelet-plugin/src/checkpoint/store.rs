//! The checkpoint as the plugin uses it: the present state in memory, changes made durable together (concurrent
//! calls share one flush), and sessions that keep other instances out while claims are worked on.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;
use vnpu_driver::id::ClaimUid;
use vnpu_driver::record::{Checkpoint, ClaimState, Event, Record};
use vnpu_driver::time::WallTime;

use super::error::StoreError;
use super::file::LogFile;
use super::lock::{Held, OperationLock};

/// The checkpoint. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// Locks are taken in the order `flushed`, `log`, `memory`.
#[derive(Debug)]
struct Shared {
    state_dir: PathBuf,
    lock: OperationLock,
    /// One acquisition at a time.
    entering: tokio::sync::Mutex<()>,
    sessions: Mutex<Sessions>,
    /// What operations see. Held for moments only: async code looks at it.
    memory: Mutex<Checkpoint>,
    log: Mutex<Log>,
    /// How many records of this process are on the disk. Who holds it flushes for all who wait for it.
    flushed: Mutex<u64>,
    /// Counts the flushes that failed. Changed with `flushed` and `log` held.
    generation: AtomicU64,
    /// Cancelled when the log's content is not known any more.
    broken: CancellationToken,
}

#[derive(Debug)]
struct Log {
    file: LogFile,
    /// Records that this process has written.
    written: u64,
}

#[derive(Debug, Default)]
struct Sessions {
    count: usize,
    held: Option<Held>,
}

/// What opening the store found that people should know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Where a damaged log was put aside.
    pub quarantined: Option<PathBuf>,
    /// Bytes of a cut-off write that were dropped.
    pub truncated: u64,
}

fn now() -> WallTime {
    WallTime::from(SystemTime::now())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the log under `state_dir`, which must exist, waiting for another instance to end its work.
    ///
    /// # Errors
    /// I/O, or a log of a newer version, which is left as it is.
    pub async fn open(state_dir: &Path) -> Result<(Self, Repairs), StoreError> {
        let operation_lock = OperationLock::of(state_dir);
        let held = operation_lock.take().await?;
        let dir = state_dir.to_owned();
        let opened = blocking(move || LogFile::open(&dir, now())).await?;
        drop(held);
        let repairs = Repairs { quarantined: opened.quarantined, truncated: opened.truncated };
        let shared = Shared {
            state_dir: state_dir.to_owned(),
            lock: operation_lock,
            entering: tokio::sync::Mutex::new(()),
            sessions: Mutex::default(),
            memory: Mutex::new(opened.state),
            log: Mutex::new(Log { file: opened.log, written: 0 }),
            flushed: Mutex::new(0),
            generation: AtomicU64::new(0),
            broken: CancellationToken::new(),
        };
        Ok((Self { shared: Arc::new(shared) }, repairs))
    }

    /// Waits until nothing can be written any more, which no repetition mends: the program has to start anew.
    pub async fn broken(&self) {
        self.shared.broken.cancelled().await;
    }

    /// Begins work on claims: waits until no other instance works on them, and takes in what it wrote.
    ///
    /// # Errors
    /// I/O, or a log that a newer instance wrote meanwhile.
    pub async fn enter(&self) -> Result<Session, StoreError> {
        let shared = &self.shared;
        let _one = shared.entering.lock().await;
        if shared.broken.is_cancelled() {
            return Err(StoreError::Broken);
        }
        {
            let mut sessions = lock(&shared.sessions);
            if sessions.count > 0 {
                sessions.count += 1;
                return Ok(self.session(false));
            }
        }
        let held = shared.lock.take().await?;
        // Looking costs no disk; what another instance wrote has to be read from it.
        let changed = lock(&shared.log).file.changed_outside()?;
        let store = self.clone();
        let reloaded = changed && blocking(move || store.refresh()).await?;
        let mut sessions = lock(&shared.sessions);
        sessions.count = 1;
        sessions.held = Some(held);
        Ok(self.session(reloaded))
    }

    fn session(&self, reloaded: bool) -> Session {
        let generation = self.shared.generation.load(Ordering::Acquire);
        Session { guard: Arc::new(Guard { shared: Arc::clone(&self.shared), generation }), reloaded }
    }

    /// Takes in what another instance wrote; returns whether there was anything.
    fn refresh(&self) -> Result<bool, StoreError> {
        let mut log = lock(&self.shared.log);
        if log.file.is_missing() {
            // What this process knows is all that is left of it: an empty log would forget claims that run.
            tracing::error!(path = %log.file.path().display(), "the checkpoint was removed while in use: it is written anew from memory");
            self.shared.compact(&mut log)?;
            return Ok(false);
        }
        let opened = LogFile::open(&self.shared.state_dir, now())?;
        if let Some(aside) = &opened.quarantined {
            tracing::error!(kept = %aside.display(), "the checkpoint was damaged while in use: what was whole is taken over");
        }
        if opened.truncated > 0 {
            tracing::warn!(
                bytes = opened.truncated,
                "the end of the checkpoint was cut off by another instance's crash"
            );
        }
        log.file = opened.log;
        *lock(&self.shared.memory) = opened.state;
        Ok(true)
    }

    /// Looks at the present state.
    pub fn look<T>(&self, read: impl FnOnce(&Checkpoint) -> T) -> T {
        read(&lock(&self.shared.memory))
    }

    /// Where one claim stands.
    pub fn state(&self, claim: &ClaimUid) -> Option<ClaimState> {
        self.look(|state| state.state(claim).cloned())
    }
}

impl Shared {
    /// Rewrites the log to what is known now.
    fn compact(&self, log: &mut Log) -> Result<(), StoreError> {
        let known = lock(&self.memory).clone();
        let compacted = log.file.compact(&known, now());
        if matches!(compacted, Err(StoreError::Broken)) {
            self.broken.cancel();
        }
        compacted
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Broken))
}

/// Leave to change the checkpoint; other instances wait until the last one, clones included, is dropped.
#[derive(Debug, Clone)]
pub struct Session {
    guard: Arc<Guard>,
    reloaded: bool,
}

/// Counts as one open session until it is dropped.
#[derive(Debug)]
struct Guard {
    shared: Arc<Shared>,
    /// As it was when the session began: what it has seen since may be undone when this has changed.
    generation: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut sessions = lock(&self.shared.sessions);
        sessions.count = sessions.count.saturating_sub(1);
        if sessions.count == 0 {
            sessions.held = None;
        }
    }
}

impl Session {
    /// Whether another instance had changed the log since the last session of this one.
    pub fn reloaded(&self) -> bool {
        self.reloaded
    }

    /// Writes one event on a blocking thread; returns when it is on the disk.
    ///
    /// # Errors
    /// As [`Self::blocking_write`].
    pub async fn write(&self, event: Event) -> Result<(), StoreError> {
        // The write keeps the session open, even when the caller has gone away meanwhile.
        let guard = Arc::clone(&self.guard);
        blocking(move || guard.write(event)).await
    }

    /// Writes one event; returns when it is on the disk. Concurrent callers share one flush.
    ///
    /// # Errors
    /// I/O; then the state is as before. After a flush that failed also what was written at the same time, and
    /// what was decided in sessions that were open then, is undone.
    pub fn blocking_write(&self, event: Event) -> Result<(), StoreError> {
        self.guard.write(event)
    }

    /// Decides with the present state at hand, and writes what was decided. No other decision comes in between:
    /// two claims that decide at the same time see each other. The record outlives this process at once, and a
    /// crash of the machine from the session's next [`Self::blocking_write`] on.
    ///
    /// # Errors
    /// What `decide` says, or I/O; then the state is as before.
    pub fn blocking_decide<T, E: From<StoreError>>(
        &self,
        decide: impl FnOnce(&Checkpoint) -> Result<(Event, T), E>,
    ) -> Result<T, E> {
        self.guard.append(decide).map(|(_, value)| value)
    }
}

impl Guard {
    fn write(&self, event: Event) -> Result<(), StoreError> {
        let (number, ()) = self.append(|_| Ok::<_, StoreError>((event, ())))?;
        self.flush(number)
    }

    /// Writes what was decided; returns its number for [`Self::flush`].
    fn append<T, E: From<StoreError>>(
        &self,
        decide: impl FnOnce(&Checkpoint) -> Result<(Event, T), E>,
    ) -> Result<(u64, T), E> {
        let shared = &self.shared;
        // Held throughout: the log's order is the order of decisions.
        let mut log = lock(&shared.log);
        self.check_generation(&log)?;
        let (event, value) = decide(&lock(&shared.memory))?;
        let record = Record::new(now(), event);
        let payload = record
            .encode()
            .map_err(|e| StoreError::io("encode a record for", log.file.path(), std::io::Error::other(e)))?;
        log.file.append(&payload)?;
        log.written += 1;
        lock(&shared.memory).apply(&record);
        Ok((log.written, value))
    }

    fn check_generation(&self, log: &Log) -> Result<(), StoreError> {
        if self.shared.broken.is_cancelled() {
            return Err(StoreError::Broken);
        }
        if self.shared.generation.load(Ordering::Acquire) != self.generation {
            return Err(StoreError::SetBack { path: log.file.path().to_owned() });
        }
        Ok(())
    }

    /// Returns when record `number` is on the disk: by a flush of its own, or of somebody who was there first.
    fn flush(&self, number: u64) -> Result<(), StoreError> {
        let shared = &self.shared;
        let mut flushed = lock(&shared.flushed);
        let (file, length, written) = {
            let log = lock(&shared.log);
            self.check_generation(&log)?;
            if *flushed >= number {
                return Ok(());
            }
            let (file, length) = log.file.to_flush();
            (file, length, log.written)
        };
        let result = flush(&file);
        let mut log = lock(&shared.log);
        if let Err(error) = result {
            let error = StoreError::io("flush", log.file.path(), error);
            self.set_back(&mut log);
            return Err(error);
        }
        log.file.flushed_to(length);
        *flushed = written;
        if log.file.is_long() {
            match shared.compact(&mut log) {
                Ok(()) => *flushed = log.written,
                Err(StoreError::Broken) => return Err(StoreError::Broken),
                Err(error) => {
                    tracing::warn!(%error, "the checkpoint stays long: it could not be compacted");
                }
            }
        }
        Ok(())
    }

    /// After a flush that failed: all goes back to what is known to be on the disk.
    fn set_back(&self, log: &mut Log) {
        let shared = &self.shared;
        let again = log.file.cut_to_flushed().and_then(|()| LogFile::open(&shared.state_dir, now()));
        match again {
            Ok(opened) => {
                log.file = opened.log;
                *lock(&shared.memory) = opened.state;
            }
            Err(error) => {
                tracing::error!(%error, "the checkpoint cannot be read back after a flush that failed");
                shared.broken.cancel();
            }
        }
        shared.generation.fetch_add(1, Ordering::AcqRel);
    }
}

fn flush(file: &std::fs::File) -> std::io::Result<()> {
    #[cfg(test)]
    super::tests::before_flush()?;
    file.sync_data()
}
