//! The vendors that this node is looked at for, in a fixed order: who is asked about which pool. What they found is
//! `hardware`'s.

use std::sync::Arc;

use vnpu_discovery::{Backend, Host};
use vnpu_driver::id::{InvalidId, NodeName, PoolName};

use crate::config::{KnownVendor, Settings};

/// One vendor.
#[derive(Clone)]
pub struct Source {
    /// Where its devices are published.
    pub pool: PoolName,
    /// Who is asked about them.
    pub backend: Arc<dyn Backend>,
    /// Whether its library or description was named by an option: then it must be there.
    pub named: bool,
}

impl Source {
    /// The vendor's name, for people and metrics.
    pub fn vendor(&self) -> String {
        self.backend.vendor().to_string()
    }
}

/// All of them. Cheap to clone.
#[derive(Clone)]
pub struct Vendors(Arc<[Source]>);

impl std::fmt::Debug for Vendors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|source| source.pool.as_str())).finish()
    }
}

impl Vendors {
    /// Backends, each with whether its library was named by an option. Where two claim one device, the first of them
    /// keeps it.
    ///
    /// # Errors
    /// A node's name that leaves no room for a pool's.
    pub fn of(
        node: &NodeName,
        backends: impl IntoIterator<Item = (Arc<dyn Backend>, bool)>,
    ) -> Result<Self, InvalidId> {
        let sources = backends.into_iter().map(|(backend, named)| {
            let pool = PoolName::of(node, backend.vendor())?;
            Ok(Source { pool, backend, named })
        });
        Ok(Self(sources.collect::<Result<_, InvalidId>>()?))
    }

    /// The vendors that the settings ask for.
    ///
    /// # Errors
    /// As of [`Vendors::of`].
    pub fn from_settings(settings: &Settings) -> Result<Self, InvalidId> {
        let args = &settings.args;
        let host = Host {
            dcmi_library: args.dcmi_library.clone(),
            nvml_library: args.nvml_library.clone(),
            driver_root: args.driver_root.clone(),
            dev_root: args.dev_root.clone(),
            hold: settings.event_hold(),
        };
        let known = settings.vendors().into_iter().map(|vendor| -> (Arc<dyn Backend>, bool) {
            match vendor {
                KnownVendor::Ascend => (Arc::new(host.ascend()), host.dcmi_library.is_some()),
                KnownVendor::Nvidia => (Arc::new(host.nvidia()), host.nvml_library.is_some()),
            }
        });
        let described = args
            .generic_devices
            .iter()
            .map(|source| -> (Arc<dyn Backend>, bool) { (Arc::new(host.generic(source.clone())), true) });
        let backends: Vec<_> = known.chain(described).collect();
        Self::of(&settings.node, backends)
    }

    /// Each vendor, in the fixed order.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.0.iter()
    }

    /// Who is asked about a pool's devices.
    pub fn backend(&self, pool: &PoolName) -> Option<&Arc<dyn Backend>> {
        self.iter().find(|source| source.pool == *pool).map(|source| &source.backend)
    }
}
