//! The vendors' events, past our own hooks: how device time is measured. Nothing here waits for a stream.

mod ascend;
mod cuda;

use std::ffi::c_void;

use vnpu_quota_abi::table::{FrontTable, Vendor};

/// An event of the vendor's runtime, ours alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    handle: usize,
    /// The context that it is of; 0 where there is nothing of the kind.
    pub(crate) home: usize,
}

impl Event {
    fn handle(self) -> *mut c_void {
        self.handle as *mut c_void
    }
}

/// What a thread must have current to use events: of Ascend the device's number, of CUDA the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Site(pub(crate) usize);

/// The functions of one runtime.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Events {
    Ascend(ascend::Events),
    Cuda(cuda::Events),
}

/// The greatest freedom of a thread while streams are in capture (`ACL_MODEL_RI_CAPTURE_MODE_RELAXED`,
/// `CU_STREAM_CAPTURE_MODE_RELAXED`).
const RELAXED: i32 = 2;

macro_rules! each {
    ($self:ident, $events:ident => $act:expr) => {
        match $self {
            Self::Ascend($events) => $act,
            Self::Cuda($events) => $act,
        }
    };
}

impl Events {
    /// Finds them; `None` while the runtime is not loaded, or has them under other names.
    pub(crate) fn find(front: &FrontTable, vendor: Vendor) -> Option<Self> {
        match vendor {
            Vendor::Ascend => ascend::Events::find(front).map(Self::Ascend),
            Vendor::Cuda => cuda::Events::find(front).map(Self::Cuda),
        }
    }

    /// A new event of `home`, which the calling thread is in.
    pub(crate) fn create(&self, home: usize) -> Option<Event> {
        let handle = each!(self, events => events.create())?;
        Some(Event { handle, home })
    }

    /// Ends an event.
    pub(crate) fn destroy(&self, event: Event) {
        each!(self, events => events.destroy(event));
    }

    /// The stream in which an event is behind what all threads have launched on streams of their own. It is a barrier for
    /// streams of the ordinary kind, so it is used only where no other will do.
    pub(crate) fn behind_all_threads(&self) -> *mut c_void {
        cuda::LEGACY as *mut c_void
    }

    /// The context of `stream`, as [`Event::home`] says it.
    pub(crate) fn home(&self, stream: *mut c_void) -> usize {
        match self {
            Self::Ascend(_) => 0,
            Self::Cuda(events) => events.home(stream),
        }
    }

    /// Runs `act` in the context `home`.
    pub(crate) fn within<T>(&self, home: usize, act: impl FnOnce() -> T) -> T {
        match self {
            Self::Ascend(_) => act(),
            Self::Cuda(events) => events.within(home, act),
        }
    }

    /// Puts it behind what is in `stream`; whether that worked.
    pub(crate) fn record(&self, event: Event, stream: *mut c_void) -> bool {
        each!(self, events => events.record(event, stream))
    }

    /// Whether the chip has come to it. One that cannot be asked about counts as finished: nobody waits for ever.
    pub(crate) fn is_finished(&self, event: Event) -> bool {
        each!(self, events => events.is_finished(event))
    }

    /// Device time between two finished events.
    pub(crate) fn nanoseconds(&self, from: Event, to: Event) -> Option<u64> {
        let milliseconds = each!(self, events => events.milliseconds(from, to))?;
        (milliseconds.is_finite() && milliseconds >= 0.0).then(|| (f64::from(milliseconds) * 1e6) as u64)
    }

    /// Whether work on `stream` is recorded into a graph: nothing of it runs now, and no event may be put there.
    pub(crate) fn is_capturing(&self, stream: *mut c_void) -> bool {
        each!(self, events => events.is_capturing(stream))
    }

    /// Gives the calling thread a device or context.
    pub(crate) fn enter(&self, site: Site) -> bool {
        each!(self, events => events.enter(site))
    }

    /// What the calling thread has current.
    pub(crate) fn site(&self) -> Option<Site> {
        each!(self, events => events.site())
    }

    /// Runs `act` as a thread that may ask for events while any stream of the process is in capture: in the mode that
    /// threads begin in, that would break the capture.
    pub(crate) fn relaxed<T>(&self, act: impl FnOnce() -> T) -> T {
        let _mode = Mode::relax(self);
        act()
    }

    /// Exchanges the calling thread's capture mode; `None` where there is none.
    fn exchange(&self, mode: i32) -> Option<i32> {
        each!(self, events => events.exchange(mode))
    }
}

/// The capture mode of the calling thread, put back on drop.
struct Mode<'a> {
    events: &'a Events,
    before: Option<i32>,
}

impl<'a> Mode<'a> {
    fn relax(events: &'a Events) -> Self {
        Self { events, before: events.exchange(RELAXED) }
    }
}

impl Drop for Mode<'_> {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            self.events.exchange(before);
        }
    }
}
