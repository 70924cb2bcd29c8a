//! The backend of a described vendor: reads the file at every look, keeps the last one that could be used.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vnpu_driver::hardware::{
    Chip, Inventory, Problem, ProcessError, ProcessMemory, ProcessView, Vendor, VendorEdits, VendorName,
};
use vnpu_driver::id::{DeviceUuid, InvalidId};

use super::description::GenericDevices;
use super::edits::edits;
use super::files::Files;
use super::scan::{Known, Places, scan};
use super::watch::Watch;
use crate::backend::Backend;
use crate::error::DiscoveryError;
use crate::heard::Heard;

/// Which file describes which vendor, written `acme=/etc/vnpu/acme.yaml`. The vendor stands here too, because a pool
/// has a name also while its file is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenericSource {
    /// Whose devices.
    pub vendor: VendorName,
    /// The description, an absolute path.
    pub file: PathBuf,
}

/// Why a text names no description.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSource {
    /// There is no `=`, or no absolute path behind it.
    #[error("{0:?} must be VENDOR=FILE with an absolute path, such as acme=/etc/vnpu/acme.yaml")]
    Form(String),
    /// The vendor is no name.
    #[error(transparent)]
    Vendor(#[from] InvalidId),
}

impl InvalidSource {
    /// Never: somebody has to change it.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Form(_) => "generic_source_form",
            Self::Vendor(_) => "generic_source_vendor",
        }
    }
}

impl FromStr for GenericSource {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        let form = || InvalidSource::Form(text.chars().take(80).collect());
        let (vendor, file) = text.split_once('=').ok_or_else(form)?;
        let file = PathBuf::from(file);
        if !file.is_absolute() {
            return Err(form());
        }
        Ok(Self { vendor: VendorName::new(vendor)?, file })
    }
}

impl fmt::Display for GenericSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.vendor, self.file.display())
    }
}

/// Where things are on this node.
#[derive(Debug, Clone)]
pub struct GenericOptions {
    /// The description.
    pub source: GenericSource,
    /// Stands for `/` of the host in front of the driver's files.
    pub driver_root: PathBuf,
    /// The host's `/dev`.
    pub dev_root: PathBuf,
    /// The host's `/sys`.
    pub sys_root: PathBuf,
    /// How long one file may take.
    pub deadline: Duration,
}

impl GenericOptions {
    /// A node's own roots, 1 s.
    pub fn of(source: GenericSource) -> Self {
        Self {
            source,
            driver_root: PathBuf::from("/"),
            dev_root: PathBuf::from("/dev"),
            sys_root: PathBuf::from("/sys"),
            deadline: Duration::from_secs(1),
        }
    }
}

/// Devices of one vendor that a file describes.
pub struct Generic {
    source: GenericSource,
    places: Places,
    files: Files,
    watch: Watch,
    deadline: Duration,
    state: Mutex<State>,
    /// Apart from `state`, so that a look holds nobody up who prepares a claim.
    seen: Mutex<Arc<Seen>>,
}

#[derive(Default)]
struct State {
    /// The last text that could be used, and what it says.
    current: Option<(String, GenericDevices)>,
    known: Known,
}

/// What the last look found that containers need.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) nodes: BTreeMap<DeviceUuid, Vec<String>>,
    pub(crate) control_nodes: Vec<String>,
    pub(crate) mounts: Vec<PathBuf>,
}

/// What is wrong with the file.
struct Refused {
    message: String,
    reason: &'static str,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Generic {
    /// Nothing is read yet: a file that comes later is no error.
    pub fn new(options: GenericOptions) -> Self {
        let GenericOptions { source, driver_root, dev_root, sys_root, deadline } = options;
        Self {
            source,
            places: Places { driver_root, dev_root, sys_root },
            files: Files::new(deadline),
            watch: Watch::default(),
            deadline,
            state: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// How many reads hang now.
    #[cfg(test)]
    pub(crate) fn hanging(&self) -> usize {
        self.files.hanging()
    }

    /// The file as it is now; `None` when it is the one in force.
    fn fresh(&self, current: Option<&str>) -> Result<Option<(String, GenericDevices)>, Refused> {
        let GenericSource { vendor, file } = &self.source;
        let text = self
            .files
            .description(file)
            .map_err(|mute| Refused { message: mute.message(file), reason: mute.reason() })?;
        if current == Some(text.as_str()) {
            return Ok(None);
        }
        let invalid = |message| Refused { message, reason: "description_invalid" };
        let description = GenericDevices::read(&text).map_err(invalid)?;
        if description.vendor != vendor.as_str() {
            let found: String = description.vendor.chars().take(80).collect();
            return Err(invalid(format!("vendor is {found:?}, and this file was named for {vendor}")));
        }
        Ok(Some((text, description)))
    }
}

impl Backend for Generic {
    fn vendor(&self) -> Vendor {
        Vendor::Other(self.source.vendor)
    }

    fn discover(&self) -> Result<Inventory, DiscoveryError> {
        let mut state = lock(&self.state);
        let mut refused = None;
        match self.fresh(state.current.as_ref().map(|(text, _)| text.as_str())) {
            Ok(None) => {}
            Ok(Some(fresh)) => {
                tracing::info!(source = %self.source, devices = fresh.1.devices.len(), "description read");
                state.current = Some(fresh);
            }
            Err(wrong) => refused = Some(wrong),
        }
        let State { current, known } = &mut *state;
        let file = &self.source.file;
        let Some((_, description)) = current else {
            let Refused { message, reason } = refused.unwrap_or_else(|| Refused {
                message: "it says nothing".to_owned(),
                reason: "description_invalid",
            });
            return Err(DiscoveryError::Description { path: file.clone(), message, reason });
        };
        let mut inventory = scan(&self.files, &self.places, self.source.vendor, description, known);
        if let Some(Refused { message, reason }) = refused {
            inventory.problems.push(Problem {
                object: file.display().to_string(),
                message: format!("{message}; what it said before stays in force"),
                reason: reason.to_owned(),
            });
        }
        self.watch.follow(description.health_files());
        *lock(&self.seen) = Arc::new(Seen {
            nodes: known.nodes.clone(),
            control_nodes: description.control_nodes.clone(),
            mounts: description.mounts.clone(),
        });
        Ok(inventory)
    }

    fn listen(&self, heard: Heard) {
        self.watch.listen(heard, self.deadline);
    }

    fn edits(&self, chips: &[Chip]) -> Result<VendorEdits, DiscoveryError> {
        let seen = Arc::clone(&lock(&self.seen));
        edits(&self.files, &self.places, &seen, chips)
    }
}

impl ProcessView for Generic {
    fn processes(&self, _chip: &Chip) -> Result<Vec<ProcessMemory>, ProcessError> {
        let vendor = self.source.vendor;
        Err(ProcessError::Unsupported(format!("no library tells which processes use devices of {vendor}")))
    }
}
