//! `cuda-demo-linked`: the same commands with `libcuda.so.1` linked, as programs of the driver interface are.

mod api;
mod commands;
mod families;
#[macro_use]
mod names;
mod options;
mod work;

use std::ffi::c_void;

use api::{Api, Find};
use options::Options;

macro_rules! linked {
    ($($name:ident $linked:ident $per_thread:ident $version:literal,)*) => {
        #[allow(non_snake_case)]
        mod vendor {
            unsafe extern "C" {
                // Only their addresses are taken here; the signatures are where they are called.
                $(pub fn $linked();)*
            }
        }

        fn address(name: &str) -> *mut c_void {
            match name {
                $(stringify!($name) => vendor::$linked as *mut c_void,)*
                _ => std::ptr::null_mut(),
            }
        }
    };
}

with_functions!(linked);

struct Linked;

impl Find for Linked {
    fn find(&self, name: &str) -> *mut c_void {
        address(name)
    }
}

fn main() {
    let options = Options::read();
    std::process::exit(commands::run(&options, Api::new(Box::new(Linked))));
}
