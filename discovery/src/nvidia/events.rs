//! Errors that the driver reports as they happen (XIDs): a thread waits for them, and they are remembered, because a
//! look does not show them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vnpu_driver::hardware::{Fault, Health, Inventory};
use vnpu_driver::id::DeviceUuid;

use super::library::{EventSet, Handle, Library, Refusal, Xid, code};
use crate::heard::Heard;
use crate::stamp::Stamp;

/// The library is asked so long at a time; to be shut down it waits for the end of that.
const AT_A_TIME: Duration = Duration::from_secs(1);
/// After a question that failed, so long passes before the next.
const AGAIN: Duration = Duration::from_secs(1);
/// The same error of a device is logged once in so long.
const SAID: Duration = Duration::from_secs(60);
/// With more devices than this, those that are gone are forgotten: instances of GPUs come and go.
const MOST_DEVICES: usize = 1024;
/// Different errors of one device that are remembered; the vendor's catalogue has not many more.
const MOST: usize = 256;

/// A GPU whose errors are waited for: the number that NVML has it under, and its devices. Those of a partitioned GPU
/// have the number of their GPU instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) index: u32,
    pub(crate) devices: BTreeSet<(Option<u32>, DeviceUuid)>,
}

/// What was reported, and who waits for more.
pub(crate) struct Events {
    /// How long a reported error counts; without, until the driver is loaded anew.
    hold: Option<Duration>,
    shared: Arc<Shared>,
    watch: Mutex<Option<Watch>>,
}

#[derive(Default)]
struct Shared {
    heard: Mutex<Option<Heard>>,
    /// Whether it was said that nothing is heard.
    said: AtomicBool,
    reported: Mutex<Reported>,
}

#[derive(Default)]
struct Reported {
    /// Of which loading of the driver.
    driver: Option<Stamp>,
    /// When each error of a device was reported last.
    errors: BTreeMap<DeviceUuid, BTreeMap<u64, Instant>>,
}

