//! Every hook hands the vendor's function exactly what it was given, however many arguments go over the stack: a
//! library with all hooked functions, made from the list of hooks, checks each argument's value. And `dlsym` answers
//! as the real one for everything else. Both depend on the architecture, so they run for each.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use support::{Node, arch};

/// Exports of the front end that are written by hand: they forward nothing, or what the tests of CUDA show.
const BY_HAND: &[&str] = &[
    "dlsym",
    "cuDeviceTotalMem",
    "cuGetProcAddress",
    "cuGetProcAddress_v2",
    "cuGetProcAddress_v2_ptsz",
    "cuMemAlloc",
    "cuMemAllocPitch",
    "cuMemGetInfo",
];

/// What the vendor's functions of the test answer to right arguments; wrong ones are answered by their number.
const RIGHT: u32 = 7000;

/// A hooked function: its name and its arguments' types as C calls them.
struct Hook {
    name: String,
    types: Vec<&'static str>,
}

/// All Rust files below `dir`.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries
        .into_iter()
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .collect()
}

/// The hooks of the front end's lists: lines `kind name(argument: type, …) => …;`.
fn hooks() -> Vec<Hook> {
    let preload = Path::new(env!("CARGO_MANIFEST_DIR")).join("../preload/src");
    let mut found = Vec::new();
    for file in sources(&preload) {
        let text = fs::read_to_string(&file).unwrap();
        for (_, list) in text.match_indices("\nhooks! {\n").map(|(at, _)| (at, &text[at..])) {
            let list = list.split_once("\n}").unwrap().0;
            found.extend(list.lines().filter_map(hook));
        }
    }
    found
}

fn hook(line: &str) -> Option<Hook> {
    let (head, _) = line.split_once(" => ")?;
    let (name, arguments) = head.trim().strip_suffix(')')?.split_once('(')?;
    let (_kind, name) = name.split_once(' ')?;
    let types =
        arguments.split(", ").filter(|a| !a.is_empty()).map(|a| c_type(a.split_once(": ").unwrap().1));
    Some(Hook { name: name.to_owned(), types: types.collect() })
}

fn c_type(rust: &str) -> &'static str {
    match rust {
        "u8" => "uint8_t",
        "u16" => "uint16_t",
        "u32" => "uint32_t",
        "u64" => "uint64_t",
        "i32" => "int32_t",
        "i64" => "int64_t",
        "usize" => "size_t",
        // All are data pointers, whatever they point to.
        pointer if pointer.starts_with('*') || matches!(pointer, "Out" | "Opaque") => "void *",
        other => panic!("a hook has an argument of type {other}, which this test has no value for"),
    }
}

/// A value of which no other argument has a part: in the right order, with the right width.
fn value(kind: &str, index: usize) -> String {
    match kind {
        // Readable and writable, since hooks may look behind it.
        "void *" => format!("(vendor_memory + {})", 64 * index),
        "int32_t" | "int64_t" => format!("({kind})(-{})", 1001 + index),
        _ => format!("({kind})0xf1e2d3c4b5a69700ULL + {index}"),
    }
}

fn vendor(hooks: &[Hook]) -> String {
    // What the back end asks for the chip.
    let mut text = "#include <stddef.h>\n#include <stdint.h>\nchar vendor_memory[8192];\n\
        int32_t rtGetDevice(int32_t *device) { *device = 0; return 0; }\n\
        int32_t rtGetDeviceCount(int32_t *count) { *count = 1; return 0; }\n\
        int32_t rtGetDevicePhyIdByIndex(uint32_t index, uint32_t *chip) { *chip = index; return 0; }\n\
        int32_t cuCtxGetDevice(int32_t *device) { *device = 0; return 0; }\n\
        int32_t cuDeviceGetCount(int32_t *count) { *count = 1; return 0; }\n\
        int32_t cuDeviceGetUuid(char *uuid, int32_t device) {\n\
            for (int i = 0; i < 16; i++) uuid[i] = device;\n    return 0;\n}\n"
        .to_owned();
    for Hook { name, types } in hooks {
        let list: Vec<String> = types.iter().enumerate().map(|(i, t)| format!("{t} a{i}")).collect();
        let list = if list.is_empty() { "void".to_owned() } else { list.join(", ") };
        writeln!(text, "int calls_of_{name};\nint32_t {name}({list}) {{\n    calls_of_{name}++;").unwrap();
        for (i, kind) in types.iter().enumerate() {
            writeln!(text, "    if (a{i} != ({kind})({})) return {i};", value(kind, i)).unwrap();
        }
        writeln!(text, "    return {RIGHT};\n}}").unwrap();
    }
    text
}

