//! Checks of the machine itself: the driver and its chips, the node plugin, the regions of runs and claims.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use vnpu_discovery::DiscoveryError;
use vnpu_driver::hardware::{Chip, Health, MultiDiePolicy, Vendor};
use vnpu_quota_agent::ChipUsage;

use super::DoctorArguments;
use super::checks::shown;
use super::report::{Report, Status};
use crate::base::Base;
use crate::node_plugin;
use crate::top::look::Places;
use crate::vendors::{self, Found};

/// The driver, its chips, their nodes.
pub(crate) fn driver(arguments: &DoctorArguments, report: &mut Report) {
    let about = "driver";
    if let Err(e) = fs::read_dir(&arguments.vendors.driver_root) {
        let found = format!("{} cannot be looked at: {e}", arguments.vendors.driver_root.display());
        report.add(about, Status::Unknown, found, Some("see --driver-root"));
        return;
    }
    let looked = vendors::look(&arguments.vendors, &arguments.dev_root);
    // Not permitted, not ready, hanging: nothing is known of the chips. A library that was named must be there.
    for error in &looked.failed {
        let absent = matches!(error, DiscoveryError::LibraryMissing { .. });
        let status = if absent { Status::Fail } else { Status::Unknown };
        report.add(about, status, error.to_string(), None);
    }
    if looked.found.is_empty() && looked.failed.is_empty() {
        report.add(about, Status::Fail, vendors::words(&looked.missing), None);
    }
    for found in &looked.found {
        vendor(arguments, found, report);
    }
    if !looked.found.is_empty() {
        hidden(report);
    }
}

/// One vendor's driver and chips.
fn vendor(arguments: &DoctorArguments, found: &Found, report: &mut Report) {
    let inventory = &found.inventory;
    let version = match inventory.driver_version.as_str() {
        "" => "of an unknown version",
        version => version,
    };
    let words = format!("{} driver {version} ({})", found.vendor, found.library.display());
    report.add("driver", Status::Ok, words, None);
    for problem in &inventory.problems {
        report.add("driver", Status::Warn, format!("{}: {}", problem.object, problem.message), None);
    }
    if inventory.chips.is_empty() {
        let words = format!("the {} driver reports no usable chip", found.vendor);
        report.add("chips", Status::Fail, words, None);
        return;
    }
    chips(arguments, found, report);
    match found.backend.edits(&inventory.chips) {
        Ok(edits) => {
            let (nodes, mounts) = (edits.device_nodes.len(), edits.mounts.len());
            let words = format!("containers get {nodes} nodes and {mounts} mounts");
            report.add("device nodes", Status::Ok, words, None);
        }
        Err(error) => report.add("device nodes", Status::Fail, error.to_string(), None),
    }
}

fn chips(arguments: &DoctorArguments, found: &Found, report: &mut Report) {
    let mut chips: Vec<&Chip> = found.inventory.chips.iter().collect();
    chips.sort_by_key(|chip| chip.phys_id);
    // CUDA counts GPUs in an order of its own, by default the fastest first.
    let counted = found.inventory.vendor == Vendor::Ascend;
    let dies = match (chips.iter().any(|c| c.module.is_some()), found.inventory.multi_die_policy) {
        (false, _) if counted => ", one die each",
        (false, _) => "",
        (true, MultiDiePolicy::Independent) => ", two dies per module, given out singly",
        (true, MultiDiePolicy::Union) => ", two dies per module, given out together only",
    };
    let lines = chips.iter().enumerate().map(|(logical, chip)| {
        let (name, phys) = (chip.name(), chip.phys_id);
        let place = if counted {
            format!("logical {logical} = physical {phys}")
        } else {
            format!("{}{phys}", found.node)
        };
        format!("{place}: {name} {} {} {}", chip.model, chip.memory, chip.uuid)
    });
    report.add_with("chips", Status::Ok, format!("{}{dies}", chips.len()), None, lines.collect());
    for chip in &chips {
        if chip.health != Health::Healthy {
            let told = format!("{} is not healthy: {}", chip.name(), chip.health);
            report.add("chips", Status::Warn, told, None);
        }
        let node = arguments.dev_root.join(format!("{}{}", found.node, chip.phys_id));
        if let Err(problem) = may_use(&node) {
            let advice =
                "programs of this user cannot use the chip: see --dev-root, and who may open the node";
            report.add("chips", Status::Fail, format!("{}: {problem}", node.display()), Some(advice));
        }
    }
    let differs = |(logical, chip): (usize, &&Chip)| usize::try_from(chip.phys_id) != Ok(logical);
    if counted && chips.iter().enumerate().any(differs) {
        let found = "logical and physical numbers differ";
        report.add(
            "chips",
            Status::Warn,
            found,
            Some("a program counts the chips that it sees from 0, in the order of these lines"),
        );
    }
}

