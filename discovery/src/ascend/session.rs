//! Keeps the library open, and opens it again when its file changes (the driver was replaced).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::dcmi::{Dcmi, NOT_READY, Refusal, Slot};
use super::library::Library;
use super::search;
use crate::error::{DiscoveryError, VendorLibrary};
use crate::stamp::Stamp;
use crate::worker::{CallKey, Worker};

/// The library's calls.
pub(crate) type Calls = Worker<Library, Slot>;

struct Open {
    calls: Arc<Calls>,
    stamp: Option<Stamp>,
    initialised: bool,
    /// Whether it was asked to tell of faults, whatever it answered: it takes that once. Only a driver that is not ready
    /// is asked again.
    asked: bool,
    /// It was said that the driver is not ready for that.
    said: bool,
}

/// At most one library that is used.
#[derive(Default)]
pub(crate) struct Session {
    open: Option<Open>,
    /// How many files were opened: each needs a path of its own.
    generation: usize,
}

impl Session {
    /// The library, initialised. With `listens`, it tells of faults.
    pub(crate) fn calls(
        &mut self,
        configured: Option<&Path>,
        driver_root: &Path,
        deadline: Duration,
        listens: bool,
    ) -> Result<Arc<Calls>, DiscoveryError> {
        let found = search::find(configured, driver_root);
        let stamp = found.as_ref().ok().and_then(|path| Stamp::of_object(path));
        // A file that is away for a moment may be the same when it is back.
        let other = |open: &mut Open| {
            open.stamp != stamp || found.as_ref().is_ok_and(|path| path != open.calls.target().path())
        };
        if found.is_ok()
            && let Some(old) = self.open.take_if(other)
        {
            // DCMI cannot be shut down: what hangs in it, and its own threads, stay behind.
            let path = old.calls.target().path();
            tracing::info!(path = %path.display(), "DCMI library changed, it is opened again");
            self.generation += 1;
        }
        let path = found?;
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                let library = Library::load(&path, self.generation)?;
                tracing::info!(path = %path.display(), "DCMI library loaded");
                let calls = Arc::new(Worker::new("dcmi", library, deadline));
                Open { calls, stamp, initialised: false, asked: false, said: false }
            }
        };
        // Kept also if its initialisation fails: loading twice would run its constructors twice.
        let open = self.open.insert(open);
        if !open.initialised {
            initialise(&open.calls)?;
            open.initialised = true;
        }
        if listens && !open.asked {
            open.asked = subscribe(&open.calls, &mut open.said);
        }
        Ok(Arc::clone(&open.calls))
    }
}

fn initialise(calls: &Calls) -> Result<(), DiscoveryError> {
    let (library, function) = (VendorLibrary::Dcmi, "dcmi_init");
    match calls.call(CallKey { function, place: None }, |library| library.init()) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Refusal::Code(code))) => Err(DiscoveryError::Call { library, function, code }),
        Ok(Err(Refusal::Absent)) => Err(DiscoveryError::Call { library, function, code: -8255 }),
        Err(_) => Err(DiscoveryError::Hanging { function }),
    }
}

/// Whether there is no use in asking again.
fn subscribe(calls: &Calls, said: &mut bool) -> bool {
    let function = "dcmi_subscribe_fault_event";
    let why = match calls.call(CallKey { function, place: None }, Library::subscribe) {
        Ok(Ok(())) => {
            if *said {
                tracing::info!("DCMI tells of faults now");
            }
            return true;
        }
        Ok(Err(Refusal::Code(NOT_READY))) => {
            if !std::mem::replace(said, true) {
                tracing::info!("DCMI is not ready to tell of faults: it is asked again at every look");
            }
            return false;
        }
        Ok(Err(Refusal::Code(code))) => {
            format!("{function} failed with {code}{}", VendorLibrary::Dcmi.explain(code))
        }
        Ok(Err(Refusal::Absent)) => format!("the library has no {function}"),
        Err(_) => format!("{function} does not return"),
    };
    tracing::info!("DCMI tells of no faults, they are seen at the next look: {why}");
    true
}
