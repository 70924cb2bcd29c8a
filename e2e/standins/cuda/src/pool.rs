//! Memory pools and allocation in stream order. A pool reserves memory of its device in pieces of 32 MiB (2 MiB where
//! so much is not left; both unverified), gives of it in multiples of 512 bytes, and gives unused pieces above its
//! threshold back when the program waits for the device, or at a trim.
//!
//! What is freed in the order of a stream that has not come to it yet is for blocks of that stream alone, unless the device
//! has no more memory: then others take it as well and wait (`CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES`).

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::time::Duration;

use standin_protocol::{Reply, Request};

use crate::graph::{Allocation, Step};
use crate::memory::{Block, Kind, PAGE, release};
use crate::process::{Process, pointer, process};
use crate::status::{Answer, INVALID_DEVICE, INVALID_VALUE, OUT_OF_MEMORY, code, put};
use crate::stream::{At, Key, done, resolve, tail_of};

const PIECE: u64 = 32 << 20;

const SMALL: u64 = 512;

/// Numbers of `CUmemPool_attribute`.
const RELEASE_THRESHOLD: c_int = 4;
const RESERVED_CURRENT: c_int = 5;
const RESERVED_HIGH: c_int = 6;
const USED_CURRENT: c_int = 7;
const USED_HIGH: c_int = 8;

/// The device of pools on the host, whose memory is not modelled.
const HOST: usize = usize::MAX;

#[derive(Debug)]
struct Pool {
    device: usize,
    /// The driver's pieces: name and bytes.
    pieces: Vec<(u64, u64)>,
    used: u64,
    /// Freed, but not before a stream has come to it: the stream, how far the device's queue is then, and bytes.
    pending: Vec<(Key, u64, u64)>,
    used_high: u64,
    reserved_high: u64,
    threshold: u64,
    /// Whether reuse is allowed: attributes 1 to 3.
    reuse: [c_int; 3],
    /// Most bytes, 0 for no limit.
    most: u64,
    /// Destroyed: it ends with its last block.
    doomed: bool,
}

impl Pool {
    fn of(device: usize, most: u64) -> Self {
        let none = (0, 0, 0);
        let (used, used_high, reserved_high) = none;
        Self {
            device,
            pieces: Vec::new(),
            used,
            pending: Vec::new(),
            used_high,
            reserved_high,
            threshold: 0,
            reuse: [1; 3],
            most,
            doomed: false,
        }
    }

    fn reserved(&self) -> u64 {
        self.pieces.iter().map(|(_, bytes)| bytes).sum()
    }

    /// What is free in the order of other streams only, with so much of the device's queue done.
    fn pending(&mut self, done: u64, stream: Option<Key>) -> u64 {
        self.pending.retain(|(_, until, _)| *until > done);
        self.pending.iter().filter(|(key, ..)| Some(*key) != stream).map(|(.., bytes)| bytes).sum()
    }

    /// A block of a stream lies in what is pending, as far as there is nothing else: in the stream's own first.
    fn reuse(&mut self, stream: Key) {
        let pending: u64 = self.pending.iter().map(|(.., bytes)| bytes).sum();
        let mut reused = (self.used + pending).saturating_sub(self.reserved());
        self.pending.sort_by_key(|(key, ..)| *key != stream);
        for (.., bytes) in &mut self.pending {
            let here = reused.min(*bytes);
            *bytes -= here;
            reused -= here;
        }
    }

    /// Takes out unused pieces, while what stays is at least `keep`; the driver's names of them.
    fn shrink(&mut self, keep: u64, done: u64) -> Vec<u64> {
        let mut gone = Vec::new();
        let used = self.used + self.pending(done, None);
        while let Some((address, bytes)) = self.pieces.last().copied() {
            if self.reserved() - bytes < used.max(keep) {
                break;
            }
            self.pieces.pop();
            gone.push(address);
        }
        gone
    }
}

/// The process's pools.
#[derive(Default)]
pub struct Pools {
    pools: BTreeMap<usize, Pool>,
    /// The default and the chosen pool of each device.
    defaults: BTreeMap<usize, usize>,
    chosen: BTreeMap<usize, usize>,
}

impl Pools {
    /// Whether a pool of the device has memory.
    pub fn reserves(&self, device: usize) -> bool {
        self.pools.values().any(|pool| pool.device == device && !pool.pieces.is_empty())
    }

