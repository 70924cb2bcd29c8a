//! `vnpu doctor` on the simulated machine, on roots that lack or have something, and beside broken regions.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod machine;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use machine::support::{GIB, Node, libraries, uid};
use machine::{Machine, text};
use serde_json::Value;
use tempfile::TempDir;

/// `vnpu doctor` that sees nothing of this machine but what it is told.
fn doctor(root: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vnpu"));
    command
        .arg("doctor")
        .args(options)
        .arg("--driver-root")
        .arg(root)
        .arg("--dev-root")
        .arg(root.join("dev"))
        .arg("--interposer-dir")
        .arg(libraries())
        .args(["--admin-address", ""]);
    for (option, name) in [("--run-dir", "runs"), ("--runtime-dir", "node"), ("--state-dir", "state")] {
        if !options.contains(&option) {
            command.arg(option).arg(root.join(name));
        }
    }
    for name in ["LD_PRELOAD", "LD_LIBRARY_PATH", "ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"] {
        command.env_remove(name);
    }
    command
}

/// Its exit code and its text.
fn told(root: &Path, options: &[&str]) -> (Option<i32>, String) {
    let output = doctor(root, options).output().unwrap();
    (output.status.code(), text(&output))
}

/// The findings about `about`.
fn findings(root: &Path, options: &[&str], about: &str) -> Vec<Value> {
    let output = doctor(root, &[options, &["--json"]].concat()).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["exit"].as_i64(), output.status.code().map(i64::from));
    let all = report["findings"].as_array().unwrap();
    all.iter().filter(|f| f["about"] == about).cloned().collect()
}

/// A library of these functions in `directory` of `root`.
fn library(root: &Path, directory: &str, name: &str, functions: &[&str]) -> PathBuf {
    let directory = root.join(directory);
    fs::create_dir_all(&directory).unwrap();
    let source = root.join("source.c");
    let text: String = functions.iter().map(|f| format!("int {f}(void) {{ return 0; }}\n")).collect();
    fs::write(&source, text).unwrap();
    let path = directory.join(name);
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&path).arg(&source).status();
    assert!(built.unwrap().success());
    path
}

