//! What discovery asks of DCMI, in plain values. The real library and the tests' fake stand behind it.

/// A place for a die: card id and device id in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub card: i32,
    pub device: i32,
}

/// What a call returned instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The library's return code, not 0.
    Code(i32),
    /// This library has no such function.
    Absent,
}

/// `DCMI_ERR_CODE_DEVICE_NOT_EXIST` and `DCMI_ERR_CODE_INVALID_DEVICE_ID`: nothing in this slot.
pub(crate) const NOT_THERE: [i32; 2] = [-8008, -8007];

/// `DCMI_ERR_CODE_NOT_SUPPORT`: not on this hardware, or not by this driver.
pub(crate) const NOT_SUPPORTED: i32 = -8255;

/// `DCMI_ERR_CODE_NOT_REDAY` (as the header spells it): the driver is still coming up.
pub(crate) const NOT_READY: i32 = -8012;

/// `DCMI_TOPO_TYPE_HCCS` and `DCMI_TOPO_TYPE_HCCS_SW`: joined by the vendor's links, directly or over switches. (6 is
/// SIO, which joins the dies of a module, in newer headers and *unknown* in older ones.)
pub(crate) const HCCS: [i32; 2] = [3, 7];

/// Chip information, cut at the first NUL of each field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ChipInfo {
    pub chip_type: String,
    pub chip_name: String,
    pub npu_name: String,
}

/// How many devices a card has and below which number their ids are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Devices {
    pub count: i32,
    pub beyond: i32,
}

/// PCI address parts as DCMI gives them, unchecked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pcie {
    pub domain: i32,
    pub bus: u32,
    pub device: u32,
    pub function: u32,
}

pub(crate) type Answer<T> = Result<T, Refusal>;

/// The DCMI functions that discovery uses. Each call may block for as long as the driver likes.
pub(crate) trait Dcmi: Send + Sync + 'static {
    fn init(&self) -> Answer<()>;
    fn driver_version(&self) -> Answer<String>;
    fn multi_die_policy(&self) -> Answer<i32>;
    fn cards(&self) -> Answer<Vec<i32>>;
    fn devices(&self, card: i32) -> Answer<Devices>;
    /// 0 is an NPU, 1 an MCU, 2 a CPU.
    fn unit_type(&self, slot: Slot) -> Answer<i32>;
    fn vdie(&self, slot: Slot) -> Answer<[u32; 5]>;
    fn board_id(&self, slot: Slot) -> Answer<u32>;
    fn chip_info(&self, slot: Slot) -> Answer<ChipInfo>;
    /// HBM size in MiB.
    fn hbm_mib(&self, slot: Slot) -> Answer<u64>;
    /// Memory size in MiB, for chips whose memory is no HBM.
    fn memory_mib(&self, slot: Slot) -> Answer<u64>;
    fn logic_id(&self, slot: Slot) -> Answer<i32>;
    fn phys_of_logic(&self, logic: u32) -> Answer<u32>;
    fn pcie(&self, slot: Slot) -> Answer<Pcie>;
    /// 0 is healthy, 1 to 3 rising severity of alarms, other values unknown.
    fn health(&self, slot: Slot) -> Answer<u32>;
    fn error_codes(&self, slot: Slot) -> Answer<Vec<u32>>;
    /// Whether several containers may hold the die.
    fn shares(&self, slot: Slot) -> Answer<bool>;
    /// How two dies are connected: the vendor's number.
    fn connection(&self, one: Slot, other: Slot) -> Answer<i32>;
    /// The super-pod's number.
    fn super_pod(&self, slot: Slot) -> Answer<u32>;
    /// Process ids (host) and bytes.
    fn processes(&self, slot: Slot) -> Answer<Vec<(i32, u64)>>;
}
