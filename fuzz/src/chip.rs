//! A chip's region, as a process that launches works on it while its neighbours write into it what they like.

use std::collections::VecDeque;

use vnpu_quota_abi::device::DEVICE_SIZE;
use vnpu_quota_abi::gate::{Answer, Gate, Tuning};
use vnpu_quota_abi::line::{Mode, Terms};
use vnpu_quota_abi::view::DeviceView;

use crate::memory::{Input, spoiled};

/// No launch waits longer, whatever stands in the region: 120 s (`MOST_PATIENCE` of the gate), and as late
/// as a thread is here.
const LONGEST_WAIT: u64 = 122_000_000_000;

/// Nobody waits longer without a look: 128 places in the line of 100 us each (`TURN` of the gate).
const LONGEST_LOOK: u64 = 13_000_000;

/// How late a thread is at most when nothing is written any more: so even the longest wait has few steps.
const LATE: u64 = 1_000_000_000;

/// Decisions after the last write: more than the longest wait can have.
const LAST_STEPS: usize = 400;

/// A launching process beside neighbours that write anything at any moment: it is let through in bounded time.
pub fn chip(bytes: &[u8]) {
    let mut input = Input(bytes);
    let memory = spoiled(&mut input, DEVICE_SIZE, |mapping| {
        DeviceView::create(mapping, 1).unwrap();
    });
    let Ok(view) = DeviceView::open(memory.mapping()) else { return };
    let terms = Terms {
        entry: input.number::<1>() as u16,
        share_milli: (input.number::<2>() % 1200) as u32,
        mode: Mode::from_raw(input.byte()),
        priority: input.byte(),
    };
    let kernel = 1 + input.number::<3>();
    let mut gate = Gate::new(Tuning::DEFAULT);
    let mut now = input.number::<7>();
    // Launches since the last mark, and when each mark is reached.
    let (mut since, mut marks, mut done_at) = (0, VecDeque::new(), now);
    let (mut waits_since, mut last) = (now, None);
    let mut left = LAST_STEPS;
    while left > 0 {
        while let Some(end) = marks.front().copied().filter(|end| *end <= now) {
            marks.pop_front();
            gate.finished(&view, &terms, now, end - last.unwrap_or(end));
            last = Some(end);
        }
        // Between any two steps.
        if input.is_empty() {
            left -= 1;
        } else {
            let (place, bytes) = input.patch();
            let place = match place % 4 {
                // The lease, our own entry, any of the region.
                0 => 64 + place / 4 % 8,
                1 | 2 => 128 + usize::from(terms.entry) * 128 + place / 4 % 32,
                _ => place / 4 % DEVICE_SIZE,
            };
            memory.write(place, bytes);
        }
        let waits = input.byte() % 8 != 7;
        let answer = if waits { gate.ask(&view, &terms, now) } else { gate.look(&view, &terms, now) };
        match answer {
            Answer::Go(launches) => {
                assert!((1..=Tuning::DEFAULT.short_launches).contains(&launches), "{launches}");
                gate.launched(now, launches);
                since += u64::from(launches);
                waits_since = now;
                if input.is_empty() {
                    return;
                }
            }
            Answer::Mark => {
                done_at = done_at.max(now) + since * kernel;
                since = 0;
                if gate.marked(now) {
                    marks.push_back(done_at);
                }
            }
            Answer::Wait(until) => {
                assert!(until > now && until - now <= LONGEST_LOOK, "a wait of {}", until - now);
                now = until + if input.is_empty() { LATE } else { 0 };
            }
            Answer::Rest => now += 1000,
        }
        if waits {
            assert!(now - waits_since <= LONGEST_WAIT, "a launch that waits for {} ns", now - waits_since);
        }
        now += u64::from(input.byte());
    }
    panic!("a launch is let through by no number of looks");
}
