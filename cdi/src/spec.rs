//! The file format: specs, devices and container edits, as far as we write them. Field names are those of the
//! CDI specification (`cdi/SPEC.md`, 0.3.0 to 0.6.0); unknown fields are refused, as every reader does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The least version that knows `hostPath` of device nodes and device names that start with a digit.
pub const VERSION_0_5: &str = "0.5.0";
/// The least version that knows annotations.
pub const VERSION_0_6: &str = "0.6.0";

/// One CDI file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Version of the format that the file needs; readers built for an older one refuse it.
    pub cdi_version: String,
    /// `vendor/class` of every device in the file.
    pub kind: String,
    /// Free text for people and tools; needs 0.6.0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The devices; at least one.
    pub devices: Vec<Device>,
    /// Edits applied once when any device of the file is used.
    #[serde(default, skip_serializing_if = "ContainerEdits::is_empty")]
    pub container_edits: ContainerEdits,
}

impl Spec {
    /// A spec of `kind` with the least version that its content needs.
    pub fn new(kind: impl Into<String>, devices: Vec<Device>) -> Self {
        let mut spec = Self {
            cdi_version: VERSION_0_5.to_owned(),
            kind: kind.into(),
            annotations: BTreeMap::new(),
            devices,
            container_edits: ContainerEdits::default(),
        };
        spec.cdi_version = spec.minimum_version().to_owned();
        spec
    }

    /// The least version that may stand in `cdiVersion`. Never below 0.5.0: no supported runtime is older, and
    /// one value for all our files is easier to reason about.
    pub fn minimum_version(&self) -> &'static str {
        let annotated =
            !self.annotations.is_empty() || self.devices.iter().any(|d| !d.annotations.is_empty());
        let dotted_class = self.kind.split_once('/').is_some_and(|(_, class)| class.contains('.'));
        if annotated || dotted_class { VERSION_0_6 } else { VERSION_0_5 }
    }
}

/// One injectable device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    /// Name, unique among all files of one kind in one directory.
    pub name: String,
    /// Free text; needs 0.6.0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What the container gets; must not be empty.
    pub container_edits: ContainerEdits,
}

/// What the runtime changes in a container's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerEdits {
    /// `KEY=value`; replaces a variable of the same key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Device nodes; a node at the same container path is replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<DeviceNode>,
    /// Mounts; a mount at the same container path is replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// OCI hooks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
}

impl ContainerEdits {
    /// Whether nothing would be changed.
    pub fn is_empty(&self) -> bool {
        self.env.is_empty() && self.device_nodes.is_empty() && self.mounts.is_empty() && self.hooks.is_empty()
    }
}

/// A device node in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceNode {
    /// Path in the container.
    pub path: String,
    /// Path on the host where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<String>,
    /// `b`, `c`, `u` or `p`; the runtime asks the host's node when absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Major number; the runtime asks the host's node when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major: Option<i64>,
    /// Minor number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor: Option<i64>,
    /// Mode bits of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Cgroup permissions, of `rwm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<String>,
    /// Owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// A mount in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// Path on the host.
    pub host_path: String,
    /// Path in the container.
    pub container_path: String,
    /// Mount options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Filesystem type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

impl Mount {
    /// A bind mount, recursive and private, read-only unless `writable`. Always `nosuid` and `nodev`: no file
    /// of ours is a program to be run as somebody else or a device.
    pub fn bind(host_path: impl Into<String>, container_path: impl Into<String>, writable: bool) -> Self {
        let access = if writable { "rw" } else { "ro" };
        Self {
            host_path: host_path.into(),
            container_path: container_path.into(),
            options: [access, "nosuid", "nodev", "rbind", "rprivate"].map(str::to_owned).to_vec(),
            kind: None,
        }
    }
}

/// An OCI hook.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    /// When it runs, such as `createContainer`.
    pub hook_name: String,
    /// Absolute path of the program.
    pub path: String,
    /// Arguments, the program's name first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment, `KEY=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Seconds after which it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}
