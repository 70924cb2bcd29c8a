//! Memory of CUDA's graphs. A node that allocates, captured or added, takes nothing; a launch takes what the graph's nodes
//! ask for, and the driver keeps it for later launches until it is told to trim (the vendor's programming guide). So a
//! launch reserves what the graph has at most before the driver is asked, unless an earlier one took it already, and
//! after it what counts is what the driver says that it keeps.
//!
//! What a graph has at most is reckoned in the order in which its nodes were added: one that frees what the graph
//! allocated makes room for those after it, as the driver uses memory again within a graph. Where branches run at the
//! same time it may take more, which is charged after the launch.
//!
//! What remains: graphs that never run at the same time may share memory; where two of them do for the first time, what
//! the driver takes more is charged after the launch. The same goes for graphs that are brought to the device as they
//! are made ready. What the driver rounds sizes to is not documented; multiples of 2 MiB are reserved (unverified).

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use vnpu_quota_abi::charge::HUGE_UNIT;
use vnpu_quota_abi::ledger;
use vnpu_quota_abi::table::{GraphTickets, Ticket, Vendor, Verdict};

use crate::bounded;
use crate::pointers::{Plain, Pointers};
use crate::process::Process;
use crate::streams::PER_THREAD;

/// What the nodes of a graph ask for on one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Need {
    /// Bytes that they allocate and do not free.
    now: u64,
    /// The most that it was as nodes were added.
    peak: u64,
    /// What [`Kept::released`] was when it was last launched; 0 for never.
    launched: u64,
}

// SAFETY: numbers.
unsafe impl Plain for Need {}

impl Need {
    fn add(&mut self, more: Self) {
        self.peak = self.peak.max(self.now.saturating_add(more.peak));
        self.now = self.now.saturating_add(more.now);
    }

    /// What a launch reserves.
    fn bytes(&self) -> u64 {
        self.peak.checked_next_multiple_of(HUGE_UNIT).unwrap_or(u64::MAX)
    }
}

/// A node that allocates, and that its graph does not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node {
    graph: u64,
    bytes: u64,
    device: i32,
}

// SAFETY: numbers.
unsafe impl Plain for Node {}

/// What the driver keeps for graphs on one device.
struct Kept {
    /// What of it is charged.
    bytes: u64,
    /// Where: the claim, and the chip in it.
    part: Option<(usize, usize)>,
    /// Most of it that graphs have which were launched one after the other in this stream, and free what they allocate.
    shared: u64,
    stream: u64,
    /// Bytes that the driver has given back so far, and one: the next launches may take as much anew.
    released: u64,
}

impl Kept {
    const fn none() -> Self {
        Self { bytes: 0, part: None, shared: 0, stream: 0, released: 1 }
    }

    /// A graph was launched, which took memory `anew` or has it still.
    fn launched(&mut self, need: Need, stream: u64, anew: bool) {
        let own = if need.now == 0 { need.bytes() } else { 0 };
        let before = if self.is_the_last(stream) { self.shared } else { 0 };
        // What stays in use when a graph has run is in the place of those before it.
        let before = if need.now == 0 || !anew { before } else { before.saturating_sub(need.bytes()) };
        (self.shared, self.stream) = (before.max(own), stream);
    }

    /// What the next launch in a stream can have of it.
    fn shared_in(&self, stream: u64) -> u64 {
        if self.is_the_last(stream) { self.shared.min(self.bytes) } else { 0 }
    }

    /// Whether the last graph went into this stream, too. The per-thread stream is another one in every thread.
    const fn is_the_last(&self, stream: u64) -> bool {
        self.stream == stream && stream != PER_THREAD as u64
    }
}

/// Greatest device number whose graphs are followed.
const REMEMBERED: usize = 64;

/// The graphs of a process that allocate.
pub(crate) struct Graphs {
    // A bit for each device that any of them has a node on. Without one nothing below is looked at.
    devices: AtomicU64,
    // By the addresses that they give.
    nodes: Pointers<Node>,
    made: Pointers<Need>,
    ready: Pointers<Need>,
    kept: [Mutex<Kept>; REMEMBERED],
}

impl Graphs {
    pub(crate) fn new() -> Self {
        Self {
            devices: AtomicU64::new(0),
            nodes: Pointers::new(),
            made: Pointers::new(),
            ready: Pointers::new(),
            kept: [const { Mutex::new(Kept::none()) }; REMEMBERED],
        }
    }

    /// Whether a graph of this process ever allocated.
    pub(crate) fn any(&self) -> bool {
        self.devices.load(Ordering::Relaxed) != 0
    }

    /// The devices that graphs allocate on.
    fn devices(&self) -> impl Iterator<Item = i32> + use<> {
        let devices = self.devices.load(Ordering::Relaxed);
        (0..REMEMBERED as i32).filter(move |device| devices >> device & 1 != 0)
    }

