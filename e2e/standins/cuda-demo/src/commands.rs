//! The demo's commands. Every line of output is `event key=value ...`, flushed at once, for people and tests.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io::Write;
use std::ptr::null_mut;
use std::time::Duration;

use crate::api::{Api, Opaque, Refused, call};
use crate::options::{Options, wrong};
use crate::work;

pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away is no reason to stop.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Runs the command; the process's exit code.
pub fn run(options: &Options, api: Api) -> i32 {
    match act(options, api) {
        Ok(()) => 0,
        Err(refused) => {
            say(&format!("failed function={} code={}", refused.function, refused.code));
            1
        }
    }
}

fn act(options: &Options, mut api: Api) -> Result<(), Refused> {
    if options.command == "symbols" {
        return symbols(&api);
    }
    api.init()?;
    if options.command == "info" {
        return info(&mut api);
    }
    api.set_device(options.device)?;
    match options.command.as_str() {
        "fill" => fill(options, &mut api),
        "hold" => {
            let taken = take(options, &mut api)?;
            hold(options);
            api.free(&options.kind, taken, options.bytes)?;
            say("released");
            Ok(())
        }
        "loop" => {
            for _ in 0..options.count {
                let taken = api.allocate(&options.kind, options.bytes)?;
                api.free(&options.kind, taken, options.bytes)?;
            }
            say(&format!("looped count={}", options.count));
            Ok(())
        }
        "crash" => {
            take(options, &mut api)?;
            // SAFETY: raise takes a signal number; SIGKILL ends this process.
            unsafe { libc::raise(libc::SIGKILL) };
            Ok(())
        }
        "fork" => fork(options, &mut api),
        "export" => export(options, &mut api),
        "import" => import(options, &api),
        "pool" => pool(options, &mut api),
        "vmm" => vmm(options, &api),
        "launch" => work::launch(options, &mut api),
        "busy" => work::busy(options, &mut api),
        "graph" => work::graph(options, &mut api),
        "capture" => work::capture(&mut api),
        "beside" => work::beside(options, &mut api),
        _ => wrong(),
    }
}

fn hold(options: &Options) {
    match options.seconds {
        Some(seconds) => std::thread::sleep(Duration::from_secs(seconds)),
        None => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
    }
}

fn info(api: &mut Api) -> Result<(), Refused> {
    let count = api.device_count()?;
    say(&format!("devices count={count} cuda={}", api.version()?));
    for device in 0..count {
        api.set_device(device)?;
        let (memory, uuid) = (api.memory()?, api.uuid(device)?);
        let (free, total) = (memory.free, memory.total);
        say(&format!(
            "device id={device} uuid={uuid} total={total} free={free} used={} device_total={} name={}",
            total.saturating_sub(free),
            api.total(device)?,
            api.name(device)?.replace(' ', "_")
        ));
    }
    Ok(())
}

fn take(options: &Options, api: &mut Api) -> Result<u64, Refused> {
    let taken = api.allocate(&options.kind, options.bytes)?;
    let memory = api.memory()?;
    say(&format!(
        "holding bytes={} pid={} total={} free={}",
        options.bytes,
        std::process::id(),
        memory.total,
        memory.free
    ));
    Ok(taken)
}

/// Smallest piece that `fill` tries.
const SMALLEST: usize = 2 << 20;

fn fill(options: &Options, api: &mut Api) -> Result<(), Refused> {
    for round in ["first", "again"] {
        let (mut held, mut granted, mut chunk, mut code) = (Vec::new(), 0, options.chunk, 0);
        while chunk >= SMALLEST || chunk == options.chunk {
            match api.allocate(&options.kind, chunk) {
                Ok(taken) => {
                    held.push((taken, chunk));
                    granted += chunk;
                }
                Err(refused) => {
                    code = refused.code;
                    chunk /= 2;
                }
            }
        }
        let memory = api.memory()?;
        say(&format!(
            "fill round={round} granted={granted} allocations={} code={code} total={} free={}",
            held.len(),
            memory.total,
            memory.free
        ));
        for (taken, bytes) in held {
            api.free(&options.kind, taken, bytes)?;
        }
        api.settle(&options.kind)?;
        let memory = api.memory()?;
        say(&format!("freed round={round} total={} free={}", memory.total, memory.free));
    }
    Ok(())
}

