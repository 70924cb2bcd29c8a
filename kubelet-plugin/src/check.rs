//! `--check`: looks at everything that the plugin needs, says what it found line by line, and changes nothing
//! that stays.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use vnpu_discovery::DiscoveryError;
use vnpu_driver::hardware::Health;

use crate::checkpoint;
use crate::config::Settings;
use crate::hardware::{Inventories, Look};
use crate::sockets::SocketPaths;
use crate::vendors::Vendors;

/// What was found, and whether the plugin would run.
#[derive(Debug)]
pub struct Report {
    /// One line per thing.
    pub text: String,
    /// Whether nothing is wrong.
    pub good: bool,
}

impl Report {
    /// Something to know that is no fault of this configuration.
    fn note(&mut self, what: &str, text: &str) {
        let _ = writeln!(self.text, "note  {what}: {text}");
    }

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

/// Looks at directories, the checkpoint, sockets' names, the interposer and the hardware. Blocks.
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
    report.line("checkpoint", checkpoint::inspect(&args.state_dir).map_err(|e| e.to_string()));
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
    match Vendors::from_settings(settings) {
        Ok(vendors) => hardware(&vendors, &mut report),
        Err(error) => report.line("node", Err(error.to_string())),
    }
    report
}

/// What each vendor's library says.
fn hardware(vendors: &Vendors, report: &mut Report) {
    let mut seen = Inventories::pending(vendors);
    let mut missing = Vec::new();
    for source in vendors.iter() {
        let look = match source.backend.discover() {
            Ok(inventory) => Look::Seen(inventory),
            Err(error @ DiscoveryError::LibraryMissing { .. }) if !source.named => {
                missing.push((source.vendor(), error.to_string()));
                Look::Missing
            }
            Err(error) => {
                report.line("hardware", Err(format!("{}: {error}", source.vendor())));
                Look::Pending
            }
        };
        seen = seen.with(&source.pool, look);
    }
    // Where all are, that is what is wrong.
    let none = missing.len() == vendors.iter().count();
    for (vendor, problem) in missing {
        if none {
            report.line("hardware", Err(format!("{vendor}: {problem}")));
        } else {
            report.note("hardware", &format!("no {vendor} here: {problem}"));
        }
    }
    for inventory in seen.all() {
        let (chips, vendor) = (inventory.chips.len(), &inventory.vendor);
        let found = format!("{chips} {vendor} chips, driver {:?}", inventory.driver_version);
        report.line("hardware", Ok(found));
        for problem in &inventory.problems {
            report.line("hardware", Err(format!("{}: {}", problem.object, problem.message)));
        }
        for chip in &inventory.chips {
            // No reason to fail: the plugin serves the others, and this one when it is well again.
            if chip.health != Health::Healthy {
                report.note("hardware", &format!("{}: {}", chip.name(), chip.health));
            }
        }
    }
}

/// Whether a file can be written in the directory; where there is none yet, whether it can be made.
fn writable(dir: &Path) -> Result<String, String> {
    let existing = dir.ancestors().find(|d| d.exists()).unwrap_or(dir);
    if !existing.is_dir() {
        return Err(format!("{} is no directory", existing.display()));
    }
    let refused = |error: &dyn std::fmt::Display| format!("{} is not writable: {error}", existing.display());
    rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).map_err(|error| refused(&error))?;
    if existing != dir {
        return Ok(format!("{} will be made", dir.display()));
    }
    // The permission says nothing about a full or an ailing filesystem. The kubelet and the runtime skip names
    // that begin with a dot.
    let trial = dir.join(format!(".vnpu-check-{}", std::process::id()));
    let written = fs::File::create(&trial).and_then(|mut file| {
        file.write_all(&[0; 512])?;
        file.sync_all()
    });
    let removed = fs::remove_file(&trial);
    written.and(removed).map_err(|error| refused(&error))?;
    Ok(dir.display().to_string())
}
