//! Processes that launch kernels as fast as they may, on virtual time: every step of a host thread is an event.

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use standin_executor::{Discipline, Executor, Mark};
use vnpu_quota_abi::device::DEVICE_SIZE;
use vnpu_quota_abi::gate::{Answer, Gate, Load, SPIN, Tuning};
use vnpu_quota_abi::line::{Mode, Terms};
use vnpu_quota_abi::view::{DeviceView, Mapping};

/// Host time of one launch.
const LAUNCH: u64 = 4_000;
/// Host time to record an event.
const RECORD: u64 = 2_000;
/// From a change of the lease word to the waiter's next step; a sleep ends that much late, too.
const WAKE: u64 = 40_000;

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// Durations of a program's kernels.
#[derive(Debug, Clone, Copy)]
pub enum Kernels {
    /// All alike, in microseconds.
    Fixed(u64),
    /// Inference of a language model: lognormal about 60 us.
    Decode,
    /// Training: lognormal about 400 us with a long tail.
    Mix,
    /// 30 kernels of 10 us, then a graph of so many microseconds.
    Graphs(u64),
}

/// Kernels before each graph of [`Kernels::Graphs`].
const BEFORE_GRAPH: u64 = 30;

impl Kernels {
    /// The longest that comes, in nanoseconds.
    pub fn longest(self) -> u64 {
        match self {
            Self::Fixed(micros) => micros * 1000,
            Self::Decode => 400_000,
            Self::Mix => 8_000_000,
            Self::Graphs(micros) => micros * 1000,
        }
    }

