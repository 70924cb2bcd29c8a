//! From a call to the driver and back to the vendor's return codes. Which GPUs there are is asked at every call: the
//! library keeps nothing but the number of its users.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use standin_protocol::{
    Client, DEVICE_VARIABLE, GpuView, GpusView, Instance, Reply, Request, library_directory,
};

pub const UNINITIALIZED: c_int = 1;
pub const INVALID_ARGUMENT: c_int = 2;
pub const NOT_SUPPORTED: c_int = 3;
pub const NOT_FOUND: c_int = 6;
pub const INSUFFICIENT_SIZE: c_int = 7;
pub const DRIVER_NOT_LOADED: c_int = 9;
pub const TIMEOUT: c_int = 10;
pub const VERSION_MISMATCH: c_int = 25;
pub const UNKNOWN: c_int = 999;

/// A call's result: the error is an `nvmlReturn_t`.
pub type Answer<T> = Result<T, c_int>;

/// An `nvmlDevice_t`: a number made of the minor number and, of a MIG device, its place; never dereferenced.
pub type Device = *mut c_void;

const FIRST_HANDLE: usize = 0x4e56_0000;

/// Bytes of handles for one GPU: its own, and one for each of its MIG devices.
const STRIDE: usize = 16;

thread_local! {
    // One for each thread: a call that hangs is no other thread's matter.
    static CLIENT: RefCell<Client> = const { RefCell::new(Client::new()) };
}

static USERS: AtomicI32 = AtomicI32::new(0);

/// One user more.
pub fn enter() {
    USERS.fetch_add(1, Ordering::SeqCst);
}

/// One user less; an error when there is none.
pub fn leave() -> Answer<()> {
    let less = |users: i32| (users > 0).then_some(users - 1);
    USERS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).map(|_| ()).map_err(|_| UNINITIALIZED)
}

/// The machine's GPUs that this process has nodes of, in NVML's order, and what the driver says of itself. With a
/// `device` that one alone: the call is about it, and meets its configured faults.
pub fn ask(function: &str, device: Option<Device>) -> Answer<GpusView> {
    if USERS.load(Ordering::SeqCst) == 0 {
        return Err(UNINITIALIZED);
    }
    ask_first(function, device)
}

/// As `ask`, of a library that has no user yet.
pub fn ask_first(function: &str, device: Option<Device>) -> Answer<GpusView> {
    let request = Request::Gpus { function: function.to_owned(), minor: device.and_then(minor_of) };
    match CLIENT.with_borrow_mut(|client| client.call(&request)) {
        Ok(Reply::Gpus(mut view)) => {
            // NVML shows a container no other GPUs than those that it has nodes of. One look for each: calls are mostly
            // about one GPU, and a directory of many would cost more than the call.
            let nodes = device_directory();
            view.gpus.retain(|gpu| nodes.join(format!("nvidia{}", gpu.gpu.minor)).symlink_metadata().is_ok());
            Ok(*view)
        }
        Ok(Reply::Code(code)) => Err(code),
        Ok(_) => Err(UNKNOWN),
        Err(_) => Err(DRIVER_NOT_LOADED),
    }
}

/// Waits until the machine is described otherwise than at number `seen`, so long at most; the number now.
pub fn changed(seen: u64, millis: u32) -> Answer<u64> {
    match CLIENT.with_borrow_mut(|client| client.call(&Request::Changed { seen, millis })) {
        Ok(Reply::Generation(generation)) => Ok(generation),
        Ok(_) => Err(UNKNOWN),
        Err(_) => Err(DRIVER_NOT_LOADED),
    }
}

/// Asks about one GPU.
pub fn gpu(function: &str, device: Device) -> Answer<GpuView> {
    let minor = minor_of(device).ok_or(INVALID_ARGUMENT)?;
    let mut view = ask(function, Some(device))?;
    let place = view.gpus.iter().position(|gpu| gpu.gpu.minor == minor).ok_or(INVALID_ARGUMENT)?;
    Ok(view.gpus.swap_remove(place))
}

/// A MIG device, with its GPU.
pub fn instance(function: &str, device: Device) -> Answer<(GpuView, Instance)> {
    let place = place_of(device).ok_or(INVALID_ARGUMENT)?;
    let mut view = gpu(function, device)?;
    let mig = view.gpu.mig.as_mut().filter(|mig| mig.enabled).ok_or(INVALID_ARGUMENT)?;
    let found = mig.instances.remove(&place).ok_or(INVALID_ARGUMENT)?;
    Ok((view, found))
}

/// The handle of a GPU.
pub fn handle(view: &GpuView) -> Device {
    (FIRST_HANDLE + STRIDE * (1 + view.gpu.minor as usize)) as Device
}

/// The handle of the MIG device at a place of a GPU.
pub fn instance_handle(view: &GpuView, place: u32) -> Device {
    (handle(view) as usize + 1 + place as usize) as Device
}

fn minor_of(device: Device) -> Option<u32> {
    let offset = (device as usize).checked_sub(FIRST_HANDLE + STRIDE)?;
    u32::try_from(offset / STRIDE).ok()
}

/// The place of a MIG device; `None` for a GPU.
pub fn place_of(device: Device) -> Option<u32> {
    let offset = (device as usize).checked_sub(FIRST_HANDLE)?;
    (offset % STRIDE).checked_sub(1).and_then(|place| u32::try_from(place).ok())
}

pub fn code(answer: Answer<()>) -> c_int {
    answer.err().unwrap_or(0)
}

/// Writes through an out-pointer of the caller.
///
/// # Safety
/// `to` is null or valid for a write of `T`.
pub unsafe fn put<T>(to: *mut T, value: T) -> Answer<()> {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller promises the rest.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes a NUL-terminated text that must fit.
///
/// # Safety
/// `to` is null or has `room` bytes.
pub unsafe fn put_text(to: *mut c_char, room: c_uint, text: &str) -> Answer<()> {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if text.len() >= room as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: `text.len() + 1 <= room`.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

/// Writes a list as the vendor's calls do: with too little room the number that there are, and an error.
///
/// # Safety
/// `count` is null or the caller's in/out pointer, `list` null or room for so many.
pub unsafe fn put_list<T>(list: *mut T, count: *mut c_uint, entries: Vec<T>) -> Answer<()> {
    if count.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller promises the rest.
    let room = unsafe { count.replace(entries.len() as c_uint) } as usize;
    if entries.len() > room || (list.is_null() && !entries.is_empty()) {
        return Err(INSUFFICIENT_SIZE);
    }
    for (place, entry) in entries.into_iter().enumerate() {
        // SAFETY: `place < room`.
        unsafe { list.add(place).write(entry) };
    }
    Ok(())
}

/// A fixed field with the text, NUL-padded and cut.
pub fn field<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().take(N - 1).zip(text.bytes()) {
        *to = from;
    }
    field
}

/// Where the process has its device nodes.
fn device_directory() -> PathBuf {
    static BESIDE_LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    match std::env::var_os(DEVICE_VARIABLE) {
        Some(directory) => PathBuf::from(directory),
        None => BESIDE_LIBRARY.get_or_init(dev).clone(),
    }
}

/// `/dev` of the root below which the library lies in `usr/lib/<architecture>`.
fn dev() -> PathBuf {
    let library = library_directory().and_then(|directory| directory.canonicalize().ok());
    let root = library.as_deref().and_then(|directory| {
        let above = directory.ancestors().nth(3)?;
        directory.strip_prefix(above).ok()?.starts_with("usr/lib").then_some(above)
    });
    root.map_or_else(|| PathBuf::from("/dev"), |root| root.join("dev"))
}
