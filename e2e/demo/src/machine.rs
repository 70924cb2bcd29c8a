//! A stand-in machine with one chip, in a temporary directory. A small shell beside us owns its process and its
//! directory, so that both go with us, however we end.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vnpu_e2e_stack::Artefacts;

/// Starts the driver at the first line of its input; ends it and removes the directory when the other end of the
/// input is closed: by us, or by the kernel when we are gone.
const KEEPER: &str = r#"
directory=$1; shift
if ! read -r _; then rm -rf -- "$directory"; exit; fi
"$@" >/dev/null 2>"$directory/driver.log" &
driver=$!
read -r _
kill "$driver"; wait "$driver"
rm -rf -- "$directory"
"#;

/// The machine; it ends with this value.
#[derive(Debug)]
pub(crate) struct Machine {
    directory: PathBuf,
    keeper: Child,
}

impl Machine {
    /// Lays the driver out and starts it: one Ascend 910B of 64 GiB.
    ///
    /// # Errors
    /// With what the stand-in said.
    pub(crate) fn start(artefacts: &Artefacts) -> Result<Self> {
        let device = artefacts.standins.device();
        let directory = tempfile::Builder::new().prefix("vnpu-demo-").tempdir()?.keep();
        let (config, root) = (directory.join("machine.yaml"), directory.join("root"));
        let mut keeper = Command::new("/bin/sh");
        keeper.args(["-c", KEEPER, "vnpu-demo-keeper"]).arg(&directory).arg(&device);
        keeper.arg("serve").arg("--config").arg(&config).arg("--driver-root").arg(&root);
        // A process group of its own: Ctrl-C is for us, and our end is the keeper's sign.
        keeper.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let keeper = keeper.spawn().context("starting the stand-in chip's keeper")?;
        let mut machine = Self { directory, keeper };
        let sample = Command::new(&device).args(["sample", "--chip", "910B", "--cards", "1"]).output()?;
        fs::write(&config, sample.stdout)?;
        fs::create_dir_all(root.join("dev"))?;
        let mut prepare = Command::new(&device);
        prepare.arg("prepare").arg("--config").arg(&config).arg("--driver-root").arg(&root);
        let prepared = prepare.arg("--dev-root").arg(root.join("dev")).output()?;
        if !prepared.status.success() {
            // Device nodes take root. Without containers nothing opens them: a file of the name will do.
            fs::write(root.join("dev/davinci0"), b"")?;
        }
        if let Some(input) = &mut machine.keeper.stdin {
            writeln!(input, "serve")?;
        }
        let socket = root.join("usr/local/Ascend/driver/lib64/standin.sock");
        let begun = Instant::now();
        while !socket.exists() {
            if begun.elapsed() > Duration::from_secs(20) {
                let said = fs::read_to_string(machine.directory.join("driver.log")).unwrap_or_default();
                let prepared = String::from_utf8_lossy(&prepared.stderr);
                bail!("the stand-in chip does not start: {} {}", prepared.trim(), said.trim());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(machine)
    }

    /// What tells programs where the driver and its devices are, and `vnpu` where its own things go.
    pub(crate) fn environment(&self) -> Vec<(String, OsString)> {
        let root = self.directory.join("root");
        let pair = |name: &str, value: PathBuf| (name.to_owned(), value.into_os_string());
        vec![
            pair("VNPU_DRIVER_ROOT", root.clone()),
            pair("STANDIN_DEV", root.join("dev")),
            pair("LD_LIBRARY_PATH", root.join("usr/local/Ascend/driver/lib64/driver")),
            pair("VNPU_RUN_DIR", self.directory.join("runs")),
            pair("VNPU_STATE_DIR", self.directory.join("state")),
        ]
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
