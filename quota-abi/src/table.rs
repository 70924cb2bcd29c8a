//! The two function tables between the interposer's front end (`libvnpu.so`) and its back end
//! (`libvnpu_core.so`). Both are `repr(C)` and carry a version and a size; tables only ever grow at the end.

use core::ffi::{c_char, c_void};

/// Version of both tables. A back end of another version is not used.
pub const TABLE_VERSION: u32 = 8;

/// The back end's only exported function, with the terminating zero.
pub const CORE_ENTRY: &[u8] = b"vnpu_core_entry\0";

/// Type of [`CORE_ENTRY`]: hands over the front end's table (valid for ever) and gets the back end's (valid
/// for ever, or null when it refuses).
pub type CoreEntry = unsafe extern "C" fn(front: *const FrontTable) -> *const CoreTable;

/// What the back end may ask of the front end.
#[derive(Debug)]
#[repr(C)]
pub struct FrontTable {
    /// [`TABLE_VERSION`].
    pub version: u32,
    /// `size_of::<FrontTable>()` of the writer.
    pub size: u32,
    /// The vendor's own function of that name (zero-terminated), past our hooks; null when there is none.
    pub resolve: unsafe extern "C" fn(name: *const c_char) -> *mut c_void,
}

/// Whose runtime a call belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Vendor {
    /// CANN: devices are numbers that threads choose.
    Ascend = 0,
    /// The CUDA driver: devices have contexts, which threads make current.
    Cuda = 1,
}

impl Vendor {
    /// From the number that crossed the table; an unknown one is Ascend's.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Cuda,
            _ => Self::Ascend,
        }
    }

    /// The only code on which frameworks free their caches and try again: `ACL_ERROR_RT_MEMORY_ALLOCATION`,
    /// `CUDA_ERROR_OUT_OF_MEMORY`.
    pub const fn out_of_memory(self) -> i32 {
        match self {
            Self::Ascend => 207_001,
            Self::Cuda => 2,
        }
    }

    /// No loaded library has the function: `ACL_ERROR_RT_INTERNAL_ERROR`, `CUDA_ERROR_NOT_FOUND`.
    pub const fn no_function(self) -> i32 {
        match self {
            Self::Ascend => 507_899,
            Self::Cuda => 500,
        }
    }
}

/// Where memory comes from, and so with what it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Source {
    /// The device: it stays until it is freed.
    Device = 0,
    /// The device: it also goes with the context that the calling thread has current.
    Context = 1,
    /// The pool of a stream's device, in the stream's order.
    Stream = 2,
    /// A pool, in the order of a stream.
    Pool = 3,
}

impl Source {
    /// From the number that crossed the table; an unknown one is the device.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Context,
            2 => Self::Stream,
            3 => Self::Pool,
            _ => Self::Device,
        }
    }
}

/// A request for memory.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Request {
    /// Bytes that were asked for.
    pub size: u64,
    /// The stream in whose order memory is given; only looked at with a [`Source`] that has one.
    pub stream: u64,
    /// The pool; only looked at with [`Source::Pool`].
    pub pool: u64,
    /// [`Vendor`].
    pub vendor: u32,
    /// How the vendor's allocator rounds: of Ascend an `aclrtMemMallocPolicy`, of CUDA 0.
    pub policy: u32,
    /// The caller's number of the device, or [`CURRENT_DEVICE`].
    pub device: i32,
    /// [`Source`].
    pub source: u32,
}

/// What became of a request for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// Not ours to decide: call the vendor's function, settle nothing.
    Pass = 0,
    /// Reserved: call the vendor's function, then settle.
    Granted = 1,
    /// Refused: answer with the vendor's code for "out of memory".
    Denied = 2,
}

impl Verdict {
    /// From the number that crossed the table; an unknown one passes.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Granted,
            2 => Self::Denied,
            _ => Self::Pass,
        }
    }
}

