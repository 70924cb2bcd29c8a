//! What a DeviceClass means to admission: whether its devices are chips that may be halves of modules, modules, or
//! neither. Names decide, those of vnpu and those of the configuration; a class that is in neither and selects our
//! driver may select anything.

use super::known::{ClassFacts, Known};
use super::selector;
use crate::DRIVER_NAME;
use crate::controller_config::ControllerConfig;

/// The class of Ascend chips.
pub const NPU: &str = "npu.vnpu.dev";
/// The class of dual-die modules.
pub const NPU_MODULE: &str = "npu-module.vnpu.dev";
/// The class of NVIDIA GPUs.
pub const GPU: &str = "gpu.vnpu.dev";
/// The class of instances of partitioned GPUs.
pub const GPU_PARTITION: &str = "gpu-partition.vnpu.dev";
/// The class of chips of any vendor.
pub const ACCELERATOR: &str = "accelerator.vnpu.dev";
/// The extended resource of [`NPU_MODULE`].
pub const NPU_MODULE_RESOURCE: &str = "vnpu.dev/npu-module";
/// Every class has an extended resource of this and its name (KEP-5004).
pub const IMPLICIT_RESOURCE: &str = "deviceclass.resource.kubernetes.io/";
/// What begins the names of our own extended resources.
pub const OUR_RESOURCES: &str = "vnpu.dev/";

/// What a class selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClassKind {
    /// Chips of dual-die hardware (and single-die chips of the same vendor).
    Npu,
    /// Chips of any vendor.
    Accelerator,
    /// Dual-die modules.
    Module,
    /// Chips of single-die hardware.
    SingleDie,
    /// Instances of partitioned chips, which have no shares.
    Partition,
    /// Nothing of ours, as far as is known.
    Foreign,
}

impl ClassKind {
    /// Whether the class is one of ours.
    pub const fn is_ours(self) -> bool {
        !matches!(self, Self::Foreign)
    }

    /// Whether a device of the class may be half a module.
    pub const fn reaches_halves(self) -> bool {
        matches!(self, Self::Npu | Self::Accelerator)
    }

    /// Whether devices of the class can be shared.
    pub const fn has_shares(self) -> bool {
        matches!(self, Self::Npu | Self::Accelerator | Self::SingleDie)
    }
}

/// Classes by the configuration and by what is known of the cluster.
#[derive(Clone, Copy)]
pub struct Classes<'a> {
    config: &'a ControllerConfig,
    known: &'a dyn Known,
}

impl<'a> Classes<'a> {
    /// Reads classes by `config` first, then by `known`.
    pub const fn new(config: &'a ControllerConfig, known: &'a dyn Known) -> Self {
        Self { config, known }
    }

    /// What the class selects.
    pub fn kind(&self, name: &str) -> ClassKind {
        let own = &self.config.classes;
        let named = |list: &[String]| list.iter().any(|n| n == name);
        match name {
            NPU => ClassKind::Npu,
            ACCELERATOR => ClassKind::Accelerator,
            NPU_MODULE => ClassKind::Module,
            GPU => ClassKind::SingleDie,
            GPU_PARTITION => ClassKind::Partition,
            _ if named(&own.npu) => ClassKind::Npu,
            _ if named(&own.accelerator) => ClassKind::Accelerator,
            _ if named(&own.module) => ClassKind::Module,
            _ if named(&own.single_die) => ClassKind::SingleDie,
            _ => self.known.class(name).map_or(ClassKind::Foreign, |facts| kind_by_selectors(&facts)),
        }
    }

    /// The class of the modules whose chips `npu` selects, a class of [`ClassKind::Npu`].
    pub fn module_of(&self, npu: &str) -> Option<&'a str> {
        if npu == NPU {
            Some(NPU_MODULE)
        } else {
            self.config.classes.modules_of.get(npu).map(String::as_str)
        }
    }

    /// The opaque configurations for our driver that the class has.
    pub fn policies(&self, name: &str) -> Vec<serde_json::Value> {
        self.known.class(name).map(|facts| facts.policies).unwrap_or_default()
    }

    /// What a unit of an extended resource is a device of.
    pub fn kind_of_resource(&self, resource: &str) -> ClassKind {
        if let Some(class) = resource.strip_prefix(IMPLICIT_RESOURCE) {
            return self.kind(class);
        }
        if self.config.classes.extended_resources.iter().any(|r| r == resource) {
            return ClassKind::Npu;
        }
        if resource == NPU_MODULE_RESOURCE {
            return ClassKind::Module;
        }
        self.known.class_of_resource(resource).map_or(ClassKind::Foreign, |class| self.kind(&class))
    }
}

/// A class that nobody named: ours if a selector asks for our driver. Which devices of ours is not read out of CEL,
/// but for partitions, which are no chips.
fn kind_by_selectors(facts: &ClassFacts) -> ClassKind {
    let ours = facts.selectors.iter().any(|s| asks_for_our_driver(s));
    let partition = facts.selectors.iter().any(|s| selector::mentions(s, &["partition"]).is_some());
    match (ours, partition) {
        (false, _) => ClassKind::Foreign,
        (true, true) => ClassKind::Partition,
        (true, false) => ClassKind::Accelerator,
    }
}

/// `device.driver == "vnpu.dev"`, anywhere.
fn asks_for_our_driver(expression: &str) -> bool {
    let tokens = selector::tokens(expression);
    tokens.windows(2).any(|pair| matches!(pair, [a, b] if a == "driver" && b == DRIVER_NAME || a == DRIVER_NAME && b == "driver"))
        || tokens.windows(3).any(|t| matches!(t, [a, b, c] if a == DRIVER_NAME && b == "device" && c == "driver"))
}
