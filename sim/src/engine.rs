//! The simulation: events in the order of time, a policy asked after each moment, and what is measured between them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use vnpu_placement::moment::Moment;

use crate::cluster::{Cluster, Spot};
use crate::gauge::Gauge;
use crate::job::Workload;
use crate::metrics::Metrics;
use crate::optimum::{Gap, gap};
use crate::policy::{Policy, Start};

/// Why a simulation cannot go on: the policy is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimulationError {
    /// A start took what is not free.
    #[error(
        "the policy starts job {job} on node {node}, where what it takes is not free; report this as a bug"
    )]
    NotFree {
        /// The job's number.
        job: usize,
        /// The node's number.
        node: usize,
    },
    /// A start of a job that does not wait, or with another number of pods.
    #[error("the policy starts job {job}, which does not wait with so many pods; report this as a bug")]
    NotWaiting {
        /// The job's number.
        job: usize,
    },
    /// All jobs have ended but some never started.
    #[error("{left} jobs never started, the first is job {job}: it needs more than the cluster has")]
    NeverStarted {
        /// How many.
        left: usize,
        /// The first of them.
        job: usize,
    },
}

impl SimulationError {
    /// Whether the same simulation may go through later.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// For reports.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotFree { .. } => "NotFree",
            Self::NotWaiting { .. } => "NotWaiting",
            Self::NeverStarted { .. } => "NeverStarted",
        }
    }
}

/// What happens. The order is that of one moment: what ends is free for what arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    End(usize),
    Arrival(usize),
    Wake,
}

/// One job as it went.
#[derive(Debug, Clone, Default)]
pub struct Ran {
    /// When it started.
    pub start: Moment,
    /// Where its pods ran.
    pub spots: Vec<Spot>,
    /// How far its plan was from the best one at that moment.
    pub gap: Gap,
}

struct Simulation<'a> {
    workload: &'a Workload,
    policy: &'a mut dyn Policy,
    cluster: Cluster,
    events: BinaryHeap<Reverse<(Moment, Event)>>,
    woken: Option<Moment>,
    ran: Vec<Option<Ran>>,
    gauge: Gauge,
    latencies: Vec<Duration>,
}

/// Runs a workload under a policy.
///
/// # Errors
/// [`SimulationError`] when the policy takes what is not free, or leaves a job out.
pub fn simulate(workload: &Workload, policy: &mut dyn Policy) -> Result<Metrics, SimulationError> {
    let arrivals = workload.jobs.iter().enumerate();
    let mut simulation = Simulation {
        policy,
        cluster: Cluster::new(workload.shape),
        events: arrivals.map(|(number, job)| Reverse((job.arrival, Event::Arrival(number)))).collect(),
        woken: None,
        ran: vec![None; workload.jobs.len()],
        gauge: Gauge::new(workload),
        latencies: Vec::new(),
        workload,
    };
    simulation.run()?;
    let left = simulation.ran.iter().filter(|ran| ran.is_none()).count();
    if let Some(job) = simulation.ran.iter().position(Option::is_none) {
        return Err(SimulationError::NeverStarted { left, job });
    }
    let ran: Vec<Ran> = simulation.ran.into_iter().flatten().collect();
    Ok(Metrics::of(workload, &ran, &simulation.gauge, simulation.latencies))
}

impl Simulation<'_> {
    fn run(&mut self) -> Result<(), SimulationError> {
        while let Some(Reverse((now, event))) = self.events.pop() {
            self.gauge.until(now, &self.cluster);
            self.happen(now, event);
            while let Some(Reverse((_, event))) = self.next_at(now) {
                self.happen(now, event);
            }
            let asked = Instant::now();
            let starts = self.policy.decide(&self.cluster, &self.workload.jobs, now);
            self.latencies.push(asked.elapsed());
            for start in starts {
                self.start(start, now)?;
            }
            self.wake(now);
        }
        Ok(())
    }

    fn next_at(&mut self, now: Moment) -> Option<Reverse<(Moment, Event)>> {
        let Reverse((at, _)) = self.events.peek()?;
        if *at == now { self.events.pop() } else { None }
    }

    fn happen(&mut self, now: Moment, event: Event) {
        match event {
            Event::End(number) => {
                let (Some(Some(ran)), Some(job)) = (self.ran.get(number), self.workload.jobs.get(number))
                else {
                    return;
                };
                self.cluster.give(&ran.spots);
                self.gauge.ended(job);
                self.policy.end(number, job, &ran.spots);
            }
            Event::Arrival(number) => {
                if let Some(job) = self.workload.jobs.get(number) {
                    self.policy.arrive(number, job, now);
                }
            }
            Event::Wake => self.woken = None,
        }
    }

    fn start(&mut self, start: Start, now: Moment) -> Result<(), SimulationError> {
        let Start { job: number, spots } = start;
        let waiting = |job: &&crate::job::Job| job.pods as usize == spots.len() && job.arrival <= now;
        let job = self.workload.jobs.get(number).filter(waiting);
        let (Some(job), Some(ran @ None)) = (job, self.ran.get_mut(number)) else {
            return Err(SimulationError::NotWaiting { job: number });
        };
        let gap = gap(&self.cluster, job, &spots);
        for spot in &spots {
            if !self.cluster.occupy(spot) {
                return Err(SimulationError::NotFree { job: number, node: spot.node });
            }
        }
        self.gauge.started(job);
        self.events
            .push(Reverse((now.after(job.duration.max(Duration::from_millis(1))), Event::End(number))));
        *ran = Some(Ran { start: now, spots, gap });
        Ok(())
    }

    fn wake(&mut self, now: Moment) {
        let Some(at) = self.policy.wake() else { return };
        let at = at.max(now.after(Duration::from_millis(1)));
        if self.woken.is_none_or(|woken| at < woken) {
            self.woken = Some(at);
            self.events.push(Reverse((at, Event::Wake)));
        }
    }
}

#[cfg(test)]
mod tests;
