//! The Ascend backend: keeps the library open as long as its file is the same, makes passes, answers about processes,
//! names device nodes and driver files.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vnpu_driver::hardware::{
    Chip, Inventory, ProcessError, ProcessMemory, ProcessView, Usage, Vendor, VendorEdits,
};
use vnpu_driver::quantity::{Bytes, Percent};

use super::dcmi::{Dcmi, Refusal, Slot};
use super::edits::edits;
use super::events;
use super::scan::{Known, scan};
use super::session::{Calls, Session};
use crate::backend::Backend;
use crate::error::{DiscoveryError, VendorLibrary};
use crate::heard::Heard;
use crate::pace::{BELIEVED, Pace};
use crate::worker::{CallKey, said};

/// Where things are on this node.
#[derive(Debug, Clone)]
pub struct AscendOptions {
    /// `libdcmi.so`; without it the driver's places below `driver_root` are searched.
    pub dcmi_library: Option<PathBuf>,
    /// Stands for `/` of the host in front of the driver's files.
    pub driver_root: PathBuf,
    /// The host's `/dev`.
    pub dev_root: PathBuf,
    /// The host's `/sys`.
    pub sys_root: PathBuf,
    /// How long one DCMI call may take. The vendor's own agents wait 1 s for the subset that they bound.
    pub deadline: Duration,
    /// For how long what hardly ever changes of a die (its memory and model, the driver's version, whether it can be
    /// shared) is believed before it is asked again. Which dies there are, their numbers and their health are asked in
    /// every look.
    pub believed: Duration,
}

impl Default for AscendOptions {
    /// A node's own roots, 3 s, 60 s.
    fn default() -> Self {
        Self {
            dcmi_library: None,
            driver_root: PathBuf::from("/"),
            dev_root: PathBuf::from("/dev"),
            sys_root: PathBuf::from("/sys"),
            deadline: Duration::from_secs(3),
            believed: BELIEVED,
        }
    }
}

/// Ascend NPUs of this node.
pub struct Ascend {
    options: AscendOptions,
    session: Mutex<Session>,
    heard: Mutex<Option<Heard>>,
    known: Mutex<(Known, Pace<Calls>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ascend {
    /// Nothing is loaded yet: a node whose driver comes later is no error.
    pub fn new(options: AscendOptions) -> Self {
        let known = Mutex::new((Known::default(), Pace::new(options.believed)));
        Self { options, session: Mutex::default(), heard: Mutex::new(None), known }
    }

    /// Loads and initialises the library if that was not done yet; the file that serves. For `--check`.
    ///
    /// # Errors
    /// As of [`Backend::discover`], without those of devices.
    pub fn library(&self) -> Result<PathBuf, DiscoveryError> {
        Ok(self.worker()?.target().path().to_owned())
    }

    fn worker(&self) -> Result<Arc<Calls>, DiscoveryError> {
        self.worker_that(false)
    }

    /// With `listens`, one that tells of faults.
    fn worker_that(&self, listens: bool) -> Result<Arc<Calls>, DiscoveryError> {
        let AscendOptions { dcmi_library, driver_root, deadline, .. } = &self.options;
        lock(&self.session).calls(dcmi_library.as_deref(), driver_root, *deadline, listens)
    }
}

impl Backend for Ascend {
    fn vendor(&self) -> Vendor {
        Vendor::Ascend
    }

    fn discover(&self) -> Result<Inventory, DiscoveryError> {
        let worker = self.worker_that(lock(&self.heard).is_some())?;
        let (known, pace) = &mut *lock(&self.known);
        let brief = pace.is_brief(&worker);
        let found = scan(&worker, &self.options.sys_root, known, brief);
        pace.looked(brief, &worker, found.as_ref().ok().filter(|_| known.is_complete()));
        found
    }

    fn listen(&self, heard: Heard) {
        events::add(&heard);
        *lock(&self.heard) = Some(heard);
    }

    fn usage(&self, chip: &Chip) -> Usage {
        let (Some(slot), Ok(calls)) = (slot(chip), self.worker()) else { return Usage::default() };
        if calls.hanging() > 0 {
            // No more is risked for figures.
            return Usage::default();
        }
        let asked = calls.visit(slot, move |steps| Usage {
            memory: said(steps.call("dcmi_get_device_hbm_info", |d| d.used_mib(slot))).map(mib),
            busy: said(steps.call("dcmi_get_device_utilization_rate", |d| d.busy_percent(slot))).map(Percent),
            temperature: said(steps.call("dcmi_get_device_temperature", |d| d.temperature(slot))),
        });
        asked.map(|(usage, _)| usage).unwrap_or_default()
    }

    fn edits(&self, chips: &[Chip]) -> Result<VendorEdits, DiscoveryError> {
        edits(&self.options.driver_root, &self.options.dev_root, chips)
    }
}

impl ProcessView for Ascend {
    fn processes(&self, chip: &Chip) -> Result<Vec<ProcessMemory>, ProcessError> {
        let failed = ProcessError::Failed;
        let function = "dcmi_get_device_resource_info";
        let slot = slot(chip).ok_or_else(|| failed(format!("{} is no DCMI slot", chip.name())))?;
        let worker = self.worker().map_err(|error| failed(error.to_string()))?;
        let key = CallKey { function, place: Some(slot) };
        match worker.call(key, move |library| library.processes(slot)) {
            Ok(Ok(list)) => Ok(list
                .into_iter()
                .filter_map(|(pid, bytes)| {
                    let pid = u32::try_from(pid).ok().filter(|pid| *pid > 0)?;
                    Some(ProcessMemory { pid, bytes: Bytes(bytes) })
                })
                .collect()),
            Ok(Err(Refusal::Code(code))) => Err(failed(format!(
                "{function} on {} failed with {code}{}",
                chip.name(),
                VendorLibrary::Dcmi.explain(code)
            ))),
            Ok(Err(Refusal::Absent)) => {
                Err(ProcessError::Unsupported(format!("the library has no {function}")))
            }
            Err(_) => Err(failed(format!("{function} on {} does not return", chip.name()))),
        }
    }
}

const fn mib(number: u64) -> Bytes {
    Bytes(number.saturating_mul(1 << 20))
}

fn slot(chip: &Chip) -> Option<Slot> {
    Some(Slot { card: i32::try_from(chip.card).ok()?, device: i32::try_from(chip.die).ok()? })
}
