//! The bank mix: the workload on which policies are compared. It is part of the acceptance test, and nothing in it is
//! tuned to a policy.

use std::time::Duration;

use vnpu_placement::moment::Moment;

use crate::job::{Ask, Job, Shape, Workload};
use crate::random::{Random, exp};

/// Jobs of one run.
pub const JOBS: usize = 5000;

const SINGLE: f64 = 0.6;
const SINGLE_CHIPS: [(u32, f64); 4] = [(1, 0.35), (2, 0.30), (4, 0.20), (8, 0.15)];
const SINGLE_DURATION: (f64, f64) = (8.5, 1.0);
const BATCH_PODS: [(u32, f64); 4] = [(2, 0.35), (4, 0.30), (8, 0.25), (16, 0.10)];
const BATCH_CHIPS: [(u32, f64); 4] = [(1, 0.15), (2, 0.30), (4, 0.30), (8, 0.25)];
const BATCH_DURATION: (f64, f64) = (9.0, 1.0);

/// 60 % single pods of 1, 2, 4 or 8 chips (35, 30, 20, 15 %) that run lognormal(8.5, 1) seconds; 40 % batches of 2,
/// 4, 8 or 16 pods (35, 30, 25, 10 %) of 1, 2, 4 or 8 chips (15, 30, 30, 25 %), lognormal(9, 1) seconds; arrivals are
/// Poisson, at the rate at which the expected chip-seconds of a job fill the load's part of the cluster.
pub fn bank(seed: u64, load: f64, jobs: usize) -> Workload {
    let mut random = Random::new(seed);
    let mut jobs: Vec<Job> = (0..jobs).map(|_| job(&mut random)).collect();
    let gap = mean_chip_seconds() / (load * Shape::BANK.capacity());
    let mut now = 0.0;
    for job in &mut jobs {
        now += random.exponential() * gap;
        job.arrival = Moment(span(now));
    }
    Workload::new(Shape::BANK, jobs)
}

fn job(random: &mut Random) -> Job {
    let single = random.unit() < SINGLE;
    let (pods, chips, (mean, deviation)) = if single {
        (Some(1), random.pick(&SINGLE_CHIPS), SINGLE_DURATION)
    } else {
        (random.pick(&BATCH_PODS), random.pick(&BATCH_CHIPS), BATCH_DURATION)
    };
    let duration = span(random.lognormal(mean, deviation));
    let ask = Ask::Chips(chips.unwrap_or(1));
    Job { arrival: Moment::default(), duration, pods: pods.unwrap_or(1), ask, owner: random.bits() }
}

/// Whole milliseconds: finer differences mean nothing here.
fn span(seconds: f64) -> Duration {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, far below 2^64")]
    Duration::from_millis((seconds * 1000.0).round() as u64)
}

/// The expected chip-seconds of one job, by the definition; not those of the jobs drawn.
fn mean_chip_seconds() -> f64 {
    let mean = |values: &[(u32, f64)]| values.iter().map(|(v, p)| f64::from(*v) * p).sum::<f64>();
    let seconds = |(mean, deviation): (f64, f64)| exp(mean + deviation * deviation / 2.0);
    SINGLE * mean(&SINGLE_CHIPS) * seconds(SINGLE_DURATION)
        + (1.0 - SINGLE) * mean(&BATCH_PODS) * mean(&BATCH_CHIPS) * seconds(BATCH_DURATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_jobs_for_ever() {
        let jobs = bank(1, 0.8, 5).jobs;
        let told: Vec<_> = jobs
            .iter()
            .map(|j| (j.arrival.0.as_millis(), j.duration.as_millis(), j.pods, j.ask.chips() as u32))
            .collect();
        insta::assert_debug_snapshot!(told);
    }

    #[test]
    fn jobs_are_those_of_the_definition() {
        let workload = bank(1, 0.8, 40_000);
        let jobs = &workload.jobs;
        let share = |count: usize, of: usize| count as f64 / of as f64;
        let singles: Vec<_> = jobs.iter().filter(|j| j.pods == 1).collect();
        assert!((share(singles.len(), jobs.len()) - 0.6).abs() < 0.01);
        let eights = singles.iter().filter(|j| j.ask == Ask::Chips(8)).count();
        assert!((share(eights, singles.len()) - 0.15).abs() < 0.01);
        let batches: Vec<_> = jobs.iter().filter(|j| j.pods > 1).collect();
        let sixteens = batches.iter().filter(|j| j.pods == 16).count();
        assert!((share(sixteens, batches.len()) - 0.1).abs() < 0.01);
        let offered: f64 = jobs.iter().map(|j| j.chips() * j.duration.as_secs_f64()).sum();
        let span = jobs.last().unwrap().arrival.0.as_secs_f64();
        assert!((offered / span / 1024.0 - 0.8).abs() < 0.03);
        assert!(jobs.windows(2).all(|pair| pair[0].arrival <= pair[1].arrival));
        assert_eq!(workload.counted, 4000..36_000);
    }
}
