//! Locks that are not waited for without end: a hook never hangs.

use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

/// Others hold a lock for as long as one question to the driver takes.
const TRIES: u32 = 1000;

/// How long [`wait`] waits at most, in steps.
const LONGEST: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_micros(100);

/// The lock, or `None` when other threads are at it for too long.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    for _ in 0..TRIES {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            // What it guards are numbers, of which any are good.
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
    None
}

/// The lock, where going on without it is no way out: `None` only when the driver does not return, with which the program
/// would hang as well.
pub(crate) fn wait<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    let steps = LONGEST.as_micros() / STEP.as_micros();
    (0..steps).find_map(|_| {
        lock(mutex).or_else(|| {
            std::thread::sleep(STEP);
            None
        })
    })
}
