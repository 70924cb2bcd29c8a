//! Plain, pitched, managed and page-locked memory, and what is asked about it.
//!
//! What an allocation takes of the device: multiples of 512 bytes below 1 MiB, of 2 MiB from there on (unverified:
//! the vendor's driver cuts small ones from blocks of 2 MiB, which it keeps). Managed memory takes all of it at once,
//! as if the device had touched it.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_void};

use standin_protocol::{Reply, Request};

use crate::array::Array;
use crate::process::{Process, process};
use crate::status::{
    Answer, INVALID_DEVICE, INVALID_VALUE, NOT_FOUND, OUT_OF_MEMORY, UNKNOWN, code, put, put_if,
};

/// What the driver gives large allocations in, and `cuMemCreate`'s granularity.
pub const PAGE: u64 = 2 << 20;

const SMALL: u64 = 512;

/// From here on an allocation takes whole pages.
const LARGE: u64 = 1 << 20;

/// Where a block came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `cuMemAlloc` and its family.
    Plain,
    /// Also mapped on the host, at the same address.
    Managed,
    /// Of this pool.
    Pool(usize),
    /// Of a launched graph.
    Graph,
    /// Another process's.
    Imported,
}

/// One allocation that the program knows by its address.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    /// The context in which it was made.
    pub context: usize,
    /// Its GPU by the program's number.
    pub device: usize,
    /// As asked for.
    pub bytes: u64,
    /// The driver's name of what it takes of the device, if it takes anything by itself.
    pub taken: Option<u64>,
    /// Where it came from.
    pub kind: Kind,
}

/// The process's allocations.
#[derive(Default)]
pub struct Memory {
    /// By address.
    pub blocks: BTreeMap<u64, Block>,
    host: BTreeMap<usize, usize>,
    /// Arrays by handle, with their contexts.
    pub arrays: BTreeMap<usize, (usize, Array)>,
    /// Addresses of 32 bits given so far, for programs of before CUDA 3.2.
    low: u32,
    /// Addresses of blocks that have none of the driver's.
    own: u64,
}

impl Memory {
    /// Ends a context: what is to be freed at the driver.
    pub fn forget(&mut self, context: usize) -> Vec<u64> {
        let stays = |kind: Kind| matches!(kind, Kind::Pool(_) | Kind::Graph);
        let goes = |block: &Block| block.context == context && !stays(block.kind);
        let gone: Vec<(u64, Block)> =
            self.blocks.iter().filter(|(_, block)| goes(block)).map(|(at, block)| (*at, *block)).collect();
        for (at, block) in &gone {
            self.blocks.remove(at);
            unmap(*at, block);
        }
        let mut taken: Vec<u64> = gone.iter().filter_map(|(_, block)| block.taken).collect();
        let arrays = self.arrays.values().filter(|(of, _)| *of == context);
        taken.extend(arrays.filter_map(|(_, array)| array.taken));
        self.arrays.retain(|_, (of, _)| *of != context);
        taken
    }

    /// The block that an address lies in, and where it begins.
    pub fn around(&self, address: u64) -> Option<(u64, Block)> {
        let (start, block) = self.blocks.range(..=address).next_back()?;
        (address - start < block.bytes).then_some((*start, *block))
    }

    /// An address that nothing else has, for blocks whose memory has another name at the driver.
    pub fn own_address(&mut self, bytes: u64) -> u64 {
        let at = self.own.max(0x1600_0000_0000);
        self.own = at + bytes.next_multiple_of(PAGE) + PAGE;
        at
    }
}

/// What an allocation of this size takes of the device.
pub fn on_device(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(if bytes < LARGE { SMALL } else { PAGE })
}

fn unmap(at: u64, block: &Block) {
    if block.kind == Kind::Managed {
        // SAFETY: the mapping that `manage` made for this block, which is not in the table any more.
        unsafe { libc::munmap(at as *mut c_void, block.bytes as usize) };
    }
}

/// Takes memory of a device for itself.
pub fn take(process: &mut Process, device: usize, bytes: u64) -> Answer<u64> {
    crate::virtual_memory::close_exports(process)?;
    let phys_id = process.number(device)?;
    match process.ask(&Request::Allocate { phys_id, bytes })? {
        Reply::Address { address, .. } => Ok(address),
        Reply::OutOfMemory => Err(OUT_OF_MEMORY),
        _ => Err(INVALID_DEVICE),
    }
}

