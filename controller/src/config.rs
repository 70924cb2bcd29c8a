//! What the controller is told: flags and their environment variables. A flag wins over its variable, that over the
//! default. The configuration file, which may change while the controller runs, is followed elsewhere.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use vnpu_driver::controller_config::ControllerConfig;
use vnpu_telemetry::LogFormat;

use crate::certificates::Names;
use crate::lease::Timing;
use crate::settings::{self, Document, Fault, SettingsError};

/// The controller of vnpu.dev: rewrites claims, gates pods, and places them.
#[derive(Debug, Clone, Parser)]
#[command(name = "vnpu-controller", version)]
pub struct Args {
    /// Kubeconfig file; without it the pod's service account is used.
    #[arg(long, env = "VNPU_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the Lease, the certificates' Secret and the webhooks' Service.
    #[arg(long, env = "VNPU_NAMESPACE", default_value = "vnpu-system")]
    pub namespace: String,
    /// ControllerConfig file (apiVersion vnpu.dev/v1alpha1), read again when it changes; without it the defaults hold.
    #[arg(long, env = "VNPU_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address of the webhook server.
    #[arg(long, env = "VNPU_WEBHOOK_ADDRESS", default_value = "0.0.0.0:8443")]
    pub webhook_address: String,
    /// Address of the admin server (/livez, /readyz, /metrics, /debug); empty for none.
    #[arg(long, env = "VNPU_ADMIN_ADDRESS", default_value = "127.0.0.1:8091")]
    pub admin_address: String,
    /// Service through which API servers call the webhooks. Its certificates are kept in the Secret of that name with -tls behind it.
    #[arg(long, env = "VNPU_SERVICE_NAME", default_value = "vnpu-controller")]
    pub service_name: String,
    /// Another name or address by which API servers call the webhooks; may be given several times.
    #[arg(long, env = "VNPU_SERVER_NAME", value_delimiter = ',')]
    pub server_name: Vec<String>,
    /// Name of the MutatingWebhookConfiguration and the ValidatingWebhookConfiguration that shall trust this server.
    #[arg(long, env = "VNPU_WEBHOOK_CONFIGURATION", default_value = "vnpu-controller")]
    pub webhook_configuration: String,
    /// Lease by which the replicas agree on a leader.
    #[arg(long, env = "VNPU_LEASE_NAME", default_value = "vnpu-controller")]
    pub lease_name: String,
    /// What this replica is called in the Lease, as no other is; in a pod its name. Without it: the host's name and the
    /// process's number.
    #[arg(long, env = "VNPU_IDENTITY")]
    pub identity: Option<String>,
    /// Seconds without a sign of life after which another replica leads.
    #[arg(long, env = "VNPU_LEASE_SECONDS", default_value_t = 15)]
    pub lease_seconds: u32,
    /// Seconds without a renewal after which a leader stops; less than --lease-seconds.
    #[arg(long, env = "VNPU_RENEW_SECONDS", default_value_t = 10)]
    pub renew_seconds: u32,
    /// Seconds between two tries to get or renew the Lease; less than half of --renew-seconds.
    #[arg(long, env = "VNPU_RETRY_SECONDS", default_value_t = 2)]
    pub retry_seconds: u32,
    /// Directory into which the planner records what it saw and decided, for `vnpu-sim replay`.
    #[arg(long, env = "VNPU_RECORD")]
    pub record: Option<PathBuf>,
    /// Serve no webhooks and keep no certificates.
    #[arg(long, env = "VNPU_NO_WEBHOOK")]
    pub no_webhook: bool,
    /// Place no pods: this replica never leads.
    #[arg(long, env = "VNPU_NO_PLANNER")]
    pub no_planner: bool,
    /// Log filter, such as `info` or `vnpu_controller=debug,info`; changeable at /debug/log.
    #[arg(long, env = "VNPU_LOG", default_value = "info")]
    pub log: String,
    /// Log format: plain or json.
    #[arg(long, env = "VNPU_LOG_FORMAT", default_value = "plain")]
    pub log_format: String,
}

/// Why the configuration cannot be used. Nobody but its author can mend it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An address does not parse.
    #[error("{flag} {value:?} is not <address>:<port>")]
    Address {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
    },
    /// A name that becomes part of an object's path or a certificate is none.
    #[error("{flag} {value:?} is not a name that Kubernetes objects can have")]
    Name {
        /// The flag.
        flag: &'static str,
        /// Its value, shortened.
        value: String,
    },
    /// A name of the server is none.
    #[error("--server-name {0:?} is neither a host's name nor an address")]
    Server(String),
    /// A leader would go on while another one begins.
    #[error(
        "--lease-seconds {lease}, --renew-seconds {renew}, --retry-seconds {retry}: the first must be more than the \
         second, and the second more than twice the third, which must not be 0"
    )]
    Lease {
        /// Seconds.
        lease: u32,
        /// Seconds.
        renew: u32,
        /// Seconds.
        retry: u32,
    },
    /// Nothing is left to do.
    #[error("--no-webhook and --no-planner together leave nothing to do")]
    Nothing,
    /// The log format is unknown.
    #[error(transparent)]
    Log(#[from] vnpu_telemetry::LogError),
    /// The file cannot be used.
    #[error("--config: {0}")]
    File(#[from] SettingsError),
}

impl ConfigError {
    /// Never: somebody has to change it.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Address { .. } => "config_address",
            Self::Name { .. } => "config_name",
            Self::Server(_) => "config_server_name",
            Self::Lease { .. } => "config_lease",
            Self::Nothing => "config_nothing",
            Self::Log(_) => "config_log",
            Self::File(error) => error.reason(),
        }
    }
}

