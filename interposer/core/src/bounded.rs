//! Locks that are not waited for without end: a hook never hangs.

use std::sync::{Mutex, MutexGuard, TryLockError};

/// Others hold a lock for as long as one question to the driver takes.
const TRIES: u32 = 1000;

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