/// One allocation or free on its way; the front end keeps it on the stack and reads nothing of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Ticket {
    /// Pointer or handle of a free.
    pub key: u64,
    /// Bytes charged.
    pub bytes: u64,
    /// Which incarnation of the process made it; another one (after a fork) settles nothing.
    pub incarnation: u64,
    /// The context that it goes with, or the pool that it is of; 0 for none.
    pub owner: u64,
    /// Bytes of it that were charged before, as what a pool kept.
    pub covered: u64,
    /// Bytes that were reserved besides, for what a pool may take more.
    pub beyond: u64,
    /// The graph that records it, where nothing is reserved; 0 for none.
    pub graph: u64,
    /// Index of the claim in this process.
    pub claim: u32,
    /// Index of the chip in the claim.
    pub device: u32,
}

/// Devices that a launch of a graph can reserve memory of; what it takes of further ones is charged after it.
pub const GRAPH_DEVICES: usize = 8;

/// What a launch of a graph reserved, by devices; the front end keeps it on the stack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GraphTickets {
    /// One for each device; unused ones have no bytes. The key is the device.
    pub each: [Ticket; GRAPH_DEVICES],
}

/// A context that may be about to end; the front end keeps it on the stack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Ending {
    /// The context.
    pub context: u64,
    /// What its memory is known by meanwhile; 0 where it has none.
    pub mark: u64,
}

/// What became of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Fate {
    /// It is there still.
    Stays = 0,
    /// It ended.
    Gone = 1,
    /// Others may have retained it: the vendor knows.
    Unknown = 2,
}

impl Fate {
    /// From the number that crossed the table; an unknown one ends nothing.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Gone,
            2 => Self::Unknown,
            _ => Self::Stays,
        }
    }
}

/// What a key is: numbers of different kinds may be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum KeyKind {
    /// A device address.
    Address = 0,
    /// A handle of physical memory.
    Handle = 1,
}

/// Which chip a question is about: one of the two names is enough.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ChipName {
    /// Number in the device node's name, or [`NO_PHYS_ID`].
    pub phys_id: u32,
    /// Identity, zero-terminated, or null.
    pub uuid: *const c_char,
}

/// [`ChipName::phys_id`] where only the identity is known.
pub const NO_PHYS_ID: u32 = u32::MAX;

/// What the process's claims have and use of one chip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ChipNumbers {
    /// Bytes of the quota.
    pub total: u64,
    /// Bytes that count against it, of all processes.
    pub used: u64,
    /// Thousandths of the chip's compute that the claims may use; 0 where they have no share of their own.
    pub share_milli: u32,
    /// Percent of that share (of the chip, where there is none) that was used lately, at most 100.
    pub utilization: u32,
    /// Processes that were written.
    pub processes: u32,
    /// Processes that there are.
    pub processes_total: u32,
}

/// What one process of a claim has on one chip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessNumbers {
    /// Bytes, of allocations and of the runtime's overhead as far as the agent knows it.
    pub bytes: u64,
    /// As the caller sees it: processes of other PID namespaces, whose numbers mean nothing here, are not told.
    pub pid: u32,
    /// 0.
    pub reserved: u32,
}

/// Whose a chip is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Ownership {
    /// No claim of this process is about it: the vendor's own answer stands.
    Foreign = 0,
    /// The numbers are the claims'.
    Claimed = 1,
    /// It may be a claim's and cannot be accounted: nothing of it can be used.
    Shut = 2,
}

impl Ownership {
    /// From the number that crossed the table; an unknown one is foreign.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Claimed,
            2 => Self::Shut,
            _ => Self::Foreign,
        }
    }
}

/// The device that the calling thread has current.
pub const CURRENT_DEVICE: i32 = -1;

/// No device: what is there is the host's memory.
pub const NO_DEVICE: i32 = -2;