struct Watch {
    library: Arc<Library>,
    gpus: Vec<Watched>,
    stop: Arc<AtomicBool>,
    /// This library reports no errors: another thread would not hear any either.
    useless: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Events {
    pub(crate) fn new(hold: Option<Duration>) -> Self {
        Self { hold, shared: Arc::default(), watch: Mutex::new(None) }
    }

    pub(crate) fn listen(&self, heard: Heard) {
        *lock(&self.shared.heard) = Some(heard);
    }

    /// Waits for errors of these GPUs from now on, unless that is done already. `driver` is the loaded driver: errors of
    /// one that was loaded before count no more.
    pub(crate) fn watch(&self, library: &Arc<Library>, gpus: Vec<Watched>, driver: Option<Stamp>) {
        let mut reported = lock(&self.shared.reported);
        if reported.driver != driver {
            if reported.driver.is_some() {
                reported.errors.clear();
            }
            reported.driver = driver;
        }
        drop(reported);
        if lock(&self.shared.heard).is_none() {
            return;
        }
        let mut watch = lock(&self.watch);
        if let Some(running) = watch.take_if(|running| !running.serves(library, &gpus)) {
            running.stop.store(true, Ordering::SeqCst);
        }
        if watch.is_none() && !gpus.is_empty() {
            *watch = Watch::start(library, gpus, &self.shared);
        }
    }

    /// Adds what was reported to what the look saw.
    pub(crate) fn add_to(&self, inventory: &mut Inventory) {
        let mut reported = lock(&self.shared.reported);
        if reported.errors.len() > MOST_DEVICES {
            let chips = &inventory.chips;
            reported.errors.retain(|uuid, _| chips.iter().any(|chip| chip.uuid == *uuid));
        }
        if let Some(hold) = self.hold {
            for errors in reported.errors.values_mut() {
                errors.retain(|_, at| at.elapsed() < hold);
            }
        }
        for chip in &mut inventory.chips {
            let Some(errors) = reported.errors.get(&chip.uuid).filter(|errors| !errors.is_empty()) else {
                continue;
            };
            let mut faults: Vec<Fault> = match &chip.health {
                Health::Unhealthy(faults) => faults.clone(),
                Health::Healthy => Vec::new(),
                // Which of them count is not known here, and unknown must not become healthy by one that does not.
                Health::Unknown(_) => continue,
            };
            faults.extend(errors.keys().map(|code| fault(*code)));
            faults.sort();
            chip.health = Health::Unhealthy(faults);
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(watch) = lock(&self.watch).take() {
            watch.stop.store(true, Ordering::SeqCst);
        }
    }
}

/// In words of the vendor's catalogue of XIDs, for the few that administrators meet.
fn fault(xid: u64) -> Fault {
    let words = match xid {
        13 => "graphics engine exception, by a program",
        31 => "memory page fault, by a program",
        43 => "the GPU stopped processing, by a program",
        45 => "preemptive cleanup after another error",
        48 => "double-bit ECC error",
        63 => "a row of memory was recorded for replacement",
        64 => "a row of memory could not be recorded for replacement",
        74 => "NVLink error",
        79 => "the GPU has fallen off the bus",
        92 => "many single-bit ECC errors",
        94 => "contained ECC error",
        95 => "uncontained ECC error",
        119 | 120 => "the GPU's system processor does not answer",
        _ => return Fault::new(&format!("xid-{xid}"), format!("the driver reported XID {xid}")),
    };
    Fault::new(&format!("xid-{xid}"), format!("the driver reported XID {xid} ({words})"))
}

impl Watch {
    fn start(library: &Arc<Library>, gpus: Vec<Watched>, shared: &Arc<Shared>) -> Option<Self> {
        let (stop, useless) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let waiter = Waiter {
            library: Arc::clone(library),
            gpus: gpus.clone(),
            shared: Arc::clone(shared),
            stop: Arc::clone(&stop),
            useless: Arc::clone(&useless),
        };
        match thread::Builder::new().name("nvml-events".to_owned()).spawn(move || waiter.run()) {
            Ok(thread) => Some(Self { library: Arc::clone(library), gpus, stop, useless, thread }),
            Err(error) => {
                tracing::warn!(%error, "no thread for events of GPUs: faults are seen at the next look");
                None
            }
        }
    }

    /// Whether nothing would be better with another one. A GPU that is away for a look is not forgotten.
    fn serves(&self, library: &Arc<Library>, gpus: &[Watched]) -> bool {
        let known = |gpu: &Watched| {
            let same = self.gpus.iter().find(|known| known.index == gpu.index);
            same.is_some_and(|known| gpu.devices.is_subset(&known.devices))
        };
        let works = !self.thread.is_finished() || self.useless.load(Ordering::SeqCst);
        Arc::ptr_eq(&self.library, library) && gpus.iter().all(known) && works
    }
}

/// The thread that waits.
struct Waiter {
    library: Arc<Library>,
    gpus: Vec<Watched>,
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    useless: Arc<AtomicBool>,
}

impl Waiter {
    fn run(self) {
        let (set, handles) = match self.register() {
            Ok(registered) => registered,
            Err(refusal) => return self.give_up(refusal),
        };
        if handles.is_empty() {
            let _ = self.library.free_events(set);
            return self.give_up(Refusal::Code(code::NOT_SUPPORTED));
        }
        tracing::debug!(gpus = handles.len(), "errors of GPUs are waited for");
        let mut failed = false;
        while !self.stop.load(Ordering::SeqCst) {
            match self.library.next_error(set, AT_A_TIME) {
                Ok(None) => failed = false,
                Ok(Some(xid)) => {
                    failed = false;
                    self.note(xid, &handles);
                }
                Err(Refusal::Code(code::UNINITIALIZED)) => return,
                Err(refusal @ (Refusal::Absent | Refusal::Code(code::NOT_SUPPORTED))) => {
                    let _ = self.library.free_events(set);
                    return self.give_up(refusal);
                }
                Err(refusal) => {
                    tracing::debug!(?refusal, "waiting for events failed");
                    // A GPU that is lost says so here first, and then again and again.
                    if !std::mem::replace(&mut failed, true) {
                        self.tell();
                    }
                    thread::sleep(AGAIN);
                }
            }
        }
        // Shut down meanwhile, it is free already.
        let _ = self.library.free_events(set);
    }

    /// Nothing is heard. Where that may be otherwise next time, the next look tries again.
    fn give_up(&self, refusal: Refusal) {
        if !self.shared.said.swap(true, Ordering::SeqCst) {
            tracing::info!(?refusal, "NVML reports no errors by itself: faults are seen at the next look");
        }
        let never = [Refusal::Absent, Refusal::Code(code::NOT_SUPPORTED)];
        self.useless.store(never.contains(&refusal), Ordering::SeqCst);
    }

    /// A set with all GPUs that report errors. What a set is worth after a GPU refused to be in it is not said, so it
    /// is made anew without that one.
    fn register(&self) -> Result<(EventSet, BTreeMap<Handle, u32>), Refusal> {
        let mut without = BTreeSet::new();
        let inside = self.library.inside();
        'anew: loop {
            let set = self.library.event_set()?;
            let mut handles = BTreeMap::new();
            for gpu in self.gpus.iter().filter(|gpu| !without.contains(&gpu.index)) {
                let registered = self
                    .library
                    .by_index(gpu.index)
                    .and_then(|handle| Ok((handle, self.library.report_errors(handle, set)?)));
                match registered {
                    Ok((handle, true)) => _ = handles.insert(handle, gpu.index),
                    Ok((_, false)) => {}
                    Err(Refusal::Absent) => {
                        let _ = self.library.free_events_inside(set, &inside);
                        return Err(Refusal::Absent);
                    }
                    Err(refusal) => {
                        tracing::debug!(gpu = gpu.index, ?refusal, "this GPU reports no errors");
                        without.insert(gpu.index);
                        let _ = self.library.free_events_inside(set, &inside);
                        continue 'anew;
                    }
                }
            }
            return Ok((set, handles));
        }
    }

    fn note(&self, xid: Xid, handles: &BTreeMap<Handle, u32>) {
        let Xid { gpu, code, gpu_instance } = xid;
        let index = handles.get(&gpu).copied();
        let gpu = self.gpus.iter().find(|gpu| Some(gpu.index) == index);
        let mut reported = lock(&self.shared.reported);
        let mut lately = false;
        for (instance, uuid) in gpu.iter().flat_map(|gpu| &gpu.devices) {
            // What hits the whole GPU hits all of its instances.
            if gpu_instance.is_none() || instance.is_none() || *instance == gpu_instance {
                let errors = reported.errors.entry(uuid.clone()).or_default();
                lately |= errors.get(&code).is_some_and(|at| at.elapsed() < SAID);
                if errors.len() < MOST || errors.contains_key(&code) {
                    errors.insert(code, Instant::now());
                }
            }
        }
        drop(reported);
        if !lately {
            tracing::warn!(gpu = index, xid = code, gpu_instance, "{}", fault(code).message);
        }
        self.tell();
    }

    fn tell(&self) {
        if let Some(heard) = lock(&self.shared.heard).clone() {
            heard.tell();
        }
    }
}
