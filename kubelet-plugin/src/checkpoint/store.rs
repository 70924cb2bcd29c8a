//! The checkpoint as the plugin uses it: the present state in memory, changes made durable together (concurrent
//! calls share one fsync), and sessions that keep other instances out while claims are worked on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::SystemTime;

use tokio::sync::oneshot;
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

#[derive(Debug)]
struct Shared {
    state_dir: PathBuf,
    lock: OperationLock,
    /// One acquisition at a time.
    entering: tokio::sync::Mutex<()>,
    sessions: Mutex<Sessions>,
    memory: Arc<Mutex<Memory>>,
    log: Arc<Mutex<LogFile>>,
    queue: mpsc::Sender<Job>,
    /// Cancelled when the writer's thread is no more.
    writer_ended: CancellationToken,
}

#[derive(Debug, Default)]
struct Sessions {
    count: usize,
    held: Option<Held>,
}

/// `current` is what operations see; `durable` is what the disk has, to fall back to when a write fails.
#[derive(Debug)]
struct Memory {
    current: Checkpoint,
    durable: Checkpoint,
}

/// The queued write keeps its session open: other instances stay out until the record is on the disk and the log
/// is compacted, even when the caller has gone away meanwhile.
#[derive(Debug)]
struct Job {
    record: Record,
    payload: Vec<u8>,
    done: oneshot::Sender<Result<(), StoreError>>,
    session: Arc<Guard>,
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
        let opened = LogFile::open(state_dir, now())?;
        drop(held);
        let repairs = Repairs { quarantined: opened.quarantined, truncated: opened.truncated };
        let memory = Arc::new(Mutex::new(Memory { current: opened.state.clone(), durable: opened.state }));
        let log = Arc::new(Mutex::new(opened.log));
        let (queue, jobs) = mpsc::channel();
        let writer = Writer { memory: Arc::clone(&memory), log: Arc::clone(&log), jobs };
        let writer_ended = CancellationToken::new();
        let ending = writer_ended.clone().drop_guard();
        std::thread::Builder::new()
            .name("checkpoint".to_owned())
            // It encodes nothing and recurses nowhere.
            .stack_size(256 * 1024)
            .spawn(move || {
                // Told also when it panics.
                let _ending = ending;
                writer.run();
            })
            .map_err(|e| StoreError::io("start the writer of", state_dir, e))?;
        let shared = Shared {
            state_dir: state_dir.to_owned(),
            lock: operation_lock,
            entering: tokio::sync::Mutex::new(()),
            sessions: Mutex::default(),
            memory,
            log,
            queue,
            writer_ended,
        };
        Ok((Self { shared: Arc::new(shared) }, repairs))
    }

    /// Waits until nothing can be written any more, which no repetition mends: the program has to start anew.
    pub async fn writer_ended(&self) {
        self.shared.writer_ended.cancelled().await;
    }

    /// Begins work on claims: waits until no other instance works on them, and takes in what it wrote.
    ///
    /// # Errors
    /// I/O, or a log that a newer instance wrote meanwhile.
    pub async fn enter(&self) -> Result<Session, StoreError> {
        let shared = &self.shared;
        let _one = shared.entering.lock().await;
        {
            let mut sessions = lock(&shared.sessions);
            if sessions.count > 0 {
                sessions.count += 1;
                return Ok(self.session(false));
            }
        }
        let held = shared.lock.take().await?;
        let reloaded = self.refresh()?;
        let mut sessions = lock(&shared.sessions);
        sessions.count = 1;
        sessions.held = Some(held);
        Ok(self.session(reloaded))
    }

    fn session(&self, reloaded: bool) -> Session {
        Session { guard: Arc::new(Guard { shared: Arc::clone(&self.shared) }), reloaded }
    }

    fn refresh(&self) -> Result<bool, StoreError> {
        let mut log = lock(&self.shared.log);
        if !log.changed_outside()? {
            return Ok(false);
        }
        if log.is_missing() {
            // What this process knows is all that is left of it: an empty log would forget claims that run.
            tracing::error!(path = %log.path().display(), "the checkpoint was removed while in use: it is written anew from memory");
            let durable = lock(&self.shared.memory).durable.clone();
            log.compact(&durable, now())?;
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
        *log = opened.log;
        *lock(&self.shared.memory) = Memory { current: opened.state.clone(), durable: opened.state };
        Ok(true)
    }

    /// Looks at the present state.
    pub fn look<T>(&self, read: impl FnOnce(&Checkpoint) -> T) -> T {
        read(&lock(&self.shared.memory).current)
    }

    /// Where one claim stands.
    pub fn state(&self, claim: &ClaimUid) -> Option<ClaimState> {
        self.look(|state| state.state(claim).cloned())
    }
}

