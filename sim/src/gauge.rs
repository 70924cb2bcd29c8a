//! What is measured of the cluster over time: how much of it is free, in which form, and how much is used for what.

use vnpu_placement::moment::Moment;

use crate::cluster::Cluster;
use crate::job::{Ask, Job, Workload};

/// Integrals over the counted window, in seconds times what they count.
#[derive(Debug, Clone)]
pub struct Gauge {
    window: (Moment, Moment),
    popularity: Vec<(Ask, f64)>,
    last: Moment,
    asked: f64,
    asked_seconds: f64,
    occupied_seconds: f64,
    pool: Ratio,
    fragmentation: Ratio,
}

/// A mean over time of a ratio that is not always defined.
#[derive(Debug, Clone, Copy, Default)]
struct Ratio {
    sum: f64,
    seconds: f64,
}

impl Ratio {
    fn add(&mut self, seconds: f64, part: f64, whole: f64) {
        if whole > 0.0 {
            self.sum += seconds * part / whole;
            self.seconds += seconds;
        }
    }

    fn mean(self) -> f64 {
        if self.seconds > 0.0 { self.sum / self.seconds } else { f64::NAN }
    }
}

impl Gauge {
    /// Of a workload that has not begun.
    pub fn new(workload: &Workload) -> Self {
        Self {
            window: workload.window(),
            popularity: workload.popularity(),
            last: Moment::default(),
            asked: 0.0,
            asked_seconds: 0.0,
            occupied_seconds: 0.0,
            pool: Ratio::default(),
            fragmentation: Ratio::default(),
        }
    }

    /// Counts the time until `now`, in which the cluster was like this.
    pub fn until(&mut self, now: Moment, cluster: &Cluster) {
        let (from, to) = (self.last.max(self.window.0), now.min(self.window.1));
        self.last = now;
        let seconds = to.since(from).as_secs_f64();
        if seconds == 0.0 {
            return;
        }
        let free: f64 = cluster.nodes.iter().map(|node| f64::from(node.free())).sum();
        let pairs: f64 = cluster.nodes.iter().map(|node| 2.0 * f64::from(node.whole())).sum();
        let occupied: f64 = cluster.nodes.iter().map(|node| f64::from(node.occupied())).sum();
        self.pool.add(seconds, pairs, free);
        self.asked_seconds += seconds * self.asked;
        self.occupied_seconds += seconds * occupied;
        let (fragments, amount) = self.fragments(cluster);
        self.fragmentation.add(seconds, fragments, amount);
    }

    /// What is free but of no use to the pods that come: per node, the mean over the workload's pods of the free chips
    /// that this pod's demand could not take (Weng et al., "Beware of Fragmentation", 2023); and all that is free.
    fn fragments(&self, cluster: &Cluster) -> (f64, f64) {
        let (mut fragments, mut amount) = (0.0, 0.0);
        for node in &cluster.nodes {
            let free = node.free_amount();
            if free == 0.0 {
                continue;
            }
            let usable = |ask: Ask| (f64::from(node.room(ask)) * ask.chips()).min(free);
            let usable: f64 = self.popularity.iter().map(|(ask, share)| share * usable(*ask)).sum();
            fragments += free - usable;
            amount += free;
        }
        (fragments, amount)
    }

    /// A job starts.
    pub fn started(&mut self, job: &Job) {
        self.asked += job.chips();
    }

    /// A job ends.
    pub fn ended(&mut self, job: &Job) {
        self.asked -= job.chips();
    }

    /// Chips that an even request could take, of the free ones; the mean over time.
    pub fn pool_rate(&self) -> f64 {
        self.pool.mean()
    }

    /// Chips occupied, of those asked for by what runs.
    pub fn inflation(&self) -> f64 {
        self.occupied_seconds / self.asked_seconds
    }

    /// The part of what is free that the workload's pods could not use; the mean over time.
    pub fn fragmentation(&self) -> f64 {
        self.fragmentation.mean()
    }

    /// Chip-seconds asked for by what ran in the window, of those that the cluster had.
    pub fn goodput(&self, capacity: f64) -> f64 {
        self.asked_seconds / (capacity * self.window.1.since(self.window.0).as_secs_f64())
    }
}
