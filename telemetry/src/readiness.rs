//! Whether a daemon does its work, as a set of named parts that each say so for themselves.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

/// The parts of a daemon and what each still waits for. Cheap to clone, shared by all clones.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    parts: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
}

impl Readiness {
    /// `parts` that all have to become ready.
    pub fn of(parts: impl IntoIterator<Item = &'static str>) -> Self {
        let parts = parts.into_iter().map(|part| (part, Some("not started".to_owned()))).collect();
        Self { parts: Arc::new(Mutex::new(parts)) }
    }

    /// `part` works.
    pub fn ready(&self, part: &'static str) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(part, None);
    }

    /// `part` does not work because of `reason`.
    pub fn not_ready(&self, part: &'static str, reason: impl Into<String>) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(part, Some(reason.into()));
    }

    /// Whether all parts are ready.
    pub fn is_ready(&self) -> bool {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).values().all(Option::is_none)
    }

    /// One line per part, as `/readyz` shows it.
    pub fn report(&self) -> String {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for (part, waiting) in parts.iter() {
            // Writing to a String cannot fail.
            let _ = match waiting {
                None => writeln!(text, "[+] {part} ok"),
                Some(reason) => writeln!(text, "[-] {part}: {reason}"),
            };
        }
        text
    }
}
