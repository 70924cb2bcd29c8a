//! Virtual memory management: addresses and memory apart, and memory shared by descriptors. A descriptor is an
//! anonymous file that names the memory at the driver; the exporter is charged.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_void};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::fs::MetadataExt;

use standin_protocol::{Reply, Request};

use crate::memory::{Block, Kind, PAGE, take};
use crate::pool::Location;
use crate::process::{Process, process};
use crate::status::{
    Answer, INVALID_DEVICE, INVALID_VALUE, NOT_SUPPORTED, OPERATING_SYSTEM, OUT_OF_MEMORY, UNKNOWN, code, put,
};

/// `CU_MEM_CREATE_USAGE_TILE_POOL`.
const TILE_POOL: u16 = 1;

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`.
const DESCRIPTOR: c_int = 1;

#[derive(Debug, Clone, Copy)]
pub struct Physical {
    /// The GPU by the program's number.
    pub device: usize,
    bytes: u64,
    /// The driver's name of it.
    address: u64,
    imported: bool,
    /// The handle of this process that it was imported from, if it is this process's own.
    of: Option<u64>,
    handle_types: c_int,
    /// Whether it is for sparse arrays.
    pub tiles: bool,
    /// Handles and mappings that hold it.
    pub holders: u32,
    /// Whether the handle can still be used.
    handles: u32,
}

/// The process's reserved addresses, physical memory and mappings.
#[derive(Default)]
pub struct Virtual {
    reserved: BTreeMap<u64, u64>,
    /// By handle.
    pub memory: BTreeMap<u64, Physical>,
    /// Start -> (bytes, handle).
    mapped: BTreeMap<u64, (u64, u64)>,
    /// Descriptors that memory was exported as, with the inodes behind them and the handles. They hold the memory, in
    /// this process only.
    exported: Vec<(c_int, u64, u64)>,
    /// Sparse array -> handles.
    pub sparse: BTreeMap<usize, Vec<u64>>,
    next: u64,
}

impl Virtual {
    /// Whether there is physical memory of the device.
    pub fn has(&self, device: usize) -> bool {
        self.memory.values().any(|memory| memory.device == device)
    }

    /// The mapping that an address lies in, and where it begins.
    pub fn around(&self, address: u64) -> Option<(u64, Block)> {
        let (start, (bytes, handle)) = self.mapped.range(..=address).next_back()?;
        let device = self.memory.get(handle)?.device;
        let block = Block { context: 0, device, bytes: *bytes, taken: None, kind: Kind::Plain };
        (address - start < *bytes).then_some((*start, block))
    }
}

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Properties {
    kind: c_int,
    handle_types: c_int,
    location: Location,
    metadata: *mut c_void,
    compression: u8,
    rdma: u8,
    usage: u16,
    reserved: [u8; 4],
}

/// `CUmemAccessDesc`.
#[repr(C)]
pub struct Access {
    location: Location,
    flags: c_int,
}

fn create(bytes: usize, properties: &Properties) -> Answer<u64> {
    let mut process = process()?;
    // 1: pinned, on a device.
    if properties.kind != 1 || properties.location.kind != 1 {
        return Err(INVALID_VALUE);
    }
    process.device(properties.location.id)?;
    let bytes = bytes as u64;
    if bytes == 0 || !bytes.is_multiple_of(PAGE) {
        return Err(INVALID_VALUE);
    }
    let device = properties.location.id as usize;
    let address = take(&mut process, device, bytes)?;
    let handle = process.handle() as u64;
    let memory = Physical {
        device,
        bytes,
        address,
        imported: false,
        of: None,
        handle_types: properties.handle_types,
        tiles: properties.usage & TILE_POOL != 0,
        holders: 1,
        handles: 1,
    };
    process.space.memory.insert(handle, memory);
    Ok(handle)
}

/// One holder less; the last one gives the memory back.
pub fn drop_holder(process: &mut Process, handle: u64) -> Answer<()> {
    let memory = process.space.memory.get_mut(&handle).ok_or(INVALID_VALUE)?;
    memory.holders -= 1;
    if memory.holders > 0 {
        return Ok(());
    }
    let Some(gone) = process.space.memory.remove(&handle) else { return Err(INVALID_VALUE) };
    if gone.imported {
        return gone.of.map_or(Ok(()), |of| drop_holder(process, of));
    }
    process.ask(&Request::Free { address: gone.address }).map(|_| ())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemCreate(
    handle: *mut u64,
    bytes: usize,
    properties: *const Properties,
    flags: u64,
) -> c_int {
    // SAFETY: null, or the caller's structure.
    let Some(properties) = (unsafe { properties.as_ref() }) else { return INVALID_VALUE };
    if flags != 0 || handle.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's out-pointer.
    code(create(bytes, properties).and_then(|made| unsafe { put(handle, made) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemRelease(handle: u64) -> c_int {
    code(process().and_then(|mut process| {
        let memory = process.space.memory.get_mut(&handle).ok_or(INVALID_VALUE)?;
        memory.handles = memory.handles.checked_sub(1).ok_or(INVALID_VALUE)?;
        drop_holder(&mut process, handle)
    }))
}

/// `option`: 0 the least, 1 the best.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAllocationGranularity(
    granularity: *mut usize,
    properties: *const Properties,
    option: c_int,
) -> c_int {
    if properties.is_null() || !(0..=1).contains(&option) {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's out-pointer.
    code(process().and_then(|_| unsafe { put(granularity, PAGE as usize) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAllocationPropertiesFromHandle(
    properties: *mut Properties,
    handle: u64,
) -> c_int {
    let found = process()
        .and_then(|process| process.space.memory.get(&handle).copied().ok_or(INVALID_VALUE))
        .map(|memory| Properties {
            kind: 1,
            handle_types: memory.handle_types,
            location: Location { kind: 1, id: memory.device as c_int },
            metadata: std::ptr::null_mut(),
            compression: 0,
            rdma: 0,
            usage: 0,
            reserved: [0; 4],
        });
    // SAFETY: the caller's out-pointer.
    code(found.and_then(|found| unsafe { put(properties, found) }))
}

fn reserve(bytes: usize, alignment: usize) -> Answer<u64> {
    let mut process = process()?;
    let bytes = bytes as u64;
    let alignment = (alignment as u64).max(PAGE);
    if bytes == 0 || !bytes.is_multiple_of(PAGE) || !alignment.is_power_of_two() {
        return Err(INVALID_VALUE);
    }
    let space = &mut process.space;
    let at = space.next.max(0x1500_0000_0000).checked_next_multiple_of(alignment).ok_or(OUT_OF_MEMORY)?;
    space.next = at.checked_add(bytes + PAGE).ok_or(OUT_OF_MEMORY)?;
    space.reserved.insert(at, bytes);
    Ok(at)
}

/// The wished-for address is not looked at, as the vendor allows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAddressReserve(
    to: *mut u64,
    bytes: usize,
    alignment: usize,
    _wish: u64,
    flags: u64,
) -> c_int {
    if flags != 0 || to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's out-pointer.
    code(reserve(bytes, alignment).and_then(|address| unsafe { put(to, address) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAddressFree(address: u64, bytes: usize) -> c_int {
    code(process().and_then(|mut process| {
        let end = address.saturating_add(bytes as u64);
        let space = &mut process.space;
        if space.reserved.get(&address) != Some(&(bytes as u64))
            || space.mapped.range(address..end).next().is_some()
        {
            return Err(INVALID_VALUE);
        }
        space.reserved.remove(&address);
        Ok(())
    }))
}

fn map(address: u64, bytes: u64, offset: u64, handle: u64) -> Answer<()> {
    let mut process = process()?;
    let space = &mut process.space;
    let end = address.checked_add(bytes).ok_or(INVALID_VALUE)?;
    let inside =
        space.reserved.range(..=address).next_back().is_some_and(|(start, room)| end <= start + room);
    let memory = space.memory.get_mut(&handle).ok_or(INVALID_VALUE)?;
    let fits = bytes > 0 && bytes.is_multiple_of(PAGE) && offset == 0 && bytes <= memory.bytes;
    let before = space.mapped.range(..end).next_back().map(|(start, (size, _))| start + size);
    if !inside || !fits || before.is_some_and(|before| before > address) {
        return Err(INVALID_VALUE);
    }
    memory.holders += 1;
    space.mapped.insert(address, (bytes, handle));
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemMap(address: u64, bytes: usize, offset: usize, handle: u64, flags: u64) -> c_int {
    code(if flags == 0 { map(address, bytes as u64, offset as u64, handle) } else { Err(INVALID_VALUE) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemUnmap(address: u64, bytes: usize) -> c_int {
    code(process().and_then(|mut process| {
        let end = address.checked_add(bytes as u64).ok_or(INVALID_VALUE)?;
        let gone: Vec<_> = process.space.mapped.range(address..end).map(|(at, to)| (*at, *to)).collect();
        // Only whole mappings.
        if gone.is_empty() || gone.iter().map(|(_, (size, _))| size).sum::<u64>() != bytes as u64 {
            return Err(INVALID_VALUE);
        }
        for (at, (_, handle)) in gone {
            process.space.mapped.remove(&at);
            drop_holder(&mut process, handle)?;
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemSetAccess(
    address: u64,
    _bytes: usize,
    access: *const Access,
    count: usize,
) -> c_int {
    if access.is_null() || count == 0 {
        return INVALID_VALUE;
    }
    code(process().and_then(|process| process.space.around(address).map(|_| ()).ok_or(INVALID_VALUE)))
}

/// 3: reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAccess(flags: *mut u64, _location: *const Location, address: u64) -> c_int {
    let mapped = process().and_then(|process| process.space.around(address).ok_or(INVALID_VALUE));
    // SAFETY: the caller's out-pointer.
    code(mapped.and_then(|_| unsafe { put(flags, 3) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemRetainAllocationHandle(to: *mut u64, address: *mut c_void) -> c_int {
    let retained = process().and_then(|mut process| {
        let space = &mut process.space;
        let (start, (bytes, handle)) =
            space.mapped.range(..=address as u64).next_back().ok_or(INVALID_VALUE)?;
        if address as u64 - start >= *bytes {
            return Err(INVALID_VALUE);
        }
        let memory = space.memory.get_mut(handle).ok_or(INVALID_VALUE)?;
        memory.holders += 1;
        memory.handles += 1;
        Ok(*handle)
    });
    // SAFETY: the caller's out-pointer.
    code(retained.and_then(|handle| unsafe { put(to, handle) }))
}

/// What is behind a descriptor.
fn inode(descriptor: c_int) -> Option<u64> {
    std::fs::metadata(format!("/proc/self/fd/{descriptor}")).ok().map(|found| found.ino())
}

/// Lets go what descriptors held that the program has closed.
pub fn close_exports(process: &mut Process) -> Answer<()> {
    let all = std::mem::take(&mut process.space.exported);
    let (open, closed) = all.into_iter().partition(|(fd, known, _)| inode(*fd) == Some(*known));
    process.space.exported = open;
    let closed: Vec<(c_int, u64, u64)> = closed;
    closed.into_iter().try_for_each(|(_, _, handle)| drop_holder(process, handle))
}

fn export(handle: u64) -> Answer<c_int> {
    let mut process = process()?;
    let memory = *process.space.memory.get(&handle).ok_or(INVALID_VALUE)?;
    if memory.handle_types & DESCRIPTOR == 0 {
        return Err(INVALID_VALUE);
    }
    let Reply::Key(key) = process.ask(&Request::Export { address: memory.address })? else {
        return Err(INVALID_VALUE);
    };
    let (name, flags) = (c"standin-gpu-memory", libc::MFD_CLOEXEC);
    // SAFETY: a NUL-terminated name and a flag. By its number, for glibc has had the function since 2.27 only.
    let descriptor = unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) };
    let descriptor = c_int::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0);
    let descriptor = descriptor.ok_or(OPERATING_SYSTEM)?;
    // SAFETY: a descriptor that nobody else has.
    let mut file = unsafe { File::from_raw_fd(descriptor) };
    let gpu = process.number(memory.device)?;
    file.write_all(format!("{key} {gpu}").as_bytes()).map_err(|_| OPERATING_SYSTEM)?;
    let inode = inode(descriptor).ok_or(OPERATING_SYSTEM)?;
    close_exports(&mut process)?;
    process.space.exported.push((descriptor, inode, handle));
    if let Some(memory) = process.space.memory.get_mut(&handle) {
        memory.holders += 1;
    }
    Ok(file.into_raw_fd())
}

/// `handle` is the address of an `int` for descriptors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemExportToShareableHandle(
    to: *mut c_void,
    handle: u64,
    kind: c_int,
    flags: u64,
) -> c_int {
    if to.is_null() || flags != 0 {
        return INVALID_VALUE;
    }
    if kind != DESCRIPTOR {
        return NOT_SUPPORTED;
    }
    // SAFETY: the caller's out-pointer to an int.
    code(export(handle).and_then(|descriptor| unsafe { put(to.cast(), descriptor) }))
}

fn import(descriptor: c_int) -> Answer<u64> {
    let mut process = process()?;
    let mut text = String::new();
    // SAFETY: the caller's descriptor, which stays the caller's.
    let mut file = ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text)).map_err(|_| INVALID_VALUE)?;
    let (key, gpu) = text.split_once(' ').ok_or(INVALID_VALUE)?;
    let key = key.parse().map_err(|_| INVALID_VALUE)?;
    let gpu: u32 = gpu.parse().map_err(|_| INVALID_VALUE)?;
    let device = process.devices.iter().position(|device| device.number == gpu).ok_or(INVALID_DEVICE)?;
    let Reply::Address { address, bytes } = process.ask(&Request::Import { key })? else {
        return Err(INVALID_VALUE);
    };
    let mut all = process.space.memory.iter_mut();
    let own =
        all.find(|(_, memory)| memory.address == address && !memory.imported).map(|(handle, memory)| {
            memory.holders += 1;
            *handle
        });
    let handle = process.handle() as u64;
    let memory = Physical {
        device,
        bytes,
        address,
        imported: true,
        of: own,
        handle_types: DESCRIPTOR,
        tiles: false,
        holders: 1,
        handles: 1,
    };
    process.space.memory.insert(handle, memory);
    Ok(handle)
}

/// The descriptor is given as a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemImportFromShareableHandle(
    to: *mut u64,
    handle: *mut c_void,
    kind: c_int,
) -> c_int {
    if kind != DESCRIPTOR {
        return NOT_SUPPORTED;
    }
    let imported = c_int::try_from(handle as usize).map_err(|_| UNKNOWN).and_then(import);
    // SAFETY: the caller's out-pointer.
    code(imported.and_then(|handle| unsafe { put(to, handle) }))
}

/// Managed memory is on the device from the beginning.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPrefetchAsync(
    address: u64,
    _bytes: usize,
    _device: c_int,
    _stream: *mut c_void,
) -> c_int {
    code(managed(address))
}

/// CUDA 12.2: a place instead of a device.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPrefetchAsync_v2(
    address: u64,
    _bytes: usize,
    _location: Location,
    _flags: c_uint,
    _stream: *mut c_void,
) -> c_int {
    code(managed(address))
}

fn managed(address: u64) -> Answer<()> {
    let process = process()?;
    let (_, block) = process.memory.around(address).ok_or(INVALID_VALUE)?;
    if block.kind == Kind::Managed { Ok(()) } else { Err(INVALID_VALUE) }
}

/// Hints are taken and forgotten.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAdvise(address: u64, _bytes: usize, _advice: c_int, _device: c_int) -> c_int {
    code(managed(address))
}