fn fork(options: &Options, api: &mut Api) -> Result<(), Refused> {
    let taken = take(options, api)?;
    // SAFETY: the child uses only this thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let told = |what: &str, result: Result<(), Refused>| {
            say(&format!("child {what}={}", result.map_or_else(|refused| refused.code, |()| 0)));
        };
        told("init", api.init());
        told("memory", api.memory().map(|_| ()));
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: a child of this process and a valid out-pointer.
    unsafe { libc::waitpid(child, &mut status, 0) };
    let memory = api.memory()?;
    say(&format!("parent status={status} total={} free={}", memory.total, memory.free));
    api.free(&options.kind, taken, options.bytes)
}

/// `CUipcMemHandle`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MemoryHandle([u8; 64]);

fn export(options: &Options, api: &mut Api) -> Result<(), Refused> {
    let taken = api.allocate("alloc", options.bytes)?;
    let mut handle = MemoryHandle([0; 64]);
    call!(api, "cuIpcGetMemHandle", (*mut MemoryHandle, u64), &mut handle, taken)?;
    let mut opened = 0;
    let own = call!(api, "cuIpcOpenMemHandle", (*mut u64, MemoryHandle, u32), &mut opened, handle, 1);
    let hex: String = handle.0.iter().map(|byte| format!("{byte:02x}")).collect();
    say(&format!("exported handle={hex} own={}", own.map_or_else(|refused| refused.code, |()| 0)));
    hold(options);
    Ok(())
}

fn import(options: &Options, api: &Api) -> Result<(), Refused> {
    let mut handle = MemoryHandle([0; 64]);
    for (place, byte) in handle.0.iter_mut().enumerate() {
        let digits = options.handle.get(2 * place..2 * place + 2).unwrap_or("00");
        *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
    }
    let (mut address, mut bytes) = (0u64, 0usize);
    call!(api, "cuIpcOpenMemHandle", (*mut u64, MemoryHandle, u32), &mut address, handle, 1)?;
    call!(api, "cuMemGetAddressRange", (*mut u64, *mut usize, u64), null_mut(), &mut bytes, address + 1)?;
    let memory = api.memory()?;
    say(&format!("imported bytes={bytes} total={} free={}", memory.total, memory.free));
    let freed = call!(api, "cuMemFree", (u64), address).map_or_else(|refused| refused.code, |()| 0);
    call!(api, "cuIpcCloseMemHandle", (u64), address)?;
    say(&format!("closed free_code={freed}"));
    Ok(())
}

/// Numbers of `CUmemPool_attribute`.
const RESERVED: c_int = 5;
const USED: c_int = 7;

fn pool(options: &Options, api: &mut Api) -> Result<(), Refused> {
    let mut pool = null_mut();
    call!(api, "cuDeviceGetDefaultMemPool", (*mut Opaque, c_int), &mut pool, api.device)?;
    let tell = |api: &Api, what: &str| -> Result<(), Refused> {
        let (mut reserved, mut used) = (0u64, 0u64);
        for (attribute, value) in [(RESERVED, &mut reserved), (USED, &mut used)] {
            call!(
                api,
                "cuMemPoolGetAttribute",
                (Opaque, c_int, *mut c_void),
                pool,
                attribute,
                std::ptr::from_mut(value).cast()
            )?;
        }
        say(&format!("pool at={what} reserved={reserved} used={used} free={}", api.memory()?.free));
        Ok(())
    };
    tell(api, "begin")?;
    let taken = api.allocate("async", options.bytes)?;
    tell(api, "allocated")?;
    api.free("async", taken, options.bytes)?;
    tell(api, "freed")?;
    call!(api, "cuCtxSynchronize", (),)?;
    tell(api, "waited")
}