    fn draw(self, random: &mut Random) -> u64 {
        let (median, sigma): (f64, f64) = match self {
            Self::Fixed(_) => return self.longest(),
            Self::Decode => (60_000.0, 0.5),
            Self::Mix => (400_000.0, 1.0),
            Self::Graphs(_) => return 10_000,
        };
        let drawn = median * (sigma * random.normal()).exp();
        drawn.clamp(2_000.0, self.longest() as f64) as u64
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Tenant {
    pub share_milli: u32,
    pub mode: Mode,
    pub priority: u8,
    pub kernels: Kernels,
    /// Entry of the claim: processes of one claim have the same.
    pub entry: u16,
    /// From when it wants the chip, and until when.
    pub wants: (u64, u64),
}

impl Tenant {
    pub fn hard(entry: u16, percent: u32, kernels: Kernels) -> Self {
        Self {
            share_milli: percent * 10,
            mode: Mode::Hard,
            priority: 5,
            kernels,
            entry,
            wants: (0, u64::MAX),
        }
    }

    pub fn terms(&self) -> Terms {
        Terms { entry: self.entry, share_milli: self.share_milli, mode: self.mode, priority: self.priority }
    }
}

struct Process {
    tenant: Tenant,
    gate: Gate,
    next: u64,
    waiting: bool,
    allowed: u32,
    launches: u64,
    marks: VecDeque<Mark>,
    recorded: u64,
    last_mark: u64,
    stopped_until: u64,
    dead: bool,
}

/// One chip, its region, and the processes on it.
pub struct World {
    _memory: Vec<u128>,
    pub chip: DeviceView,
    device: Executor,
    processes: Vec<Process>,
    random: Random,
    now: u64,
    start: u64,
    /// Of so many events one cannot be recorded; 0 for none.
    pub lost_marks: u64,
}

impl World {
    pub fn new(discipline: Discipline, tenants: &[Tenant], tuning: Tuning, seed: u64) -> Self {
        let mut memory = vec![0_u128; DEVICE_SIZE / 16];
        let base = NonNull::new(memory.as_mut_ptr().cast::<u8>()).unwrap();
        // SAFETY: the buffer lives as long as the world, and only the views touch it.
        let chip = DeviceView::create(unsafe { Mapping::new(base, DEVICE_SIZE) }, 1).unwrap();
        for tenant in tenants {
            let entry = chip.entry(tenant.entry).unwrap();
            entry.share_milli.store(tenant.share_milli, Ordering::Relaxed);
            entry.mode.store(tenant.mode as u8, Ordering::Relaxed);
            entry.priority.store(tenant.priority, Ordering::Relaxed);
        }
        // Not at zero: a machine has been up for a while.
        let start = 7_000_000_000_000;
        let mut random = Random::new(seed);
        let processes = tenants.iter().map(|tenant| Process {
            tenant: *tenant,
            gate: Gate::new(tuning),
            next: start + tenant.wants.0 + (random.unit() * 1e6) as u64,
            waiting: false,
            allowed: 0,
            launches: 0,
            marks: VecDeque::new(),
            recorded: 0,
            last_mark: 0,
            stopped_until: 0,
            dead: false,
        });
        let processes: Vec<_> = processes.collect();
        let mut device = Executor::new(discipline);
        device.advance(start);
        Self { _memory: memory, chip, device, processes, random, now: start, start, lost_marks: 0 }
    }

    /// Nanoseconds since the start.
    pub fn now(&self) -> u64 {
        self.now - self.start
    }

    /// The clock of the buckets.
    pub fn clock(&self) -> i64 {
        self.now.cast_signed()
    }

    /// Whether nothing of a process is queued.
    pub fn is_idle(&self, process: usize) -> bool {
        self.device.queued(process as u64) == 0
    }

    pub fn busy(&self, process: usize) -> u64 {
        self.device.busy(process as u64)
    }

    pub fn gate(&self, process: usize) -> &Gate {
        &self.processes[process].gate
    }

    /// SIGKILL: what is queued still runs, as on hardware until the context is torn down.
    pub fn kill(&mut self, process: usize) {
        self.processes[process].dead = true;
    }

    /// SIGSTOP, and SIGCONT after `length`.
    pub fn stop(&mut self, process: usize, length: u64) {
        self.processes[process].stopped_until = self.now + length;
    }

    pub fn set_share(&mut self, process: usize, share_milli: u32) {
        let tenant = &mut self.processes[process].tenant;
        tenant.share_milli = share_milli;
        self.chip.entry(tenant.entry).unwrap().share_milli.store(share_milli, Ordering::Relaxed);
    }

    /// Runs until `to` after the start.
    pub fn run_to(&mut self, to: u64) {
        let end = self.start + to;
        loop {
            let next = (0..self.processes.len())
                .filter(|p| !self.processes[*p].dead)
                .min_by_key(|p| self.processes[*p].next.max(self.processes[*p].stopped_until));
            let Some(process) = next else { break };
            let at = self.processes[process].next.max(self.processes[process].stopped_until);
            if at >= end {
                break;
            }
            self.now = self.now.max(at);
            self.device.advance(self.now);
            let before = self.chip.lease().unwrap().load(Ordering::Relaxed);
            self.step(process);
            let after = self.chip.lease().unwrap().load(Ordering::Relaxed);
            if before != after {
                self.wake_waiters(process);
            }
        }
        self.now = end;
        self.device.advance(end);
    }

    fn wake_waiters(&mut self, but: usize) {
        for p in 0..self.processes.len() {
            if p != but && self.processes[p].waiting {
                let woken = self.now + self.jitter();
                let process = &mut self.processes[p];
                process.next = process.next.min(woken);
            }
        }
    }

    fn jitter(&mut self) -> u64 {
        (WAKE as f64 * (0.5 + self.random.unit())) as u64
    }

    fn step(&mut self, p: usize) {
        let now = self.now;
        let process = &mut self.processes[p];
        process.waiting = false;
        let terms = process.tenant.terms();
        while let Some(mark) = process.marks.front() {
            let Some(reached) = self.device.take_reached(p as u64, *mark) else { break };
            process.marks.pop_front();
            let elapsed = reached - process.last_mark;
            process.last_mark = reached;
            process.gate.finished(&self.chip, &terms, now, elapsed);
        }
        let load = match process.tenant.kernels {
            Kernels::Graphs(_) if process.launches % (BEFORE_GRAPH + 1) == BEFORE_GRAPH => Load::Graph,
            _ => Load::Kernel,
        };
        if process.allowed > 0 {
            process.allowed -= 1;
            process.launches += 1;
            let duration = match load {
                Load::Graph => process.tenant.kernels.longest(),
                Load::Kernel => process.tenant.kernels.draw(&mut self.random),
            };
            if let Kernels::Graphs(_) = process.tenant.kernels
                && process.launches % (BEFORE_GRAPH + 1) == BEFORE_GRAPH
            {
                // The next one needs a decision of its own.
                process.allowed = 0;
            }
            self.device.launch(p as u64, duration);
            process.gate.launched(now, 1);
            process.next = now + LAUNCH;
            return;
        }
        let wants = now < self.start.saturating_add(process.tenant.wants.1);
        let answer = if wants {
            process.gate.ask_for(&self.chip, &terms, now, load)
        } else {
            process.gate.look(&self.chip, &terms, now)
        };
        match answer {
            Answer::Go(launches) => {
                process.allowed = launches;
                process.next = now + 200;
            }
            Answer::Mark => {
                assert!(process.gate.marked(now), "the queue of marks is bounded");
                process.recorded += 1;
                if self.lost_marks > 0 && process.recorded.is_multiple_of(self.lost_marks) {
                    process.gate.unmeasured();
                } else {
                    process.marks.push_back(self.device.mark(p as u64));
                }
                process.next = now + RECORD;
            }
            Answer::Wait(until) => {
                process.waiting = true;
                // A short wait is spun, a sleep ends late.
                let late = if until < now + SPIN { 1_000 } else { self.jitter() };
                self.processes[p].next = until.max(now) + late;
            }
            Answer::Rest => process.next = u64::MAX / 2,
        }
    }
}