/// Variables by which programs see other chips than there are.
fn hidden(report: &mut Report) {
    for name in ["ASCEND_RT_VISIBLE_DEVICES", "ASCEND_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"] {
        if let Some(value) = std::env::var_os(name) {
            let found =
                format!("{name}={} picks and orders what programs see", shown(&value.to_string_lossy()));
            report.add(
                "chips",
                Status::Warn,
                found,
                Some("unset it where a quota is about a chip that it hides"),
            );
        }
    }
}

/// Whether this user may read and write it.
fn may_use(path: &Path) -> Result<(), String> {
    let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: a zero-terminated path.
    if unsafe { libc::access(c_path.as_ptr(), libc::R_OK | libc::W_OK) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error().to_string())
}

/// Whether the node plugin runs here, and is ready.
pub(crate) fn plugin(arguments: &DoctorArguments, report: &mut Report) {
    let about = "node plugin";
    match node_plugin::runs(&arguments.state_dir) {
        Ok(false) => report.add(about, Status::Ok, "does not run here; vnpu run may be used", None),
        Err(e) => {
            let found = format!(
                "whether it runs cannot be seen by {}: {e}",
                arguments.state_dir.join("lock").display()
            );
            report.add(about, Status::Unknown, found, Some("ask root, or see --state-dir"));
        }
        Ok(true) => {
            report.add(
                about,
                Status::Ok,
                "runs here: Kubernetes gives out the shares, vnpu run does not",
                None,
            );
            if arguments.admin_address.is_empty() {
                return;
            }
            match node_plugin::page(&arguments.admin_address, "/readyz") {
                Ok(_) => report.add(about, Status::Ok, "is ready", None),
                Err(e) => {
                    let found = format!("does not say that it is ready at {}: {e}", arguments.admin_address);
                    report.add(about, Status::Warn, found, Some("see its log, or --admin-address"));
                }
            }
        }
    }
}

/// The regions of runs and claims.
pub(crate) fn regions(arguments: &DoctorArguments, report: &mut Report) {
    let about = "regions";
    let base = match Base::find(arguments.run_dir.as_deref()) {
        Ok(base) => Some(base),
        Err(error) => {
            report.add(about, Status::Warn, format!("vnpu run cannot be used as it is: {error}"), None);
            None
        }
    };
    if let Some(problem) = base.as_ref().and_then(|base| base.check().err()) {
        report.add(about, Status::Warn, format!("vnpu run cannot be used as it is: {problem}"), None);
    }
    let mut places = Places::new(base, &arguments.runtime_dir, "");
    let look = places.look();
    for problem in &look.problems {
        let hidden = problem.contains("cannot be seen");
        let status = if hidden { Status::Unknown } else { Status::Fail };
        let advice =
            if hidden { "ask root" } else { "end the run, or unprepare the claim, so that it is made anew" };
        report.add(about, status, problem.clone(), Some(advice));
    }
    for (uid, seen) in &look.claims {
        let usage = &seen.reading.usage;
        let sum = |of: fn(&ChipUsage) -> u64| usage.chips.iter().map(of).fold(0, u64::saturating_add);
        let mut words = Vec::new();
        words.extend(seen.reading.damage.map(str::to_owned));
        let counts = [
            (u64::from(usage.without_slot), "processes found no slot"),
            (usage.unhooked_functions, "functions were asked for that the interposer does not know"),
            (sum(|c| c.unaccounted), "allocations went round the ledger"),
            (sum(|c| c.unknown_frees), "frees of memory that the ledger does not know"),
            (sum(|c| c.compute.forced), "launches were let through after too long a wait"),
        ];
        words.extend(counts.iter().filter(|(n, _)| *n > 0).map(|(n, words)| format!("{n} {words}")));
        if !words.is_empty() {
            let found = format!("claim {uid}: {}", words.join(", "));
            report.add(about, Status::Warn, found, Some("see docs/isolation.md for what each of them means"));
        }
    }
    let live: u32 = look.claims.values().map(|seen| seen.reading.usage.live_slots).sum();
    let found = format!("{} claims with {live} processes in {}", look.claims.len(), places.words());
    report.add(about, Status::Ok, found, None);
}
