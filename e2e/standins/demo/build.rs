//! Links `acl-demo-linked` against stubs of the vendor's libraries that name the functions it uses, so that the
//! program needs the libraries at run time only.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    standin_unwinder::link_program_statically();
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/functions.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let functions = fs::read_to_string("src/functions.rs").expect("the list of functions");
    for (library, prefixes) in [("libascendcl.so", &["acl"][..]), ("libruntime.so", &["rt"][..])] {
        let names = functions
            .lines()
            .filter_map(|line| line.trim().strip_suffix(','))
            .filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
        let source: String = names.map(|name| format!("void {name}(void) {{}}\n")).collect();
        let file = out.join(format!("{library}.c"));
        fs::write(&file, source).expect("write the stub's source");
        let status = Command::new("cc")
            .args(["-shared", "-nostdlib", "-fPIC"])
            .arg(&file)
            .arg(format!("-Wl,-soname,{library}"))
            .arg("-o")
            .arg(out.join(library))
            .status()
            .expect("a C compiler driver is there, rustc links with it");
        assert!(status.success(), "the stub of {library} does not link");
    }
    for argument in [
        "-Wl,--no-as-needed".to_owned(),
        // What the real libraries need is not known to the stubs.
        "-Wl,--allow-shlib-undefined".to_owned(),
        format!("-L{}", out.display()),
        "-l:libascendcl.so".to_owned(),
        "-l:libruntime.so".to_owned(),
    ] {
        println!("cargo::rustc-link-arg-bin=acl-demo-linked={argument}");
    }
}
