//! Vendor calls under a deadline: one thread makes them, and one that does not come back is left behind. A call
//! that hung is not made again before it returned, so threads cannot pile up.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

mod steps;

pub(crate) use steps::{Hangs, Steps};

/// A call: function and, where it has one, the place (of the vendor's kind) that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallKey<P> {
    pub(crate) function: &'static str,
    pub(crate) place: Option<P>,
}

/// What calls are told apart by.
pub(crate) trait Place: Copy + Ord + Send + 'static {}

impl<P: Copy + Ord + Send + 'static> Place for P {}

/// Why a call gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Late {
    /// The deadline passed just now.
    TimedOut,
    /// An earlier call of the same key has not returned yet.
    StillHanging,
    /// Too many calls hang: no more threads are risked.
    TooMany,
    /// No thread could be started, or it ended.
    NoThread,
}

/// The answer of a call that returned, when it is one; for questions that may go unanswered.
pub(crate) fn said<T, R, L>(answer: Result<Result<T, R>, L>) -> Option<T> {
    answer.ok()?.ok()
}

/// So many threads may hang in the driver; a machine whose driver holds more is broken as a whole.
const MOST_HANGING: usize = 16;

type Job<D> = Box<dyn FnOnce(&D) + Send>;

/// Calls on `D`, one at a time.
pub(crate) struct Worker<D, P> {
    name: &'static str,
    target: Arc<D>,
    deadline: Duration,
    /// The way to the thread that takes calls; held over a whole call, so calls are one at a time.
    lane: Mutex<Option<SyncSender<Job<D>>>>,
    hanging: Arc<Mutex<BTreeSet<CallKey<P>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Send + Sync + 'static, P: Place> Worker<D, P> {
    /// Calls on `target`, each given up after `deadline`. `name` is its threads'.
    pub(crate) fn new(name: &'static str, target: D, deadline: Duration) -> Self {
        Self { name, target: Arc::new(target), deadline, lane: Mutex::new(None), hanging: Arc::default() }
    }

    /// What the calls are made on.
    pub(crate) fn target(&self) -> &D {
        &self.target
    }

    /// How many calls hang now.
    pub(crate) fn hanging(&self) -> usize {
        lock(&self.hanging).len()
    }

    /// Makes the call on the worker's thread and waits for it until the deadline.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        key: CallKey<P>,
        call: impl FnOnce(&D) -> T + Send + 'static,
    ) -> Result<T, Late> {
        let mut lane = lock(&self.lane);
        {
            let hanging = lock(&self.hanging);
            if hanging.contains(&key) {
                return Err(Late::StillHanging);
            }
            if hanging.len() >= MOST_HANGING {
                return Err(Late::TooMany);
            }
        }
        let (answer_to, answer) = mpsc::sync_channel(1);
        let hanging = Arc::clone(&self.hanging);
        let job: Job<D> = Box::new(move |target| {
            let value = call(target);
            // Answer and removal under one lock: the caller, which takes it at its deadline, sees both or neither.
            let mut hanging = lock(&hanging);
            // The caller may be gone; then nobody wants the answer.
            let _ = answer_to.send(value);
            hanging.remove(&key);
        });
        let sender = match lane.take() {
            Some(sender) => sender,
            None => self.start().ok_or(Late::NoThread)?,
        };
        if sender.send(job).is_err() {
            return Err(Late::NoThread);
        }
        match answer.recv_timeout(self.deadline) {
            Ok(value) => {
                *lane = Some(sender);
                Ok(value)
            }
            Err(RecvTimeoutError::Disconnected) => Err(Late::NoThread),
            Err(RecvTimeoutError::Timeout) => {
                let mut hanging = lock(&self.hanging);
                if let Ok(value) = answer.try_recv() {
                    *lane = Some(sender);
                    return Ok(value);
                }
                hanging.insert(key);
                // The sender is dropped: the thread ends when, and if, its call returns.
                Err(Late::TimedOut)
            }
        }
    }

    fn start(&self) -> Option<SyncSender<Job<D>>> {
        let (sender, jobs) = mpsc::sync_channel::<Job<D>>(1);
        let target = Arc::clone(&self.target);
        let thread = thread::Builder::new().name(self.name.to_owned()).spawn(move || {
            while let Ok(job) = jobs.recv() {
                job(&target);
            }
        });
        match thread {
            Ok(_) => Some(sender),
            Err(error) => {
                tracing::warn!(%error, "no thread for vendor calls");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
