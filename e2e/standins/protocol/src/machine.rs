//! A simulated machine as its YAML file describes it: cards, dies, GPUs and the faults to play. Plain data, no state.

use serde::{Deserialize, Serialize};
use standin_executor::Discipline;

use crate::gpu::Nvidia;

/// The whole machine: the content of the configuration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Machine {
    /// What `dcmi_get_driver_version` says.
    #[serde(default = "default_driver_version")]
    pub driver_version: String,
    /// What `dcmi_get_multi_die_policy` says.
    #[serde(default)]
    pub multi_die_policy: MultiDiePolicy,
    /// What `dcmi_get_device_info` (main 12, sub 1) says; without it the call is not supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub super_pod: Option<SuperPod>,
    /// Bytes that a process takes on a device by opening it (its context), 0 by default.
    #[serde(default)]
    pub context_bytes: u64,
    /// How kernels of several processes share a chip.
    #[serde(default)]
    pub discipline: Discipline,
    /// The cards. On 910C a card is a module with two dies.
    pub cards: Vec<Card>,
    /// NVIDIA GPUs, beside or instead of the cards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvidia: Option<Nvidia>,
    /// Calls that fail or hang.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

/// Whether both dies of a module must be given out together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MultiDiePolicy {
    /// Value 0.
    Union,
    /// Value 1.
    #[default]
    Independent,
    /// The call fails as on hardware or drivers that do not know it.
    Unsupported,
}

/// What `dcmi_get_device_share_enable` says of a die.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceShare {
    /// Several containers may hold the die. (On real machines the switch is off after every boot.)
    #[default]
    On,
    /// One container at a time.
    Off,
    /// The call fails as on drivers that do not know it.
    Unsupported,
}

/// What the super-pod query answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SuperPod {
    /// Super-pod's number.
    pub id: u32,
    /// Number of this server in it.
    #[serde(default)]
    pub server: u32,
    /// How many devices the super-pod has.
    #[serde(default)]
    pub scale: u32,
}

/// One card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Card {
    /// DCMI card id.
    pub id: i32,
    /// DCMI board id; 0xb0.. on 910C.
    pub board_id: u32,
    /// DCMI main board id.
    #[serde(default)]
    pub mainboard_id: u32,
    /// `chip_name` of the chip information, such as `910C` or `910B3`.
    pub chip_name: String,
    /// `npu_name` of the chip information.
    #[serde(default)]
    pub npu_name: String,
    /// What `dcmi_get_product_type` says.
    #[serde(default)]
    pub product_type: String,
    /// The dies that answer.
    pub dies: Vec<Die>,
}

/// One die.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Die {
    /// DCMI device id inside the card.
    pub id: i32,
    /// Number of the device node.
    pub phys_id: u32,
    /// HBM size in MiB.
    pub memory_mib: u64,
    /// The VDie id.
    pub vdie: [u32; 5],
    /// PCI address, `0000:81:00.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
    /// What `dcmi_get_device_health` says: 0 is healthy.
    #[serde(default)]
    pub health: u32,
    /// What `dcmi_get_device_errorcode_v2` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub error_codes: Vec<u32>,
    /// What the utilisation call says, percent.
    #[serde(default)]
    pub utilization: u32,
    /// Degrees Celsius.
    #[serde(default = "default_temperature")]
    pub temperature: i32,
    /// The device-share switch.
    #[serde(default)]
    pub device_share: DeviceShare,
    /// Dies with the same number are joined by HCCS; without one only PCIe joins the die with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hccs: Option<u32>,
    /// Whether the memory is HBM; `dcmi_get_device_hbm_info` fails without.
    #[serde(default = "yes")]
    pub hbm: bool,
}

/// One call that misbehaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Name of the C function.
    pub function: String,
    /// On this card (or GPU, by its minor number) only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<i32>,
    /// On this device id only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<i32>,
    /// Return this code.
    #[serde(default)]
    pub error: i32,
    /// Do not return while the fault stands in the file.
    #[serde(default)]
    pub hang: bool,
}

impl Fault {
    /// Whether the fault is for this call.
    pub fn hits(&self, function: &str, card: Option<i32>, device: Option<i32>) -> bool {
        self.function == function
            && self.card.is_none_or(|wanted| card == Some(wanted))
            && self.device.is_none_or(|wanted| device == Some(wanted))
    }
}

const fn default_temperature() -> i32 {
    40
}

fn yes() -> bool {
    true
}

fn default_driver_version() -> String {
    "25.5.0".to_owned()
}

impl Machine {
    /// `modules` 910C modules of two dies, `memory_mib` each; die ids and PCI addresses made from the numbers.
    pub fn ascend_910c(modules: u32, memory_mib: u64) -> Self {
        Self::of("910C", 0xb0, 2, modules, memory_mib)
    }

    /// `cards` 910B cards of one die, `memory_mib` each, all joined by HCCS.
    pub fn ascend_910b(cards: u32, memory_mib: u64) -> Self {
        Self::of("910B3", 0x33, 1, cards, memory_mib)
    }

    /// `cards` 310P Duo cards: two device ids in a card, which are two chips and no module.
    pub fn ascend_310p_duo(cards: u32, memory_mib: u64) -> Self {
        let mut machine = Self::of("310P3", 0x64, 2, cards, memory_mib);
        machine.multi_die_policy = MultiDiePolicy::Unsupported;
        for die in machine.cards.iter_mut().flat_map(|card| &mut card.dies) {
            (die.hbm, die.hccs) = (false, None);
        }
        machine
    }

    fn of(chip: &str, board_id: u32, dies: u32, cards: u32, memory_mib: u64) -> Self {
        let cards = (0..cards)
            .map(|card| Card {
                id: card as i32,
                board_id,
                mainboard_id: 0,
                chip_name: chip.to_owned(),
                npu_name: String::new(),
                product_type: String::new(),
                dies: (0..dies)
                    .map(|die| Die {
                        id: die as i32,
                        phys_id: card * dies + die,
                        memory_mib,
                        vdie: [
                            0x5741_0000 | card,
                            die,
                            0x1DE0_0000 + card * dies + die,
                            0x6B20_0000,
                            0x0103_0003,
                        ],
                        // Two dies of a module sit behind neighbouring buses of one root, as on an A3 server.
                        pci: Some(format!("{:04x}:{:02x}:00.0", card / 32, 0x41 + (card % 32) * 2 + die)),
                        health: 0,
                        error_codes: Vec::new(),
                        utilization: 0,
                        temperature: default_temperature(),
                        device_share: DeviceShare::On,
                        hccs: Some(0),
                        hbm: true,
                    })
                    .collect(),
            })
            .collect();
        Self {
            driver_version: default_driver_version(),
            multi_die_policy: MultiDiePolicy::Independent,
            super_pod: None,
            context_bytes: 0,
            discipline: Discipline::default(),
            cards,
            nvidia: None,
            faults: Vec::new(),
        }
    }

    /// All dies with their cards, in the order of the file.
    pub fn dies(&self) -> impl Iterator<Item = (&Card, &Die)> {
        self.cards.iter().flat_map(|card| card.dies.iter().map(move |die| (card, die)))
    }
}
