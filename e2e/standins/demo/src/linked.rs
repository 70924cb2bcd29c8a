//! `acl-demo-linked`: the same commands with the vendor's libraries linked, as ACL applications are.

mod api;
mod commands;
#[macro_use]
mod functions;

use std::ffi::c_void;

use api::{Api, Find};
use commands::Options;

macro_rules! linked {
    ($($name:ident,)*) => {
        #[allow(non_snake_case)]
        mod vendor {
            unsafe extern "C" {
                // Only their addresses are taken here; the signatures are where they are called.
                $(pub fn $name();)*
            }
        }

        fn address(name: &str) -> *mut c_void {
            match name {
                $(stringify!($name) => vendor::$name as *mut c_void,)*
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
    let runtime = options.runtime();
    std::process::exit(commands::run(&options, Api::new(Box::new(Linked), runtime)));
}
