//! Nodes, their modules and chips, and who holds what of them. Pure, and without the API's types.

use std::ops::AddAssign;

use serde::Serialize;

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
    /// The model of its chips.
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

/// A module with its chips, or one chip of single-die hardware.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Module {
    /// The card's number on the node; `None` for a chip that stands alone.
    pub(crate) module: Option<i64>,
    /// The chips, by die.
    pub(crate) chips: Vec<Chip>,
}

/// A chip.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Chip {
    /// The name of its device; empty for a die that is not published.
    pub(crate) device: String,
    /// The hardware's own identity.
    pub(crate) uuid: String,
    /// Bytes.
    pub(crate) memory: u64,
    /// Percent of one chip's compute; 100 for a chip.
    pub(crate) cores: u64,
    /// Taints that keep new claims away, as `key=value:effect`.
    pub(crate) taints: Vec<String>,
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
            return State::Sick;
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

    /// Bytes that a claim could still get.
    fn memory_left(&self) -> u64 {
        match self.state() {
            State::Free => self.memory,
            State::Shared(_) => self.memory.saturating_sub(self.memory_held()),
            State::Full | State::Sick | State::Absent => 0,
        }
    }
}

/// Sums over modules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Totals {
    /// Modules of two chips.
    pub(crate) modules: u64,
    /// Those of which nothing is held.
    pub(crate) free_modules: u64,
    /// Those of which one chip is free and of the other something is held.
    pub(crate) half_modules: u64,
    /// Chips that are published.
    pub(crate) chips: u64,
    /// Those of which nothing is held.
    pub(crate) free_chips: u64,
    /// Shares of chips.
    pub(crate) shares: u64,
    /// Bytes.
    pub(crate) memory: u64,
    /// Bytes that claims could still get.
    pub(crate) free_memory: u64,
}

impl Totals {
    /// The sums of some pools.
    pub(crate) fn of<'a>(pools: impl IntoIterator<Item = &'a Pool>) -> Self {
        let mut totals = Self::default();
        for module in pools.into_iter().flat_map(|pool| &pool.modules) {
            totals += Self::of_module(module);
        }
        totals
    }

    fn of_module(module: &Module) -> Self {
        let states: Vec<State> = module.chips.iter().map(Chip::state).collect();
        let count = |wanted: fn(&State) -> bool| {
            u64::try_from(states.iter().filter(|state| wanted(state)).count()).unwrap_or(u64::MAX)
        };
        let free = count(|state| *state == State::Free);
        let held = count(|state| matches!(state, State::Shared(_) | State::Full));
        let is_module = module.module.is_some();
        let all_free = free > 0 && usize::try_from(free).is_ok_and(|free| free == states.len());
        let sum = |amount: fn(&Chip) -> u64| module.chips.iter().map(amount).fold(0, u64::saturating_add);
        let shares = |chip: &Chip| u64::try_from(chip.held.iter().filter(|s| !s.whole).count()).unwrap_or(0);
        Self {
            modules: u64::from(is_module),
            free_modules: u64::from(is_module && all_free),
            half_modules: u64::from(is_module && free > 0 && held > 0),
            chips: count(|state| *state != State::Absent),
            free_chips: free,
            shares: sum(shares),
            memory: sum(|chip| chip.memory),
            free_memory: sum(Chip::memory_left),
        }
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        let Self { modules, free_modules, half_modules, chips, free_chips, shares, memory, free_memory } =
            self;
        for (sum, more) in [
            (modules, other.modules),
            (free_modules, other.free_modules),
            (half_modules, other.half_modules),
            (chips, other.chips),
            (free_chips, other.free_chips),
            (shares, other.shares),
            (memory, other.memory),
            (free_memory, other.free_memory),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}