/// Calls every function as it was linked, then as it was looked up.
fn caller(hooks: &[Hook]) -> String {
    let mut text = "#include <dlfcn.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n\
        extern char vendor_memory[8192];\n"
        .to_owned();
    for Hook { name, types } in hooks {
        let list = if types.is_empty() { "void".to_owned() } else { types.join(", ") };
        writeln!(text, "extern int calls_of_{name};\nint32_t {name}({list});").unwrap();
    }
    text.push_str("int main(void) {\n    void *vendor = dlopen(\"libvendor.so\", RTLD_NOW);\n");
    for Hook { name, types } in hooks {
        let values: Vec<String> = types.iter().enumerate().map(|(i, t)| value(t, i)).collect();
        let values = values.join(", ");
        writeln!(
            text,
            "    {{ int linked = {name}({values});\n      __typeof__({name}) *found = (__typeof__({name}) *)dlsym(vendor, \"{name}\");\n      \
               int looked_up = found({values});\n      printf(\"{name} %d %d %d %d\\n\", linked, looked_up, calls_of_{name}, found == {name}); }}"
        )
        .unwrap();
    }
    text.push_str("    return 0;\n}\n");
    text
}

/// The program and its library, built.
fn build(hooks: &[Hook]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let cc = |source: &str, text: String, out: &str, options: &[&str]| {
        fs::write(dir.path().join(source), text).unwrap();
        let mut command = arch::compiler();
        command.current_dir(dir.path()).args(["-O1", "-fPIC", "-L.", "-o", out, source]).args(options);
        let built = command.env_remove("LD_LIBRARY_PATH").output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    };
    cc("vendor.c", vendor(hooks), "libvendor.so", &["-shared", "-Wl,-soname,libvendor.so"]);
    // The addresses of functions are asked of the loader, as a library's would be.
    cc("caller.c", caller(hooks), "caller", &["-Wl,--no-as-needed", "-lvendor", "-ldl"]);
    dir
}

#[test]
fn every_hook_forwards_all_its_arguments_exactly() {
    let hooks = hooks();
    let names: BTreeSet<String> = hooks.iter().map(|hook| hook.name.clone()).collect();
    let most = hooks.iter().map(|hook| hook.types.len()).max().unwrap();
    // Six go in registers on x86_64, eight on aarch64.
    assert!(most >= 8, "{most}");
    let programs = build(&hooks);
    // Outside of claims hooks go straight on; inside they ask the back end first, which has room for any size.
    let roomy = Node::with_quota(u64::MAX);
    roomy.claim(2, vec![support::gpu_share([0; 16], u64::MAX)]);
    for node in [Node::empty(), roomy] {
        let libraries = support::libraries().join("libvnpu.so");
        let mut command = arch::program(&programs.path().join("caller"), &libraries, programs.path());
        let output = command.env("VNPU_REGION_DIR", node.dir.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let lines: Vec<&str> = text.lines().collect();
        let wanted: Vec<String> = hooks.iter().map(|h| format!("{} {RIGHT} {RIGHT} 2 1", h.name)).collect();
        assert_eq!(lines, wanted, "name, answers (of a wrong argument: its number), calls, found the hook");
    }
    println!("{} hooks forward up to {most} arguments", hooks.len());

    let exported = arch::binutil("nm")
        .args(["-D", "--defined-only"])
        .arg(support::libraries().join("libvnpu.so"))
        .output()
        .unwrap();
    let exported = String::from_utf8(exported.stdout).unwrap();
    let exported: BTreeSet<String> =
        exported.lines().map(|line| line.split_whitespace().last().unwrap().to_owned()).collect();
    let known = names.into_iter().chain(BY_HAND.iter().map(|name| (*name).to_owned())).collect();
    assert_eq!(exported, known, "each export is in a list of hooks, and so is tested here, or made by hand");
}

/// A program that uses `dlsym` in every way, against itself without the interposer.
#[test]
fn dlsym_answers_as_without_us_also_for_next_default_and_failures() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("look.c");
    fs::write(
        &source,
        r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
int main(void) {
    void *libm = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
    double (*cosine)(double) = (double (*)(double))dlsym(libm, "cos");
    printf("%.3f\n", cosine(0));
    printf("%d\n", dlsym(RTLD_DEFAULT, "printf") == (void *)printf);
    printf("%d\n", dlsym(RTLD_NEXT, "puts") != NULL);
    printf("%d\n", dlsym(RTLD_DEFAULT, "no_such_function") == NULL);
    const char *error = dlerror();
    printf("%s\n", error != NULL && strstr(error, "no_such_function") != NULL ? "error told" : "no error");
    printf("%d\n", dlsym(libm, "rtMalloc") == NULL);
    error = dlerror();
    printf("%s\n", error != NULL && strstr(error, "rtMalloc") != NULL ? "error told" : "no error");
    return 0;
}
"#,
    )
    .unwrap();
    let program = dir.path().join("look");
    let built = arch::compiler().arg("-o").arg(&program).arg(&source).arg("-ldl").status().unwrap();
    assert!(built.success());
    let node = Node::with_quota(1);
    let under = node.command(&program).output().unwrap();
    let expected = "1.000\n1\n1\n1\nerror told\n1\nerror told\n";
    assert_eq!(String::from_utf8_lossy(&under.stdout), expected);
    let plain = arch::program(&program, Path::new(""), Path::new("")).output().unwrap();
    assert_eq!(plain.stdout, under.stdout);
}
