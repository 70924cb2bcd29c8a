//! Launches. How long a kernel takes is told by its function handle, see `module`.

use std::ffi::{c_int, c_uint, c_void};

use crate::module::nanos_of;
use crate::process::process;
use crate::status::{Answer, INVALID_VALUE, code};
use crate::stream::{resolve, submit};

/// `CUlaunchConfig`.
#[repr(C)]
pub struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: *mut c_void,
    attributes: *mut c_void,
    attribute_count: c_uint,
}

/// `CUDA_LAUNCH_PARAMS`: one device's part of a launch on several.
#[repr(C)]
pub struct LaunchParameters {
    function: *mut c_void,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: *mut c_void,
    parameters: *mut *mut c_void,
}

fn launch(
    function: *mut c_void,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    stream: *mut c_void,
    per_thread: bool,
) -> Answer<()> {
    let mut process = process()?;
    let at = resolve(&process, stream as usize, per_thread)?;
    if grid.contains(&0) || block.contains(&0) || block.iter().map(|n| u64::from(*n)).product::<u64>() > 1024
    {
        return Err(INVALID_VALUE);
    }
    let nanos = nanos_of(&process, function as usize)?;
    if let Some(graph) = process.captures.record(at.key) {
        graph?.nanos += nanos;
        return Ok(());
    }
    submit(&mut process, &at, nanos)
}

macro_rules! launches {
    ($($kernel:ident, $extended:ident, $cooperative:ident, $per_thread:literal;)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $kernel(
            function: *mut c_void,
            grid_x: c_uint,
            grid_y: c_uint,
            grid_z: c_uint,
            block_x: c_uint,
            block_y: c_uint,
            block_z: c_uint,
            _shared: c_uint,
            stream: *mut c_void,
            _parameters: *mut *mut c_void,
            _extra: *mut *mut c_void,
        ) -> c_int {
            let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
            code(launch(function, grid, block, stream, $per_thread))
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $extended(
            config: *const LaunchConfig,
            function: *mut c_void,
            _parameters: *mut *mut c_void,
            _extra: *mut *mut c_void,
        ) -> c_int {
            // SAFETY: null, or the caller's structure.
            let Some(config) = (unsafe { config.as_ref() }) else { return INVALID_VALUE };
            code(launch(function, config.grid, config.block, config.stream, $per_thread))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $cooperative(
            function: *mut c_void,
            grid_x: c_uint,
            grid_y: c_uint,
            grid_z: c_uint,
            block_x: c_uint,
            block_y: c_uint,
            block_z: c_uint,
            _shared: c_uint,
            stream: *mut c_void,
            _parameters: *mut *mut c_void,
        ) -> c_int {
            let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
            code(launch(function, grid, block, stream, $per_thread))
        }
    )*};
}

launches! {
    cuLaunchKernel, cuLaunchKernelEx, cuLaunchCooperativeKernel, false;
    cuLaunchKernel_ptsz, cuLaunchKernelEx_ptsz, cuLaunchCooperativeKernel_ptsz, true;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchCooperativeKernelMultiDevice(
    list: *mut LaunchParameters,
    count: c_uint,
    _flags: c_uint,
) -> c_int {
    if list.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives `count` entries.
    let list = unsafe { std::slice::from_raw_parts(list, count as usize) };
    let each = |one: &LaunchParameters| launch(one.function, one.grid, one.block, one.stream, false);
    code(list.iter().try_for_each(each))
}

/// Launches of before CUDA 4 keep the block's shape with the function; here every function has one that fits.
const ONE: [c_uint; 3] = [1, 1, 1];

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunch(function: *mut c_void) -> c_int {
    code(launch(function, ONE, ONE, std::ptr::null_mut(), false))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchGrid(function: *mut c_void, width: c_int, height: c_int) -> c_int {
    cuLaunchGridAsync(function, width, height, std::ptr::null_mut())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchGridAsync(
    function: *mut c_void,
    width: c_int,
    height: c_int,
    stream: *mut c_void,
) -> c_int {
    let grid = [width.max(0) as c_uint, height.max(0) as c_uint, 1];
    code(launch(function, grid, ONE, stream, false))
}