    /// What is kept on a device; `None` when other threads are at it for too long: who comes next follows.
    fn kept(&self, device: i32) -> Option<MutexGuard<'_, Kept>> {
        bounded::lock(self.kept.get(usize::try_from(device).ok()?)?)
    }

    /// What a launch may take anew: all when it is the first one, else no more than the driver has given back since.
    fn wanted(&self, device: i32, need: Need) -> u64 {
        let since = |kept: MutexGuard<'_, Kept>| kept.released.saturating_sub(need.launched);
        if need.launched == 0 {
            need.bytes()
        } else {
            need.bytes().min(self.kept(device).map_or(u64::MAX, since))
        }
    }

    /// More that a graph asks for.
    fn add(&self, graph: u64, device: i32, more: Need) {
        self.made.update(key(graph, device), Need::default(), |need| need.add(more));
    }

    /// A graph frees memory. That of another one, or of none, is not the graph's.
    fn free(&self, graph: u64, address: u64) {
        let Some(Node { device, bytes, .. }) = self.nodes.get(address).filter(|node| node.graph == graph)
        else {
            return;
        };
        let _ = self.nodes.remove(address);
        let less = |need: &mut Need| need.now = need.now.saturating_sub(bytes);
        self.made.update(key(graph, device), Need::default(), less);
    }
}

/// Of a handle and a device: addresses of user space have 48 bits at most.
fn key(handle: u64, device: i32) -> u64 {
    handle | (device as u64) << 48
}

impl Process {
    /// Whether what is put into a stream now is only recorded.
    pub(crate) fn is_captured(&self, vendor: Vendor, stream: *mut c_void) -> bool {
        self.events(vendor).is_some_and(|events| events.is_capturing(stream))
    }

    /// An allocation is about to be recorded, which costs nothing: the ticket says of which graph it will be a node.
    pub(crate) fn captured_node(&self, stream: u64, device: i32, bytes: u64, ticket: &mut Ticket) -> Verdict {
        let graph = self.driver().and_then(|driver| driver.captured_graph(stream));
        let (Some(graph), Some(device)) = (graph, self.ordinal(device)) else { return Verdict::Pass };
        let Ok(device) = u32::try_from(device) else { return Verdict::Pass };
        *ticket = Ticket { graph, bytes, device, incarnation: self.incarnation, ..Ticket::default() };
        Verdict::Granted
    }

    /// How that ended.
    pub(crate) fn captured(&self, ticket: &Ticket, address: u64, ok: bool) {
        if ok && ticket.incarnation == self.incarnation {
            self.graph_node(ticket.graph, ticket.device as i32, ticket.bytes, address);
        }
    }

    /// A graph got a node that allocates, and gives this address.
    pub(crate) fn graph_node(&self, graph: u64, device: i32, bytes: u64, address: u64) {
        let Some(device) = self.ordinal(device).filter(|device| (0..REMEMBERED as i32).contains(device))
        else {
            return;
        };
        self.graphs.devices.fetch_or(1 << device, Ordering::Relaxed);
        self.graphs.add(graph, device, Need { now: bytes, peak: bytes, launched: 0 });
        let _ = self.graphs.nodes.insert(address, Node { graph, bytes, device });
    }

    /// A graph, or where that is 0 what `stream` records, got a node that frees.
    pub(crate) fn graph_freed(&self, graph: u64, stream: u64, address: u64) {
        if !self.graphs.any() {
            return;
        }
        let recorded = || self.driver().and_then(|driver| driver.captured_graph(stream));
        if let Some(graph) = Some(graph).filter(|graph| *graph != 0).or_else(recorded) {
            self.graphs.free(graph, address);
        }
    }

    /// A graph became a part of another.
    pub(crate) fn graph_moved(&self, child: u64, parent: u64) {
        for device in self.graphs.devices() {
            if let Some(need) = self.graphs.made.remove(key(child, device)) {
                self.graphs.add(parent, device, need);
            }
        }
        self.graphs.nodes.each(|node| {
            if node.graph == child {
                node.graph = parent;
            }
        });
    }

    /// A graph was made ready.
    pub(crate) fn graph_ready(&self, graph: u64, exec: u64) {
        for device in self.graphs.devices() {
            if let Some(need) = self.graphs.made.get(key(graph, device)) {
                let _ = self.graphs.ready.insert(key(exec, device), need);
            }
        }
        self.follow_graphs();
    }

    /// A graph, or one that is ready, is about to be destroyed.
    pub(crate) fn graph_gone(&self, handle: u64) {
        let mut made = false;
        for device in self.graphs.devices() {
            made |= self.graphs.made.remove(key(handle, device)).is_some();
            let _ = self.graphs.ready.remove(key(handle, device));
        }
        if made {
            self.graphs.nodes.take_where(|_, node| node.graph == handle, |_| ());
        }
    }

