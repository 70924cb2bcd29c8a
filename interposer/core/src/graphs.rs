//! Memory of CUDA's graphs. A node that allocates, captured or added, takes nothing; a launch takes what the graph's nodes
//! ask for, and the driver keeps it for later launches until it is told to trim (the vendor's programming guide). So a
//! launch reserves the sum of the graph's nodes before the driver is asked, unless an earlier one took it already, and
//! after it what counts is what the driver says that it keeps.
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

/// What the nodes of a graph ask for on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Need {
    bytes: u64,
    /// The [`Kept::age`] in which it was last launched; 0 for never.
    launched: u64,
}

// SAFETY: numbers.
unsafe impl Plain for Need {}

/// What the driver keeps for graphs on one device.
struct Kept {
    /// What of it is charged.
    bytes: u64,
    /// Where: the claim, and the chip in it.
    part: Option<(usize, usize)>,
    /// Counts the times that the driver gave memory back which the next launches take anew.
    age: u64,
}

/// Greatest device number whose graphs are followed.
const REMEMBERED: usize = 64;

/// The graphs of a process that allocate.
pub(crate) struct Graphs {
    // A bit for each device that any of them has a node on. Without one nothing below is looked at.
    devices: AtomicU64,
    made: Pointers<Need>,
    ready: Pointers<Need>,
    kept: [Mutex<Kept>; REMEMBERED],
}

impl Graphs {
    pub(crate) fn new() -> Self {
        Self {
            devices: AtomicU64::new(0),
            made: Pointers::new(),
            ready: Pointers::new(),
            kept: [const { Mutex::new(Kept { bytes: 0, part: None, age: 1 }) }; REMEMBERED],
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

    fn age(&self, device: i32) -> Option<u64> {
        self.kept(device).map(|kept| kept.age)
    }

    /// More that a graph asks for.
    fn add(&self, graph: u64, device: i32, bytes: u64) {
        let key = key(graph, device);
        let before = self.made.get(key).map_or(0, |need| need.bytes);
        let _ = self.made.insert(key, Need { bytes: before.saturating_add(bytes), launched: 0 });
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

    /// An allocation was recorded.
    pub(crate) fn captured_node(&self, stream: u64, device: i32, bytes: u64) {
        if let Some(graph) = self.driver().and_then(|driver| driver.captured_graph(stream)) {
            self.graph_node(graph, device, bytes);
        }
    }

    /// A graph got a node that allocates.
    pub(crate) fn graph_node(&self, graph: u64, device: i32, bytes: u64) {
        let Some(device) = self.ordinal(device).filter(|device| (0..REMEMBERED as i32).contains(device))
        else {
            return;
        };
        self.graphs.devices.fetch_or(1 << device, Ordering::Relaxed);
        self.graphs.add(graph, device, bytes.checked_next_multiple_of(HUGE_UNIT).unwrap_or(u64::MAX));
    }

    /// A graph became a part of another.
    pub(crate) fn graph_moved(&self, child: u64, parent: u64) {
        for device in self.graphs.devices() {
            if let Some(need) = self.graphs.made.remove(key(child, device)) {
                self.graphs.add(parent, device, need.bytes);
            }
        }
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
        for device in self.graphs.devices() {
            let _ = self.graphs.made.remove(key(handle, device));
            let _ = self.graphs.ready.remove(key(handle, device));
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
            if self.graphs.age(device) == Some(need.launched) {
                continue;
            }
            let Some(ticket) = free.next() else { break };
            if self.take_for_graph(device, need.bytes, ticket) == Verdict::Denied {
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

    /// Reserves for a launch; where there is no room, what the driver keeps for graphs that do not run is given back
    /// first, as the driver itself would use it again.
    fn take_for_graph(&self, device: i32, bytes: u64, ticket: &mut Ticket) -> Verdict {
        let chip = self.chip(Vendor::Cuda, device);
        let mut verdict = self.take(chip, bytes, ticket);
        if verdict == Verdict::Denied && self.parts(chip).next().is_some() {
            self.relaxed(|| self.driver().map(|driver| driver.trim_graphs(device)));
            self.graph_kept(device, true);
            let _ = self.look_again(chip) | self.trim_pools(chip);
            verdict = self.take(chip, bytes, ticket);
            if verdict == Verdict::Denied {
                self.count_denied(chip);
            }
        }
        verdict
    }

    /// How a launch ended. One that was only brought to the device is launched with a reservation again.
    pub(crate) fn graph_settle(&self, exec: u64, tickets: &GraphTickets, ok: bool) {
        for device in self.graphs.devices() {
            let ticket = tickets.each.iter().find(|ticket| ticket.bytes != 0 && ticket.key == device as u64);
            self.follow(device, ticket, false);
            let key = key(exec, device);
            if ok && let (Some(need), Some(age)) = (self.graphs.ready.get(key), self.graphs.age(device)) {
                let _ = self.graphs.ready.insert(key, Need { launched: age, ..need });
            }
        }
    }

    /// The driver may keep another amount than before.
    pub(crate) fn graph_kept(&self, device: i32, trimmed: bool) {
        for one in self.graphs.devices().filter(|one| device < 0 || *one == device) {
            self.follow(one, None, trimmed);
        }
    }

    /// Charges what the driver keeps for graphs now; whether that is less than before.
    pub(crate) fn follow_graphs(&self) -> bool {
        self.graphs.devices().fold(false, |any, device| self.follow(device, None, false) | any)
    }

    /// The same for one device, of which a launch may have reserved what it took; whether it is less than before.
    fn follow(&self, device: i32, ticket: Option<&Ticket>, trimmed: bool) -> bool {
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
        let less = reserved < kept.bytes;
        kept.age += u64::from(less && trimmed);
        (kept.bytes, kept.part) = (reserved, Some(part));
        less
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
