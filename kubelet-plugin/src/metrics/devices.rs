//! What is shown of every device of the node, and of the node's pools.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use vnpu_driver::hardware::Usage;
use vnpu_driver::quantity::{Bytes, Percent};

use super::Pool;

/// One chip (die, GPU, instance of a GPU).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct OneDevice {
    /// The vendor.
    pub vendor: String,
    /// Its name in the ResourceSlices.
    pub device: String,
    /// The hardware's identity.
    pub uuid: String,
    /// The model.
    pub model: String,
}

/// What is known of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState {
    /// Which.
    pub device: OneDevice,
    /// All of its memory.
    pub memory: Bytes,
    /// Whether its health is known and good.
    pub healthy: bool,
    /// Whether it has a taint, so that no new claim gets it.
    pub tainted: bool,
    /// Memory that prepared claims have of it.
    pub allocated: Bytes,
    /// Compute that they have.
    pub cores: Percent,
    /// What its library says that it does; `None` where it was not asked now.
    pub usage: Option<Usage>,
}

/// What is known of one vendor's devices together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolState {
    /// Which.
    pub pool: Pool,
    /// Modules of which one chip is in use and the other is not.
    pub half_used_modules: usize,
    /// All memory of its chips.
    pub memory: Bytes,
    /// Memory that prepared claims have.
    pub allocated: Bytes,
}

type Ratio = Gauge<f64, AtomicU64>;

/// The families. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct DeviceMetrics {
    memory: Family<OneDevice, Gauge>,
    used: Family<OneDevice, Gauge>,
    busy: Family<OneDevice, Ratio>,
    temperature: Family<OneDevice, Gauge>,
    healthy: Family<OneDevice, Gauge>,
    tainted: Family<OneDevice, Gauge>,
    allocated: Family<OneDevice, Gauge>,
    cores: Family<OneDevice, Ratio>,
    half_used: Family<Pool, Gauge>,
    pool_memory: Family<Pool, Gauge>,
    pool_allocated: Family<Pool, Gauge>,
    pool_rate: Family<Pool, Ratio>,
    /// What is shown, to be dropped when it is gone.
    shown: Arc<Mutex<(BTreeSet<OneDevice>, BTreeSet<Pool>)>>,
}

fn number(bytes: Bytes) -> i64 {
    i64::try_from(bytes.0).unwrap_or(i64::MAX)
}

/// A part of a whole; 0 of nothing.
fn ratio(part: Bytes, whole: Bytes) -> f64 {
    // Gauges are floating-point numbers anyway.
    #[allow(clippy::cast_precision_loss)]
    if whole.0 == 0 { 0.0 } else { part.0 as f64 / whole.0 as f64 }
}

impl DeviceMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        for (name, help, family) in [
            ("vnpu_device_memory_bytes", "Memory of a device", &self.memory),
            ("vnpu_device_memory_used_bytes", "Memory of a device that is taken, by whomever", &self.used),
            (
                "vnpu_device_memory_allocated_bytes",
                "Memory of a device that prepared claims have",
                &self.allocated,
            ),
            ("vnpu_device_temperature_celsius", "Temperature of a device", &self.temperature),
            ("vnpu_device_healthy", "1 when the device is known to be well", &self.healthy),
            ("vnpu_device_tainted", "1 when no new claim gets the device", &self.tainted),
        ] {
            registry.register(name, help, family.clone());
        }
        for (name, help, family) in [
            (
                "vnpu_device_utilization_ratio",
                "Part of the last moments in which a device computed",
                &self.busy,
            ),
            (
                "vnpu_device_compute_allocated_ratio",
                "Part of a device's compute that prepared claims have",
                &self.cores,
            ),
        ] {
            registry.register(name, help, family.clone());
        }
        for (name, help, family) in [
            ("vnpu_pool_memory_bytes", "Memory of all of a vendor's chips on this node", &self.pool_memory),
            (
                "vnpu_pool_memory_allocated_bytes",
                "Memory of a vendor's chips on this node that prepared claims have",
                &self.pool_allocated,
            ),
            (
                "vnpu_pool_half_used_modules",
                "Modules on this node of which one chip is in use and the other is not",
                &self.half_used,
            ),
        ] {
            registry.register(name, help, family.clone());
        }
        registry.register(
            "vnpu_pool_allocated_ratio",
            "Part of the memory of a vendor's chips on this node that prepared claims have",
            self.pool_rate.clone(),
        );
    }

    /// Shows these devices and pools, and no others.
    pub fn show(&self, devices: &[DeviceState], pools: &[PoolState]) {
        for state in devices {
            self.show_device(state);
        }
        for PoolState { pool, half_used_modules, memory, allocated } in pools {
            let half_used = i64::try_from(*half_used_modules).unwrap_or(i64::MAX);
            self.half_used.get_or_create(pool).set(half_used);
            self.pool_memory.get_or_create(pool).set(number(*memory));
            self.pool_allocated.get_or_create(pool).set(number(*allocated));
            self.pool_rate.get_or_create(pool).set(ratio(*allocated, *memory));
        }
        let now_devices: BTreeSet<_> = devices.iter().map(|state| state.device.clone()).collect();
        let now_pools: BTreeSet<_> = pools.iter().map(|state| state.pool.clone()).collect();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shown.0.difference(&now_devices) {
            self.hide_usage(gone);
            for family in [&self.memory, &self.healthy, &self.tainted, &self.allocated] {
                family.remove(gone);
            }
            self.cores.remove(gone);
        }
        for gone in shown.1.difference(&now_pools) {
            self.half_used.remove(gone);
            self.pool_memory.remove(gone);
            self.pool_allocated.remove(gone);
            self.pool_rate.remove(gone);
        }
        *shown = (now_devices, now_pools);
    }

    fn show_device(&self, state: &DeviceState) {
        let device = &state.device;
        self.memory.get_or_create(device).set(number(state.memory));
        self.healthy.get_or_create(device).set(i64::from(state.healthy));
        self.tainted.get_or_create(device).set(i64::from(state.tainted));
        self.allocated.get_or_create(device).set(number(state.allocated));
        self.cores.get_or_create(device).set(f64::from(state.cores.0) / 100.0);
        let Some(usage) = state.usage else { return };
        // What is not told now is not what it was.
        match usage.memory {
            Some(used) => _ = self.used.get_or_create(device).set(number(used)),
            None => _ = self.used.remove(device),
        }
        match usage.busy {
            Some(busy) => _ = self.busy.get_or_create(device).set(f64::from(busy.0) / 100.0),
            None => _ = self.busy.remove(device),
        }
        match usage.temperature {
            Some(degrees) => _ = self.temperature.get_or_create(device).set(degrees.into()),
            None => _ = self.temperature.remove(device),
        }
    }

    fn hide_usage(&self, device: &OneDevice) {
        self.used.remove(device);
        self.busy.remove(device);
        self.temperature.remove(device);
    }
}
