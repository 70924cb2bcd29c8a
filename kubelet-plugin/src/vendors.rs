//! The vendors that this node is looked at for, in a fixed order: who is asked about which pool. What they found is
//! `hardware`'s.

use std::sync::Arc;

use vnpu_discovery::Backend;
use vnpu_discovery::ascend::{Ascend, AscendOptions};
use vnpu_discovery::nvidia::{Nvidia, NvidiaOptions};
use vnpu_driver::id::{InvalidId, NodeName, PoolName};

use crate::config::{Settings, VendorName};

/// One vendor.
#[derive(Clone)]
pub struct Source {
    /// Where its devices are published.
    pub pool: PoolName,
    /// Who is asked about them.
    pub backend: Arc<dyn Backend>,
    /// Whether its library was named by an option: then it must be there.
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
        let backends = settings.vendors().into_iter().map(|vendor| -> (Arc<dyn Backend>, bool) {
            match vendor {
                VendorName::Ascend => {
                    let ascend = Ascend::new(AscendOptions {
                        dcmi_library: args.dcmi_library.clone(),
                        driver_root: args.driver_root.clone(),
                        dev_root: args.dev_root.clone(),
                        ..AscendOptions::default()
                    });
                    (Arc::new(ascend), args.dcmi_library.is_some())
                }
                VendorName::Nvidia => {
                    let nvidia = Nvidia::new(NvidiaOptions {
                        nvml_library: args.nvml_library.clone(),
                        driver_root: args.driver_root.clone(),
                        dev_root: args.dev_root.clone(),
                        ..NvidiaOptions::default()
                    });
                    (Arc::new(nvidia), args.nvml_library.is_some())
                }
            }
        });
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