/// What the front end asks of the back end.
#[derive(Debug)]
#[repr(C)]
pub struct CoreTable {
    /// [`TABLE_VERSION`].
    pub version: u32,
    /// `size_of::<CoreTable>()` of the writer.
    pub size: u32,
    /// Attaches the process to its claims if it is not.
    pub attach: unsafe extern "C" fn(),
    /// Reserves the bytes of a request, rounded as its vendor does; fills `ticket` when granted. Returns a
    /// [`Verdict`].
    pub reserve: unsafe extern "C" fn(request: *const Request, ticket: *mut Ticket) -> u32,
    /// Ends a granted reservation: `ok` not 0 remembers `key` of [`KeyKind`] `kind`, 0 drops it.
    pub settle: unsafe extern "C" fn(ticket: *const Ticket, kind: u32, key: u64, ok: u32),
    /// Forgets `key` before the vendor frees it, or one holder of a handle that has several; fills `ticket`. Returns
    /// a [`Forgotten`].
    pub forget: unsafe extern "C" fn(kind: u32, key: u64, vendor: u32, ticket: *mut Ticket) -> u32,
    /// Ends a free: `ok` not 0 gives the bytes back, 0 remembers the key again.
    pub forgotten: unsafe extern "C" fn(ticket: *const Ticket, kind: u32, ok: u32),
    /// Free and total bytes of `device` ([`CURRENT_DEVICE`] or the caller's number) as the quota has them; `free` may
    /// be null, and else holds what the vendor says, which is the most that is told. Returns whether they were written.
    pub memory_info:
        unsafe extern "C" fn(vendor: u32, device: i32, free: *mut usize, total: *mut usize) -> u32,
    /// Returns when the calling thread may launch on `stream`, in bounded time, with its `errno` as it was. What it returns, unless it is null, is
    /// handed to `launched` by the same thread when the vendor's function has returned.
    pub launch: unsafe extern "C" fn(vendor: u32, stream: *mut c_void, load: u32) -> *const c_void,
    /// A launch is in `stream`.
    pub launched: unsafe extern "C" fn(launch: *const c_void, stream: *mut c_void),
    /// The process is about to hold the primary context of `device` once less. Returns 1 if that ends it, as far as is
    /// known, else 0.
    pub released: unsafe extern "C" fn(vendor: u32, device: i32) -> u32,
    /// The program is about to destroy a stream, or to capture what it launches in one.
    pub mark_all: unsafe extern "C" fn(vendor: u32),
    /// The program is about to reset `device`, by its own number.
    pub drop_device: unsafe extern "C" fn(vendor: u32, device: i32),
    /// What the claims have and use of one chip: fills `numbers`, and `processes` up to `room` (null where nobody
    /// asks). Returns an [`Ownership`]; nothing is written unless it is [`Ownership::Claimed`].
    pub chip_numbers: unsafe extern "C" fn(
        name: *const ChipName,
        numbers: *mut ChipNumbers,
        processes: *mut ProcessNumbers,
        room: u32,
    ) -> u32,
    /// The program is about to destroy a context; with null any of them.
    pub drop_context: unsafe extern "C" fn(vendor: u32, context: *mut c_void),
    /// A handle of physical memory has one holder more.
    pub hold: unsafe extern "C" fn(handle: u64),
    /// `size` bytes at `address` are memory of `handle` from now on, and hold it.
    pub mapped: unsafe extern "C" fn(address: u64, size: u64, handle: u64),
    /// The program is about to unmap `size` bytes at `address`. Returns whether those are whole mappings that are known:
    /// then [`CoreTable::unmapped`] is to be told how it ended.
    pub unmap: unsafe extern "C" fn(address: u64, size: u64) -> u32,
    /// A program got a function of the vendor's that takes memory or launches, and that has no hook.
    pub unhooked: unsafe extern "C" fn(vendor: u32, name: *const c_char),
    /// Ends an unmapping: `ok` not 0 drops what the mappings hold, 0 has them again.
    pub unmapped: unsafe extern "C" fn(address: u64, size: u64, ok: u32),
    /// `context` is the primary one of `device`.
    pub primary: unsafe extern "C" fn(device: i32, context: *mut c_void),
    /// The program is about to end `context`, or the primary one of `device` where that is null. Fills `ending`; where
    /// its mark is not 0, [`CoreTable::ended`] is to be told the outcome.
    pub end: unsafe extern "C" fn(device: i32, context: *mut c_void, ending: *mut Ending),
    /// What became of it, as a [`Fate`]: what was allocated in it goes with it.
    pub ended: unsafe extern "C" fn(device: i32, ending: *const Ending, fate: u32),
    /// A memory pool has its memory on `device`: the caller's number, [`CURRENT_DEVICE`] where it is that of the stream
    /// which asks, or [`NO_DEVICE`].
    pub pool: unsafe extern "C" fn(pool: *mut c_void, device: i32),
    /// The program trimmed a pool or, null, waited: it may keep another amount of memory than before, as may all.
    pub pool_kept: unsafe extern "C" fn(pool: *mut c_void),
    /// What became of a pool after [`CoreTable::pool_end`], whose answer is `device`; `ok` not 0: it was destroyed, and is
    /// there until what it gave is freed.
    pub pool_ended: unsafe extern "C" fn(pool: *mut c_void, device: i32, ok: u32),
    /// A handle of physical memory was given out as the descriptor `fd`.
    pub exported: unsafe extern "C" fn(handle: u64, fd: i32),
    /// The program got a handle for memory that was given out, as the descriptor `fd` or, negative, in another way.
    pub imported: unsafe extern "C" fn(handle: u64, fd: i32),
    /// Whether what is put into `stream` now is only recorded, into a graph.
    pub captured: unsafe extern "C" fn(vendor: u32, stream: *mut c_void) -> u32,
    /// A graph got a node that allocates `bytes` on `device`, and gives `address`.
    pub graph_node: unsafe extern "C" fn(graph: *mut c_void, device: i32, bytes: u64, address: u64),
    /// A graph became a part of another one, and is no more by itself.
    pub graph_moved: unsafe extern "C" fn(child: *mut c_void, parent: *mut c_void),
    /// A graph was made ready to be launched, as `exec`.
    pub graph_ready: unsafe extern "C" fn(graph: *mut c_void, exec: *mut c_void),
    /// The program is about to destroy a graph, or one that is ready, or to record a graph anew.
    pub graph_gone: unsafe extern "C" fn(handle: *mut c_void),
    /// Reserves the memory that a launch of `exec` on `stream` takes; fills `tickets` when granted. Returns a
    /// [`Verdict`].
    pub graph_reserve:
        unsafe extern "C" fn(exec: *mut c_void, stream: *mut c_void, tickets: *mut GraphTickets) -> u32,
    /// Ends a granted launch; `ok` not 0: it was launched.
    pub graph_settle:
        unsafe extern "C" fn(exec: *mut c_void, stream: *mut c_void, tickets: *const GraphTickets, ok: u32),
    /// The driver may keep another amount of memory for graphs than before, on `device` or, where that is negative, on
    /// any.
    pub graph_kept: unsafe extern "C" fn(device: i32),
    /// A graph got a node that frees `address`; null: the graph that `stream` records.
    pub graph_freed: unsafe extern "C" fn(graph: *mut c_void, stream: *mut c_void, address: u64),
    /// The program is about to destroy a pool, of which nothing is asked from now on. Returns the device that is known of
    /// it, for [`CoreTable::pool_ended`].
    pub pool_end: unsafe extern "C" fn(pool: *mut c_void) -> i32,
}

/// What is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum LoadKind {
    /// A kernel, of which there are many alike.
    Kernel = 0,
    /// A graph, or a whole model: its length says nothing about kernels. It goes alone between two marks.
    Graph = 1,
}

impl LoadKind {
    /// From the number that crossed the table; an unknown one is a kernel's.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Graph,
            _ => Self::Kernel,
        }
    }
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Forgotten {
    /// It was not known.
    Unknown = 0,
    /// Its bytes come back with the vendor's success: settle the ticket.
    Last = 1,
    /// Others hold it still.
    Held = 2,
}

impl Forgotten {
    /// From the number that crossed the table; an unknown one says nothing.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Last,
            2 => Self::Held,
            _ => Self::Unknown,
        }
    }
}
