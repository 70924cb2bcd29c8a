//! Many calls about one place in one go: going to another thread and back for each takes longer than most calls do.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{CallKey, Job, MOST_HANGING, Place, Worker, lock};

/// What the worker's own code does between calls, as a function's name.
const BETWEEN: &str = "reading about the device";

/// Where a visit is.
struct Current {
    function: &'static str,
    since: Instant,
    /// The caller went on without it.
    abandoned: bool,
    /// For which function it did, until that returns.
    left_in: Option<&'static str>,
}

/// The calls of one visit, made on the worker's thread.
pub(crate) struct Steps<'a, D, P> {
    target: &'a D,
    place: P,
    hanging: &'a Mutex<BTreeSet<CallKey<P>>>,
    current: &'a Mutex<Current>,
    hung: Cell<Option<&'static str>>,
}

/// A call that did not return in time, or one that was not made because of it: its function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hangs(pub(crate) &'static str);

impl<D, P: Place> Steps<'_, D, P> {
    /// Makes a call. After the first that hangs (now, or since an earlier visit) no other is made: each place costs one
    /// deadline.
    pub(crate) fn call<T>(&self, function: &'static str, call: impl FnOnce(&D) -> T) -> Result<T, Hangs> {
        if let Some(function) = self.hung.get() {
            return Err(Hangs(function));
        }
        let key = CallKey { function, place: Some(self.place) };
        let hangs = {
            let hanging = lock(self.hanging);
            hanging.contains(&key) || hanging.len() >= MOST_HANGING
        };
        if hangs || !self.go_on(function) {
            self.hung.set(Some(function));
            return Err(Hangs(function));
        }
        let value = call(self.target);
        if self.go_on(BETWEEN) {
            Ok(value)
        } else {
            self.hung.set(Some(function));
            Err(Hangs(function))
        }
    }

    /// Notes what comes next; whether the caller still waits. If it does not, what it was left for has ended.
    fn go_on(&self, function: &'static str) -> bool {
        let mut hanging = lock(self.hanging);
        let mut current = lock(self.current);
        self.returned(&mut hanging, &mut current);
        (current.function, current.since) = (function, Instant::now());
        !current.abandoned
    }

    /// What the visit was left in has returned.
    fn returned(&self, hanging: &mut BTreeSet<CallKey<P>>, current: &mut Current) {
        if let Some(function) = current.left_in.take() {
            hanging.remove(&CallKey { function, place: Some(self.place) });
        }
    }

    /// Gives the result to the caller, if it still waits.
    fn end<T>(&self, value: T, answer_to: &SyncSender<(T, Option<&'static str>)>) {
        // Under the locks under which the caller takes leave: it has the answer, or this is left.
        let mut hanging = lock(self.hanging);
        self.returned(&mut hanging, &mut lock(self.current));
        // The caller may be gone; then nobody wants the answer.
        let _ = answer_to.send((value, self.hung.get()));
    }
}

impl<D: Send + Sync + 'static, P: Place> Worker<D, P> {
    /// Lets `visit` make its calls on the worker's thread, each with the worker's deadline. When one hangs, the visit is
    /// made again without it. The result, and the function that hangs if any does.
    ///
    /// # Errors
    /// The function that hangs, when the second visit does not come back either.
    pub(crate) fn visit<T: Send + 'static>(
        &self,
        place: P,
        visit: impl Fn(&Steps<'_, D, P>) -> T + Send + Sync + 'static,
    ) -> Result<(T, Option<&'static str>), Hangs> {
        let visit = Arc::new(visit);
        match self.attempt(place, Arc::clone(&visit)) {
            Err(_) => self.attempt(place, visit),
            done => done,
        }
    }

    fn attempt<T: Send + 'static>(
        &self,
        place: P,
        visit: Arc<impl Fn(&Steps<'_, D, P>) -> T + Send + Sync + 'static>,
    ) -> Result<(T, Option<&'static str>), Hangs> {
        let mut lane = lock(&self.lane);
        let key = |function| CallKey { function, place: Some(place) };
        if lock(&self.hanging).contains(&key(BETWEEN)) {
            return Err(Hangs(BETWEEN));
        }
        let (answer_to, answer) = mpsc::sync_channel(1);
        let current = Arc::new(Mutex::new(Current {
            function: BETWEEN,
            since: Instant::now(),
            abandoned: false,
            left_in: None,
        }));
        let (hanging, now) = (Arc::clone(&self.hanging), Arc::clone(&current));
        let job: Job<D> = Box::new(move |target| {
            let steps = Steps { target, place, hanging: &hanging, current: &now, hung: Cell::new(None) };
            steps.end(visit(&steps), &answer_to);
        });
        let sender = match lane.take() {
            Some(sender) => sender,
            None => self.start().ok_or(Hangs(BETWEEN))?,
        };
        if sender.send(job).is_err() {
            return Err(Hangs(BETWEEN));
        }
        let mut patience = self.deadline;
        loop {
            match answer.recv_timeout(patience) {
                Ok(done) => {
                    *lane = Some(sender);
                    return Ok(done);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Hangs(BETWEEN)),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let mut hanging = lock(&self.hanging);
            let mut current = lock(&current);
            let waited = current.since.elapsed();
            if waited < self.deadline {
                patience = self.deadline.saturating_sub(waited);
                continue;
            }
            if let Ok(done) = answer.try_recv() {
                *lane = Some(sender);
                return Ok(done);
            }
            current.abandoned = true;
            current.left_in = Some(current.function);
            hanging.insert(key(current.function));
            // The sender is dropped: the thread ends when, and if, its call returns.
            return Err(Hangs(current.function));
        }
    }
}