/// Everything that the controller was told, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The flags.
    pub args: Args,
    /// Where the webhook server listens; none for no webhooks.
    pub webhook: Option<SocketAddr>,
    /// Where the admin server listens.
    pub admin: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// How the lease is kept.
    pub timing: Timing,
    /// What this replica is called.
    pub identity: String,
}

impl Settings {
    /// Checks flags and file.
    ///
    /// # Errors
    /// The first thing that cannot be used.
    pub fn from_args(args: Args) -> Result<Self, ConfigError> {
        if args.no_webhook && args.no_planner {
            return Err(ConfigError::Nothing);
        }
        for (flag, value) in [
            ("--namespace", &args.namespace),
            ("--service-name", &args.service_name),
            ("--webhook-configuration", &args.webhook_configuration),
            ("--lease-name", &args.lease_name),
        ] {
            if !is_name(value) {
                return Err(ConfigError::Name { flag, value: value.chars().take(80).collect() });
            }
        }
        for name in &args.server_name {
            if rustls::pki_types::ServerName::try_from(name.as_str()).is_err() {
                return Err(ConfigError::Server(name.chars().take(80).collect()));
            }
        }
        let webhook = address("--webhook-address", &args.webhook_address)?.filter(|_| !args.no_webhook);
        if webhook.is_none() && !args.no_webhook {
            return Err(ConfigError::Address { flag: "--webhook-address", value: String::new() });
        }
        let admin = address("--admin-address", &args.admin_address)?;
        let log_format = args.log_format.parse()?;
        let seconds = |n: u32| Duration::from_secs(n.into());
        let timing = Timing {
            lease: seconds(args.lease_seconds),
            renew: seconds(args.renew_seconds),
            retry: seconds(args.retry_seconds),
        };
        if !timing.is_sound() {
            let (lease, renew, retry) = (args.lease_seconds, args.renew_seconds, args.retry_seconds);
            return Err(ConfigError::Lease { lease, renew, retry });
        }
        if let Some(path) = &args.config {
            settings::read::<ControllerConfig>(path)?;
        }
        let identity = args.identity.clone().filter(|i| !i.is_empty()).unwrap_or_else(own_name);
        Ok(Self { args, webhook, admin, log_format, timing, identity })
    }

    /// What belongs to the webhooks' certificates.
    pub fn names(&self) -> Names {
        let args = &self.args;
        let service = format!("{}.{}.svc", args.service_name, args.namespace);
        Names {
            namespace: args.namespace.clone(),
            secret: format!("{}-tls", args.service_name),
            configurations: args.webhook_configuration.clone(),
            server: std::iter::once(service).chain(args.server_name.iter().cloned()).collect(),
        }
    }
}

impl Document for ControllerConfig {
    const NAME: &'static str = "configuration";

    fn read(text: &str) -> Result<Self, Fault> {
        Self::read(&settings::yaml(text)?)
            .map_err(|error| Fault::Refused { message: error.to_string(), reason: error.reason() })
    }
}

/// Empty text is none.
fn address(flag: &'static str, text: &str) -> Result<Option<SocketAddr>, ConfigError> {
    match text {
        "" => Ok(None),
        text => {
            let value = || text.chars().take(80).collect();
            text.parse().map(Some).map_err(|_| ConfigError::Address { flag, value: value() })
        }
    }
}

/// Whether this is a DNS label or several, as names of objects are.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// In a container the host's name is the pod's.
fn own_name() -> String {
    let host = rustix::system::uname();
    format!("{}_{}", host.nodename().to_string_lossy(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: &[&str]) -> Result<Settings, ConfigError> {
        let flags = std::iter::once("vnpu-controller").chain(flags.iter().copied());
        Settings::from_args(Args::parse_from(flags))
    }

    #[test]
    fn without_flags_the_defaults_hold() {
        let settings = settings(&[]).unwrap();
        assert_eq!(settings.timing, Timing::default());
        assert_eq!(settings.names().server, ["vnpu-controller.vnpu-system.svc"]);
        assert_eq!(settings.names().secret, "vnpu-controller-tls");
        assert_eq!(settings.webhook.unwrap().port(), 8443);
        assert!(settings.identity.ends_with(&format!("_{}", std::process::id())));
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, "apiVersion: vnpu.dev/v1alpha1\nkind: ControllerConfig\nodd: 1\n").unwrap();
        let file = format!("--config={}", path.display());
        for (flags, reason) in [
            (&["--webhook-address=8443"][..], "config_address"),
            (&["--webhook-address="], "config_address"),
            (&["--admin-address=x"], "config_address"),
            (&["--namespace=Big"], "config_name"),
            (&["--service-name=a/b"], "config_name"),
            (&["--lease-name="], "config_name"),
            (&["--server-name=a b"], "config_server_name"),
            (&["--renew-seconds=15"], "config_lease"),
            (&["--retry-seconds=0"], "config_lease"),
            (&["--no-webhook", "--no-planner"], "config_nothing"),
            (&["--log-format=xml"], "config_log"),
            (&["--config=/nowhere/config.yaml"], "config_unreadable"),
            (&[&file], "config_field"),
        ] {
            assert_eq!(settings(flags).unwrap_err().reason(), reason, "{flags:?}");
        }
    }

    #[test]
    fn what_is_left_out_is_left_out() {
        assert!(settings(&["--no-webhook"]).unwrap().webhook.is_none());
        assert!(settings(&["--admin-address="]).unwrap().admin.is_none());
        let settings = settings(&["--server-name=127.0.0.1,localhost", "--identity=pod-1"]).unwrap();
        assert_eq!(settings.names().server.len(), 3);
        assert_eq!(settings.identity, "pod-1");
    }
}
