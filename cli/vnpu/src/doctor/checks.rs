//! Checks of what is installed: the interposer, the vendors' libraries, what else is preloaded, an image.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::path::Path;

use super::DoctorArguments;
use super::coverage::{LAYER_MARK, LIBRARIES, Layering, Vendor, coverage};
use super::library::{Glibc, Library};
use super::places::{self, Software};
use super::report::{Report, Status};
use crate::interposer as files;

/// The file of the loader's own preloads, below a root.
const PRELOAD_FILE: &str = "etc/ld.so.preload";

/// Both halves of the interposer.
pub(crate) struct Ours {
    front: Library,
    back: Library,
}

/// Whether the interposer is there and this machine's programs can load it.
pub(crate) fn interposer(arguments: &DoctorArguments, report: &mut Report) -> Option<Ours> {
    let about = "interposer";
    let front = match files::find(arguments.interposer_dir.as_deref()) {
        Ok(path) => path,
        Err(error) => {
            report.add(about, Status::Fail, error.to_string(), None);
            return None;
        }
    };
    let back = front.with_file_name("libvnpu_core.so");
    let mut read = |path: &Path| match Library::read(path) {
        Ok(library) => Some(library),
        Err(problem) => {
            let again = Some("build and install both files again");
            report.add(about, Status::Fail, format!("{}: {problem}", path.display()), again);
            None
        }
    };
    let ours = Ours { front: read(&front)?, back: read(&back)? };
    let hooks = ours.front.exports.len();
    report.add(about, Status::Ok, format!("{} with {hooks} functions", front.display()), None);
    glibc(about, "this machine", host_glibc(), &ours, report);
    Some(ours)
}

/// Whether a C library is new enough for the back end. The front end needs none.
fn glibc(about: &str, whose: &str, has: Option<Glibc>, ours: &Ours, report: &mut Report) {
    match (ours.back.needs_glibc, has) {
        (_, None) => {
            let found = format!("the C library of {whose} is not glibc, or does not tell its version");
            report.add(about, Status::Warn, found, Some("programs of another C library are not limited"));
        }
        (Some(needs), Some(has)) if needs > has => {
            let found =
                format!("libvnpu_core.so needs glibc {needs}, {whose} has {has}: memory is refused there");
            report.add(about, Status::Fail, found, Some("build the interposer against an older C library"));
        }
        (needs, Some(has)) => {
            let needs = needs.map_or_else(|| "none".to_owned(), |n| n.to_string());
            report.add(about, Status::Ok, format!("needs glibc {needs}, {whose} has {has}"), None);
        }
    }
}

fn host_glibc() -> Option<Glibc> {
    // SAFETY: returns a static string of zero-terminated text.
    let version = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    Glibc::parse(version.to_str().ok()?)
}

/// Versions of CANN and CUDA, and what of their libraries is hooked.
pub(crate) fn vendor_software(arguments: &DoctorArguments, ours: Option<&Ours>, report: &mut Report) {
    let software = places::search(&arguments.vendors.driver_root, &places::of_environment());
    let proc = arguments.vendors.driver_root.join("proc/driver/nvidia/version");
    if let Some(line) = fs::read_to_string(proc).ok().as_deref().and_then(|text| text.lines().next()) {
        report.add("CUDA", Status::Ok, shown(line), None);
    }
    if software.libraries.is_empty() {
        let found = "no runtime library of a vendor (CANN, CUDA) is here";
        let advice = "programs bring it in their images: see --image-root";
        report.add("runtime", Status::Warn, found, Some(advice));
    }
    judge("", &software, ours, report);
}