fn allocate(bytes: u64) -> Answer<(u64, Block)> {
    let mut process = process()?;
    let (context, found) = process.current()?;
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    process.forbid_in_capture()?;
    let taken = take(&mut process, found.device, on_device(bytes).ok_or(OUT_OF_MEMORY)?)?;
    let block = Block { context, device: found.device, bytes, taken: Some(taken), kind: Kind::Plain };
    process.memory.blocks.insert(taken, block);
    Ok((taken, block))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(to: *mut u64, bytes: usize) -> c_int {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's out-pointer.
    code(allocate(bytes as u64).and_then(|(address, _)| unsafe { put(to, address) }))
}

/// Before CUDA 3.2: addresses and sizes of 32 bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc(to: *mut u32, bytes: c_uint) -> c_int {
    let low = || {
        let (address, block) = allocate(u64::from(bytes))?;
        let mut process = process()?;
        let at = process.memory.low.max(0x1000_0000);
        process.memory.low = at.checked_add(bytes.next_multiple_of(4096)).ok_or(OUT_OF_MEMORY)?;
        process.memory.blocks.remove(&address);
        process.memory.blocks.insert(u64::from(at), block);
        Ok(at)
    };
    // SAFETY: the caller's out-pointer.
    code(low().and_then(|at| unsafe { put(to, at) }))
}

