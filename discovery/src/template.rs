//! A backend to copy: the least that keeps all promises of docs/adding-a-vendor.md. The vendor is imaginary, and its
//! library is a trait that a test implements; yours is a shared library behind such a trait (`ascend/dcmi.rs` and
//! `ascend/library.rs` show one). Compiled with the tests only.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use vnpu_driver::hardware::{
    Chip, Health, Inventory, MultiDiePolicy, Problem, ProcessError, ProcessMemory, ProcessView, Traits,
    Vendor, VendorEdits,
};
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::Bytes;

use crate::backend::Backend;
use crate::error::{DiscoveryError, VendorLibrary};
use crate::found::{Found, Identity};
use crate::nodes::{check, node};
use crate::worker::{CallKey, Worker};

/// What is asked of the vendor's library, in plain values: a number is the library's error code. Every call may block
/// for as long as the driver likes.
pub(crate) trait Acme: Send + Sync + 'static {
    /// Numbers of the cards. A card that goes or comes must not change the numbers of others.
    fn cards(&self) -> Result<Vec<u32>, i32>;
    /// The card's serial number.
    fn serial(&self, card: u32) -> Result<String, i32>;
    /// Memory in MiB.
    fn memory(&self, card: u32) -> Result<u64, i32>;
    /// 0 is healthy.
    fn health(&self, card: u32) -> Result<u32, i32>;
}

/// The backend. Everything that is asked goes through `worker`, which gives up after the deadline.
pub(crate) struct Template<D> {
    worker: Worker<D, u32>,
    vendor: Vendor,
    dev_root: PathBuf,
    /// What was seen last, for cards that do not answer now.
    known: Mutex<BTreeMap<u32, Chip>>,
}

/// Why a question has no answer.
enum Unanswered {
    Code(&'static str, i32),
    Hangs(&'static str),
}

impl Unanswered {
    fn message(&self) -> String {
        match self {
            Self::Code(function, code) => format!("{function} failed with {code}"),
            Self::Hangs(function) => format!("{function} does not return: the driver hangs on this card"),
        }
    }

    /// Words for metrics; take those that other backends use.
    fn reason(&self) -> &'static str {
        match self {
            Self::Code(..) => "vendor_call_failed",
            Self::Hangs(_) => "vendor_call_hangs",
        }
    }
}

/// What no two cards may share.
const IDENTITIES: [Identity; 1] = [Identity {
    what: "several cards report the same serial number",
    reason: "duplicate_uuid",
    remedy: "update the driver",
    same: |one, other| one.uuid == other.uuid,
}];

impl<D: Acme> Template<D> {
    /// A vendor with a library of its own gets a variant of [`Vendor`].
    pub(crate) fn new(library: D, vendor: Vendor, dev_root: PathBuf, deadline: Duration) -> Self {
        Self { worker: Worker::new("template", library, deadline), vendor, dev_root, known: Mutex::default() }
    }

    fn ask<T: Send + 'static>(
        &self,
        function: &'static str,
        card: Option<u32>,
        call: impl FnOnce(&D) -> Result<T, i32> + Send + 'static,
    ) -> Result<T, Unanswered> {
        match self.worker.call(CallKey { function, place: card }, call) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(code)) => Err(Unanswered::Code(function, code)),
            Err(_) => Err(Unanswered::Hangs(function)),
        }
    }

    /// A card, or what keeps it from being one: a question without answer, or something that no question mends.
    fn chip(&self, card: u32) -> Result<Chip, Result<Unanswered, (String, &'static str)>> {
        let serial = self.ask("acme_serial", Some(card), move |d| d.serial(card)).map_err(Ok)?;
        // Identity comes from the hardware. Without one, or without memory, a card is named and left out.
        let uuid = DeviceUuid::new(serial).map_err(|error| Err((error.to_string(), "missing_uuid")))?;
        let memory = self.ask("acme_memory", Some(card), move |d| d.memory(card)).map_err(Ok)?;
        if memory == 0 {
            return Err(Err(("the driver reports no memory".to_owned(), "zero_memory")));
        }
        // Health may fail alone: the card is as it is, and its health is unknown.
        let health = match self.ask("acme_health", Some(card), move |d| d.health(card)) {
            Ok(0) => Health::Healthy,
            Ok(code) => Health::fault(&format!("error-{code}"), format!("error {code}")),
            Err(unanswered) => Health::Unknown(unanswered.message()),
        };
        Ok(Chip {
            card,
            die: 0,
            uuid,
            module: None,
            model: "A10".to_owned(),
            product_name: "Acme A10".to_owned(),
            memory: Bytes(memory << 20),
            phys_id: card,
            pci: None,
            numa_node: None,
            pcie_root: None,
            health,
            traits: Traits {
                whole_only: Some("vNPU-Core has no hooks for this vendor's runtime".to_owned()),
                ..Traits::default()
            },
        })
    }
}

impl<D: Acme> Backend for Template<D> {
    fn vendor(&self) -> Vendor {
        self.vendor
    }

    fn discover(&self) -> Result<Inventory, DiscoveryError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let function = "acme_cards";
        // The one question without which nothing can be said. All others are one card's matter.
        let cards = self.ask(function, None, |d: &D| d.cards()).map_err(|unanswered| match unanswered {
            Unanswered::Code(function, code) => {
                DiscoveryError::Call { library: VendorLibrary::Template, function, code }
            }
            Unanswered::Hangs(function) => DiscoveryError::Hanging { function },
        })?;
        let object = |card: u32| format!("card {card}");
        let (mut found, mut problems) = (Found::default(), Vec::new());
        for card in cards {
            let (message, reason) = match self.chip(card) {
                Ok(chip) => {
                    found.see(card, chip);
                    continue;
                }
                Err(Ok(unanswered)) => {
                    // Seen before: it stays as it was, with unknown health.
                    found.carry(card, &known, &Health::Unknown(unanswered.message()));
                    (unanswered.message(), unanswered.reason())
                }
                Err(Err(unusable)) => unusable,
            };
            problems.push(Problem { object: object(card), message, reason: reason.to_owned() });
        }
        let chips = found.settle(&known, &IDENTITIES, object, &mut problems);
        known.clone_from(&chips);
        Ok(Inventory {
            vendor: self.vendor,
            chips: chips.into_values().collect(),
            multi_die_policy: MultiDiePolicy::Independent,
            driver_version: String::new(),
            cuda_version: String::new(),
            superpod: None,
            problems,
        })
    }

    fn edits(&self, chips: &[Chip]) -> Result<VendorEdits, DiscoveryError> {
        let mut edits = VendorEdits::default();
        for chip in chips {
            let name = format!("acme{}", chip.phys_id);
            check(&self.dev_root.join(&name))?;
            edits.device_nodes.push(node(&self.dev_root, &name));
        }
        Ok(edits)
    }
}

impl<D: Acme> ProcessView for Template<D> {
    fn processes(&self, _chip: &Chip) -> Result<Vec<ProcessMemory>, ProcessError> {
        Err(ProcessError::Unsupported("the library does not tell of processes".to_owned()))
    }
}

#[cfg(test)]
mod tests;
