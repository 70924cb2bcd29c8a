//! Nodes, their modules and chips, and who holds what of them. Pure, and without the API's types.

use std::fmt;

use serde::{Serialize, Serializer};
use vnpu_driver::slices::DRAIN_TAINT;

use super::tolerance::Tolerance;

/// A node with devices of this driver.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: String,
    /// Its leaf, as its devices say; empty when it is not known.
    pub(crate) leaf: String,
    /// Its super-pod; empty when it is not known.
    pub(crate) superpod: String,
    /// Its pools: one per vendor.
    pub(crate) pools: Vec<Pool>,
}

/// The devices of one vendor on a node.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pool {
    /// Its name.
    pub(crate) name: String,
    /// `ascend`, `nvidia`.
    pub(crate) vendor: String,
    /// The model of its chips; where they are of several, all of them, with commas between.
    pub(crate) model: String,
    /// The version of the vendor's driver.
    pub(crate) driver_version: String,
    /// Some of its slices are missing: it is being rewritten, and what is shown may be old or not all.
    pub(crate) incomplete: bool,
    /// Modules, or chips that stand alone.
    pub(crate) modules: Vec<Module>,
    /// Devices that claims hold and that are not published any more.
    pub(crate) unpublished: Vec<Unpublished>,
}

/// A device that is held and not published.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Unpublished {
    /// The device.
    pub(crate) device: String,
    /// The claim, as `namespace/name`.
    pub(crate) claim: String,
}

/// What keeps claims away from a device; in text and in JSON `key=value:effect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taint {
    /// Its key.
    pub(crate) key: String,
    /// Its value; may be empty.
    pub(crate) value: String,
    /// `NoSchedule` or `NoExecute`.
    pub(crate) effect: String,
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, effect } = self;
        if value.is_empty() { write!(f, "{key}:{effect}") } else { write!(f, "{key}={value}:{effect}") }
    }
}

impl Serialize for Taint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A module with its chips, or one chip of single-die hardware.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Module {
    /// The card's number on the node; `None` for a chip that stands alone.
    pub(crate) module: Option<i64>,
    /// The name of the device that is the whole module; empty while none is published.
    pub(crate) device: String,
    /// Taints of that device; those of its chips are theirs.
    pub(crate) taints: Vec<Taint>,
    /// The chips, by die.
    pub(crate) chips: Vec<Chip>,
}

impl Module {
    /// Whether a claim could get all of it.
    pub(crate) fn is_free(&self) -> bool {
        let chips = !self.chips.is_empty() && self.chips.iter().all(|chip| chip.state() == State::Free);
        self.module.is_some() && !self.device.is_empty() && self.taints.is_empty() && chips
    }

    /// Whether one of its chips is free, and only one.
    pub(crate) fn is_half_free(&self) -> bool {
        let free = self.chips.iter().filter(|chip| chip.state() == State::Free).count();
        self.module.is_some() && self.chips.len() > 1 && free == 1
    }
}

/// A chip, or a part of one that the hardware keeps apart (an instance of a GPU under MIG).
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Chip {
    /// The name of its device; empty for a die that is not published.
    pub(crate) device: String,
    /// The hardware's own identity.
    pub(crate) uuid: String,
    /// Its model, such as `910C`; empty when it is not known.
    pub(crate) model: String,
    /// The profile of a part of a chip, such as `1g.10gb`, or `partition` where it has none; `None` for a whole chip.
    pub(crate) partition: Option<String>,
    /// Whether several claims may hold parts of it.
    pub(crate) shareable: bool,
    /// Bytes.
    pub(crate) memory: u64,
    /// Percent of one chip's compute: 100 for a chip, less for a part of one.
    pub(crate) cores: u64,
    /// Taints that keep new claims away: those that its node published, and those of DeviceTaintRules.
    pub(crate) taints: Vec<Taint>,
    /// Who holds it, or shares of it.
    pub(crate) held: Vec<Share>,
}

/// What one claim holds of a chip.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Share {
    /// The claim, as `namespace/name`.
    pub(crate) claim: String,
    /// The pods that it is reserved for.
    pub(crate) pods: Vec<String>,
    /// It holds the chip alone.
    pub(crate) whole: bool,
    /// Bytes.
    pub(crate) memory: u64,
    /// Percent of the chip.
    pub(crate) cores: u64,
    /// How long it keeps the chip when that is drained with eviction.
    #[serde(skip)]
    pub(crate) tolerance: Tolerance,
}

/// How a chip is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// Nobody holds it.
    Free,
    /// Shares of it are held: percent of the dimension that is fuller, 1 to 99.
    Shared(u64),
    /// There is no room left, or one claim holds it alone.
    Full,
    /// New claims are kept away.
    Sick,
    /// An administrator took it out of service, and nothing else keeps claims away.
    Drained,
    /// The die is not published.
    Absent,
}

impl Chip {
    /// Bytes that claims hold.
    pub(crate) fn memory_held(&self) -> u64 {
        self.held.iter().fold(0, |sum: u64, share| sum.saturating_add(share.memory)).min(self.memory)
    }

    /// Percent that claims hold.
    pub(crate) fn cores_held(&self) -> u64 {
        self.held.iter().fold(0, |sum: u64, share| sum.saturating_add(share.cores)).min(self.cores)
    }

    /// How it is.
    pub(crate) fn state(&self) -> State {
        if self.device.is_empty() && self.held.is_empty() {
            return State::Absent;
        }
        if !self.taints.is_empty() {
            let drained = self.taints.iter().all(|taint| taint.key == DRAIN_TAINT);
            return if drained { State::Drained } else { State::Sick };
        }
        if self.held.is_empty() {
            return State::Free;
        }
        let percent = |part: u64, whole: u64| {
            u64::try_from(u128::from(part) * 100 / u128::from(whole.max(1))).unwrap_or(100)
        };
        let used = percent(self.memory_held(), self.memory).max(percent(self.cores_held(), self.cores));
        if used >= 100 || self.held.iter().any(|share| share.whole) {
            return State::Full;
        }
        State::Shared(used.max(1))
    }

    /// What claims could still get of it: bytes, and percent of compute.
    pub(crate) fn left(&self) -> (u64, u64) {
        match self.state() {
            State::Free => (self.memory, self.cores),
            State::Shared(_) => {
                (self.memory.saturating_sub(self.memory_held()), self.cores.saturating_sub(self.cores_held()))
            }
            State::Full | State::Sick | State::Drained | State::Absent => (0, 0),
        }
    }
}
