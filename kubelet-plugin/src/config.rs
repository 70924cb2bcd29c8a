//! What the plugin is told: flags, their environment variables, and the `NodeConfig` file. A flag or variable
//! that is set wins over the file, the file over the default.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use schemars::JsonSchema;
use serde::Deserialize;
use vnpu_discovery::generic::GenericSource;
use vnpu_driver::health::{HealthPolicy, HealthRule};
use vnpu_driver::id::{InvalidId, NodeName};
use vnpu_driver::quantity::Bytes;
use vnpu_quota_agent::Limits;
use vnpu_telemetry::LogFormat;

/// `apiVersion` of the configuration file.
pub const API_VERSION: &str = "vnpu.dev/v1alpha1";
/// `kind` of the configuration file.
pub const KIND: &str = "NodeConfig";

/// The node plugin of vnpu.dev: publishes a node's accelerators to Kubernetes (DRA) and prepares claims on them.
#[derive(Debug, Clone, Parser)]
#[command(name = "vnpu-kubelet-plugin", version)]
pub struct Args {
    /// Name of this node's Node object.
    #[arg(long, env = "VNPU_NODE_NAME")]
    pub node_name: Option<String>,
    /// Kubeconfig file; without it the pod's service account is used.
    #[arg(long, env = "VNPU_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Directory in which the kubelet looks for registration sockets.
    #[arg(long, env = "VNPU_KUBELET_REGISTRY_DIR", default_value = "/var/lib/kubelet/plugins_registry")]
    pub kubelet_registry_dir: PathBuf,
    /// Directory of the kubelet's plugins; the service socket goes into `vnpu.dev/` in it.
    #[arg(long, env = "VNPU_KUBELET_PLUGINS_DIR", default_value = "/var/lib/kubelet/plugins")]
    pub kubelet_plugins_dir: PathBuf,
    /// Directory for CDI files; the container runtime must read it.
    #[arg(long, env = "VNPU_CDI_DIR", default_value = "/var/run/cdi")]
    pub cdi_dir: PathBuf,
    /// Directory that survives reboots: the checkpoint.
    #[arg(long, env = "VNPU_STATE_DIR", default_value = "/var/lib/vnpu")]
    pub state_dir: PathBuf,
    /// Directory that need not survive reboots (tmpfs): the shared regions.
    #[arg(long, env = "VNPU_RUNTIME_DIR", default_value = "/run/vnpu")]
    pub runtime_dir: PathBuf,
    /// Directory with libvnpu.so and libvnpu_core.so, mounted into containers; on the host's file system.
    #[arg(long, env = "VNPU_INTERPOSER_DIR", default_value = "/var/lib/vnpu/interposer")]
    pub interposer_dir: PathBuf,
    /// Root under which the vendor's driver is installed.
    #[arg(long, env = "VNPU_DRIVER_ROOT", default_value = "/")]
    pub driver_root: PathBuf,
    /// Directory with the device nodes.
    #[arg(long, env = "VNPU_DEV_ROOT", default_value = "/dev")]
    pub dev_root: PathBuf,
    /// Address of the admin server (/livez, /readyz, /metrics, /debug); empty for none.
    #[arg(long, env = "VNPU_ADMIN_ADDRESS", default_value = "127.0.0.1:8090")]
    pub admin_address: String,
    /// Path of libdcmi.so; without it the driver root and the system's paths are searched.
    #[arg(long, env = "VNPU_DCMI_LIBRARY")]
    pub dcmi_library: Option<PathBuf>,
    /// Path of libnvidia-ml.so.1; without it the driver root and the system's paths are searched.
    #[arg(long, env = "VNPU_NVML_LIBRARY")]
    pub nvml_library: Option<PathBuf>,
    /// Devices that a file describes (GenericDevices), as VENDOR=FILE with an absolute path; more than one: again, or
    /// with commas.
    #[arg(long, env = "VNPU_GENERIC_DEVICES", value_name = "VENDOR=FILE", value_delimiter = ',')]
    pub generic_devices: Vec<GenericSource>,
    /// UID of this plugin's pod: makes the sockets' names unique, so that two instances can overlap.
    #[arg(long, env = "VNPU_POD_UID")]
    pub pod_uid: Option<String>,
    /// NodeConfig file (apiVersion vnpu.dev/v1alpha1).
    #[arg(long, env = "VNPU_CONFIG")]
    pub config: Option<PathBuf>,
    /// Log filter, such as `info` or `vnpu_kubelet_plugin=debug,info`; changeable at /debug/log.
    #[arg(long, env = "VNPU_LOG", default_value = "info")]
    pub log: String,
    /// Log format: plain or json.
    #[arg(long, env = "VNPU_LOG_FORMAT", default_value = "plain")]
    pub log_format: String,
    /// Check configuration, directories and vendor libraries, print what was found, and exit.
    #[arg(long)]
    pub check: bool,
}

