//! `--check`: looks at everything that the plugin needs, says what it found line by line, and changes nothing
//! that stays.

use std::fmt::Write as _;
use std::path::Path;

use crate::config::Settings;
use crate::run::backend;
use crate::sockets::SocketPaths;

/// What was found, and whether the plugin would run.
#[derive(Debug)]
pub struct Report {
    /// One line per thing.
    pub text: String,
    /// Whether nothing is wrong.
    pub good: bool,
}

impl Report {
    fn line(&mut self, what: &str, result: Result<String, String>) {
        // Writing to a String cannot fail.
        let _ = match result {
            Ok(found) => writeln!(self.text, "ok    {what}: {found}"),
            Err(problem) => {
                self.good = false;
                writeln!(self.text, "FAIL  {what}: {problem}")
            }
        };
    }
}

/// Looks at directories, sockets' names, the interposer and the hardware. Blocks.
pub fn check(settings: &Settings) -> Report {
    let args = &settings.args;
    let mut report = Report { text: String::new(), good: true };
    report.line("node", Ok(settings.node.to_string()));
    for (what, dir) in [
        ("kubelet's registry", &args.kubelet_registry_dir),
        ("kubelet's plugins", &args.kubelet_plugins_dir),
        ("CDI directory", &args.cdi_dir),
        ("state directory", &args.state_dir),
        ("runtime directory", &args.runtime_dir),
    ] {
        report.line(what, writable(dir));
    }
    let paths =
        SocketPaths::new(&args.kubelet_registry_dir, &args.kubelet_plugins_dir, args.pod_uid.as_deref());
    for path in [&paths.registration, &paths.service] {
        let length = path.as_os_str().len();
        let fits = if length <= 107 {
            Ok(format!("{} ({length} bytes)", path.display()))
        } else {
            Err(format!("{} has {length} bytes, more than 107", path.display()))
        };
        report.line("socket", fits);
    }
    for name in ["libvnpu.so", "libvnpu_core.so"] {
        let path = args.interposer_dir.join(name);
        let found = if path.is_file() {
            Ok(path.display().to_string())
        } else {
            Err(format!("{} is missing", path.display()))
        };
        report.line("interposer", found);
    }
    match backend(settings).discover() {
        Ok(inventory) => {
            report.line(
                "hardware",
                Ok(format!(
                    "{} {} chips, driver {:?}",
                    inventory.chips.len(),
                    inventory.vendor,
                    inventory.driver_version
                )),
            );
            for problem in inventory.problems {
                report.line("hardware", Err(format!("{}: {}", problem.object, problem.message)));
            }
        }
        Err(error) => report.line("hardware", Err(error.to_string())),
    }
    report
}

/// Whether the directory, or the nearest one above it that exists, can be written.
fn writable(dir: &Path) -> Result<String, String> {
    let existing = dir.ancestors().find(|d| d.exists()).unwrap_or(dir);
    match rustix::fs::access(existing, rustix::fs::Access::WRITE_OK) {
        Ok(()) if existing == dir => Ok(dir.display().to_string()),
        Ok(()) => Ok(format!("{} will be made", dir.display())),
        Err(error) => Err(format!("{} is not writable: {error}", existing.display())),
    }
}
