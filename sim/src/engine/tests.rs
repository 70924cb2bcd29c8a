use super::*;
use crate::baselines::LeastAllocated;
use crate::job::{Ask, Job, Shape};
use crate::metrics::FIGURES;
use crate::policy::Fifo;

fn job(arrival: u64, duration: u64, pods: u32, chips: u32) -> Job {
    Job {
        arrival: Moment(Duration::from_secs(arrival)),
        duration: Duration::from_secs(duration),
        pods,
        ask: Ask::Chips(chips),
        owner: arrival,
    }
}

fn figure(metrics: &Metrics, name: &str) -> f64 {
    FIGURES.iter().find(|figure| figure.name == name).unwrap().value(metrics)
}

#[test]
fn a_run_by_hand() {
    // One node of 2 modules: the first job fills it for 100 s, so the second waits 90 s; the third fits beside it.
    let shape = Shape { nodes: 1, chips: 4, dual: true, per_leaf: 1 };
    let jobs = vec![job(0, 100, 2, 2), job(10, 100, 1, 2), job(20, 50, 1, 1)];
    let workload = Workload { shape, jobs, counted: 0..3 };
    let metrics = simulate(&workload, &mut Fifo::new(LeastAllocated::new(1))).unwrap();
    assert_eq!(figure(&metrics, "wait"), (90.0 + 80.0) / 3.0);
    assert_eq!(figure(&metrics, "waitmax"), 90.0);
    assert_eq!(figure(&metrics, "xnode"), 0.0);
    assert_eq!(figure(&metrics, "goodput"), 1.0);
    assert_eq!(figure(&metrics, "inflation"), 1.0);
}

#[test]
fn what_never_fits_is_told() {
    let shape = Shape { nodes: 1, chips: 4, dual: true, per_leaf: 1 };
    let workload = Workload { shape, jobs: vec![job(0, 1, 3, 2)], counted: 0..1 };
    let error = simulate(&workload, &mut Fifo::new(LeastAllocated::new(1))).unwrap_err();
    assert_eq!(error, SimulationError::NeverStarted { left: 1, job: 0 });
}

#[test]
fn a_policy_that_takes_what_is_used_is_stopped() {
    struct Twice;
    impl Policy for Twice {
        fn arrive(&mut self, _: usize, _: &Job, _: Moment) {}
        fn end(&mut self, _: usize, _: &Job, _: &[Spot]) {}
        fn decide(&mut self, cluster: &Cluster, jobs: &[Job], _: Moment) -> Vec<Start> {
            let start = |job: usize| {
                let taken = cluster.clone().nodes[0].take(jobs[job].ask).unwrap();
                Start { job, spots: vec![Spot { node: 0, taken }] }
            };
            vec![start(0), start(1)]
        }
    }
    let shape = Shape { nodes: 1, chips: 4, dual: true, per_leaf: 1 };
    let workload = Workload { shape, jobs: vec![job(0, 1, 1, 1), job(0, 1, 1, 1)], counted: 0..2 };
    let error = simulate(&workload, &mut Twice).unwrap_err();
    assert_eq!(error, SimulationError::NotFree { job: 1, node: 0 });
}
