//! What NVML tells of one GPU. All questions are asked in one visit, on the worker's thread.

use vnpu_driver::hardware::{Health, PciAddress};
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::Bytes;

use super::library::{Answer, Handle, Library, Refusal, code};
use super::scan::Place;
use crate::error::{DiscoveryError, VendorLibrary};
use crate::worker::{Hangs, Steps};

/// Codes after which the library is initialised again at the next look.
const STALE: [i32; 4] =
    [code::UNINITIALIZED, code::DRIVER_NOT_LOADED, code::GPU_IS_LOST, code::VERSION_MISMATCH];

impl Refusal {
    /// Whether the library is to be initialised again.
    pub(super) fn is_stale(self) -> bool {
        matches!(self, Self::Code(code) if STALE.contains(&code))
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unanswered {
    pub(super) function: &'static str,
    pub(super) why: Why,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    Refused(Refusal),
    Hangs,
}

impl Unanswered {
    pub(super) fn message(self) -> String {
        let function = self.function;
        match self.why {
            Why::Refused(Refusal::Code(code)) => {
                format!("{function} failed with {code}{}", VendorLibrary::Nvml.explain(code))
            }
            Why::Refused(Refusal::Absent) => {
                format!("the library has no {function}: install a newer driver")
            }
            Why::Refused(Refusal::Garbled) => format!("{function} answers what is no text"),
            Why::Hangs => {
                format!("{function} does not return: the driver hangs on this GPU, a reset may be due")
            }
        }
    }

    /// Whether it may be answered soon.
    pub(super) fn may_pass(self) -> bool {
        match self.why {
            Why::Refused(refusal) => refusal.is_stale(),
            Why::Hangs => true,
        }
    }

    pub(super) fn reason(self) -> &'static str {
        match self.why {
            Why::Refused(Refusal::Code(code::RESET_REQUIRED)) => "reset_required",
            Why::Refused(Refusal::Code(code::GPU_IS_LOST)) => "gpu_lost",
            Why::Refused(Refusal::Code(code::VERSION_MISMATCH)) => "version_mismatch",
            Why::Refused(_) => "vendor_call_failed",
            Why::Hangs => "vendor_call_hangs",
        }
    }

    /// What it says of the GPU that was asked about.
    pub(super) fn health(self) -> Health {
        match self.why {
            Why::Refused(Refusal::Code(code::GPU_IS_LOST | code::RESET_REQUIRED)) => {
                Health::fault(&self.reason().replace('_', "-"), self.message())
            }
            _ => Health::Unknown(self.message()),
        }
    }

    /// Whether the hardware or the driver simply has nothing to say.
    pub(super) fn nothing(self) -> bool {
        matches!(
            self.why,
            Why::Refused(
                Refusal::Absent
                    | Refusal::Garbled
                    | Refusal::Code(code::INVALID_ARGUMENT | code::NOT_SUPPORTED | code::NOT_FOUND)
            )
        )
    }

    pub(super) fn whole(self) -> DiscoveryError {
        let (library, function) = (VendorLibrary::Nvml, self.function);
        match self.why {
            Why::Refused(Refusal::Code(code)) => DiscoveryError::Call { library, function, code },
            Why::Refused(Refusal::Absent | Refusal::Garbled) => {
                DiscoveryError::Call { library, function, code: code::NOT_SUPPORTED }
            }
            Why::Hangs => DiscoveryError::Hanging { function },
        }
    }
}

/// Why a device cannot be used.
pub(super) type Flaw = crate::found::Flaw<Unanswered>;

impl From<Hangs> for Unanswered {
    fn from(Hangs(function): Hangs) -> Self {
        Self { function, why: Why::Hangs }
    }
}

/// The first question in a row that had no answer although it should have one.
#[derive(Default)]
struct Trouble {
    first: Option<Unanswered>,
}

impl Trouble {
    fn or_none<T>(&mut self, answer: Result<T, Unanswered>) -> Option<T> {
        let unanswered = match answer {
            Ok(value) => return Some(value),
            Err(unanswered) => unanswered,
        };
        if !unanswered.nothing() {
            self.first = self.first.or(Some(unanswered));
        }
        None
    }
}

/// What a visit brought.
pub(super) struct Seen {
    pub(super) facts: Result<Facts, Flaw>,
    /// Whether the library is to be initialised again.
    pub(super) stale: bool,
}

/// A GPU.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(super) handle: Handle,
    pub(super) uuid: DeviceUuid,
    pub(super) minor: u32,
    pub(super) memory: Bytes,
    /// Whether it is partitioned.
    pub(super) parted: bool,
    pub(super) name: Option<String>,
    pub(super) pci: Option<PciAddress>,
    pub(super) capability: Option<(i32, i32)>,
    /// The other ends of its links.
    pub(super) ends: Option<Vec<PciAddress>>,
    /// Whether rows of its memory could not be replaced.
    pub(super) failed: bool,
    /// The first question that had no answer although it should have one.
    pub(super) trouble: Option<Unanswered>,
}