    /// A block of a pool is free again; the pool keeps the memory, unless it was destroyed: then what is to be freed at
    /// the driver.
    pub fn put_back(&mut self, handle: usize, bytes: u64) -> Vec<u64> {
        let Some(pool) = self.pools.get_mut(&handle) else { return Vec::new() };
        pool.used = pool.used.saturating_sub(bytes.next_multiple_of(SMALL));
        let ends = pool.doomed && pool.used == 0;
        let gone = if ends { self.pools.remove(&handle) } else { None };
        gone.map_or_else(Vec::new, |gone| gone.pieces.into_iter().map(|(address, _)| address).collect())
    }

    /// A pool that was not destroyed.
    fn there(&mut self, pool: *mut c_void) -> Answer<&mut Pool> {
        self.pools.get_mut(&(pool as usize)).filter(|pool| !pool.doomed).ok_or(INVALID_VALUE)
    }

    /// The same, for calls after whose pool the vendor's driver is not known to look: one that was destroyed ends the
    /// process.
    fn asked(&mut self, pool: *mut c_void) -> &mut Pool {
        self.there(pool).unwrap_or_else(|_| {
            eprintln!("libcuda (stand-in): a call on a pool that is not there");
            std::process::abort()
        })
    }

    /// What the pools of a device do not need above their thresholds: the driver's names of it.
    pub fn shrink_unused(&mut self, device: usize, done: u64) -> Vec<u64> {
        let pools = self.pools.values_mut().filter(|pool| pool.device == device);
        pools.flat_map(|pool| pool.shrink(pool.threshold, done)).collect()
    }
}

fn default_pool(process: &mut Process, device: usize) -> usize {
    if let Some(pool) = process.pools.defaults.get(&device) {
        return *pool;
    }
    let handle = process.handle();
    process.pools.pools.insert(handle, Pool::of(device, 0));
    process.pools.defaults.insert(device, handle);
    handle
}

fn grow(process: &mut Process, handle: usize, bytes: u64, stream: Key) -> Answer<()> {
    let device = process.pools.pools.get(&handle).ok_or(INVALID_VALUE)?.device;
    let done = if device == HOST { 0 } else { done(process, device)? };
    let pool = process.pools.pools.get_mut(&handle).ok_or(INVALID_VALUE)?;
    let least = (pool.used + bytes).saturating_sub(pool.reserved());
    let needed = (pool.used + pool.pending(done, Some(stream)) + bytes).saturating_sub(pool.reserved());
    if pool.most > 0 && pool.used + bytes > pool.most {
        return Err(OUT_OF_MEMORY);
    }
    if needed == 0 || pool.device == HOST {
        return Ok(());
    }
    let device = pool.device;
    let phys_id = process.number(device)?;
    for size in [needed.next_multiple_of(PIECE), needed.next_multiple_of(PAGE)] {
        if let Reply::Address { address, bytes } = process.ask(&Request::Allocate { phys_id, bytes: size })? {
            let pool = process.pools.pools.get_mut(&handle).ok_or(INVALID_VALUE)?;
            pool.pieces.push((address, bytes));
            pool.reserved_high = pool.reserved_high.max(pool.reserved());
            return Ok(());
        }
    }
    // Waits for another stream, if that has what is needed.
    if least == 0 { Ok(()) } else { Err(OUT_OF_MEMORY) }
}

fn allocate(bytes: usize, pool: Option<*mut c_void>, stream: *mut c_void, per_thread: bool) -> Answer<u64> {
    let mut process = process()?;
    let at = resolve(&process, stream as usize, per_thread)?;
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    let bytes = bytes as u64;
    let handle = match pool {
        Some(pool) => pool as usize,
        None => match process.pools.chosen.get(&at.device) {
            Some(chosen) => *chosen,
            None => default_pool(&mut process, at.device),
        },
    };
    let device = process.pools.there(pointer(handle))?.device;
    if let Some(address) = record_allocation(&mut process, &at, device, bytes) {
        return address;
    }
    process.forbid_implicit(&at)?;
    let size = bytes.checked_next_multiple_of(SMALL).ok_or(OUT_OF_MEMORY)?;
    grow(&mut process, handle, size, at.key)?;
    let address = process.memory.own_address(bytes);
    let found = process.pools.pools.get_mut(&handle).ok_or(INVALID_VALUE)?;
    found.used += size;
    found.reuse(at.key);
    found.used_high = found.used_high.max(found.used);
    let device = found.device;
    let block = Block { context: at.context, device, bytes, taken: None, kind: Kind::Pool(handle) };
    process.memory.blocks.insert(address, block);
    Ok(address)
}

