//! Launches of this process: which claim's lane each takes, and the helper thread that tends the lanes while nobody
//! launches.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::thread::Thread;
use std::time::Duration;

use vnpu_quota_abi::gate::Load;
use vnpu_quota_abi::line::{Mode, Terms};
use vnpu_quota_abi::table::{CURRENT_DEVICE, Vendor};

use crate::claim::Claim;
use crate::events::{Events, Site};
use crate::lane::Lane;
use crate::once::Once;
use crate::process::Process;
use crate::{clock, log};

/// What a process needs to launch.
pub(crate) struct Compute {
    ascend: Once<Events>,
    cuda: Once<Events>,
    helper: Once<Thread>,
    /// Whether the helper thread sleeps until it is called.
    resting: AtomicBool,
    /// The lane of all launches at a vendor's runtime, where there is one chip in all.
    only: [AtomicPtr<Lane>; 2],
}

impl Compute {
    pub(crate) const fn new() -> Self {
        Self {
            ascend: Once::new(),
            cuda: Once::new(),
            helper: Once::new(),
            resting: AtomicBool::new(false),
            only: [const { AtomicPtr::new(std::ptr::null_mut()) }; 2],
        }
    }

    fn of(&self, vendor: Vendor) -> &Once<Events> {
        match vendor {
            Vendor::Ascend => &self.ascend,
            Vendor::Cuda => &self.cuda,
        }
    }
}

/// The helper thread's stack: it formats one message at most.
const STACK: usize = 128 * 1024;

/// The helper sleeps at most so long while it has work: a lease is a few milliseconds.
const LONGEST_NAP: u64 = 1_000_000;

impl Process {
    /// A launch that needs no decision, and no look for its lane either: the lane, if there is such a launch.
    pub(crate) fn launch_at_once(&self, vendor: Vendor) -> Option<&Lane> {
        let only = self.compute.only.get(vendor as usize)?.load(Ordering::Acquire);
        // SAFETY: null, or a lane of this process, which stays for as long as it does.
        unsafe { only.as_ref() }.filter(|lane| lane.enter())
    }

