//! Why nothing can be said about a vendor's devices, or about one's device nodes.

use std::path::PathBuf;

/// A failure of a whole discovery pass, or of an allocation's device nodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// No vendor library at any of the places.
    #[error(
        "no DCMI library found (looked at {}): install the vendor's driver on this node, or name the file with --dcmi-library",
        list(.searched)
    )]
    LibraryMissing {
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// A file is there and the loader refuses it.
    #[error("the DCMI library {path} does not load: {reason}")]
    LibraryBroken {
        /// Which file.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// The library lacks functions that discovery cannot do without.
    #[error("the DCMI library {path} is too old, it lacks {}: install a newer driver", .missing.join(", "))]
    LibraryTooOld {
        /// Which file.
        path: PathBuf,
        /// Names of the functions.
        missing: Vec<&'static str>,
    },
    /// A call on which everything rests returned an error.
    #[error("{function} failed with {code}{}", explain(*.code))]
    Call {
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
            | Self::DeviceNode { .. } => true,
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
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(", ")
}

/// The vendor's words for the codes that operators meet (`dcmi_interface_api.h`).
pub(crate) fn explain(code: i32) -> &'static str {
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