/// `element` is what the program reads at once: 4, 8 or 16 bytes. Rows begin at multiples of 512 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocPitch_v2(
    to: *mut u64,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: c_uint,
) -> c_int {
    let pitched = || {
        if to.is_null() || pitch.is_null() || ![4, 8, 16].contains(&element) {
            return Err(INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(SMALL as usize).ok_or(OUT_OF_MEMORY)?;
        let bytes = row.checked_mul(height).ok_or(OUT_OF_MEMORY)?;
        let (address, _) = allocate(bytes as u64)?;
        // SAFETY: the caller's out-pointers.
        unsafe { put(to, address).and_then(|()| put(pitch, row)) }
    };
    code(pitched())
}

fn manage(bytes: usize) -> Answer<u64> {
    let mut process = process()?;
    let (context, found) = process.current()?;
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    process.forbid_in_capture()?;
    let taken = take(
        &mut process,
        found.device,
        (bytes as u64).checked_next_multiple_of(PAGE).ok_or(OUT_OF_MEMORY)?,
    )?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh private mapping, at no given place.
    let mapped =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        process.ask(&Request::Free { address: taken })?;
        return Err(OUT_OF_MEMORY);
    }
    let block =
        Block { context, device: found.device, bytes: bytes as u64, taken: Some(taken), kind: Kind::Managed };
    process.memory.blocks.insert(mapped as u64, block);
    Ok(mapped as u64)
}

/// `flags`: 1 for every stream, 2 for the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocManaged(to: *mut u64, bytes: usize, flags: c_uint) -> c_int {
    if to.is_null() || !(1..=2).contains(&flags) {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's out-pointer.
    code(manage(bytes).and_then(|address| unsafe { put(to, address) }))
}

/// Gives a block back, whatever it came from.
pub fn release(process: &mut Process, address: u64) -> Answer<()> {
    let block = *process.memory.blocks.get(&address).ok_or(INVALID_VALUE)?;
    if block.kind == Kind::Imported {
        return Err(INVALID_VALUE);
    }
    process.memory.blocks.remove(&address);
    unmap(address, &block);
    if let Kind::Pool(pool) = block.kind {
        let gone = process.pools.put_back(pool, block.bytes);
        crate::pool::give(process, gone)?;
    }
    match block.taken {
        Some(taken) => process.ask(&Request::Free { address: taken }).map(|_| ()),
        None => Ok(()),
    }
}

fn free(address: u64) -> Answer<()> {
    let mut process = process()?;
    if address == 0 {
        return Ok(());
    }
    process.forbid_in_capture()?;
    process.current()?;
    release(&mut process, address)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> c_int {
    code(free(address))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree(address: u32) -> c_int {
    code(free(u64::from(address)))
}

fn info() -> Answer<(u64, u64)> {
    let mut process = process()?;
    let (_, phys_id) = process.current_device()?;
    crate::virtual_memory::close_exports(&mut process)?;
    match process.ask(&Request::MemoryInfo { phys_id })? {
        Reply::Memory { free, total } => Ok((free, total)),
        _ => Err(UNKNOWN),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    // SAFETY: the caller's out-pointers.
    code(
        info().and_then(|(left, all)| unsafe {
            put(free, left as usize).and_then(|()| put(total, all as usize))
        }),
    )
}

/// Before CUDA 3.2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo(free: *mut c_uint, total: *mut c_uint) -> c_int {
    let fits = |bytes| c_uint::try_from(bytes).unwrap_or(c_uint::MAX);
    // SAFETY: the caller's out-pointers.
    code(info().and_then(|(left, all)| unsafe { put(free, fits(left)).and_then(|()| put(total, fits(all))) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAddressRange_v2(base: *mut u64, size: *mut usize, address: u64) -> c_int {
    let found = process().and_then(|process| {
        process.memory.around(address).or_else(|| process.space.around(address)).ok_or(NOT_FOUND)
    });
    code(found.map(|(start, block)| {
        // SAFETY: the caller's out-pointers, which may be null.
        unsafe {
            put_if(base, start);
            put_if(size, block.bytes as usize);
        }
    }))
}

fn host(bytes: usize) -> Answer<*mut c_void> {
    let mut process = process()?;
    process.current()?;
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    process.forbid_in_capture()?;
    let mut pointer = std::ptr::null_mut();
    // SAFETY: a valid out-pointer and a power-of-two alignment.
    if unsafe { libc::posix_memalign(&mut pointer, 4096, bytes) } != 0 {
        return Err(OUT_OF_MEMORY);
    }
    process.memory.host.insert(pointer as usize, bytes);
    Ok(pointer)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(to: *mut *mut c_void, bytes: usize, _flags: c_uint) -> c_int {
    // SAFETY: the caller's out-pointer.
    code(host(bytes).and_then(|pointer| unsafe { put(to, pointer) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(to: *mut *mut c_void, bytes: usize) -> c_int {
    // SAFETY: same contract.
    unsafe { cuMemHostAlloc(to, bytes, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(pointer: *mut c_void) -> c_int {
    let known = process().and_then(|mut process| {
        process.forbid_in_capture()?;
        process.memory.host.remove(&(pointer as usize)).ok_or(INVALID_VALUE)
    });
    // SAFETY: `host` gave it, and it is not in the table any more.
    code(known.map(|_| unsafe { libc::free(pointer) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, _flags: c_uint) -> c_int {
    let current = process().and_then(|process| process.current());
    code(current.and_then(|_| if pointer.is_null() || bytes == 0 { Err(INVALID_VALUE) } else { Ok(()) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostUnregister(_pointer: *mut c_void) -> c_int {
    code(process().and_then(|process| process.current()).map(|_| ()))
}

/// With unified addresses it is the same number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetDevicePointer_v2(
    to: *mut u64,
    pointer: *mut c_void,
    _flags: c_uint,
) -> c_int {
    // SAFETY: the caller's out-pointer.
    code(process().and_then(|_| unsafe { put(to, pointer as u64) }))
}

/// Numbers of `CUpointer_attribute`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttribute(data: *mut c_void, attribute: c_int, address: u64) -> c_int {
    let get = || {
        let process = process()?;
        let found = process.memory.around(address).or_else(|| process.space.around(address));
        let on_host = process.memory.host.range(..=(address as usize)).next_back();
        let on_host = on_host.is_some_and(|(start, bytes)| address as usize - start < *bytes);
        if data.is_null() || (found.is_none() && !on_host) {
            return Err(INVALID_VALUE);
        }
        let (start, block) = found
            .unwrap_or((address, Block { context: 0, device: 0, bytes: 0, taken: None, kind: Kind::Plain }));
        // SAFETY: `data` has room for the attribute's type, as the vendor documents for each.
        unsafe {
            match attribute {
                // Context.
                1 => data.cast::<usize>().write(block.context),
                // Memory type: 1 is the host's, 2 the device's.
                2 => data.cast::<c_uint>().write(if on_host { 1 } else { 2 }),
                3 | 4 => data.cast::<u64>().write(address),
                // Managed.
                8 => data.cast::<bool>().write(block.kind == Kind::Managed),
                9 => data.cast::<c_int>().write(block.device as c_int),
                11 => data.cast::<u64>().write(start),
                12 => data.cast::<usize>().write(block.bytes as usize),
                13 => data.cast::<bool>().write(true),
                _ => return Err(INVALID_VALUE),
            }
        }
        Ok(())
    };
    code(get())
}