/// The versions and libraries of one root. `whose` stands before what a finding is about.
fn judge(whose: &str, software: &Software, ours: Option<&Ours>, report: &mut Report) {
    for (part, version, file) in &software.versions {
        report.add(&format!("{whose}{part}"), Status::Ok, format!("{version} ({})", file.display()), None);
    }
    let mut layers = BTreeSet::new();
    let (mut ascend, mut hookable) = (false, BTreeSet::new());
    for path in &software.libraries {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let vendor = LIBRARIES.iter().find(|(known, _)| *known == name).map(|(_, vendor)| *vendor);
        let about = format!("{whose}{name}");
        let (Some(vendor), library) = (vendor, Library::read(path)) else { continue };
        let library = match library {
            Ok(library) => library,
            Err(problem) => {
                report.add(&about, Status::Unknown, format!("{}: {problem}", path.display()), None);
                continue;
            }
        };
        ascend |= vendor == Vendor::Ascend;
        if library.exports.contains(LAYER_MARK) {
            layers.extend(Layering::of(&name).map(Layering::words));
        }
        if let Some(ours) = ours {
            hookable.extend(library.exports.intersection(&ours.front.exports).cloned());
            judge_library(&about, vendor, &library, ours, report);
        }
    }
    if ascend {
        match layers.into_iter().collect::<Vec<_>>().as_slice() {
            [] => {
                let found =
                    format!("no library has {LAYER_MARK}: calls of ACL can only be seen further below");
                report.add(
                    &format!("{whose}layering"),
                    Status::Warn,
                    found,
                    Some("report this, with the version of CANN"),
                );
            }
            [one] => report.add(&format!("{whose}layering"), Status::Ok, *one, None),
            several => {
                let found = format!("several generations of CANN are installed: {}", several.join("; "));
                report.add(
                    &format!("{whose}layering"),
                    Status::Warn,
                    found,
                    Some("programs use the one that their loader finds first"),
                );
            }
        }
        if let Some(ours) = ours {
            let absent = ours
                .front
                .exports
                .difference(&hookable)
                .filter(|n| n.starts_with("acl") || n.starts_with("rt"));
            let found =
                format!("{} of our hooks are for functions that these libraries do not have", absent.count());
            report.add(&format!("{whose}hooks"), Status::Ok, found, None);
        }
    }
}

fn judge_library(about: &str, vendor: Vendor, library: &Library, ours: &Ours, report: &mut Report) {
    let place = match (&library.path, &library.file) {
        (path, file) if path == file => path.display().to_string(),
        (path, file) => format!("{} -> {}", path.display(), file.display()),
    };
    if !library.goes_with(&ours.front) {
        let found = format!("{place} is for another architecture than the interposer");
        return report.add(about, Status::Fail, found, Some("install the interposer of that architecture"));
    }
    let found = coverage(vendor, &library.exports, &ours.front.exports);
    let open = found.allocations.len() + found.launches.len();
    let facade = ["libascendcl.so", "libacl_rt.so"].iter().any(|name| about.ends_with(name));
    if found.hooked.is_empty() && open > 0 {
        let text = format!(
            "{place}: none of its {open} functions that take memory or launch is hooked: nothing is limited"
        );
        return report.add(
            about,
            Status::Fail,
            text,
            Some("this version does not support this library; see docs/roadmap.md"),
        );
    }
    if !found.questions.is_empty() {
        let text = format!(
            "{place}: {} hooked, {} that may tell of memory, processes or utilisation are not",
            found.hooked.len(),
            found.questions.len()
        );
        let advice = "programs see the whole device there; nothing is less limited by it";
        report.add_with(about, Status::Ok, text, Some(advice), found.questions);
    } else if is_management(about) {
        let text =
            format!("{place}: {} hooked, and no other that tells of memory or processes", found.hooked.len());
        report.add(about, Status::Ok, text, None);
    } else if open == 0 {
        let text = match found.hooked.len() {
            0 if facade => format!("{place}: its calls are hooked in the layer below"),
            hooked => format!("{place}: {hooked} hooked, and no other that takes memory or launches"),
        };
        report.add(about, Status::Ok, text, None);
    } else {
        let mut details = Vec::new();
        details.extend(found.allocations.iter().map(|name| format!("takes memory, by its name: {name}")));
        details.extend(found.launches.iter().map(|name| format!("launches, by its name: {name}")));
        let text =
            format!("{place}: {} hooked, {open} that may take memory or launch are not", found.hooked.len());
        let advice = "what goes through these is not limited; if a program of yours uses one, report it";
        report.add_with(about, Status::Warn, text, Some(advice), details);
    }
    report.hooks(found.hooked);
}

/// Whether a library answers questions and takes nothing.
fn is_management(about: &str) -> bool {
    ["libdcmi.so", "libnvidia-ml.so.1"].iter().any(|name| about.ends_with(name))
}