fn vmm(options: &Options, api: &Api) -> Result<(), Refused> {
    let handle = api.create_physical(options.bytes)?;
    let tell = |what: &str| -> Result<(), Refused> {
        say(&format!("vmm at={what} free={}", api.memory()?.free));
        Ok(())
    };
    tell("created")?;
    let address = api.map_physical(handle, options.bytes)?;
    let mut descriptor: c_int = -1;
    call!(
        api,
        "cuMemExportToShareableHandle",
        (*mut c_void, u64, c_int, u64),
        std::ptr::from_mut(&mut descriptor).cast(),
        handle,
        1,
        0
    )?;
    let mut imported = 0;
    call!(
        api,
        "cuMemImportFromShareableHandle",
        (*mut u64, *mut c_void, c_int),
        &mut imported,
        descriptor as usize as *mut c_void,
        1
    )?;
    tell("imported")?;
    // It would hold the memory.
    // SAFETY: the descriptor that the driver gave, which is not used again.
    unsafe { libc::close(descriptor) };
    call!(api, "cuMemRelease", (u64), imported)?;
    call!(api, "cuMemRelease", (u64), handle)?;
    tell("released")?;
    let odd = api.create_physical(options.bytes + 1);
    say(&format!("vmm at=odd code={}", odd.map_or_else(|refused| refused.code, |_| 0)));
    api.unmap(address, options.bytes)?;
    tell("unmapped")
}

/// What the driver answers, as a line per question: whether the address is that of the named export.
fn symbols(api: &Api) -> Result<(), Refused> {
    const LEGACY: u64 = 1;
    const PER_THREAD: u64 = 2;
    let ask = api.address("cuGetProcAddress");
    for (name, version, flags, expected) in [
        ("cuMemAlloc", 3010, LEGACY, "cuMemAlloc"),
        ("cuMemAlloc", 3020, LEGACY, "cuMemAlloc_v2"),
        ("cuMemAlloc", 12_000, PER_THREAD, "cuMemAlloc_v2"),
        ("cuCtxCreate", 3010, LEGACY, "cuCtxCreate"),
        ("cuCtxCreate", 11_030, LEGACY, "cuCtxCreate_v2"),
        ("cuCtxCreate", 11_040, LEGACY, "cuCtxCreate_v3"),
        ("cuCtxCreate", 12_050, LEGACY, "cuCtxCreate_v4"),
        ("cuLaunchKernel", 12_000, LEGACY, "cuLaunchKernel"),
        ("cuLaunchKernel", 12_000, PER_THREAD, "cuLaunchKernel_ptsz"),
        ("cuLaunchKernel", 6_050, PER_THREAD, "cuLaunchKernel"),
        ("cuStreamBeginCapture", 10_000, LEGACY, "cuStreamBeginCapture"),
        ("cuStreamBeginCapture", 12_000, PER_THREAD, "cuStreamBeginCapture_v2_ptsz"),
        ("cuGetProcAddress", 11_030, 0, "cuGetProcAddress"),
        ("cuGetProcAddress", 12_000, 0, "cuGetProcAddress_v2"),
        ("cuMemAllocAsync", 11_010, LEGACY, ""),
        ("cuMemAlloc_v2", 12_000, LEGACY, ""),
        ("cuNoSuchFunction", 12_000, LEGACY, ""),
        ("cuInit", 99_000, LEGACY, ""),
        ("cuInit", 12_000, 3, ""),
    ] {
        let Ok(text) = CString::new(name) else { continue };
        let (mut found, mut status) = (null_mut(), -1);
        type Ask = unsafe extern "C" fn(*const c_char, *mut Opaque, c_int, u64, *mut c_int) -> c_int;
        if ask.is_null() {
            return Err(Refused { function: "cuGetProcAddress_v2 (not there)", code: -1 });
        }
        // SAFETY: the address is that function's, whose signature is the one given here.
        let ask: Ask = unsafe { std::mem::transmute(ask) };
        // SAFETY: a NUL-terminated name and out-pointers.
        let code = unsafe { ask(text.as_ptr(), &mut found, version, flags, &mut status) };
        let as_named = !expected.is_empty() && found == exported(expected);
        say(&format!(
            "symbol name={name} version={version} flags={flags} code={code} status={status} null={} as={}",
            found.is_null(),
            if as_named { expected } else { "-" }
        ));
    }
    Ok(())
}

/// The address of an export of the library, whoever else has one of that name.
fn exported(name: &str) -> Opaque {
    let Ok(name) = CString::new(name) else { return null_mut() };
    // SAFETY: a NUL-terminated name; opens nothing anew.
    unsafe {
        let library = libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if library.is_null() { null_mut() } else { libc::dlsym(library, name.as_ptr()) }
    }
}
