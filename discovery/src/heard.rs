//! Whom a backend tells that something happened.

use std::fmt;
use std::sync::{Arc, Weak};

type Tell = dyn Fn() + Send + Sync;

/// Told when something happened to a device: a look is due now, not only at the next period. Clones tell the same.
#[derive(Clone)]
pub struct Heard(Arc<Tell>);

impl Heard {
    /// `tell` is called from any thread, the driver's own among them, as often as the hardware likes: it must not block
    /// and must not panic.
    pub fn new(tell: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// A look is due.
    pub fn tell(&self) {
        (self.0)();
    }

    /// For who must not keep it.
    pub(crate) fn faint(&self) -> Weak<Tell> {
        Arc::downgrade(&self.0)
    }

    pub(crate) fn again(faint: &Weak<Tell>) -> Option<Self> {
        faint.upgrade().map(Self)
    }
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Heard")
    }
}
