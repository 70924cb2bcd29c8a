//! What a placement policy is to the simulator, and the queue that all baselines share.

use std::collections::VecDeque;

use vnpu_placement::moment::Moment;

use crate::cluster::{Cluster, Spot};
use crate::job::Job;

/// A job that starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Its number.
    pub job: usize,
    /// Where each of its pods runs.
    pub spots: Vec<Spot>,
}

/// Decides which jobs start, and where. It is never told how long a job runs.
pub trait Policy {
    /// A job has arrived.
    fn arrive(&mut self, number: usize, job: &Job, now: Moment);

    /// A job has ended; its spots are free already.
    fn end(&mut self, number: usize, job: &Job, spots: &[Spot]);

    /// Which waiting jobs start now. What it takes has to be free in `cluster`.
    fn decide(&mut self, cluster: &Cluster, jobs: &[Job], now: Moment) -> Vec<Start>;

    /// When it wants to decide although nothing happens.
    fn wake(&self) -> Option<Moment> {
        None
    }
}

/// Where the pods of one job go, all or none: what tells one baseline from another.
pub trait Place {
    /// Takes room for all pods from `cluster`; `None`, with `cluster` as it was, when they do not fit.
    fn place(&mut self, cluster: &mut Cluster, job: &Job) -> Option<Vec<Spot>>;
}

/// How many jobs of the queue are looked at.
pub const DEPTH: usize = 64;

/// Arrival order, looked at [`DEPTH`] jobs deep; whatever fits starts, and nothing is held for anybody.
pub struct Fifo<P> {
    place: P,
    waiting: VecDeque<usize>,
}

impl<P: Place> Fifo<P> {
    /// An empty queue in front of a placement.
    pub const fn new(place: P) -> Self {
        Self { place, waiting: VecDeque::new() }
    }
}

impl<P: Place> Policy for Fifo<P> {
    fn arrive(&mut self, number: usize, _: &Job, _: Moment) {
        self.waiting.push_back(number);
    }

    fn end(&mut self, _: usize, _: &Job, _: &[Spot]) {}

    fn decide(&mut self, cluster: &Cluster, jobs: &[Job], _: Moment) -> Vec<Start> {
        let mut starts = Vec::new();
        if self.waiting.is_empty() {
            return starts;
        }
        let mut cluster = cluster.clone();
        let front = self.waiting.len().min(DEPTH);
        let mut passed: VecDeque<usize> = VecDeque::with_capacity(front);
        for number in self.waiting.drain(..front) {
            let placed = jobs.get(number).and_then(|job| self.place.place(&mut cluster, job));
            match placed {
                Some(spots) => starts.push(Start { job: number, spots }),
                None => passed.push_back(number),
            }
        }
        passed.append(&mut self.waiting);
        self.waiting = passed;
        starts
    }
}
