//! `acl-demo`: finds the vendor's functions by `dlsym` on the handle of a private `dlopen`; as torch_npu does, with
//! `--via torch`, in the global scope first where the environment preloads something.

mod api;
mod commands;

use std::ffi::{CStr, CString, c_void};
use std::os::unix::process::CommandExt;

use api::{Api, Find};
use commands::Options;

struct Handle {
    handle: *mut c_void,
    /// Where the environment preloads something, torch_npu asks the global scope first.
    global_first: bool,
}

impl Find for Handle {
    fn find(&self, name: &str) -> *mut c_void {
        let Ok(name) = CString::new(name) else { return std::ptr::null_mut() };
        if self.global_first {
            // SAFETY: a NUL-terminated name.
            let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
            if !found.is_null() {
                return found;
            }
        }
        // SAFETY: a live handle and a NUL-terminated name.
        unsafe { libc::dlsym(self.handle, name.as_ptr()) }
    }
}

fn main() {
    let options = Options::read();
    if options.via.ends_with("link") {
        let linked = std::env::current_exe().map(|program| program.with_file_name("acl-demo-linked"));
        let error =
            linked.map(|program| std::process::Command::new(program).args(std::env::args().skip(1)).exec());
        eprintln!("acl-demo: cannot start acl-demo-linked: {error:?}");
        std::process::exit(126);
    }
    let library = if options.runtime() { c"libruntime.so" } else { c"libascendcl.so" };
    // SAFETY: a NUL-terminated name; the stand-in libraries have no constructors with side effects.
    let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
    if handle.is_null() {
        // SAFETY: dlerror gives a NUL-terminated string after a failed dlopen.
        let why = unsafe { CStr::from_ptr(libc::dlerror()) };
        eprintln!("acl-demo: {}", why.to_string_lossy());
        std::process::exit(127);
    }
    let runtime = options.runtime();
    let preloads = std::env::var_os("LD_PRELOAD").is_some_and(|list| !list.is_empty());
    let global_first = options.via == "torch" && preloads;
    std::process::exit(commands::run(&options, Api::new(Box::new(Handle { handle, global_first }), runtime)));
}