/// Leave to change the checkpoint; other instances wait until the last one is dropped.
#[derive(Debug)]
pub struct Session {
    guard: Arc<Guard>,
    reloaded: bool,
}

/// Counts as one open session until it is dropped.
#[derive(Debug)]
struct Guard {
    shared: Arc<Shared>,
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

    /// Writes one event; returns when it is on the disk.
    ///
    /// # Errors
    /// I/O; then the state is as before.
    pub async fn write(&self, event: Event) -> Result<(), StoreError> {
        self.decide(|_| Ok::<_, StoreError>((event, ()))).await
    }

    /// Decides with the present state at hand, and writes what was decided. No other decision comes in between:
    /// two claims that decide at the same time see each other. Returns when the event is on the disk.
    ///
    /// # Errors
    /// What `decide` says, or I/O; then the state is as before.
    pub async fn decide<T, E: From<StoreError>>(
        &self,
        decide: impl FnOnce(&Checkpoint) -> Result<(Event, T), E>,
    ) -> Result<T, E> {
        let shared = &self.guard.shared;
        let (done, wait) = oneshot::channel();
        let value = {
            let mut memory = lock(&shared.memory);
            let (event, value) = decide(&memory.current)?;
            let record = Record::new(now(), event);
            let payload = record.encode().map_err(|e| {
                StoreError::io("encode a record for", &shared.state_dir, std::io::Error::other(e))
            })?;
            memory.current.apply(&record);
            // Queued under the lock: the log's order is the order of decisions.
            let job = Job { record, payload, done, session: Arc::clone(&self.guard) };
            shared.queue.send(job).map_err(|_| StoreError::WriterGone)?;
            value
        };
        wait.await.unwrap_or(Err(StoreError::WriterGone))?;
        Ok(value)
    }
}

struct Writer {
    memory: Arc<Mutex<Memory>>,
    log: Arc<Mutex<LogFile>>,
    jobs: mpsc::Receiver<Job>,
}

impl Writer {
    fn run(self) {
        while let Ok(first) = self.jobs.recv() {
            let mut batch = vec![first];
            batch.extend(self.jobs.try_iter());
            self.commit(batch);
        }
    }

    fn commit(&self, mut batch: Vec<Job>) {
        let payloads: Vec<Vec<u8>> = batch.iter_mut().map(|job| std::mem::take(&mut job.payload)).collect();
        let mut log = lock(&self.log);
        match log.append(&payloads) {
            Ok(()) => {
                let durable = {
                    let mut memory = lock(&self.memory);
                    for job in &batch {
                        memory.durable.apply(&job.record);
                    }
                    log.is_long().then(|| memory.durable.clone())
                };
                let mut sessions = Vec::with_capacity(batch.len());
                for job in batch {
                    let _ = job.done.send(Ok(()));
                    sessions.push(job.session);
                }
                if let Some(Err(error)) = durable.map(|state| log.compact(&state, now())) {
                    tracing::warn!(%error, "the checkpoint stays long: it could not be compacted");
                }
                // Not before: another instance would append to the log that has just been replaced.
                drop(sessions);
            }
            Err(error) => {
                let mut memory = lock(&self.memory);
                for job in batch {
                    memory.fall_back(&job.record);
                    let _ = job.done.send(Err(error.again()));
                }
            }
        }
    }
}

impl Memory {
    /// Undoes `record` in `current`: a claim is worked on by one operation at a time, so what the disk says of it
    /// is what it was before.
    fn fall_back(&mut self, record: &Record) {
        let claim = match &record.event {
            Event::Boot { .. } => return,
            Event::PrepareStarted { plan }
            | Event::PrepareCompleted { plan }
            | Event::UnprepareStarted { plan } => &plan.claim,
            Event::Unprepared { claim } | Event::Forgotten { claim } => claim,
        };
        let (time, event) = match self.durable.state(claim).cloned() {
            None => (record.time, Event::Forgotten { claim: claim.clone() }),
            Some(ClaimState::PrepareStarted(plan)) => (record.time, Event::PrepareStarted { plan }),
            Some(ClaimState::PrepareCompleted(plan)) => (record.time, Event::PrepareCompleted { plan }),
            Some(ClaimState::UnprepareStarted(plan)) => (record.time, Event::UnprepareStarted { plan }),
            Some(ClaimState::Unprepared(at)) => (at, Event::Unprepared { claim: claim.clone() }),
        };
        self.current.apply(&Record::new(time, event));
    }
}
