//! What the webhooks know of the cluster without asking anybody. Whoever watches the cluster puts a view here; until
//! then nothing is known, and pods whose claims are unknown are gated.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use vnpu_driver::admission::{ClaimFacts, ClassFacts, Known};

/// What reviews look up.
pub trait Lookup: Known + Send + Sync {
    /// The leaf that the pods of `owner` (a controller's UID) prefer while nobody plans; none where no leaf is known.
    fn preferred_leaf(&self, owner: &str) -> Option<String>;
}

/// Knows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nothing;

impl Known for Nothing {
    fn class(&self, _name: &str) -> Option<ClassFacts> {
        None
    }

    fn class_of_resource(&self, _resource: &str) -> Option<String> {
        None
    }

    fn claim(&self, _namespace: &str, _name: &str) -> Option<ClaimFacts> {
        None
    }

    fn template(&self, _namespace: &str, _name: &str) -> Option<ClaimFacts> {
        None
    }
}

impl Lookup for Nothing {
    fn preferred_leaf(&self, _owner: &str) -> Option<String> {
        None
    }
}

/// Where the view hangs that holds now. Clones share it; reviews read it without waiting for whoever changes it.
#[derive(Clone)]
pub struct Board {
    view: Arc<ArcSwap<Box<dyn Lookup>>>,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

impl Default for Board {
    fn default() -> Self {
        Self { view: Arc::new(ArcSwap::from_pointee(Box::new(Nothing) as Box<dyn Lookup>)) }
    }
}

impl Board {
    /// Replaces the view.
    pub fn put(&self, view: impl Lookup + 'static) {
        self.view.store(Arc::new(Box::new(view)));
    }

    /// The view that holds now.
    pub fn view(&self) -> Arc<Box<dyn Lookup>> {
        self.view.load_full()
    }
}
