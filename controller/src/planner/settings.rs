//! How the planner's shell behaves: what the configuration says of placement, and times that nobody needs to set.

use std::collections::BTreeSet;
use std::time::Duration;

use vnpu_driver::controller_config::{ControllerConfig, OnNoFit, OnPartial, PlacementMode, WorkloadKind};
use vnpu_placement::batch::Mode;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A batch of unknown size is complete after so long without a newcomer.
    pub quiet: Duration,
    /// The same where its controller is of a kind that is watched, and was not seen yet.
    pub unseen: Duration,
    /// A batch of known size whose pods stop coming is planned without the missing ones after so long, unless its pods
    /// work together.
    pub stragglers: Duration,
    /// A pod whose claims stay unknown goes to the scheduler after so long.
    pub unknown: Duration,
    /// The longest that a pod is nominated and gated at the same time: such a nomination holds CPU and memory.
    pub nominated: Duration,
    /// A batch that is not bound so long after its release is partial: it is to be completed or reported within 30 s.
    pub bind: Duration,
    /// Patience of batches that do not say.
    pub patience: Duration,
    /// What becomes of a batch that fits nowhere.
    pub on_no_fit: OnNoFit,
    /// What becomes of the pods of a batch that could not be bound with the others.
    pub on_partial: OnPartial,
    /// Kinds of controllers whose pods work together.
    pub gang_kinds: BTreeSet<WorkloadKind>,
    /// Classes that only dual-die Ascend hardware serves, whole or in parts.
    pub module_classes: BTreeSet<String>,
    /// The mode of pods that work together and that only such hardware can serve.
    pub gang_mode: Mode,
    /// The mode of all others.
    pub other_mode: Mode,
    /// The `cores` that admission gives a share that names memory alone.
    pub default_cores: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self::of(&ControllerConfig::default())
    }
}

impl Settings {
    /// What the configuration says.
    pub fn of(config: &ControllerConfig) -> Self {
        let placement = &config.placement;
        let shipped = ["npu.vnpu.dev", "npu-module.vnpu.dev"].map(str::to_owned);
        let own = config.classes.npu.iter().chain(&config.classes.module).cloned();
        Self {
            quiet: Duration::from_millis(200),
            unseen: Duration::from_secs(2),
            stragglers: Duration::from_secs(30),
            unknown: Duration::from_secs(30),
            nominated: Duration::from_secs(10),
            bind: Duration::from_secs(20),
            patience: placement.patience.0,
            on_no_fit: placement.on_no_fit,
            on_partial: placement.on_partial,
            gang_kinds: placement.gang_kinds.iter().cloned().collect(),
            module_classes: shipped.into_iter().chain(own).collect(),
            gang_mode: mode(placement.modes.gang).unwrap_or(Mode::Pack),
            other_mode: mode(placement.modes.other).unwrap_or(Mode::Pack),
            default_cores: u64::from(config.defaults.cores),
        }
    }
}

/// The planner's word for a mode; `None` for `none`.
pub const fn mode(mode: PlacementMode) -> Option<Mode> {
    match mode {
        PlacementMode::Pack => Some(Mode::Pack),
        PlacementMode::OnePerNode => Some(Mode::OnePerNode),
        PlacementMode::WholeNodes => Some(Mode::WholeNodes),
        PlacementMode::None => None,
    }
}