/// The configuration file: what an administrator tunes per node. All fields but the first two are optional.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfig {
    /// `vnpu.dev/v1alpha1`.
    pub api_version: String,
    /// `NodeConfig`.
    pub kind: String,
    /// Vendors whose accelerators are looked for by their libraries; one whose library is not on the node has none there.
    /// Without it, all. Those of `--generic-devices` are looked for in any case.
    #[serde(default = "defaults::vendors")]
    #[schemars(length(min = 1))]
    pub vendors: Vec<KnownVendor>,
    /// Seconds between two looks at the hardware.
    #[serde(default = "defaults::discovery")]
    #[schemars(range(min = 1, max = 3600))]
    pub discovery_seconds: u32,
    /// Seconds between two comparisons of the checkpoint with the API server.
    #[serde(default = "defaults::reconcile")]
    #[schemars(range(min = 10, max = 86_400))]
    pub reconcile_seconds: u32,
    /// Seconds between two passes over the regions (dead processes, usage, conditions).
    #[serde(default = "defaults::agent")]
    #[schemars(range(min = 1, max = 3600))]
    pub agent_seconds: u32,
    /// How many claims are worked on at the same time.
    #[serde(default = "defaults::concurrency")]
    #[schemars(range(min = 1, max = 256))]
    pub concurrency: u32,
    /// MiB of the runtime's own memory that each process of a claim may have beside the quota before it counts as a
    /// breach: contexts, modules, buffers of libraries.
    #[serde(default = "defaults::overhead")]
    #[schemars(range(min = 0, max = 1_048_576))]
    pub overhead_mib: u32,
    /// How many passes over the regions in a row must find the same before it counts as a breach.
    #[serde(default = "defaults::breach_rounds")]
    #[schemars(range(min = 1, max = 1000))]
    pub breach_rounds: u32,
    /// What faults of chips mean, and for how long.
    #[serde(default)]
    pub health: HealthConfig,
}

/// What becomes of chips that are not well. What no rule names keeps new claims away, except what is known to say nothing
/// about the chip: Ascend alarms of level 1, and XIDs that programs cause themselves.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HealthConfig {
    /// The first that matches a fault counts.
    #[schemars(length(max = 256))]
    pub rules: Vec<HealthRule>,
    /// Seconds that a chip must have been well before its taint is lifted; each relapse within the hour doubles it.
    #[schemars(range(min = 1, max = 86_400))]
    pub recovery_seconds: u32,
    /// Seconds that a fault must have lasted before pods are evicted for it, where a rule says `evict`.
    #[schemars(range(min = 1, max = 86_400))]
    pub evict_after_seconds: u32,
    /// Seconds that a chip's health may be unknown before it gets no new claims; 0: for ever.
    #[schemars(range(min = 0, max = 86_400))]
    pub unknown_seconds: u32,
    /// Seconds that a fault counts which a driver reports once and does not take back (XIDs); 0: until the driver is
    /// loaded anew or the plugin starts anew.
    #[schemars(range(min = 0, max = 2_592_000))]
    pub event_seconds: u32,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            recovery_seconds: 60,
            evict_after_seconds: 30,
            unknown_seconds: 60,
            event_seconds: 0,
        }
    }
}

/// A vendor whose library the product knows, as the file names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KnownVendor {
    /// Huawei Ascend NPUs, read through DCMI.
    Ascend,
    /// NVIDIA GPUs, read through NVML.
    Nvidia,
}

mod defaults {
    use super::KnownVendor;

