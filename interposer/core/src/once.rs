//! A place that is filled once, and that a forked child can drop whatever its parent's threads were at. The standard
//! library's own panics when it is dropped in the middle of being filled, which cannot happen but for a fork.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::OnceLock;

/// As [`OnceLock`]; what was never filled to the end is left alone at the drop.
pub(crate) struct Once<T>(ManuallyDrop<OnceLock<T>>);

impl<T> Once<T> {
    /// Not filled.
    pub(crate) const fn new() -> Self {
        Self(ManuallyDrop::new(OnceLock::new()))
    }
}

impl<T> From<T> for Once<T> {
    fn from(value: T) -> Self {
        Self(ManuallyDrop::new(OnceLock::from(value)))
    }
}

impl<T> Deref for Once<T> {
    type Target = OnceLock<T>;

    fn deref(&self) -> &OnceLock<T> {
        &self.0
    }
}

impl<T> Drop for Once<T> {
    fn drop(&mut self) {
        if self.0.get().is_some() {
            // SAFETY: dropped here and nowhere else; nobody can reach it any more.
            unsafe { ManuallyDrop::drop(&mut self.0) }
        }
    }
}
