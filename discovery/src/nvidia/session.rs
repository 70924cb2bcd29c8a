//! Keeps the library open, and closes and opens it again when its file changes (a driver was reloaded or replaced) or
//! when it said that it must be initialised again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::library::{Library, Refusal, code};
use super::scan::Calls;
use super::search::{self, Driver};
use crate::error::{DiscoveryError, VendorLibrary};
use crate::stamp::Stamp;
use crate::worker::CallKey;

struct Open {
    library: Arc<Library>,
    driver: Driver,
    stamp: Option<Stamp>,
    initialised: bool,
}

/// At most one initialised library.
#[derive(Default)]
pub(crate) struct Session {
    open: Option<Open>,
    /// How many files were opened: each needs a path of its own.
    generation: usize,
    stale: bool,
    /// How often in a row that was done, and when it may be done again: what is heard of GPUs is missed meanwhile, so a
    /// GPU that stays lost must not cost the others theirs at every look.
    again: Option<(u32, Instant)>,
}

/// The longest of those pauses, and for so long after one a library must be well for the first to come again.
const LONGEST: Duration = Duration::from_secs(60);

/// Before a library is initialised again that was so `times` times in a row to no avail.
fn pause(times: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(5);
    FIRST.saturating_mul(2_u32.saturating_pow(times.saturating_sub(1))).min(LONGEST)
}

impl Session {
    /// The library, initialised, and where its driver is.
    pub(crate) fn library(
        &mut self,
        calls: &Calls,
        configured: Option<&Path>,
        driver_root: &Path,
    ) -> Result<(Arc<Library>, PathBuf), DiscoveryError> {
        let found = search::find(configured, driver_root);
        let stamp = found.as_ref().ok().and_then(|driver| Stamp::of(&driver.library));
        let replaced = self.open.as_ref().is_some_and(|open| {
            open.stamp != stamp || found.as_ref().is_ok_and(|driver| *driver != open.driver)
        });
        if replaced || self.stale {
            self.close(calls, replaced);
        }
        let driver = found?;
        let open = match self.open.take() {
            Some(open) => open,
            None => self.load(driver, stamp)?,
        };
        let open = self.open.insert(open);
        if !open.initialised {
            initialise(calls, &open.library)?;
            open.initialised = true;
        }
        Ok((Arc::clone(&open.library), open.driver.root.clone()))
    }

    /// A look said that the library is to be initialised again, or that it is well.
    pub(crate) fn doubt(&mut self, stale: bool) {
        if !stale {
            // One good look among bad ones is no recovery.
            self.again = self.again.filter(|(_, at)| at.elapsed() < LONGEST);
        } else if self.again.is_none_or(|(_, at)| Instant::now() >= at) {
            let times = self.again.map_or(0, |(times, _)| times).saturating_add(1);
            self.again = Some((times, Instant::now() + pause(times)));
            self.stale = true;
        }
    }

    fn load(&mut self, driver: Driver, stamp: Option<Stamp>) -> Result<Open, DiscoveryError> {
        let library = Library::load(&driver.library, self.generation)?;
        tracing::info!(path = %driver.library.display(), "NVML library loaded");
        Ok(Open { library: Arc::new(library), driver, stamp, initialised: false })
    }

    /// Shuts the library down. While a call hangs in it that is not done: it would hang too, or take away what the
    /// call works on. A library whose file was replaced is left as it is then; else it stays open.
    fn close(&mut self, calls: &Calls, replaced: bool) {
        let hangs = calls.hanging() > 0;
        if hangs && !replaced {
            return;
        }
        self.stale = false;
        let Some(open) = self.open.take() else { return };
        if replaced {
            self.generation += 1;
            tracing::info!(path = %open.driver.library.display(), "NVML library changed, it is opened again");
        }
        if hangs {
            tracing::warn!("a call hangs in the old NVML library: it is left open");
            return;
        }
        let library = Arc::clone(&open.library);
        let key = CallKey { function: "nvmlShutdown", place: None };
        if open.initialised && !matches!(calls.call(key, move |()| library.shut_down()), Ok(Ok(()))) {
            tracing::warn!("nvmlShutdown failed or hangs");
        }
    }
}

fn initialise(calls: &Calls, library: &Arc<Library>) -> Result<(), DiscoveryError> {
    let function = "nvmlInit_v2";
    let (vendor, path) = (VendorLibrary::Nvml, library.path().to_owned());
    let library = Arc::clone(library);
    match calls.call(CallKey { function, place: None }, move |()| library.init()) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Refusal::Code(code))) => Err(DiscoveryError::Call { library: vendor, function, code }),
        Ok(Err(Refusal::Absent)) => {
            Err(DiscoveryError::LibraryTooOld { library: vendor, path, missing: vec![function] })
        }
        Ok(Err(Refusal::Garbled)) => {
            Err(DiscoveryError::Call { library: vendor, function, code: code::NOT_SUPPORTED })
        }
        Err(_) => Err(DiscoveryError::Hanging { function }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_wrong_is_tried_at_once_and_then_more_and_more_seldom() {
        let mut session = Session::default();
        session.doubt(true);
        assert!(std::mem::take(&mut session.stale), "the first time at once");
        session.doubt(true);
        assert!(!session.stale, "it was just tried");
        session.again = session.again.map(|(times, _)| (times, Instant::now()));
        session.doubt(true);
        assert!(std::mem::take(&mut session.stale));
        let (times, at) = session.again.unwrap();
        assert!(times == 2 && at > Instant::now() + Duration::from_secs(8));
        session.doubt(false);
        session.doubt(true);
        assert!(!session.stale, "one look that was well ends nothing");
        session.again = Instant::now().checked_sub(LONGEST).map(|at| (times, at));
        session.doubt(false);
        session.doubt(true);
        assert!(session.stale && session.again.is_some_and(|(times, _)| times == 1), "well for long enough");
        assert_eq!([1, 2, 3, 5, 40].map(|times| pause(times).as_secs()), [5, 10, 20, 60, 60]);
    }
}
