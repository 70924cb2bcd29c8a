//! The NVIDIA backend: keeps the library open as long as its file is the same, makes passes, answers about processes,
//! names device nodes and driver files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vnpu_driver::hardware::{
    Chip, Inventory, ProcessError, ProcessMemory, ProcessView, Usage, Vendor, VendorEdits,
};
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::{Bytes, Percent};

use super::edits::{Places, edits};
use super::events::{Events, Watched};
use super::library::{Handle, Library, Refusal, code};
use super::scan::{Calls, Known, Place, scan};
use super::search;
use super::session::Session;
use crate::backend::Backend;
use crate::error::{DiscoveryError, VendorLibrary};
use crate::heard::Heard;
use crate::pace::{BELIEVED, Pace};
use crate::stamp::Stamp;
use crate::worker::{CallKey, Worker, said};

/// Where things are on this node.
#[derive(Debug, Clone)]
pub struct NvidiaOptions {
    /// `libnvidia-ml.so.1`; without it the vendor's places below `driver_root`, then those below
    /// `<driver_root>/run/nvidia/driver` (a driver container's root) are searched.
    pub nvml_library: Option<PathBuf>,
    /// Stands for `/` of the host in front of the driver's files.
    pub driver_root: PathBuf,
    /// The host's `/dev`.
    pub dev_root: PathBuf,
    /// The host's `/sys`.
    pub sys_root: PathBuf,
    /// The host's `/proc`, for the numbers of partitions' device nodes.
    pub proc_root: PathBuf,
    /// How long an error that the driver reported (an XID) counts; without, until the driver is loaded anew or the
    /// program ends.
    pub hold: Option<Duration>,
    /// How long one NVML call may take. Without the persistence daemon the first call about a GPU starts it, which
    /// takes seconds.
    pub deadline: Duration,
    /// For how long what hardly ever changes of a GPU (its name, links, the driver's version) is believed before
    /// it is asked again. Which GPUs and instances there are and their health are asked in every look.
    pub believed: Duration,
}

impl Default for NvidiaOptions {
    /// A node's own roots, errors without an end, 10 s, 60 s.
    fn default() -> Self {
        Self {
            nvml_library: None,
            driver_root: PathBuf::from("/"),
            dev_root: PathBuf::from("/dev"),
            sys_root: PathBuf::from("/sys"),
            proc_root: PathBuf::from("/proc"),
            hold: None,
            deadline: Duration::from_secs(10),
            believed: BELIEVED,
        }
    }
}

/// NVIDIA GPUs of this node.
pub struct Nvidia {
    options: NvidiaOptions,
    calls: Calls,
    session: Mutex<Session>,
    known: Mutex<(Known, Pace<Library>)>,
    events: Events,
    /// What the last pass saw; apart from `known`, so that a pass holds nobody up who asks about processes.
    seen: Mutex<Option<Arc<Seen>>>,
}

/// The way to the devices of the last pass.
struct Seen {
    library: Arc<Library>,
    devices: BTreeMap<DeviceUuid, (Place, Handle)>,
    driver_root: PathBuf,
    driver_version: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nvidia {
    /// Nothing is loaded yet: a node whose driver comes later is no error.
    pub fn new(options: NvidiaOptions) -> Self {
        let calls = Worker::new("nvml", (), options.deadline);
        let events = Events::new(options.hold);
        let known = Mutex::new((Known::default(), Pace::new(options.believed)));
        Self { options, calls, session: Mutex::default(), known, events, seen: Mutex::new(None) }
    }

    /// Loads and initialises the library if that was not done yet; the file that serves. For `--check`.
    ///
    /// # Errors
    /// As of [`Backend::discover`], without those of devices.
    pub fn library(&self) -> Result<PathBuf, DiscoveryError> {
        Ok(self.open()?.0.path().to_owned())
    }

    /// Where the last look saw a device.
    fn seen(&self, chip: &Chip) -> Option<(Arc<Library>, Place, Handle)> {
        let seen = lock(&self.seen).clone()?;
        let (place, handle) = *seen.devices.get(&chip.uuid)?;
        Some((Arc::clone(&seen.library), place, handle))
    }

    fn open(&self) -> Result<(Arc<Library>, PathBuf), DiscoveryError> {
        let options = &self.options;
        lock(&self.session).library(&self.calls, options.nvml_library.as_deref(), &options.driver_root)
    }
}

impl Backend for Nvidia {
    fn vendor(&self) -> Vendor {
        Vendor::Nvidia
    }

    fn discover(&self) -> Result<Inventory, DiscoveryError> {
        let (known, pace) = &mut *lock(&self.known);
        let (library, driver_root) = self.open()?;
        let brief = pace.is_brief(&library);
        let pass = scan(&self.calls, &library, &self.options.sys_root, known, brief);
        let told = pass.inventory.as_ref().ok().filter(|_| known.is_complete());
        pace.looked(brief, &library, told);
        lock(&self.session).doubt(pass.stale);
        let mut inventory = pass.inventory?;
        let driver = Stamp::of_object(&self.options.sys_root.join("module/nvidia"));
        self.events.watch(&library, watched(&inventory, &pass.devices), driver);
        self.events.add_to(&mut inventory);
        let driver_version = inventory.driver_version.clone();
        let seen = Seen { library, devices: pass.devices, driver_root, driver_version };
        *lock(&self.seen) = Some(Arc::new(seen));
        Ok(inventory)
    }

