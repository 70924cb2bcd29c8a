//! What a case does to the controller, undone when the case ends, however it ends.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use vnpu_e2e_stack::{ControllerHandle, admin_page};
use vnpu_harness::{ProcessSpec, Signal};

use crate::context::Context;

/// How long the controller may take to take in a file.
const FOLLOWED: Duration = Duration::from_secs(10);

/// The controller, whose command line or state a case changes.
pub(crate) struct Altered<'a> {
    context: &'a Context,
    handle: &'a ControllerHandle,
    original: ProcessSpec,
}

impl<'a> Altered<'a> {
    /// Takes note of the controller, started if need be.
    pub(crate) fn of(context: &'a Context) -> Result<Self> {
        let handle = context.controller()?;
        let mut original = None;
        context.cluster.edit_process(&handle.name, |spec| original = Some(spec.clone()))?;
        Ok(Self { context, handle, original: original.context("the controller has no command line")? })
    }

    /// Ends it as a node that is drained would.
    pub(crate) fn stop(&self) -> Result<()> {
        self.context.cluster.stop_process(&self.handle.name).map(drop)
    }

    /// Starts it again after [`Self::stop`] and waits until it answers.
    pub(crate) fn start(&self) -> Result<()> {
        self.context.cluster.relaunch_process(&self.handle.name)?;
        self.context.cluster.wait_controller(self.handle)
    }

    /// Lets it hang: connections are taken by the kernel, and nobody answers.
    pub(crate) fn hang(&self) -> Result<()> {
        self.context.cluster.signal_process(&self.handle.name, Signal::STOP)
    }

    /// Ends [`Self::hang`].
    pub(crate) fn wake(&self) -> Result<()> {
        self.context.cluster.signal_process(&self.handle.name, Signal::CONT)
    }

    /// Stops it and starts it with more arguments.
    pub(crate) fn restart_with(&self, arguments: &[&str]) -> Result<()> {
        self.stop()?;
        self.context.cluster.edit_process(&self.handle.name, |spec| {
            *spec = self.original.clone().args(arguments);
        })?;
        self.start()
    }

    /// Stops it and starts it with this configuration, of which it follows the file.
    pub(crate) fn restart_configured(&self, document: &Value) -> Result<()> {
        let file = self.write(document)?.display().to_string();
        self.restart_with(&["--config", &file])
    }

    /// Changes the file and waits until what it says is in force.
    pub(crate) fn configure(&self, document: &Value, pointer: &str) -> Result<()> {
        self.write(document)?;
        let wanted = document.pointer(pointer).cloned();
        self.context.cluster.wait_for("the configuration to be in force", FOLLOWED, || {
            let page: Value = serde_json::from_str(&self.page("/debug/config")?)?;
            Ok(page.pointer(pointer).cloned() == wanted)
        })
    }

    /// A page of its admin server.
    pub(crate) fn page(&self, path: &str) -> Result<String> {
        admin_page(&self.handle.admin_address, path).map(|(_, body)| body)
    }

    fn write(&self, document: &Value) -> Result<PathBuf> {
        let directory = self.context.cluster.directory().join("controllers/altered");
        std::fs::create_dir_all(&directory)?;
        let (file, fresh) = (directory.join("config.yaml"), directory.join("fresh"));
        std::fs::write(&fresh, document.to_string())?;
        std::fs::rename(&fresh, &file)?;
        Ok(file)
    }

    fn restore(&self) -> Result<()> {
        let cluster = &self.context.cluster;
        self.wake().ok();
        let mut same = false;
        cluster.edit_process(&self.handle.name, |spec| same = spec.arguments == self.original.arguments)?;
        if same && cluster.running(&self.handle.name) {
            return cluster.wait_controller(self.handle);
        }
        if cluster.running(&self.handle.name) {
            self.stop()?;
        }
        cluster.edit_process(&self.handle.name, |spec| *spec = self.original.clone())?;
        self.start()
    }
}

impl Drop for Altered<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            println!("        the controller is not what it was: {error:#}");
        }
    }
}
