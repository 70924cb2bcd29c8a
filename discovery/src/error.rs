//! Why nothing can be said about a vendor's devices, or about one's device nodes.

use std::fmt;
use std::path::PathBuf;

/// Which vendor's library a failure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VendorLibrary {
    /// Ascend's `libdcmi.so`.
    Dcmi,
    /// NVIDIA's `libnvidia-ml.so.1`.
    Nvml,
    /// That of `template.rs`: a real vendor's entries stand beside these.
    #[cfg(test)]
    Template,
}

impl fmt::Display for VendorLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dcmi => "DCMI",
            Self::Nvml => "NVML",
            #[cfg(test)]
            Self::Template => "template",
        })
    }
}

impl VendorLibrary {
    /// The option that names its file.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Dcmi => "--dcmi-library",
            Self::Nvml => "--nvml-library",
            #[cfg(test)]
            Self::Template => "--template-library",
        }
    }

    /// The vendor's words for the codes that operators meet, with a blank before; empty for others.
    pub(crate) fn explain(self, code: i32) -> &'static str {
        match self {
            Self::Dcmi => dcmi(code),
            Self::Nvml => nvml(code),
            #[cfg(test)]
            Self::Template => "",
        }
    }
}

/// A failure of a whole discovery pass, or of an allocation's device nodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// No vendor library at any of the places.
    #[error(
        "no {library} library found (looked at {}): install the vendor's driver on this node, or name the file with {}",
        list(.searched),
        .library.option()
    )]
    LibraryMissing {
        /// Which library.
        library: VendorLibrary,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// A file is there and the loader refuses it.
    #[error("the {library} library {path} does not load: {reason}")]
    LibraryBroken {
        /// Which library.
        library: VendorLibrary,
        /// Which file.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// The library lacks functions that discovery cannot do without.
    #[error("the {library} library {path} is too old, it lacks {}: install a newer driver", .missing.join(", "))]
    LibraryTooOld {
        /// Which library.
        library: VendorLibrary,
        /// Which file.
        path: PathBuf,
        /// Names of the functions.
        missing: Vec<&'static str>,
    },
    /// A call on which everything rests returned an error.
    #[error("{function} failed with {code}{}", .library.explain(*.code))]
    Call {
        /// Which library.
        library: VendorLibrary,
        /// Name of the C function.
        function: &'static str,
        /// What it returned.
        code: i32,
    },
    /// A call on which everything rests did not return in time.
    #[error(
        "{function} does not return: the driver hangs; see the kernel's log, a reset of the device may be due"
    )]
    Hanging {
        /// Name of the C function.
        function: &'static str,
    },
    /// A device node that a container needs is not there.
    #[error("the device node {path} {reason}: is the driver loaded, and is --dev-root right?")]
    DeviceNode {
        /// Which node.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel does not say which device nodes an instance of a GPU has.
    #[error("{path} {reason}: it says which device nodes an instance of a GPU has; is the driver loaded?")]
    Capabilities {
        /// The file that says it.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file that describes a vendor's devices cannot be used, and none could be before.
    #[error("{path}: {message}")]
    Description {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, and where.
        message: String,
        /// The stable word.
        reason: &'static str,
    },
    /// Files of the driver do not answer.
    #[error("{path} does not answer: its file system hangs")]
    FilesHang {
        /// Which.
        path: PathBuf,
    },
}

impl DiscoveryError {
    /// Whether the same question may be answered later without anybody changing the configuration: a driver is
    /// installed or replaced, a device comes back.
    pub fn retryable(&self) -> bool {
        match self {
            Self::LibraryMissing { .. }
            | Self::LibraryBroken { .. }
            | Self::LibraryTooOld { .. }
            | Self::Call { .. }
            | Self::Hanging { .. }
            | Self::DeviceNode { .. }
            | Self::Capabilities { .. }
            // The file is read again at every look.
            | Self::Description { .. }
            | Self::FilesHang { .. } => true,
        }
    }

    /// Stable low-cardinality word for metrics, events and status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::LibraryMissing { .. } => "library_missing",
            Self::LibraryBroken { .. } => "library_broken",
            Self::LibraryTooOld { .. } => "library_too_old",
            Self::Call { .. } => "vendor_call_failed",
            Self::Hanging { .. } => "vendor_call_hangs",
            Self::DeviceNode { .. } => "device_node_missing",
            Self::Capabilities { .. } => "capabilities_unknown",
            Self::Description { reason, .. } => reason,
            Self::FilesHang { .. } => "file_hangs",
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(", ")
}

/// `nvml.h`, `nvmlReturn_t`.
fn nvml(code: i32) -> &'static str {
    match code {
        1 => " (the library is not initialised: it is opened again)",
        2 => " (invalid argument)",
        3 => " (not supported by this hardware or driver)",
        4 => " (not permitted: root is needed)",
        6 => " (not found)",
        8 => " (the GPU's external power is not connected)",
        9 => " (the driver is not loaded)",
        10 => " (timed out)",
        11 => " (the kernel has an interrupt problem with the GPU)",
        14 => " (the GPU's infoROM is corrupted)",
        15 => {
            " (the GPU is lost: it fell off the bus, see the kernel's log; it needs a reset or another slot)"
        }
        16 => " (the GPU needs a reset)",
        17 => " (the operating system or a cgroup blocks it)",
        18 => {
            " (driver and library are of different versions: reload the driver's kernel modules or reboot the node)"
        }
        19 => " (the GPU is in use)",
        20 => " (out of memory)",
        999 => " (internal error of the driver)",
        _ => "",
    }
}

/// `dcmi_interface_api.h`.
fn dcmi(code: i32) -> &'static str {
    match code {
        -8001 => " (invalid parameter)",
        -8002 => " (not permitted: root is needed)",
        -8005 => " (internal error of the driver)",
        -8006 => " (timed out)",
        -8007 => " (invalid device id)",
        -8008 => " (no such device)",
        -8009 => " (the driver's ioctl failed)",
        -8012 => " (the device is not ready)",
        -8013 => " (not supported in a container)",
        -8017 => " (a firmware upgrade is running)",
        -8255 => " (not supported by this hardware or driver)",
        _ => "",
    }
}
