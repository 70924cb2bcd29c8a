//! How long one look at 64 chips takes: the first one of a process, and those after it. Behind the vendors' C interfaces
//! stand-ins answer over a socket, so the figures hold for this code and not for a driver. Printed, not asserted.

// Helpers of benches may fail by panic, as benches do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../tests/machine/mod.rs"]
mod machine;

use std::time::{Duration, Instant};

use machine::Node;
use standin_protocol::Machine;
use vnpu_discovery::Backend;

const LOOKS: usize = 50;
const CHIPS: u32 = 64;
/// To reach, in milliseconds.
const GOAL: u64 = 100;

fn look(backend: &dyn Backend, chips: usize) -> Duration {
    let start = Instant::now();
    let inventory = backend.discover().unwrap();
    let took = start.elapsed();
    assert_eq!((inventory.chips.len(), inventory.problems.len()), (chips, 0));
    took
}

fn measure(what: &str, make: impl Fn() -> Box<dyn Backend>) {
    let mut first: Vec<Duration> = (0..5).map(|_| look(&*make(), CHIPS as usize)).collect();
    let backend = make();
    look(&*backend, CHIPS as usize);
    let mut next: Vec<Duration> = (0..LOOKS).map(|_| look(&*backend, CHIPS as usize)).collect();
    first.sort();
    next.sort();
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    println!(
        "  {what:<28} first look p50 {:6.1}   later looks p50 {:6.1}  p99 {:6.1}",
        millis(first[first.len() / 2]),
        millis(next[LOOKS / 2]),
        millis(next[LOOKS * 99 / 100]),
    );
}

fn main() {
    println!("one look at {CHIPS} chips, milliseconds, stand-in libraries (to reach: {GOAL})");
    let node = Node::start(&Machine::ascend_910c(CHIPS / 2, 65536));
    measure("Ascend 910C, 32 modules", || Box::new(node.ascend()));
    let node = Node::start(&Machine::ascend_910b(CHIPS, 65536));
    measure("Ascend 910B, 64 cards", || Box::new(node.ascend()));
    let node = Node::gpus(&Machine::nvidia_h100(CHIPS, 81_559));
    measure("NVIDIA H100, 64 GPUs", || Box::new(node.nvidia()));
}
