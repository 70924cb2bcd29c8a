//! `cuda-demo`: finds the driver's functions by `dlsym` on the handle of a private `dlopen`, or asks the driver itself
//! for them, as the CUDA runtime does that is linked into programs.

mod api;
mod commands;
mod families;
#[macro_use]
mod names;
mod nvml;
mod options;
mod work;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::process::CommandExt;
use std::ptr::null_mut;

use api::{Api, Find};
use options::{Options, Via};

macro_rules! table {
    ($($name:ident $linked:ident $per_thread:ident $version:literal,)*) => {
        /// What `cuda.h` makes of a name, the same for per-thread default streams, and the version to ask for.
        fn described(name: &str) -> Option<(&'static str, &'static str, c_int)> {
            match name {
                $(stringify!($name) => Some((stringify!($linked), stringify!($per_thread), $version)),)*
                _ => None,
            }
        }
    };
}

with_functions!(table);

/// A library that the program opened for itself.
struct Handle(*mut c_void);

impl Handle {
    fn open(name: &CStr) -> Self {
        // SAFETY: a NUL-terminated name; the vendor's libraries have no constructors with side effects.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: dlerror gives a NUL-terminated string after a failed dlopen.
            let why = unsafe { CStr::from_ptr(libc::dlerror()) };
            eprintln!("cuda-demo: {}", why.to_string_lossy());
            std::process::exit(127);
        }
        Self(handle)
    }

    fn symbol(&self, name: &str) -> *mut c_void {
        let Ok(name) = CString::new(name) else { return null_mut() };
        // SAFETY: a live handle and a NUL-terminated name.
        unsafe { libc::dlsym(self.0, name.as_ptr()) }
    }
}

/// Functions under the names that `cuda.h` gives them.
struct ByName {
    library: Handle,
    per_thread: bool,
}

impl Find for ByName {
    fn find(&self, name: &str) -> *mut c_void {
        let Some((linked, per_thread, _)) = described(name) else { return self.library.symbol(name) };
        self.library.symbol(if self.per_thread { per_thread } else { linked })
    }
}

type GetProcAddress = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, u64) -> c_int;
type GetProcAddress2 = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, u64, *mut c_int) -> c_int;

/// Functions that the driver itself names, after one `dlsym`.
struct ByDriver {
    ask: *mut c_void,
    old: bool,
    flags: u64,
}

impl Find for ByDriver {
    fn find(&self, name: &str) -> *mut c_void {
        let Some((_, _, version)) = described(name) else { return null_mut() };
        let Ok(name) = CString::new(name) else { return null_mut() };
        let mut found = null_mut();
        let code = if self.old {
            // SAFETY: the address is that function's, whose signature is the one given here.
            let ask: GetProcAddress = unsafe { std::mem::transmute(self.ask) };
            // SAFETY: a NUL-terminated name and an out-pointer.
            unsafe { ask(name.as_ptr(), &mut found, version, self.flags) }
        } else {
            let mut status = -1;
            // SAFETY: as above.
            let ask: GetProcAddress2 = unsafe { std::mem::transmute(self.ask) };
            // SAFETY: a NUL-terminated name and out-pointers.
            let code = unsafe { ask(name.as_ptr(), &mut found, version, self.flags, &mut status) };
            if status == 0 { code } else { 500 }
        };
        if code == 0 { found } else { null_mut() }
    }
}

fn main() {
    let options = Options::read();
    if options.command == "nvml" {
        let library = Handle::open(c"libnvidia-ml.so.1");
        std::process::exit(nvml::run(&|name| library.symbol(name)));
    }
    if options.via == Via::Link {
        let linked = std::env::current_exe().map(|program| program.with_file_name("cuda-demo-linked"));
        let error =
            linked.map(|program| std::process::Command::new(program).args(std::env::args().skip(1)).exec());
        eprintln!("cuda-demo: cannot start cuda-demo-linked: {error:?}");
        std::process::exit(126);
    }
    let library = Handle::open(c"libcuda.so.1");
    let find: Box<dyn Find> = match options.via {
        Via::Proc { old, per_thread } => {
            let name = if old { "cuGetProcAddress" } else { "cuGetProcAddress_v2" };
            let ask = library.symbol(name);
            if ask.is_null() {
                eprintln!("cuda-demo: the library has no {name}");
                std::process::exit(127);
            }
            Box::new(ByDriver { ask, old, flags: if per_thread { 2 } else { 1 } })
        }
        Via::Dlsym { per_thread } => Box::new(ByName { library, per_thread }),
        Via::Link => unreachable!("started as another program"),
    };
    std::process::exit(commands::run(&options, Api::new(find)));
}