    pub(super) fn vendors() -> Vec<KnownVendor> {
        vec![KnownVendor::Ascend, KnownVendor::Nvidia]
    }
    pub(super) const fn discovery() -> u32 {
        5
    }
    pub(super) const fn reconcile() -> u32 {
        180
    }
    pub(super) const fn agent() -> u32 {
        5
    }
    pub(super) const fn concurrency() -> u32 {
        32
    }
    pub(super) const fn overhead() -> u32 {
        1024
    }
    pub(super) const fn breach_rounds() -> u32 {
        3
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            vendors: defaults::vendors(),
            discovery_seconds: defaults::discovery(),
            reconcile_seconds: defaults::reconcile(),
            agent_seconds: defaults::agent(),
            concurrency: defaults::concurrency(),
            overhead_mib: defaults::overhead(),
            breach_rounds: defaults::breach_rounds(),
            health: HealthConfig::default(),
        }
    }
}

/// Why the configuration cannot be used. Nobody but its author can mend it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The node's name is not given.
    #[error("the node's name is missing: give --node-name or VNPU_NODE_NAME (in a pod: spec.nodeName)")]
    NoNodeName,
    /// The node's name is no name.
    #[error("--node-name: {0}")]
    NodeName(#[source] InvalidId),
    /// The pod's UID would become part of a path.
    #[error("--pod-uid {0:?} must have 1 to 64 letters, digits and dashes")]
    PodUid(String),
    /// The admin address does not parse.
    #[error("--admin-address {0:?} is not <address>:<port>; leave it empty for no admin server")]
    AdminAddress(String),
    /// A path is not absolute.
    #[error(
        "{flag} {path} must be an absolute path: it becomes part of what the kubelet and the runtime read"
    )]
    Relative {
        /// The flag.
        flag: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// Two descriptions of one vendor: its devices have one pool.
    #[error(
        "--generic-devices: {vendor} is named twice ({first} and {second}): describe all devices of a vendor in one file"
    )]
    GenericTwice {
        /// The vendor.
        vendor: String,
        /// Its first file.
        first: String,
        /// Its second one.
        second: String,
    },
    /// The log format is unknown.
    #[error(transparent)]
    Log(#[from] vnpu_telemetry::LogError),
    /// The file cannot be read.
    #[error("cannot read --config {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not a NodeConfig.
    #[error("--config {path}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

impl ConfigError {
    /// Never: somebody has to change it.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoNodeName | Self::NodeName(_) => "config_node_name",
            Self::PodUid(_) => "config_pod_uid",
            Self::AdminAddress(_) => "config_admin_address",
            Self::Relative { .. } => "config_relative_path",
            Self::GenericTwice { .. } => "config_generic_twice",
            Self::Log(_) => "config_log",
            Self::Unreadable { .. } => "config_unreadable",
            Self::Invalid { .. } => "config_invalid",
        }
    }
}

/// Everything that the plugin was told, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The flags, for the paths.
    pub args: Args,
    /// This node.
    pub node: NodeName,
    /// Where the admin server listens.
    pub admin: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The file's content, or its defaults.
    pub file: NodeConfig,
}

