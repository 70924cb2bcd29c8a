//! The order of the policies on a short bank mix, as a guard: the figures themselves are in `docs/placement.md`.

use vnpu_sim::choice::Choice;
use vnpu_sim::compare::{Load, compare};
use vnpu_sim::mix::bank;

#[test]
fn the_planner_keeps_batches_together_and_patience_helps() {
    let names = ["least-allocated", "hami", "tiers-hash", "ours", "ours@1800"];
    let policies = names.map(|name| name.parse::<Choice>().unwrap());
    let workloads = (1..=2).map(|seed| (seed, bank(seed, 0.92, 1200))).collect();
    let loads = [Load { name: "0.92".to_owned(), workloads }];
    let rows = compare(&policies, &loads, 2, &|_, _| ()).unwrap();
    let figure = |name: &str| rows.iter().map(|row| row.figure(name).unwrap().mean).collect::<Vec<_>>();
    let xnode = figure("xnode");
    assert!(xnode.windows(2).all(|pair| pair[0] > pair[1]), "{xnode:?}");
    let avoidable = figure("avoidable");
    assert!(avoidable[4] <= 0.05 && avoidable[3] < avoidable[2], "{avoidable:?}");
    assert_eq!(figure("straddle"), [0.0; 5]);
    let goodput = figure("goodput");
    assert!(goodput[4] >= goodput[1] && goodput[4] >= goodput[0], "{goodput:?}");
}
