//! A driver's files and device nodes as on a node with the vendor's driver, below roots of one's own.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use standin_protocol::{DRIVER_DIRECTORY, Machine, Nvidia};

/// Where to put what.
#[derive(Debug, Clone)]
pub struct LayoutOptions {
    /// Stands for `/` of a node: the driver's files go below it.
    pub driver_root: PathBuf,
    /// Stands for `/dev` of a node.
    pub dev_root: PathBuf,
    /// Directory with `libdcmi.so`, `libascendcl.so`, `libacl_rt_impl.so`, `libruntime.so` (for a machine with Ascend
    /// cards), `libcuda.so.1`, `libnvidia-ml.so.1` (for one with GPUs).
    pub libraries: PathBuf,
}

/// Why the layout could not be made.
#[derive(Debug)]
pub struct LayoutError(pub String);

impl std::fmt::Display for LayoutError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LayoutError {}

/// Device nodes that are not of one chip.
const SHARED_NODES: [&str; 3] = ["davinci_manager", "devmm_svm", "hisi_hdc"];

/// The same for GPUs.
const SHARED_GPU_NODES: [&str; 3] = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"];

/// Each is there under its full version, with the links that loaders and linkers follow.
const GPU_LIBRARY_NAMES: &[&str] = &["libcuda.so", "libnvidia-ml.so"];

/// Below the driver root: which capability has which node. On a real node the kernel says it in `/proc`.
const MIG_MINORS: &str = "proc/driver/nvidia-caps/mig-minors";

/// Number of the first capability of an instance; those before are not about instances.
const FIRST_CAPABILITY: u32 = 3;

/// Where the NVIDIA libraries lie below the driver root, as Debian's packages put them.
const GPU_LIBRARIES: &str =
    if cfg!(target_arch = "aarch64") { "usr/lib/aarch64-linux-gnu" } else { "usr/lib/x86_64-linux-gnu" };

/// Makes the files, and exactly the device nodes of `machine` (those of vanished dies are removed).
pub fn lay_out(machine: &Machine, options: &LayoutOptions) -> Result<(), LayoutError> {
    // The driver's socket lies there, also of a machine that has GPUs only.
    for directory in [options.driver_root.join(DRIVER_DIRECTORY).join("lib64"), options.dev_root.clone()] {
        fs::create_dir_all(&directory).map_err(|e| failed("create", &directory, &e))?;
    }
    if let Some(nvidia) = &machine.nvidia {
        lay_out_gpus(nvidia, options)?;
    }
    if has_cards(machine) {
        lay_out_cards(machine, options)?;
    }
    lay_out_nodes(machine, &options.dev_root)
}

/// Whether there is Ascend hardware: with no GPUs either it may come later.
fn has_cards(machine: &Machine) -> bool {
    !machine.cards.is_empty() || machine.nvidia.is_none()
}

/// Puts a file in place through a second name: a process that has the old file mapped must keep its text.
fn copy(from: &Path, directory: &Path, name: &str) -> Result<(), LayoutError> {
    let (fresh, to) = (directory.join(format!(".{name}.new")), directory.join(name));
    fs::copy(from, &fresh).map_err(|e| failed("copy", from, &e))?;
    fs::rename(&fresh, &to).map_err(|e| failed("put in place", &to, &e))
}

fn link(directory: &Path, name: &str, target: &str) -> Result<(), LayoutError> {
    let (fresh, to) = (directory.join(format!(".{name}.new")), directory.join(name));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed("remove", &fresh, &error));
        }
        _ => {}
    }
    symlink(target, &fresh).map_err(|e| failed("link", &fresh, &e))?;
    fs::rename(&fresh, &to).map_err(|e| failed("put in place", &to, &e))
}

fn lay_out_gpus(nvidia: &Nvidia, options: &LayoutOptions) -> Result<(), LayoutError> {
    let directory = options.driver_root.join(GPU_LIBRARIES);
    fs::create_dir_all(&directory).map_err(|e| failed("create", &directory, &e))?;
    for library in GPU_LIBRARY_NAMES {
        let (real, short) = (format!("{library}.{}", nvidia.driver_version), format!("{library}.1"));
        copy(&options.libraries.join(&short), &directory, &real)?;
        link(&directory, &short, &real)?;
        link(&directory, library, &short)?;
    }
    let bin = options.driver_root.join("usr/bin");
    fs::create_dir_all(&bin).map_err(|e| failed("create", &bin, &e))?;
    let smi = bin.join("nvidia-smi");
    write(&smi, "#!/bin/sh\n# A stand-in: there is no hardware to show.\necho \"nvidia-smi (stand-in)\"\n")?;
    fs::set_permissions(&smi, fs::Permissions::from_mode(0o755)).map_err(|e| failed("chmod", &smi, &e))?;
    let minors = options.driver_root.join(MIG_MINORS);
    if let Some(directory) = minors.parent() {
        fs::create_dir_all(directory).map_err(|e| failed("create", directory, &e))?;
    }
    let lines = capabilities(nvidia).into_iter().zip(FIRST_CAPABILITY..);
    write(&minors, &lines.map(|(name, minor)| format!("{name} {minor}\n")).collect::<String>())
}

