//! How often a look asks everything. Most of what a vendor's library tells of a device never changes, and asking for it
//! costs several times what identity and health do.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use vnpu_driver::hardware::{Health, Inventory};

/// How long what hardly ever changes is believed, unless it is said otherwise.
pub(crate) const BELIEVED: Duration = Duration::from_secs(60);

/// Reasons of problems that are questions without an answer.
const SILENCE: [&str; 5] =
    ["vendor_call_failed", "vendor_call_hangs", "gpu_lost", "reset_required", "version_mismatch"];

/// When everything was asked last, and of which library.
pub(crate) struct Pace<L> {
    believed: Duration,
    whole: Option<(Instant, Weak<L>)>,
}

impl<L> Pace<L> {
    pub(crate) const fn new(believed: Duration) -> Self {
        Self { believed, whole: None }
    }

    /// Whether a look at this library need not ask everything.
    pub(crate) fn is_brief(&self, library: &Arc<L>) -> bool {
        self.whole.as_ref().is_some_and(|(at, of)| {
            at.elapsed() < self.believed && of.upgrade().is_some_and(|of| Arc::ptr_eq(&of, library))
        })
    }

    /// What a look brought; `None` when it failed, or when something had no answer and nobody was told. After one in
    /// which the library did not answer everything is asked again; that a device cannot be used may last for ever.
    pub(crate) fn looked(&mut self, brief: bool, library: &Arc<L>, found: Option<&Inventory>) {
        let well = |inventory: &Inventory| {
            !inventory.problems.iter().any(|problem| SILENCE.contains(&problem.reason.as_str()))
                && !inventory.chips.iter().any(|chip| matches!(chip.health, Health::Unknown(_)))
        };
        if !found.is_some_and(well) {
            self.whole = None;
        } else if !brief {
            self.whole = Some((Instant::now(), Arc::downgrade(library)));
        }
    }
}

#[cfg(test)]
mod tests {
    use vnpu_driver::hardware::{MultiDiePolicy, Problem, Vendor};

    use super::*;

    fn found() -> Inventory {
        Inventory {
            vendor: Vendor::Ascend,
            chips: Vec::new(),
            multi_die_policy: MultiDiePolicy::Independent,
            driver_version: String::new(),
            cuda_version: String::new(),
            superpod: None,
            problems: Vec::new(),
        }
    }

    #[test]
    fn everything_is_asked_at_first_now_and_then_and_after_any_trouble() {
        let library = Arc::new(1);
        let mut pace = Pace::new(Duration::from_secs(60));
        assert!(!pace.is_brief(&library), "nothing was asked yet");
        pace.looked(false, &library, Some(&found()));
        assert!(pace.is_brief(&library));
        let whole = pace.whole.clone();
        pace.looked(true, &library, Some(&found()));
        assert_eq!(
            pace.whole.as_ref().map(|(at, _)| *at),
            whole.map(|(at, _)| at),
            "a brief look renews nothing"
        );
        assert!(!pace.is_brief(&Arc::new(1)), "another library may say something else");

        let with = |reason: &str| {
            let problem =
                Problem { object: String::new(), message: String::new(), reason: reason.to_owned() };
            Some(Inventory { problems: vec![problem], ..found() })
        };
        for (seen, brief) in [(None, false), (with("vendor_call_failed"), false), (with("whole_only"), true)]
        {
            pace.looked(false, &library, Some(&found()));
            pace.looked(true, &library, seen.as_ref());
            assert_eq!(pace.is_brief(&library), brief, "{seen:?}");
        }
        let mut never = Pace::new(Duration::ZERO);
        never.looked(false, &library, Some(&found()));
        assert!(!never.is_brief(&library));
    }
}
