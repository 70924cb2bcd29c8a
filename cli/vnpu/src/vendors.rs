//! The accelerators of this machine, whatever vendor made them: each vendor's library is asked, where there is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use vnpu_discovery::ascend::Ascend;
use vnpu_discovery::nvidia::Nvidia;
use vnpu_discovery::{Backend, DiscoveryError, Host};
use vnpu_driver::hardware::Inventory;

/// Where the vendors' libraries and files are.
#[derive(Debug, Args)]
pub(crate) struct VendorArguments {
    /// Ascend's DCMI library; without it the driver's usual places are searched.
    #[arg(long, value_name = "FILE", env = "VNPU_DCMI_LIBRARY")]
    dcmi_library: Option<PathBuf>,
    /// NVIDIA's management library (libnvidia-ml.so.1); without it the driver's usual places are searched.
    #[arg(long, value_name = "FILE", env = "VNPU_NVML_LIBRARY")]
    nvml_library: Option<PathBuf>,
    /// What stands for / in front of the files of drivers and toolkits.
    #[arg(long, value_name = "DIR", env = "VNPU_DRIVER_ROOT", default_value = "/")]
    pub(crate) driver_root: PathBuf,
}

/// One vendor's devices.
pub(crate) struct Found {
    /// The vendor's name as it writes it.
    pub(crate) vendor: &'static str,
    /// What its chips' device nodes are called, before their numbers.
    pub(crate) node: &'static str,
    pub(crate) backend: Arc<dyn Backend>,
    /// The library that told of them.
    pub(crate) library: PathBuf,
    pub(crate) inventory: Inventory,
}

/// What came of asking all vendors.
#[derive(Default)]
pub(crate) struct Looked {
    pub(crate) found: Vec<Found>,
    /// Libraries that are there, or were asked for by name, and told nothing.
    pub(crate) failed: Vec<DiscoveryError>,
    /// Those that are not there.
    pub(crate) missing: Vec<DiscoveryError>,
}

/// Asks all vendors' libraries.
pub(crate) fn look(arguments: &VendorArguments, dev_root: &Path) -> Looked {
    let host = Host {
        dcmi_library: arguments.dcmi_library.clone(),
        nvml_library: arguments.nvml_library.clone(),
        driver_root: arguments.driver_root.clone(),
        dev_root: dev_root.to_owned(),
        hold: None,
    };
    let mut looked = Looked::default();
    looked.ask(("Ascend", "davinci"), host.ascend(), Ascend::library, host.dcmi_library.is_some());
    looked.ask(("NVIDIA", "nvidia"), host.nvidia(), Nvidia::library, host.nvml_library.is_some());
    looked
}

impl Looked {
    fn ask<B: Backend + 'static>(
        &mut self,
        (vendor, node): (&'static str, &'static str),
        backend: B,
        library: impl Fn(&B) -> Result<PathBuf, DiscoveryError>,
        named: bool,
    ) {
        match backend.discover() {
            Ok(inventory) => {
                let library = library(&backend).unwrap_or_default();
                self.found.push(Found { vendor, node, backend: Arc::new(backend), library, inventory });
            }
            Err(error @ DiscoveryError::LibraryMissing { .. }) if !named => self.missing.push(error),
            Err(error) => self.failed.push(error),
        }
    }
}

/// Errors in one line.
pub(crate) fn words(errors: &[DiscoveryError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
