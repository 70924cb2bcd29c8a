//! A modelled chip that executes queued kernels of given duration, in both disciplines that hardware is known for.
//! Pure: the caller says how far the clock goes. Each process has one queue, in which its streams stand in the order
//! of submission.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

/// How kernels of several processes share the chip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discipline {
    /// A process has the chip for a slice of 2 ms, then the next one that has work.
    #[default]
    Slices,
    /// One kernel of each process that has work, in turn, each to its end.
    Kernels,
}

const SLICE: u64 = 2_000_000;

/// An event in a process's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub u64);

#[derive(Debug)]
enum Op {
    Kernel(u64),
    Mark(Mark),
}

#[derive(Debug, Default)]
struct Queue {
    ops: VecDeque<Op>,
    reached: BTreeMap<Mark, u64>,
    busy: u64,
}

/// The chip. Times are nanoseconds.
#[derive(Debug, Default)]
pub struct Executor {
    discipline: Discipline,
    clock: u64,
    queues: BTreeMap<u64, Queue>,
    current: u64,
    slice_left: u64,
    next_mark: u64,
}

impl Executor {
    /// An idle chip at time 0.
    pub fn new(discipline: Discipline) -> Self {
        Self { discipline, slice_left: SLICE, ..Self::default() }
    }

    /// Changes how processes share the chip from now on.
    pub fn set_discipline(&mut self, discipline: Discipline) {
        self.discipline = discipline;
    }

    /// The time it has come to.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// Puts a kernel at the end of a process's queue.
    pub fn launch(&mut self, process: u64, nanos: u64) {
        self.queues.entry(process).or_default().ops.push_back(Op::Kernel(nanos));
        self.pass_marks(process);
    }

    /// Puts an event at the end of a process's queue.
    pub fn mark(&mut self, process: u64) -> Mark {
        self.next_mark += 1;
        let mark = Mark(self.next_mark);
        self.queues.entry(process).or_default().ops.push_back(Op::Mark(mark));
        self.pass_marks(process);
        mark
    }

    /// When an event was reached, told once; `None` while it is not.
    pub fn take_reached(&mut self, process: u64, mark: Mark) -> Option<u64> {
        self.queues.get_mut(&process)?.reached.remove(&mark)
    }

    /// Time that a process has had on the chip.
    pub fn busy(&self, process: u64) -> u64 {
        self.queues.get(&process).map_or(0, |queue| queue.busy)
    }

    /// Time that a process's queue takes where nobody else has work.
    pub fn queued(&self, process: u64) -> u64 {
        let ops = self.queues.get(&process).map(|queue| queue.ops.iter());
        ops.into_iter().flatten().map(|op| if let Op::Kernel(left) = op { *left } else { 0 }).sum()
    }

    /// A process is gone, and its work with it.
    pub fn remove(&mut self, process: u64) {
        self.queues.remove(&process);
    }

    /// Executes until `to`.
    pub fn advance(&mut self, to: u64) {
        while self.clock < to {
            let Some(process) = self.choose() else {
                self.clock = to;
                return;
            };
            let Some(queue) = self.queues.get_mut(&process) else { return };
            let Some(Op::Kernel(left)) = queue.ops.front_mut() else { return };
            let most = if self.discipline == Discipline::Slices { self.slice_left } else { u64::MAX };
            let step = (*left).min(to - self.clock).min(most);
            *left -= step;
            let done = *left == 0;
            queue.busy += step;
            self.clock += step;
            self.slice_left -= step.min(self.slice_left);
            if done {
                queue.ops.pop_front();
                self.pass_marks(process);
            }
            let over = match self.discipline {
                Discipline::Slices => self.slice_left == 0,
                Discipline::Kernels => done,
            };
            if over {
                self.current = process + 1;
                self.slice_left = SLICE;
            }
        }
    }

    /// The process whose turn it is: the current one while it has work, else the next that has.
    fn choose(&mut self) -> Option<u64> {
        let has_work = |(process, queue): (&u64, &Queue)| (!queue.ops.is_empty()).then_some(*process);
        let found = self
            .queues
            .range(self.current..)
            .find_map(has_work)
            .or_else(|| self.queues.range(..self.current).find_map(has_work))?;
        if found != self.current {
            self.current = found;
            self.slice_left = SLICE;
        }
        Some(found)
    }

    /// What takes no time passes at once: events, and kernels of no length.
    fn pass_marks(&mut self, process: u64) {
        let Some(queue) = self.queues.get_mut(&process) else { return };
        while let Some(op) = queue.ops.front() {
            match op {
                Op::Mark(mark) => {
                    queue.reached.insert(*mark, self.clock);
                }
                Op::Kernel(0) => {}
                Op::Kernel(_) => return,
            }
            queue.ops.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // tests may

    use super::*;

    #[test]
    fn marks_come_in_the_order_of_the_queue() {
        let mut chip = Executor::new(Discipline::Kernels);
        let begin = chip.mark(1);
        chip.launch(1, 100);
        let end = chip.mark(1);
        assert_eq!(chip.take_reached(1, begin), Some(0));
        chip.advance(99);
        assert_eq!((chip.take_reached(1, end), chip.queued(1)), (None, 1));
        chip.advance(150);
        assert_eq!((chip.take_reached(1, end), chip.take_reached(1, end)), (Some(100), None));
        assert_eq!((chip.busy(1), chip.queued(1)), (100, 0));
    }

    #[test]
    fn kernels_take_turns_whatever_their_length() {
        let mut chip = Executor::new(Discipline::Kernels);
        for _ in 0..10 {
            chip.launch(1, 100);
            chip.launch(2, 900);
        }
        chip.advance(5000);
        assert_eq!((chip.busy(1), chip.busy(2)), (500, 4500));
    }

    #[test]
    fn slices_share_alike_and_an_event_pair_sees_the_others_time() {
        let mut chip = Executor::new(Discipline::Slices);
        chip.launch(1, 100_000);
        let begin = chip.mark(1);
        chip.launch(1, 4_000_000);
        let end = chip.mark(1);
        chip.launch(2, 50_000_000);
        chip.advance(20_000_000);
        let elapsed = chip.take_reached(1, end).unwrap() - chip.take_reached(1, begin).unwrap();
        assert!(elapsed > 7_000_000, "{elapsed}");
        chip.remove(2);
        chip.launch(1, 10);
        chip.advance(20_000_010);
        assert_eq!(chip.queued(1), 0);
    }
}
