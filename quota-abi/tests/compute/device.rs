//! A chip that executes queued kernels on a clock of its own, in both disciplines that hardware is known for.

use std::collections::VecDeque;

/// How kernels of several processes share the chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discipline {
    /// A process has the chip for a slice of 2 ms, then the next one that has work.
    Slices,
    /// One kernel of each process that has work, in turn, each to its end.
    Kernels,
}

const SLICE: u64 = 2_000_000;

#[derive(Debug)]
enum Op {
    Kernel(u64),
    Mark,
}

#[derive(Debug, Default)]
struct Queue {
    ops: VecDeque<Op>,
    /// When each mark that was not taken yet was reached.
    reached: VecDeque<u64>,
    busy: u64,
}

#[derive(Debug)]
pub struct Device {
    discipline: Discipline,
    clock: u64,
    queues: Vec<Queue>,
    current: usize,
    slice_left: u64,
}

impl Device {
    pub fn new(discipline: Discipline, processes: usize) -> Self {
        let queues = (0..processes).map(|_| Queue::default()).collect();
        Self { discipline, clock: 0, queues, current: 0, slice_left: SLICE }
    }

    /// Puts a kernel at the end of a process' only stream.
    pub fn launch(&mut self, process: usize, duration: u64) {
        self.queues[process].ops.push_back(Op::Kernel(duration));
    }

    /// Puts an event at the end of the stream.
    pub fn mark(&mut self, process: usize) {
        self.queues[process].ops.push_back(Op::Mark);
        self.pass_marks(process);
    }

    /// Device time of the next mark that was reached, in the order of their recording.
    pub fn take_mark(&mut self, process: usize) -> Option<u64> {
        self.queues[process].reached.pop_front()
    }

    /// Device time that a process has had.
    pub fn busy(&self, process: usize) -> u64 {
        self.queues[process].busy
    }

    pub fn is_empty(&self, process: usize) -> bool {
        self.queues[process].ops.is_empty()
    }

    /// Executes until `to`.
    pub fn advance(&mut self, to: u64) {
        while self.clock < to {
            let Some(process) = self.next() else {
                self.clock = to;
                return;
            };
            let left = match self.queues[process].ops.front_mut() {
                Some(Op::Kernel(left)) => left,
                _ => unreachable!("marks at the front have passed"),
            };
            let most = if self.discipline == Discipline::Slices { self.slice_left } else { u64::MAX };
            let step = (*left).min(to - self.clock).min(most);
            *left -= step;
            let done = *left == 0;
            self.clock += step;
            self.slice_left -= step.min(self.slice_left);
            self.queues[process].busy += step;
            if done {
                self.queues[process].ops.pop_front();
                self.pass_marks(process);
            }
            let over = match self.discipline {
                Discipline::Slices => self.slice_left == 0,
                Discipline::Kernels => done,
            };
            if over {
                self.current = (process + 1) % self.queues.len();
                self.slice_left = SLICE;
            }
        }
    }

    /// The process whose turn it is: the current one while it has work, else the next that has.
    fn next(&mut self) -> Option<usize> {
        let count = self.queues.len();
        let found =
            (0..count).map(|i| (self.current + i) % count).find(|p| !self.queues[*p].ops.is_empty())?;
        if found != self.current {
            self.current = found;
            self.slice_left = SLICE;
        }
        Some(found)
    }

    fn pass_marks(&mut self, process: usize) {
        let queue = &mut self.queues[process];
        while let Some(Op::Mark) = queue.ops.front() {
            queue.ops.pop_front();
            queue.reached.push_back(self.clock);
        }
    }
}