    /// Returns when the calling thread may launch on `stream`, in bounded time. The lane, if it wants to know when the
    /// launch has been made.
    pub(crate) fn launch(
        &'static self,
        vendor: Vendor,
        stream: *mut c_void,
        load: Load,
    ) -> Option<&'static Lane> {
        let (claim, device, lane) = self.lane(vendor)?;
        let admission = lane.admit(stream, load, self.events(vendor)?, || terms(claim, device));
        if admission.decided {
            claim.count_compute(device, lane);
            self.call_helper();
        }
        admission.entered.then_some(lane)
    }

    /// The program is about to destroy a stream, or to capture what it launches in one.
    pub(crate) fn mark_all(&self, vendor: Vendor) {
        let Some(events) = self.compute.of(vendor).get() else { return };
        for (_, _, lane) in self.lanes_of(vendor) {
            lane.mark_all(events);
        }
    }

    /// The program is about to reset `device`.
    pub(crate) fn drop_device(&self, vendor: Vendor, device: i32) {
        let Some(events) = self.compute.of(vendor).get() else { return };
        let chip = self.chip(vendor, device);
        for (index, device) in self.parts(chip) {
            if let Some(claim) = self.claim(index)
                && let (Some(lane), Some(terms)) = (claim.open_lane(device), terms(claim, device))
            {
                lane.drop_site(None, events, &terms);
            }
        }
    }

    /// The program is about to destroy a context, with which streams and events go; all of them where it is not said
    /// which (null).
    pub(crate) fn drop_context(&self, vendor: Vendor, context: *mut c_void) {
        let Some(events) = self.compute.of(vendor).get() else { return };
        let site = (!context.is_null()).then_some(Site(context as usize));
        for (claim, device, lane) in self.lanes_of(vendor) {
            if let Some(terms) = terms(claim, device) {
                lane.drop_site(site, events, &terms);
            }
        }
    }

    /// The lanes that have been launched on.
    fn lanes(&self) -> impl Iterator<Item = (&Claim, usize, &Lane)> {
        let all = self.claims().flat_map(|claim| (0..claim.chips().len()).map(move |d| (claim, d)));
        all.filter_map(|(claim, d)| Some((claim, d, claim.open_lane(d)?)))
    }

    /// As [`Self::lanes`], of one vendor's chips.
    fn lanes_of(&self, vendor: Vendor) -> impl Iterator<Item = (&Claim, usize, &Lane)> {
        self.lanes().filter(move |(claim, d, _)| claim.chips().get(*d).is_some_and(|c| c.vendor() == vendor))
    }

    /// The lane of the chip that the calling thread has current.
    fn lane(&'static self, vendor: Vendor) -> Option<(&'static Claim, usize, &'static Lane)> {
        // One chip in all: nothing to ask the runtime for.
        if let [place] = self.places()
            && let Some([only]) = place.chips()
            && only.vendor() == vendor
            && self.sees_one(vendor)
        {
            let claim = place.claim()?;
            let lane = claim.lane(0)?;
            if let Some(only) = self.compute.only.get(vendor as usize) {
                only.store(std::ptr::from_ref(lane).cast_mut(), Ordering::Release);
            }
            return Some((claim, 0, lane));
        }
        let chip = self.chip(vendor, CURRENT_DEVICE);
        let (index, device) = self.parts(chip).next()?;
        let claim = self.claim(index)?;
        Some((claim, device, claim.lane(device)?))
    }

    /// The events of a vendor's runtime.
    pub(crate) fn events(&self, vendor: Vendor) -> Option<&Events> {
        let events = self.compute.of(vendor);
        if let Some(events) = events.get() {
            return Some(events);
        }
        let Some(found) = Events::find(self.front, vendor) else {
            log::once(
                log::Kind::Compute,
                "this runtime has no events that can be read; compute is not limited in this process",
            );
            return None;
        };
        Some(events.get_or_init(|| found))
    }

    /// Wakes the helper thread, or starts it.
    fn call_helper(&'static self) {
        if let Some(helper) = self.compute.helper.get() {
            if self.compute.resting.swap(false, Ordering::AcqRel) {
                helper.unpark();
            }
            return;
        }
        self.compute.helper.get_or_init(|| {
            // The program's signals are for its own threads.
            let masked = Masked::all();
            let started = std::thread::Builder::new()
                .name("vnpu".to_owned())
                .stack_size(STACK)
                .spawn(move || self.help());
            drop(masked);
            started.map_or_else(
                |error| {
                    log::once(
                        log::Kind::Compute,
                        &format!(
                            "no helper thread ({error}); an idle process keeps its lease until it is late"
                        ),
                    );
                    std::thread::current()
                },
                |handle| handle.thread().clone(),
            )
        });
    }

    /// The helper thread.
    fn help(&self) {
        let mut device = None;
        loop {
            match self.tend(&mut device) {
                Some(next) => {
                    let nap = next.saturating_sub(clock::now()).clamp(20_000, LONGEST_NAP);
                    std::thread::sleep(Duration::from_nanos(nap));
                }
                None => {
                    self.compute.resting.store(true, Ordering::Release);
                    // A launch between the look and this rest is seen now.
                    if self.tend(&mut device).is_none() {
                        std::thread::park_timeout(Duration::from_millis(500));
                    }
                    self.compute.resting.store(false, Ordering::Release);
                }
            }
        }
    }

    /// Looks after all lanes; when the first of them wants it again. `device` is what the thread has current of Ascend's:
    /// there, making a device current counts as one user of it more.
    fn tend(&self, device: &mut Option<Site>) -> Option<u64> {
        let next = self.lanes().filter_map(|(claim, d, lane)| {
            let vendor = claim.chips().get(d)?.vendor();
            let events = self.compute.of(vendor).get()?;
            let enter = |site: Site| match vendor {
                Vendor::Ascend if *device == Some(site) => {}
                Vendor::Ascend => *device = events.enter(site).then_some(site).or(*device),
                Vendor::Cuda => drop(events.enter(site)),
            };
            let next = events.relaxed(|| lane.look(events, &terms(claim, d)?, enter));
            claim.count_compute(d, lane);
            next
        });
        next.min()
    }
}

/// What the claim may do now; `None` when its quota cannot be read.
fn terms(claim: &Claim, device: usize) -> Option<Terms> {
    let quota = claim.quota(device)?;
    Some(Terms {
        entry: quota.entry,
        share_milli: quota.share_milli,
        mode: Mode::from_raw(quota.mode),
        priority: quota.priority,
    })
}

/// All signals are blocked in the calling thread until this is dropped; a thread started meanwhile keeps them blocked.
struct Masked(libc::sigset_t);

impl Masked {
    fn all() -> Self {
        // SAFETY: all-zero signal sets are valid, and both functions write them.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        // SAFETY: the set that was in force before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}