/// What else is loaded into every process of the host.
pub(crate) fn preload(arguments: &DoctorArguments, ours: Option<&Ours>, report: &mut Report) {
    let about = "preloads";
    let file = arguments.vendors.driver_root.join(PRELOAD_FILE);
    let mut entries: Vec<(String, String)> = Vec::new();
    match preloads(&file) {
        Ok(of_file) => entries.extend(of_file.into_iter().map(|e| (file.display().to_string(), e))),
        Err(e) => report.add(about, Status::Unknown, format!("{} cannot be read: {e}", file.display()), None),
    }
    if let Ok(variable) = std::env::var("LD_PRELOAD") {
        entries.extend(split(&variable).map(|e| ("LD_PRELOAD".to_owned(), e.to_owned())));
    }
    let others: Vec<_> = entries.iter().filter(|(_, entry)| !is_ours(entry)).collect();
    if others.is_empty() {
        return report.add(about, Status::Ok, "nothing else is loaded into every process", None);
    }
    for (from, entry) in others {
        let path = arguments.vendors.driver_root.join(entry.trim_start_matches('/'));
        let rivals = ours.zip(Library::read(&path).ok()).map_or(0, |(ours, theirs)| {
            let both = theirs.exports.intersection(&ours.front.exports);
            // Every library that stands before others may have this one.
            both.filter(|name| name.starts_with("acl") || name.starts_with("rt") || name.starts_with("cu"))
                .count()
        });
        let (status, advice) = match rivals {
            0 => (Status::Ok, None),
            _ => (
                Status::Warn,
                Some("two libraries before the same functions: remove one, or quotas may count twice or not"),
            ),
        };
        let found = format!(
            "{} of {from} is loaded beside ours; it has {rivals} of the functions that we hook",
            shown(entry)
        );
        report.add(about, status, found, advice);
    }
}

/// What a container image brings, and what of it our mount hides.
pub(crate) fn image(root: &Path, ours: Option<&Ours>, report: &mut Report) {
    if let Err(e) = fs::read_dir(root) {
        let found = format!("{} cannot be looked at: {e}", root.display());
        return report.add("image", Status::Unknown, found, Some("see --image-root"));
    }
    match preloads(&root.join(PRELOAD_FILE)) {
        Ok(entries) if entries.is_empty() => report.add("image preloads", Status::Ok, "it has none", None),
        Ok(entries) => {
            let found =
                "our mount hides the image's /etc/ld.so.preload; not loaded in containers with a claim:";
            let advice = "name them in the container's LD_PRELOAD if they are needed";
            let entries = entries.iter().map(|e| shown(e)).collect();
            report.add_with("image preloads", Status::Warn, found, Some(advice), entries);
        }
        Err(e) => report.add("image preloads", Status::Unknown, format!("they cannot be read: {e}"), None),
    }
    if let Some(ours) = ours {
        let candidates = ["lib64", "lib", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "usr/lib64"];
        let more = ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib"];
        let libc =
            candidates.iter().chain(&more).map(|d| root.join(d).join("libc.so.6")).find(|p| p.exists());
        let version = libc.and_then(|path| Library::read(&path).ok()?.is_glibc);
        glibc("image", "the image", version, ours, report);
    }
    judge("image ", &places::search(root, &[]), ours, report);
}

/// The entries of such a file; none without one.
fn preloads(file: &Path) -> io::Result<Vec<String>> {
    match fs::read(file) {
        Ok(text) => Ok(split(&String::from_utf8_lossy(&text)).map(str::to_owned).collect()),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(e) => Err(e),
    }
}

/// As the loader splits: at spaces and colons, without what is behind a `#`.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.flat_map(|line| line.split([' ', '\t', ':'])).filter(|entry| !entry.is_empty())
}

fn is_ours(entry: &str) -> bool {
    Path::new(entry).file_name().is_some_and(|name| name == "libvnpu.so")
}

/// A word from outside, on one line.
pub(crate) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_c_library_that_is_too_old_is_a_problem_and_an_unknown_one_a_warning() {
        let own = || Library::read(Path::new("/proc/self/exe")).unwrap();
        let ours = Ours { front: own(), back: own() };
        let code = |has: Option<Glibc>| {
            let mut report = Report::new();
            glibc("image", "the image", has, &ours, &mut report);
            (report.exit_code(), report.text().contains("warn  image"))
        };
        assert_eq!(code(host_glibc()), (0, false));
        assert_eq!(code(Some(Glibc(2, 3))), (1, false));
        assert_eq!(code(None), (0, true));
    }

    #[test]
    fn preload_files_are_read_as_the_loader_reads_them() {
        let entries: Vec<_> =
            split("/a.so /b.so:/c.so # /d.so\n\n\t/run/vnpu/lib/libvnpu.so\n#/e.so").collect();
        assert_eq!(entries, ["/a.so", "/b.so", "/c.so", "/run/vnpu/lib/libvnpu.so"]);
        assert!(is_ours(entries[3]) && !is_ours(entries[0]));
    }
}