    fn listen(&self, heard: Heard) {
        self.events.listen(heard);
    }

    fn usage(&self, chip: &Chip) -> Usage {
        // While anything hangs, no more is risked for figures.
        let Some((library, place, handle)) = self.seen(chip).filter(|_| self.calls.hanging() == 0) else {
            return Usage::default();
        };
        let uuid = chip.uuid.clone();
        let asked = self.calls.visit(place, move |steps| {
            let same = steps.call("nvmlDeviceGetUUID", |()| library.uuid(handle));
            if said(same).as_deref() != Some(uuid.as_str()) {
                return Usage::default();
            }
            let memory = steps.call("nvmlDeviceGetMemoryInfo", |()| library.used(handle));
            let busy = steps.call("nvmlDeviceGetUtilizationRates", |()| library.busy(handle));
            let degrees = steps.call("nvmlDeviceGetTemperature", |()| library.temperature(handle));
            Usage {
                memory: said(memory).map(Bytes),
                busy: said(busy).map(Percent),
                temperature: said(degrees).and_then(|degrees| i32::try_from(degrees).ok()),
            }
        });
        asked.map(|(usage, _)| usage).unwrap_or_default()
    }

    fn edits(&self, chips: &[Chip]) -> Result<VendorEdits, DiscoveryError> {
        let seen = lock(&self.seen).clone();
        let (driver_root, version) = match seen {
            Some(seen) => (seen.driver_root.clone(), seen.driver_version.clone()),
            // Nothing was looked at yet: the file's name says the version, as the driver's packages name it.
            None => {
                let options = &self.options;
                let found = search::find(options.nvml_library.as_deref(), &options.driver_root);
                found.map_or_else(
                    |_| (options.driver_root.clone(), String::new()),
                    |driver| (driver.root.clone(), version_of(&driver.library)),
                )
            }
        };
        edits(
            &Places {
                driver_root: &driver_root,
                dev_root: &self.options.dev_root,
                proc_root: &self.options.proc_root,
                version: &version,
            },
            chips,
        )
    }
}

/// The GPUs behind the devices of a look.
fn watched(inventory: &Inventory, devices: &BTreeMap<DeviceUuid, (Place, Handle)>) -> Vec<Watched> {
    let mut gpus = BTreeMap::<u32, BTreeSet<_>>::new();
    for chip in &inventory.chips {
        if let Some(((index, _), _)) = devices.get(&chip.uuid) {
            let instance = chip.traits.partition.as_ref().map(|partition| partition.gpu_instance);
            gpus.entry(*index).or_default().insert((instance, chip.uuid.clone()));
        }
    }
    gpus.into_iter().map(|(index, devices)| Watched { index, devices }).collect()
}

/// `570.124.06` of `libnvidia-ml.so.570.124.06`; empty for a name without a version.
fn version_of(library: &std::path::Path) -> String {
    let file = library.canonicalize().ok();
    let name = file.as_deref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
    let version = name.and_then(|name| name.split_once(".so.")).map(|(_, version)| version);
    version.filter(|version| version.contains('.')).unwrap_or_default().to_owned()
}

impl ProcessView for Nvidia {
    fn processes(&self, chip: &Chip) -> Result<Vec<ProcessMemory>, ProcessError> {
        let failed = ProcessError::Failed;
        let function = "nvmlDeviceGetComputeRunningProcesses_v3";
        let name = chip.name();
        let Some((library, place, handle)) = self.seen(chip) else {
            return Err(failed(format!("NVML has not shown {name} ({}) at the last look", chip.uuid)));
        };
        let key = CallKey { function, place: Some(place) };
        let uuid = chip.uuid.clone();
        // The vendor gives handles of instances that are gone to others.
        let answer = self.calls.call(key, move |()| {
            let same = library.uuid(handle)? == uuid.as_str();
            if same { library.processes(handle) } else { Err(Refusal::Code(code::NOT_FOUND)) }
        });
        match answer {
            Ok(Ok(list)) => Ok(list
                .into_iter()
                .filter(|(pid, _)| *pid > 0)
                .map(|(pid, bytes)| ProcessMemory { pid, bytes: Bytes(bytes) })
                .collect()),
            Ok(Err(Refusal::Code(code))) => {
                let explained = VendorLibrary::Nvml.explain(code);
                Err(failed(format!("{function} on {name} failed with {code}{explained}")))
            }
            Ok(Err(Refusal::Absent | Refusal::Garbled)) => {
                Err(ProcessError::Unsupported(format!("the library has no {function}")))
            }
            Err(_) => Err(failed(format!("{function} on {name} does not return"))),
        }
    }
}