    /// Decides on a launch.
    pub(crate) fn graph_reserve(
        &self,
        exec: u64,
        stream: *mut c_void,
        tickets: &mut GraphTickets,
    ) -> Verdict {
        if !self.graphs.any() || self.is_captured(Vendor::Cuda, stream) {
            return Verdict::Pass;
        }
        let mut free = tickets.each.iter_mut();
        let mut verdict = Verdict::Granted;
        for device in self.graphs.devices() {
            let Some(need) = self.graphs.ready.get(key(exec, device)) else { continue };
            let wanted = self.graphs.wanted(device, need);
            if wanted == 0 {
                continue;
            }
            let Some(ticket) = free.next() else { break };
            if self.take_for_graph(device, wanted, stream as u64, ticket) == Verdict::Denied {
                verdict = Verdict::Denied;
                break;
            }
            ticket.key = device as u64;
        }
        if verdict == Verdict::Denied {
            tickets.each.iter().for_each(|ticket| self.abandon(ticket));
        }
        verdict
    }

    /// Reserves for a launch; where there is no room, what the driver keeps for the graphs before this one in its stream
    /// pays, for they have run by then, and what it keeps for graphs that do not run is given back, as the driver itself
    /// would use it again.
    fn take_for_graph(&self, device: i32, bytes: u64, stream: u64, ticket: &mut Ticket) -> Verdict {
        let chip = self.chip(Vendor::Cuda, device);
        let mut take = || {
            let verdict = self.take(chip, bytes, ticket);
            let shared = self.graphs.kept(device).map_or(0, |kept| kept.shared_in(stream));
            if verdict != Verdict::Denied || shared == 0 {
                return verdict;
            }
            self.take(chip, bytes.saturating_sub(shared), ticket)
        };
        let mut verdict = take();
        if verdict == Verdict::Denied && self.parts(chip).next().is_some() {
            self.relaxed(|| self.driver().map(|driver| driver.trim_graphs(device)));
            self.graph_kept(device);
            let _ = self.look_again(chip) | self.trim_pools(chip);
            verdict = take();
            if verdict == Verdict::Denied {
                self.count_denied(chip);
            }
        }
        verdict
    }

    /// How a launch ended. One that was only brought to the device is launched with a reservation again.
    pub(crate) fn graph_settle(&self, exec: u64, stream: u64, tickets: &GraphTickets, ok: bool) {
        for device in self.graphs.devices() {
            let ticket = tickets.each.iter().find(|ticket| ticket.bytes != 0 && ticket.key == device as u64);
            let key = key(exec, device);
            let need = self.graphs.ready.get(key);
            // Also where all of it was paid by what is kept.
            let anew = need.is_some_and(|need| self.graphs.wanted(device, need) > 0);
            self.follow(device, ticket);
            if ok
                && let Some(need) = need
                && let Some(mut kept) = self.graphs.kept(device)
            {
                kept.launched(need, stream, anew);
                let _ = self.graphs.ready.insert(key, Need { launched: kept.released, ..need });
            }
        }
    }

    /// The driver may keep another amount than before.
    pub(crate) fn graph_kept(&self, device: i32) {
        for one in self.graphs.devices().filter(|one| device < 0 || *one == device) {
            self.follow(one, None);
        }
    }

    /// Charges what the driver keeps for graphs now; whether that is less than before.
    pub(crate) fn follow_graphs(&self) -> bool {
        self.graphs.devices().fold(false, |any, device| self.follow(device, None) | any)
    }

    /// The same for one device, of which a launch may have reserved what it took; whether it is less than before.
    fn follow(&self, device: i32, ticket: Option<&Ticket>) -> bool {
        let kept = self.graphs.kept(device);
        let reserved = self.relaxed(|| self.driver().and_then(|driver| driver.kept_for_graphs(device)));
        let (Some(mut kept), Some(reserved)) = (kept, reserved) else {
            ticket.into_iter().for_each(|ticket| self.abandon(ticket));
            return false;
        };
        let of_ticket = ticket.map(|ticket| (ticket.claim as usize, ticket.device as usize));
        let first = || self.parts(self.chip(Vendor::Cuda, device)).next();
        let Some(part) = kept.part.or(of_ticket).or_else(first) else { return false };
        let granted = ticket.filter(|_| of_ticket == Some(part)).map_or(0, |ticket| ticket.bytes);
        let Some(cell) = self.claim(part.0).and_then(|claim| claim.cell(part.1)) else { return false };
        if granted == 0 {
            ticket.into_iter().for_each(|ticket| self.abandon(ticket));
        }
        // Never less on the way than at either end.
        let grown = reserved.saturating_sub(kept.bytes);
        ledger::commit(cell, grown.min(granted));
        ledger::charge(cell, grown.saturating_sub(granted));
        ledger::abandon(cell, granted.saturating_sub(grown));
        ledger::release(cell, kept.bytes.saturating_sub(reserved));
        let less = kept.bytes.saturating_sub(reserved);
        kept.released = kept.released.saturating_add(less);
        (kept.bytes, kept.part) = (reserved, Some(part));
        less != 0
    }

    fn abandon(&self, ticket: &Ticket) {
        if let Some(cell) = self.cell_of(ticket) {
            ledger::abandon(cell, ticket.bytes);
        }
    }

    /// As a thread that may ask while streams are in capture.
    pub(crate) fn relaxed<T>(&self, act: impl FnOnce() -> T) -> T {
        match self.events(Vendor::Cuda) {
            Some(events) => events.relaxed(act),
            None => act(),
        }
    }
}
