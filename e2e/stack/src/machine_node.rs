//! One node with a stand-in machine behind it.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use standin_protocol::Machine;
use vnpu_harness::{Cluster, NodeHandle, admin_page};

/// How long the stand-in driver, which looks at its file every 50 ms, is given to take a change.
const TAKEN: std::time::Duration = std::time::Duration::from_millis(250);

/// A node, the simulated machine of its driver, and the file that describes it.
#[derive(Debug)]
pub struct MachineNode {
    /// The node as its plugin sees it.
    pub handle: NodeHandle,
    /// The machine's YAML.
    pub config: PathBuf,
    machine: Mutex<Machine>,
}

impl MachineNode {
    pub(crate) fn new(handle: NodeHandle, machine: Machine) -> Result<Self> {
        let config = handle.root.join("machine.yaml");
        let node = Self { handle, config, machine: Mutex::new(machine) };
        node.write()?;
        Ok(node)
    }

    /// The machine as it is now.
    pub fn machine(&self) -> Machine {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the machine while it runs: the driver follows its file, as hardware does not ask either.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn change(&self, edit: impl FnOnce(&mut Machine)) -> Result<()> {
        edit(&mut self.machine.lock().unwrap_or_else(PoisonError::into_inner));
        self.write()?;
        // A plugin that is started next asks its first question within milliseconds.
        std::thread::sleep(TAKEN);
        Ok(())
    }

    /// Name of the driver's process in the harness.
    pub fn driver_process(&self) -> String {
        format!("device-{}", self.handle.name)
    }

    /// Name of the kubelet stand-in's process in the harness (simulated nodes only).
    pub fn kubelet_process(&self) -> String {
        format!("kubelet-{}", self.handle.name)
    }

    /// The admin server's answer to a GET, body only.
    ///
    /// # Errors
    /// When the plugin does not answer.
    pub fn admin(&self, path: &str) -> Result<String> {
        admin_page(&self.handle.admin_address, path).map(|(_, body)| body)
    }

    /// Whether the plugin says that it is ready.
    pub fn ready(&self, cluster: &Cluster) -> bool {
        cluster.running(&self.handle.plugin()) && self.admin("/readyz").is_ok_and(|b| b.contains("ok"))
    }

    fn write(&self) -> Result<()> {
        let text = serde_saphyr::to_string(&self.machine())?;
        let fresh = self.config.with_extension("fresh");
        fs::write(&fresh, text)?;
        fs::rename(&fresh, &self.config).with_context(|| format!("writing {}", self.config.display()))
    }
}
