//! What a lane has put into the program's streams to measure what runs there, and what can be read from it. CUDA's events
//! are of one context each: recorded in that context's streams alone, and compared with events of that context alone.

use std::collections::VecDeque;

use crate::events::{Event, Events, Site};
use crate::streams::{Noted, Streams};

/// The marks of a lane.
pub(crate) struct Measure {
    /// Recorded and not known to be finished, oldest first: an event for each stream that was in use.
    marks: VecDeque<Vec<Event>>,
    /// The last event of the last finished mark, of each context: the next interval begins there.
    last: Vec<Event>,
    spare: Vec<Event>,
}

/// What came of a mark.
pub(crate) enum Recorded {
    /// It is behind all that was launched.
    Mark(Vec<Event>),
    /// Nothing is noted that runs: all that was launched is behind an earlier mark.
    Covered,
    /// There is something that it could not be put behind.
    Nowhere,
}

impl Measure {
    pub(crate) const fn new() -> Self {
        Self { marks: VecDeque::new(), last: Vec::new(), spare: Vec::new() }
    }

    /// Whether nothing is unfinished.
    pub(crate) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Puts an event behind what is in each stream that was in use.
    pub(crate) fn record(&mut self, streams: &Streams, events: &Events) -> Recorded {
        let (mut recorded, mut lost) = (Vec::new(), false);
        for Noted { stream, is_others } in streams.take() {
            // Not of this thread: behind what every thread has launched on its own.
            let marked = if is_others { events.behind_all_threads() } else { stream };
            // An event on a stream in capture would become a part of the program's graph, and never be reached by itself.
            // What ran there before is behind the mark that the beginning of the capture made.
            if events.is_capturing(marked) {
                // That of all threads is hidden by a capture of any stream.
                lost |= is_others;
                continue;
            }
            let stream = marked;
            let home = events.home(stream);
            let spare = self.spare.iter().position(|event| event.home == home);
            let event = spare.map(|place| self.spare.swap_remove(place));
            let event = events.within(home, || {
                let event = event.or_else(|| events.create(home))?;
                if events.record(event, stream) {
                    return Some(event);
                }
                events.destroy(event);
                None
            });
            lost |= event.is_none();
            recorded.extend(event);
        }
        match (recorded.is_empty(), lost) {
            (false, _) => Recorded::Mark(recorded),
            (true, true) => Recorded::Nowhere,
            (true, false) => Recorded::Covered,
        }
    }

    /// Adds the youngest mark.
    pub(crate) fn push(&mut self, mark: Vec<Event>) {
        self.marks.push_back(mark);
    }

    /// Adds to the youngest mark, where there are as many as there may be.
    pub(crate) fn append(&mut self, mut more: Vec<Event>) {
        match self.marks.back_mut() {
            Some(youngest) => youngest.append(&mut more),
            None => self.spare.append(&mut more),
        }
    }

    /// A context in which something is not finished, or was measured last.
    pub(crate) fn home(&self) -> Option<usize> {
        let mut all = self.marks.iter().flatten().chain(&self.last);
        all.find(|event| event.home != 0).map(|event| event.home)
    }

    /// Takes the oldest mark, if the chip has come to it: nanoseconds of device time since the one before. `opens` says
    /// that it only begins an interval, so that what other contexts' last events say is of the past.
    pub(crate) fn finished(&mut self, events: &Events, opens: bool) -> Option<u64> {
        if !self.marks.front()?.iter().all(|event| events.is_finished(*event)) {
            return None;
        }
        let mark = self.marks.pop_front()?;
        if opens {
            let past = |last: &Event| !mark.iter().any(|event| event.home == last.home);
            self.spare.extend(self.last.extract_if(.., |last| past(last)));
        }
        let mut homes: Vec<(usize, u64)> = Vec::new();
        for event in mark {
            let last = self.last.iter_mut().find(|last| last.home == event.home);
            let since = last.as_ref().map_or(Some(0), |last| events.nanoseconds(**last, event));
            // What ended before the last mark's end is in it already.
            let Some(since) = since.filter(|since| last.is_none() || *since > 0) else {
                self.spare.push(event);
                continue;
            };
            match last {
                Some(last) => self.spare.push(std::mem::replace(last, event)),
                None => self.last.push(event),
            }
            // From the latest event on: streams run side by side, and the chip is charged once.
            match homes.iter_mut().find(|(home, _)| *home == event.home) {
                Some((_, sum)) => *sum += since,
                None => homes.push((event.home, since)),
            }
        }
        // Contexts take turns, and the time of one that waits is not its own.
        Some(homes.into_iter().map(|(_, sum)| sum).max().unwrap_or(0))
    }

    /// Whether something of a context that goes, or of any, is not finished.
    pub(crate) fn awaits(&self, site: Option<Site>) -> bool {
        self.marks.iter().flatten().any(|event| site.is_none_or(|Site(site)| event.home == site))
    }

    /// Whether there is an event of a context.
    pub(crate) fn knows(&self, Site(site): Site) -> bool {
        let all = self.marks.iter().flatten().chain(&self.last).chain(&self.spare);
        all.into_iter().any(|event| event.home == site)
    }

    /// Whether the oldest mark is of a context that goes, or of any.
    pub(crate) fn oldest_is_of(&self, site: Option<Site>) -> bool {
        let oldest = self.marks.front().into_iter().flatten();
        oldest.into_iter().any(|event| site.is_none_or(|Site(site)| event.home == site))
    }

    /// Takes the oldest mark although it is not finished; its events go with their context.
    pub(crate) fn give_up_oldest(&mut self) {
        self.marks.pop_front();
    }

    /// Forgets what is not finished.
    pub(crate) fn forget_marks(&mut self) {
        self.spare.extend(self.marks.drain(..).flatten());
    }

    /// Forgets the events of a context that goes, or all.
    pub(crate) fn forget(&mut self, site: Option<Site>, events: &Events) {
        let goes = |event: &mut Event| site.is_none_or(|Site(site)| event.home == site);
        let mut gone: Vec<Event> = self.last.extract_if(.., goes).collect();
        gone.extend(self.spare.extract_if(.., goes));
        // What is not finished is not destroyed: it goes with its context.
        for mark in &mut self.marks {
            mark.retain_mut(|event| !goes(event));
        }
        if site.is_none() {
            self.marks.clear();
        }
        for event in gone {
            events.within(event.home, || events.destroy(event));
        }
    }
}