/// What the driver makes a node for: each GPU instance, and each compute instance in it.
fn capabilities(nvidia: &Nvidia) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for gpu in &nvidia.gpus {
        for instance in gpu.mig.iter().filter(|mig| mig.enabled).flat_map(|mig| mig.instances.values()) {
            let parent = format!("gpu{}/gi{}", gpu.minor, instance.gpu_instance);
            found.insert(format!("{parent}/ci{}/access", instance.compute_instance));
            found.insert(format!("{parent}/access"));
        }
    }
    found
}

fn lay_out_cards(machine: &Machine, options: &LayoutOptions) -> Result<(), LayoutError> {
    let driver = options.driver_root.join(DRIVER_DIRECTORY);
    let dcmi = options.driver_root.join("usr/local/dcmi");
    for directory in [
        driver.join("lib64/driver"),
        driver.join("lib64/common"),
        driver.join("include"),
        driver.join("tools"),
        dcmi.clone(),
        options.driver_root.join("usr/local/bin"),
        options.driver_root.join("var/queue_schedule"),
        options.driver_root.join("etc"),
    ] {
        fs::create_dir_all(&directory).map_err(|e| failed("create", &directory, &e))?;
    }
    for (file, directory) in [
        ("libdcmi.so", dcmi.clone()),
        ("libascendcl.so", driver.join("lib64/driver")),
        ("libacl_rt_impl.so", driver.join("lib64/driver")),
        ("libruntime.so", driver.join("lib64/driver")),
    ] {
        copy(&options.libraries.join(file), &directory, file)?;
    }
    let version = format!(
        "Version={0}\nascendhal_version=7.35.23\npackage_version={0}\nInnerversion=V100R001C23SPC001B000\n",
        machine.driver_version
    );
    write(&driver.join("version.info"), &version)?;
    write(
        &options.driver_root.join("etc/ascend_install.info"),
        "UserName=HwHiAiUser\nUserGroup=HwHiAiUser\nDriver_Install_Type=full\nDriver_Install_Path_Param=/usr/local/Ascend\n",
    )?;
    let smi = options.driver_root.join("usr/local/bin/npu-smi");
    write(&smi, "#!/bin/sh\n# A stand-in: there is no hardware to show.\necho \"npu-smi (stand-in)\"\n")?;
    fs::set_permissions(&smi, fs::Permissions::from_mode(0o755)).map_err(|e| failed("chmod", &smi, &e))
}

fn lay_out_nodes(machine: &Machine, dev_root: &Path) -> Result<(), LayoutError> {
    let mut wanted: Vec<String> = Vec::new();
    if has_cards(machine) {
        wanted.extend(SHARED_NODES.map(str::to_owned));
        wanted.extend(machine.dies().map(|(_, die)| format!("davinci{}", die.phys_id)));
    }
    if let Some(nvidia) = &machine.nvidia {
        let caps = capabilities(nvidia).into_iter().zip(FIRST_CAPABILITY..);
        wanted.extend(caps.map(|(_, minor)| format!("nvidia-caps/nvidia-cap{minor}")));
        wanted.extend(SHARED_GPU_NODES.map(str::to_owned));
        wanted.extend(machine.gpus().map(|gpu| format!("nvidia{}", gpu.minor)));
    }
    let entries = fs::read_dir(dev_root).map_err(|e| failed("list", dev_root, &e))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let chip = name.strip_prefix("davinci").or_else(|| name.strip_prefix("nvidia"));
        let number = chip.and_then(|rest| rest.parse::<u32>().ok());
        if number.is_some() && !wanted.contains(&name) {
            fs::remove_file(entry.path()).map_err(|e| failed("remove", &entry.path(), &e))?;
        }
    }
    for name in wanted {
        let path = dev_root.join(name);
        if fs::symlink_metadata(&path).is_ok_and(|data| data.file_type().is_char_device()) {
            continue;
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(|e| failed("create", directory, &e))?;
        }
        // 1:3 is /dev/null's number: a real character device that does nothing.
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3)).map_err(
            |e| {
                LayoutError(format!(
                    "cannot make the device node {}: {e}; it takes root with CAP_MKNOD on a file system without nodev",
                    path.display()
                ))
            },
        )?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
            .map_err(|e| failed("chmod", &path, &e))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), LayoutError> {
    fs::write(path, text).map_err(|e| failed("write", path, &e))
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> LayoutError {
    LayoutError(format!("cannot {what} {}: {error}", path.display()))
}