/// In a capture nothing is taken yet: it becomes a node of the graph, which takes the memory when it is launched.
fn record_allocation(process: &mut Process, at: &At, device: usize, bytes: u64) -> Option<Answer<u64>> {
    let again = process.captures.again(at.key).and_then(|(graph, index)| {
        process.graphs.made.get(&graph)?.allocations().nth(index).map(|before| before.address)
    });
    let address = again.unwrap_or_else(|| process.memory.own_address(bytes));
    let graph = process.captures.record(at.key)?;
    Some(graph.map(|graph| {
        graph.memory.push(Step::Take(Allocation { address, bytes, device }));
        address
    }))
}

fn free(address: u64, stream: *mut c_void, per_thread: bool) -> Answer<()> {
    let mut process = process()?;
    let at = resolve(&process, stream as usize, per_thread)?;
    if let Some(graph) = process.captures.record(at.key) {
        graph?.memory.push(Step::Give(address));
        return Ok(());
    }
    process.forbid_implicit(&at)?;
    if let Some(Block { kind: Kind::Pool(handle), bytes, .. }) = process.memory.blocks.get(&address).copied()
    {
        let until = tail_of(&process, &at);
        if let Some(pool) = process.pools.pools.get_mut(&handle) {
            pool.pending.push((at.key, until, bytes.next_multiple_of(SMALL)));
        }
    }
    release(&mut process, address)
}

/// Milliseconds that a call takes longer than what it does, as a variable of the environment says, so that tests see what
/// others do meanwhile.
fn pause(variable: &str) {
    let wished = std::env::var(variable).ok().and_then(|wished| wished.parse().ok());
    if let Some(wished) = wished {
        std::thread::sleep(Duration::from_millis(wished));
    }
}