fn empty() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn all_fits_on_the_simulated_machine() {
    let machine = Machine::start();
    let root = machine.root();
    let (code, text) = told(&root, &[]);
    assert_eq!(code, Some(0), "{text}");
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        text.starts_with(&format!("vnpu {version} doctor on ")) && text.ends_with("all fits\n"),
        "{text}"
    );
    for (logical, chip) in machine.chips().iter().enumerate() {
        let start = format!("logical {logical} = physical {logical}: chip-0-{logical} 910C 64Gi {chip}");
        assert!(text.contains(&start), "{text}");
    }
    for words in
        ["ok    driver: Ascend driver ", "layering: aclrt*Impl outside libruntime.so", "libruntime.so: /"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    let runtime = findings(&root, &[], "libruntime.so").remove(0);
    let hooked: Vec<&str> = runtime["hooked"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(hooked.contains(&"rtMalloc") && hooked.contains(&"rtKernelLaunch"), "{hooked:?}");
    // It looks and leaves nothing.
    assert!(!root.join("runs").exists() && !root.join("node").exists() && !root.join("state").exists());
    fs::remove_file(root.join("dev/davinci1")).unwrap();
    let (code, text) = told(&root, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("FAIL  chips: ") && text.contains("dev/davinci1: No such file"), "{text}");
}

#[test]
fn a_machine_with_a_gpu_alone_fits_too() {
    let machine = Machine::of("H100", "81920");
    let root = machine.root();
    let (code, text) = told(&root, &[]);
    assert_eq!(code, Some(0), "{text}");
    for words in [
        "ok    driver: NVIDIA driver 570.124.06 (",
        "nvidia0: chip-0-0 H100 80Gi GPU-7a3c0000",
        "ok    device nodes: containers get 4 nodes and ",
        "libcuda.so.1: /",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains("DCMI") && text.ends_with("all fits\n"), "{text}");
    let (code, text) = told(&root, &["--dcmi-library", "/nonexistent"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("FAIL  driver: no DCMI library found") && text.contains("NVIDIA driver"), "{text}");
    fs::remove_file(root.join("dev/nvidia0")).unwrap();
    let (_, text) = told(&root, &[]);
    assert!(text.contains("FAIL  "), "{text}");
}

#[test]
fn an_empty_root_lacks_a_driver_and_an_absent_one_cannot_be_looked_at() {
    let dir = empty();
    let (code, text) = told(dir.path(), &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("FAIL  driver: no DCMI library found"), "{text}");
    assert!(text.contains("warn  runtime: no runtime library of a vendor"), "{text}");
    assert!(text.ends_with("1 problem, 1 warning\n"), "{text}");
    let absent = dir.path().join("absent");
    let (code, text) = told(&absent, &[]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("????  driver:") && text.contains("--driver-root"), "{text}");
    let (code, text) = told(&absent, &["--image-root", absent.to_str().unwrap()]);
    assert!(code == Some(2) && text.contains("????  image:"), "{text}");
    let output = doctor(dir.path(), &[]).arg("--no-such-option").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn without_the_interposer_nothing_can_be_limited() {
    let dir = empty();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vnpu"));
    command.args(["doctor", "--admin-address", "", "--driver-root"]).arg(dir.path());
    let output = command.arg("--interposer-dir").arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("FAIL  interposer: ") && text(&output).contains("libvnpu.so is not there")
    );
    fs::write(dir.path().join("libvnpu.so"), "rubbish").unwrap();
    fs::write(dir.path().join("libvnpu_core.so"), "rubbish").unwrap();
    let output = command.output().unwrap();
    assert!(text(&output).contains("it is no 64-bit library"), "{}", text(&output));
}

#[test]
fn functions_of_the_vendor_that_are_not_hooked_are_named() {
    let dir = empty();
    let root = dir.path();
    let toolkit = "usr/local/Ascend/ascend-toolkit/9.2.0/x86_64-linux";
    let functions =
        ["aclrtMallocImpl", "rtMalloc", "rtMallocNew", "rtKernelLaunchNew", "rtMallocHost", "rtFree"];
    library(root, &format!("{toolkit}/lib64"), "libruntime.so", &functions);
    let info = root.join(toolkit).join("ascend_toolkit_install.info");
    fs::write(info, "package_name=Ascend-cann-toolkit\nversion=9.2.0.beta.1\n").unwrap();
    let runtime = findings(root, &[], "libruntime.so").remove(0);
    assert_eq!(runtime["status"], "warn");
    let details: Vec<&str> =
        runtime["details"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(
        details,
        ["takes memory, by its name: rtMallocNew", "launches, by its name: rtKernelLaunchNew"]
    );
    assert_eq!(runtime["hooked"], serde_json::json!(["aclrtMallocImpl", "rtFree", "rtMalloc"]));
    let (_, text) = told(root, &[]);
    assert!(text.contains("ok    Ascend-cann-toolkit: 9.2.0.beta.1 ("), "{text}");
    assert!(text.contains("ok    layering: aclrt*Impl inside libruntime.so (CANN 9.2 and later)"), "{text}");
    assert!(!text.contains("rtMallocHost"), "{text}");
    // Another generation beside it.
    let old = "usr/local/Ascend/ascend-toolkit/8.5.0/x86_64-linux/lib64";
    library(root, old, "libacl_rt_impl.so", &["aclrtMallocImpl"]);
    let layering = findings(root, &[], "layering").remove(0);
    assert!(
        layering["status"] == "warn" && layering["found"].as_str().unwrap().contains("several"),
        "{layering}"
    );
}

#[test]
fn a_library_none_of_whose_functions_is_hooked_is_a_problem() {
    let dir = empty();
    library(
        dir.path(),
        "usr/lib64",
        "libcuda.so.1",
        &["cuMemNewThing", "cuInit", "cuLaunchNewly", "cuMemAllocNewly"],
    );
    let found = findings(dir.path(), &[], "libcuda.so.1").remove(0);
    assert_eq!(found["status"], "fail");
    assert!(found["found"].as_str().unwrap().contains("none of its 2 functions"), "{found}");
    fs::write(dir.path().join("usr/lib64/libcuda.so.1"), "rubbish").unwrap();
    assert_eq!(findings(dir.path(), &[], "libcuda.so.1").remove(0)["status"], "unknown");
}

#[test]
fn preloads_of_the_image_that_are_hidden_and_rivals_on_the_host_are_named() {
    let dir = empty();
    let (root, image) = (dir.path().join("root"), dir.path().join("image"));
    for place in [&root, &image] {
        fs::create_dir_all(place.join("etc")).unwrap();
    }
    let rival = library(&root, "opt", "librival.so", &["rtMalloc", "rtFree", "other"]);
    fs::write(root.join("etc/ld.so.preload"), "/opt/librival.so /run/vnpu/lib/libvnpu.so\n").unwrap();
    fs::write(image.join("etc/ld.so.preload"), "# tools\n/usr/lib/libmspti.so /usr/lib/other.so\n").unwrap();
    let options = ["--image-root", image.to_str().unwrap()];
    let hidden = findings(&root, &options, "image preloads").remove(0);
    assert_eq!(hidden["details"], serde_json::json!(["/usr/lib/libmspti.so", "/usr/lib/other.so"]));
    assert_eq!(hidden["status"], "warn");
    let rivals = findings(&root, &options, "preloads");
    assert_eq!(rivals.len(), 1, "ours is none: {rivals:?}");
    let words = rivals[0]["found"].as_str().unwrap();
    assert!(words.contains("/opt/librival.so") && words.contains("2 of the functions"), "{words}");
    assert!(rival.exists());
    // An image with a C library of its own, and with a runtime.
    let libc = ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64"].iter();
    let libc = libc.map(|d| Path::new(d).join("libc.so.6")).find(|p| p.exists()).unwrap();
    fs::create_dir_all(image.join("lib64")).unwrap();
    fs::copy(libc, image.join("lib64/libc.so.6")).unwrap();
    library(&image, "usr/local/Ascend/cann/lib64", "libruntime.so", &["rtMalloc"]);
    let (_, text) = told(&root, &options);
    assert!(
        text.contains("ok    image: needs glibc") && text.contains("ok    image libruntime.so: "),
        "{text}"
    );
}

#[test]
fn the_plugin_and_broken_regions_are_told() {
    let dir = empty();
    fs::create_dir(dir.path().join("state")).unwrap();
    let lock = File::create(dir.path().join("state/lock")).unwrap();
    lock.lock_shared().unwrap();
    assert!(told(dir.path(), &[]).1.contains("ok    node plugin: runs here"));
    drop(lock);
    assert!(told(dir.path(), &[]).1.contains("ok    node plugin: does not run here"));

    let node = Node::with_quota(4 * GIB);
    let options = ["--runtime-dir", node.dir.path().to_str().unwrap()];
    assert!(told(dir.path(), &options).1.contains("ok    regions: 1 claims"));
    node.claim(2, vec![machine::support::share(0, GIB)]);
    fs::write(node.file(2, "usage"), "cut").unwrap();
    let regions = findings(dir.path(), &options, "regions");
    assert_eq!(regions[0]["status"], "fail");
    let words = regions[0]["found"].as_str().unwrap();
    assert!(words.contains(uid(2).as_str()) && words.contains("its size"), "{words}");
    assert_eq!(fs::read(node.file(2, "usage")).unwrap(), b"cut", "it repairs nothing");
}