/// A look at one GPU.
pub(super) struct Look<'a> {
    pub(super) steps: &'a Steps<'a, (), Place>,
    pub(super) library: &'a Library,
    /// What is believed of the GPU, if it is the same still.
    pub(super) believed: Option<&'a Facts>,
}

impl Look<'_> {
    pub(super) fn gpu(&self, index: u32) -> Seen {
        let mut stale = false;
        let facts = self.facts(index, &mut stale);
        Seen { facts, stale }
    }

    fn facts(&self, index: u32, stale: &mut bool) -> Result<Facts, Flaw> {
        let handle = self.ask("nvmlDeviceGetHandleByIndex_v2", stale, |library| library.by_index(index))?;
        let uuid = uuid(&self.ask("nvmlDeviceGetUUID", stale, |l| l.uuid(handle))?)?;
        let minor = self.ask("nvmlDeviceGetMinorNumber", stale, |l| l.minor(handle))?;
        // Also what tells in a brief look whether the GPU is there: the others may come from what the driver remembers.
        let memory = memory(self.ask("nvmlDeviceGetMemoryInfo", stale, |l| l.memory(handle))?)?;
        // A GPU whose mode is unknown must not be given out: it may be its instances that are there.
        let parted = match self.ask("nvmlDeviceGetMigMode", stale, |l| l.partitioned(handle)) {
            Err(unanswered) if unanswered.nothing() => false,
            mode => mode?,
        };
        let mut trouble = Trouble::default();
        let same = |facts: &&Facts| (&facts.uuid, facts.minor, facts.parted) == (&uuid, minor, parted);
        if let Some(believed) = self.believed.filter(same) {
            let failed = self.ask("nvmlDeviceGetRemappedRows", stale, |l| l.rows_failed(handle));
            let failed = trouble.or_none(failed).unwrap_or(false);
            return Ok(Facts { handle, memory, failed, trouble: trouble.first, ..believed.clone() });
        }
        let name = trouble.or_none(self.ask("nvmlDeviceGetName", stale, |l| l.name(handle)));
        let pci = trouble.or_none(self.ask("nvmlDeviceGetPciInfo_v3", stale, |l| l.pci(handle))).flatten();
        let capability = self.ask("nvmlDeviceGetCudaComputeCapability", stale, |l| l.capability(handle));
        let capability = trouble.or_none(capability);
        let ends = trouble.or_none(self.ask("nvmlDeviceGetNvLinkState", stale, |l| l.links(handle)));
        let failed = self.ask("nvmlDeviceGetRemappedRows", stale, |l| l.rows_failed(handle));
        let failed = trouble.or_none(failed).unwrap_or(false);
        let trouble = trouble.first;
        Ok(Facts { handle, uuid, minor, memory, parted, name, pci, capability, ends, failed, trouble })
    }

    fn ask<T>(
        &self,
        function: &'static str,
        stale: &mut bool,
        call: impl FnOnce(&Library) -> Answer<T>,
    ) -> Result<T, Unanswered> {
        self.steps.call(function, |()| call(self.library))?.map_err(|refusal| {
            *stale |= refusal.is_stale();
            Unanswered { function, why: Why::Refused(refusal) }
        })
    }
}

pub(super) fn uuid(text: &str) -> Result<DeviceUuid, Flaw> {
    let missing = |message: String| Flaw::Unusable { message, reason: "missing_uuid" };
    if text.is_empty() {
        return Err(missing("the driver gives no UUID for it, so it cannot be told from another".to_owned()));
    }
    DeviceUuid::new(text).map_err(|error| missing(error.to_string()))
}

pub(super) fn memory(bytes: u64) -> Result<Bytes, Flaw> {
    if bytes > 0 {
        return Ok(Bytes(bytes));
    }
    Err(Flaw::Unusable {
        message: "the driver reports no memory: the GPU is not started or broken, reset it".to_owned(),
        reason: "zero_memory",
    })
}
