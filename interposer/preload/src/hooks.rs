//! The hooked functions: one line each, with the vendor's real C types. The lists are also the map of `dlsym`.
#![allow(
    non_snake_case,
    non_upper_case_globals,
    missing_docs,
    clippy::missing_safety_doc,
    clippy::too_many_arguments
)]

use core::ffi::c_void;

use crate::real::Real;

/// One hooked function.
pub(crate) struct Hook {
    own: *const c_void,
    real: &'static Real,
}

// SAFETY: an address of a function and a reference to atomics.
unsafe impl Sync for Hook {}

impl Hook {
    /// Our function.
    pub(crate) fn address(&self) -> *mut c_void {
        self.own.cast_mut()
    }

    /// The vendor's.
    pub(crate) fn real(&self) -> &'static Real {
        self.real
    }
}

/// The hook of that name.
pub(crate) fn find(name: &[u8]) -> Option<&'static Hook> {
    // Nearly every look-up of every program ends here.
    let lists: &[&[Hook]] = if name.starts_with(b"acl") || name.starts_with(b"rt") {
        &[ascend::HOOKS]
    } else if name.starts_with(b"cu") {
        &[cuda::HOOKS, cuda_by_hand::HOOKS]
    } else if name.starts_with(b"nvml") {
        &[nvml::HOOKS]
    } else if name.starts_with(b"dcmi_") {
        &[dcmi::HOOKS]
    } else {
        return None;
    };
    lists.iter().copied().flatten().find(|hook| hook.real.name() == name)
}

/// The hook of the driver's function at `address`, which the driver gave for `name`: the name says the family, the
/// address which of its versions it is.
pub(crate) fn behind(name: &[u8], address: *mut c_void) -> Option<&'static Hook> {
    let family =
        cuda::HOOKS.iter().chain(cuda_by_hand::HOOKS).filter(|hook| hook.real.name().starts_with(name));
    family.into_iter().find(|hook| [hook.address(), hook.real.get(hook.address())].contains(&address))
}

/// The list of a file's hooks, and the vendor's functions behind them.
macro_rules! hook_table {
    ($($name:ident)*) => {
        mod reals {
            use crate::real::Real;
            $(pub(super) static $name: Real = Real::new(
                // SAFETY: the literal ends with its only zero.
                unsafe { core::ffi::CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) }
            );)*
        }
        pub(super) static HOOKS: &[super::Hook] = &[
            $(super::Hook { own: $name as *const core::ffi::c_void, real: &reals::$name }),*
        ];
    };
}

/// A list of hooks: `kind name(arguments) => details;`, where the kind is a function that is called with `VENDOR`, the
/// vendor's function wrapped up, and the details.
macro_rules! hooks {
    ($($kind:ident $name:ident($($arg:ident: $type:ty),*) => $($detail:expr),*;)*) => {
        $(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $type),*) -> i32 {
                type Function = unsafe extern "C" fn($($type),*) -> i32;
                let address = reals::$name.get($name as Function as *mut core::ffi::c_void);
                if address.is_null() {
                    return VENDOR.no_function();
                }
                // SAFETY: the vendor's function of this name, whose C types the list states.
                let real = unsafe { core::mem::transmute::<*mut core::ffi::c_void, Function>(address) };
                // SAFETY: the caller's own arguments.
                $kind(VENDOR, || unsafe { real($($arg),*) }, $($detail),*)
            }
        )*
        hook_table! { $($name)* }
    };
}

mod ascend;
mod cuda;
mod cuda_by_hand;
mod dcmi;
mod nvml;
