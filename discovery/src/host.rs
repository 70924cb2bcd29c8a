//! Where a host's drivers and device nodes are, and every vendor's backend over it.

use std::path::PathBuf;
use std::time::Duration;

use crate::ascend::{Ascend, AscendOptions};
use crate::generic::{Generic, GenericOptions, GenericSource};
use crate::nvidia::{Nvidia, NvidiaOptions};

/// What a program is told of its host by options; the rest is each vendor's default.
#[derive(Debug, Clone)]
pub struct Host {
    /// Path of `libdcmi.so`; `None` to search the driver root and the system's paths.
    pub dcmi_library: Option<PathBuf>,
    /// Path of `libnvidia-ml.so.1`; `None` to search.
    pub nvml_library: Option<PathBuf>,
    /// Stands for `/` in front of drivers and toolkits.
    pub driver_root: PathBuf,
    /// The directory of the device nodes.
    pub dev_root: PathBuf,
    /// How long a fault counts that a driver reports as an event and a look does not show; `None`: until the driver is
    /// loaded anew or the program ends.
    pub hold: Option<Duration>,
}

impl Host {
    /// Ascend NPUs, by DCMI. Nothing is opened yet, here and below.
    pub fn ascend(&self) -> Ascend {
        Ascend::new(AscendOptions {
            dcmi_library: self.dcmi_library.clone(),
            driver_root: self.driver_root.clone(),
            dev_root: self.dev_root.clone(),
            ..AscendOptions::default()
        })
    }

    /// NVIDIA GPUs, by NVML.
    pub fn nvidia(&self) -> Nvidia {
        Nvidia::new(NvidiaOptions {
            nvml_library: self.nvml_library.clone(),
            driver_root: self.driver_root.clone(),
            dev_root: self.dev_root.clone(),
            hold: self.hold,
            ..NvidiaOptions::default()
        })
    }

    /// Devices that a file describes.
    pub fn generic(&self, source: GenericSource) -> Generic {
        Generic::new(GenericOptions {
            driver_root: self.driver_root.clone(),
            dev_root: self.dev_root.clone(),
            ..GenericOptions::of(source)
        })
    }
}