impl Settings {
    /// Checks flags and file.
    ///
    /// # Errors
    /// The first thing that cannot be used.
    pub fn from_args(args: Args) -> Result<Self, ConfigError> {
        let name = args.node_name.clone().filter(|n| !n.is_empty()).ok_or(ConfigError::NoNodeName)?;
        let node = NodeName::new(name).map_err(ConfigError::NodeName)?;
        if let Some(uid) = &args.pod_uid
            && !((1..=64).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        {
            return Err(ConfigError::PodUid(uid.chars().take(80).collect()));
        }
        let admin = match args.admin_address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| ConfigError::AdminAddress(text.to_owned()))?),
        };
        for (flag, path) in [
            ("--kubelet-registry-dir", &args.kubelet_registry_dir),
            ("--kubelet-plugins-dir", &args.kubelet_plugins_dir),
            ("--cdi-dir", &args.cdi_dir),
            ("--state-dir", &args.state_dir),
            ("--runtime-dir", &args.runtime_dir),
            ("--interposer-dir", &args.interposer_dir),
            ("--driver-root", &args.driver_root),
            ("--dev-root", &args.dev_root),
        ] {
            if !path.is_absolute() {
                return Err(ConfigError::Relative { flag, path: path.clone() });
            }
        }
        for (index, second) in args.generic_devices.iter().enumerate() {
            if let Some(first) = args.generic_devices.iter().take(index).find(|f| f.vendor == second.vendor) {
                return Err(ConfigError::GenericTwice {
                    vendor: second.vendor.to_string(),
                    first: first.file.display().to_string(),
                    second: second.file.display().to_string(),
                });
            }
        }
        let log_format = args.log_format.parse()?;
        let file = args.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        Ok(Self { args, node, admin, log_format, file })
    }

    /// The vendors that are looked for, each once, in the order in which they keep what two of them claim.
    pub fn vendors(&self) -> BTreeSet<KnownVendor> {
        self.file.vendors.iter().copied().collect()
    }

    /// How many claims are prepared at once, and how many given back.
    pub fn concurrency(&self) -> usize {
        usize::try_from(self.file.concurrency).unwrap_or(32)
    }

    /// Time between two looks at the hardware.
    pub fn discovery_period(&self) -> Duration {
        Duration::from_secs(self.file.discovery_seconds.into())
    }

    /// Time between two comparisons with the API server.
    pub fn reconcile_period(&self) -> Duration {
        Duration::from_secs(self.file.reconcile_seconds.into())
    }

    /// What faults of chips mean.
    pub fn health_policy(&self) -> HealthPolicy {
        let HealthConfig { rules, recovery_seconds, evict_after_seconds, unknown_seconds, event_seconds: _ } =
            &self.file.health;
        let seconds = |seconds: &u32| Duration::from_secs((*seconds).into());
        HealthPolicy {
            rules: rules.clone(),
            recovery: seconds(recovery_seconds),
            eviction: seconds(evict_after_seconds),
            unknown: Some(seconds(unknown_seconds)).filter(|patience| !patience.is_zero()),
        }
    }

    /// How long a fault counts that a driver reports once; `None`: until the driver is loaded anew.
    pub fn event_hold(&self) -> Option<Duration> {
        Some(self.file.health.event_seconds).filter(|s| *s > 0).map(|s| Duration::from_secs(s.into()))
    }

    /// When use beyond the ledger is a breach.
    pub fn limits(&self) -> Limits {
        Limits {
            per_process: Bytes(u64::from(self.file.overhead_mib) << 20),
            rounds: self.file.breach_rounds,
        }
    }

    /// Time between two passes over the regions.
    pub fn agent_period(&self) -> Duration {
        Duration::from_secs(self.file.agent_seconds.into())
    }
}

fn read_file(path: &Path) -> Result<NodeConfig, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    parse_file(&text).map_err(|message| ConfigError::Invalid { path: path.to_owned(), message })
}

fn parse_file(text: &str) -> Result<NodeConfig, String> {
    let config: NodeConfig = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    if config.api_version != API_VERSION || config.kind != KIND {
        return Err(format!(
            "it is {} {}, this program reads {API_VERSION} {KIND}",
            config.api_version, config.kind
        ));
    }
    if config.vendors.is_empty() {
        return Err("vendors is empty: name one, or leave the field out for all".to_owned());
    }
    for (field, value, least, most) in [
        ("discoverySeconds", config.discovery_seconds, 1, 3600),
        ("reconcileSeconds", config.reconcile_seconds, 10, 86_400),
        ("agentSeconds", config.agent_seconds, 1, 3600),
        ("concurrency", config.concurrency, 1, 256),
        ("overheadMib", config.overhead_mib, 0, 1_048_576),
        ("breachRounds", config.breach_rounds, 1, 1000),
        ("health.recoverySeconds", config.health.recovery_seconds, 1, 86_400),
        ("health.evictAfterSeconds", config.health.evict_after_seconds, 1, 86_400),
        ("health.unknownSeconds", config.health.unknown_seconds, 0, 86_400),
        ("health.eventSeconds", config.health.event_seconds, 0, 2_592_000),
    ] {
        if !(least..=most).contains(&value) {
            return Err(format!("{field} is {value}, it must be {least} to {most}"));
        }
    }
    for (number, rule) in (1..).zip(&config.health.rules) {
        let wrong = |code: &&String| {
            let name = code.strip_suffix('*').unwrap_or(code);
            (name.is_empty() && code.as_str() != "*") || code.len() > 64 || name.contains(['*', ' '])
        };
        if rule.codes.is_empty() {
            return Err(format!("rule {number} of health has no codes: name one, or \"*\" for all"));
        }
        if let Some(code) = rule.codes.iter().find(wrong) {
            return Err(format!(
                "rule {number} of health: {code:?} is no code: 1 to 64 characters without blanks, with * at the end or nowhere"
            ));
        }
    }
    Ok(config)
}

/// The schema of the configuration file, as JSON.
pub fn schema() -> String {
    serde_json::to_string_pretty(&schemars::schema_for!(NodeConfig)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