macro_rules! allocators {
    ($($allocate:ident, $from_pool:ident, $free:ident, $per_thread:literal;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $allocate(to: *mut u64, bytes: usize, stream: *mut c_void) -> c_int {
            let address = allocate(bytes, None, stream, $per_thread);
            // SAFETY: the caller's out-pointer.
            code(address.and_then(|address| unsafe { put(to, address) }))
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $from_pool(
            to: *mut u64,
            bytes: usize,
            pool: *mut c_void,
            stream: *mut c_void,
        ) -> c_int {
            let address = allocate(bytes, Some(pool), stream, $per_thread);
            pause("STANDIN_POOL_ALLOCATION");
            // SAFETY: the caller's out-pointer.
            code(address.and_then(|address| unsafe { put(to, address) }))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $free(address: u64, stream: *mut c_void) -> c_int {
            code(free(address, stream, $per_thread))
        }
    )*};
}

allocators! {
    cuMemAllocAsync, cuMemAllocFromPoolAsync, cuMemFreeAsync, false;
    cuMemAllocAsync_ptsz, cuMemAllocFromPoolAsync_ptsz, cuMemFreeAsync_ptsz, true;
}

/// `CUmemLocation`: 1 is a device, 2 the host.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Location {
    /// What `id` names.
    pub kind: c_int,
    /// The device.
    pub id: c_int,
}

/// `CUmemPoolProps`.
#[repr(C)]
pub struct PoolProperties {
    allocation_type: c_int,
    handle_types: c_int,
    /// Where its memory is.
    pub location: Location,
    security: *mut c_void,
    most: usize,
    usage: u16,
    reserved: [u8; 54],
}

fn create(properties: &PoolProperties) -> Answer<usize> {
    let mut process = process()?;
    // Pinned memory on a device or the host; other places are not modelled.
    let device = match (properties.allocation_type, properties.location.kind) {
        (1, 1) => {
            process.device(properties.location.id)?;
            properties.location.id as usize
        }
        (1, 2) => HOST,
        _ => return Err(INVALID_VALUE),
    };
    let handle = process.handle();
    let pool = Pool::of(device, properties.most as u64);
    process.pools.pools.insert(handle, pool);
    Ok(handle)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolCreate(pool: *mut *mut c_void, properties: *const PoolProperties) -> c_int {
    // SAFETY: null, or the caller's structure.
    let Some(properties) = (unsafe { properties.as_ref() }) else { return INVALID_VALUE };
    // SAFETY: the caller's out-pointer.
    code(create(properties).and_then(|handle| unsafe { put(pool, pointer(handle)) }))
}

/// Blocks that are still in use stay so, and the pool's memory with them.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolDestroy(pool: *mut c_void) -> c_int {
    let destroy = || {
        let mut process = process()?;
        let handle = pool as usize;
        if process.pools.defaults.values().any(|default| *default == handle) {
            return Err(INVALID_VALUE);
        }
        process.pools.there(pool)?.doomed = true;
        process.pools.chosen.retain(|_, chosen| *chosen != handle);
        let gone = process.pools.put_back(handle, 0);
        give(&mut process, gone)
    };
    let destroyed = destroy();
    pause("STANDIN_POOL_END");
    code(destroyed)
}

/// Gives memory back to the driver.
pub fn give(process: &mut Process, addresses: Vec<u64>) -> Answer<()> {
    addresses.into_iter().try_for_each(|address| process.ask(&Request::Free { address }).map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(pool: *mut c_void, keep: usize) -> c_int {
    code(process().and_then(|mut process| {
        let device = process.pools.asked(pool).device;
        let done = if device == HOST { 0 } else { done(&mut process, device)? };
        let gone = process.pools.asked(pool).shrink(keep as u64, done);
        give(&mut process, gone)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolGetAttribute(
    pool: *mut c_void,
    attribute: c_int,
    value: *mut c_void,
) -> c_int {
    let get = || {
        let mut process = process()?;
        let pool = process.pools.asked(pool);
        if let 1..=3 = attribute {
            let allowed = pool.reuse.get(attribute as usize - 1).copied().ok_or(INVALID_VALUE)?;
            // SAFETY: the caller's out-pointer to an int.
            return unsafe { put(value.cast(), allowed) };
        }
        let number = match attribute {
            RELEASE_THRESHOLD => pool.threshold,
            RESERVED_CURRENT => pool.reserved(),
            RESERVED_HIGH => pool.reserved_high,
            USED_CURRENT => pool.used,
            USED_HIGH => pool.used_high,
            _ => return Err(INVALID_VALUE),
        };
        // SAFETY: the caller's out-pointer to 64 bits.
        unsafe { put(value.cast(), number) }
    };
    code(get())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolSetAttribute(
    pool: *mut c_void,
    attribute: c_int,
    value: *mut c_void,
) -> c_int {
    let set = || {
        let mut process = process()?;
        let pool = process.pools.there(pool)?;
        if value.is_null() {
            return Err(INVALID_VALUE);
        }
        if let 1..=3 = attribute {
            // SAFETY: the caller's pointer to an int.
            let allowed = unsafe { value.cast::<c_int>().read() };
            *pool.reuse.get_mut(attribute as usize - 1).ok_or(INVALID_VALUE)? = allowed;
            return Ok(());
        }
        // SAFETY: the caller's pointer to 64 bits.
        let number = unsafe { value.cast::<u64>().read() };
        match (attribute, number) {
            (RELEASE_THRESHOLD, _) => pool.threshold = number,
            // High marks can be set back, to 0 only.
            (RESERVED_HIGH, 0) => pool.reserved_high = pool.reserved(),
            (USED_HIGH, 0) => pool.used_high = pool.used,
            _ => return Err(INVALID_VALUE),
        }
        Ok(())
    };
    code(set())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut *mut c_void, device: c_int) -> c_int {
    let found = process().and_then(|mut process| {
        process.device(device)?;
        Ok(default_pool(&mut process, device as usize))
    });
    // SAFETY: the caller's out-pointer.
    code(found.and_then(|handle| unsafe { put(pool, pointer(handle)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetMemPool(pool: *mut *mut c_void, device: c_int) -> c_int {
    let found = process().and_then(|mut process| {
        process.device(device)?;
        let device = device as usize;
        let chosen = process.pools.chosen.get(&device).copied();
        Ok(chosen.unwrap_or_else(|| default_pool(&mut process, device)))
    });
    // SAFETY: the caller's out-pointer.
    code(found.and_then(|handle| unsafe { put(pool, pointer(handle)) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceSetMemPool(device: c_int, pool: *mut c_void) -> c_int {
    code(process().and_then(|mut process| {
        process.device(device)?;
        let (device, handle) = (device as usize, pool as usize);
        let found = process.pools.pools.get(&handle).ok_or(INVALID_VALUE)?;
        if found.device != device {
            return Err(INVALID_DEVICE);
        }
        process.pools.chosen.insert(device, handle);
        Ok(())
    }))
}

/// Access of other devices to a pool is taken and forgotten.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolSetAccess(pool: *mut c_void, _map: *const c_void, _count: usize) -> c_int {
    code(
        process()
            .and_then(|process| process.pools.pools.get(&(pool as usize)).map(|_| ()).ok_or(INVALID_VALUE)),
    )
}
