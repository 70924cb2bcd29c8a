//! The Ascend backend: loads the library when it is first needed (and again later if it was not there), makes
//! passes, answers about processes, names device nodes and driver files.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vnpu_driver::hardware::{Chip, Inventory, ProcessError, ProcessMemory, ProcessView, Vendor, VendorEdits};
use vnpu_driver::quantity::Bytes;

use super::dcmi::{Dcmi, Refusal, Slot};
use super::edits::edits;
use super::library::Library;
use super::scan::{Known, scan};
use super::search;
use crate::backend::Backend;
use crate::error::{DiscoveryError, VendorLibrary};
use crate::worker::{CallKey, Worker};

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
}

impl Default for AscendOptions {
    /// A node's own roots, 3 s.
    fn default() -> Self {
        Self {
            dcmi_library: None,
            driver_root: PathBuf::from("/"),
            dev_root: PathBuf::from("/dev"),
            sys_root: PathBuf::from("/sys"),
            deadline: Duration::from_secs(3),
        }
    }
}

/// Ascend NPUs of this node.
pub struct Ascend {
    options: AscendOptions,
    loaded: Mutex<Option<Loaded>>,
    known: Mutex<Known>,
}

struct Loaded {
    worker: Arc<Worker<Library, Slot>>,
    initialised: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ascend {
    /// Nothing is loaded yet: a node whose driver comes later is no error.
    pub fn new(options: AscendOptions) -> Self {
        Self { options, loaded: Mutex::new(None), known: Mutex::default() }
    }

    /// Loads and initialises the library if that was not done yet; the file that serves. For `--check`.
    ///
    /// # Errors
    /// As of [`Backend::discover`], without those of devices.
    pub fn library(&self) -> Result<PathBuf, DiscoveryError> {
        Ok(self.worker()?.target().path().to_owned())
    }

    fn worker(&self) -> Result<Arc<Worker<Library, Slot>>, DiscoveryError> {
        let mut loaded = lock(&self.loaded);
        if loaded.is_none() {
            let path = search::find(self.options.dcmi_library.as_deref(), &self.options.driver_root)?;
            let library = Library::load(&path)?;
            tracing::info!(path = %path.display(), "DCMI library loaded");
            let worker = Arc::new(Worker::new("dcmi", library, self.options.deadline));
            // Kept also if its initialisation fails: loading twice would run its constructors twice.
            *loaded = Some(Loaded { worker, initialised: false });
        }
        let Some(loaded) = loaded.as_mut() else {
            return Err(DiscoveryError::LibraryMissing {
                library: VendorLibrary::Dcmi,
                searched: Vec::new(),
            });
        };
        if !loaded.initialised {
            let function = "dcmi_init";
            match loaded.worker.call(CallKey { function, place: None }, |library| library.init()) {
                Ok(Ok(())) => loaded.initialised = true,
                Ok(Err(Refusal::Code(code))) => {
                    return Err(DiscoveryError::Call { library: VendorLibrary::Dcmi, function, code });
                }
                Ok(Err(Refusal::Absent)) => {
                    return Err(DiscoveryError::Call { library: VendorLibrary::Dcmi, function, code: -8255 });
                }
                Err(_) => return Err(DiscoveryError::Hanging { function }),
            }
        }
        Ok(Arc::clone(&loaded.worker))
    }
}

impl Backend for Ascend {
    fn vendor(&self) -> Vendor {
        Vendor::Ascend
    }

    fn discover(&self) -> Result<Inventory, DiscoveryError> {
        let worker = self.worker()?;
        scan(&worker, &self.options.sys_root, &mut lock(&self.known))
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

fn slot(chip: &Chip) -> Option<Slot> {
    Some(Slot { card: i32::try_from(chip.card).ok()?, device: i32::try_from(chip.die).ok()? })
}
