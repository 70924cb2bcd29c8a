use super::*;
use crate::cluster::{Cluster, Spot};
use crate::job::{Ask, Job, Shape};
use crate::policy::Place;
use std::time::Duration;
use vnpu_placement::moment::Moment;

fn job(pods: u32, chips: u32) -> Job {
    Job {
        arrival: Moment::default(),
        duration: Duration::from_secs(1),
        pods,
        ask: Ask::Chips(chips),
        owner: 42,
    }
}

fn nodes(spots: Option<Vec<Spot>>) -> Vec<usize> {
    spots.unwrap().iter().map(|spot| spot.node).collect()
}

#[test]
fn least_allocated_spreads_and_most_allocated_packs() {
    let mut cluster = Cluster::new(Shape::BANK);
    let mut spread = nodes(LeastAllocated::new(1).place(&mut cluster, &job(8, 2)));
    spread.dedup();
    assert_eq!(spread.len(), 8);
    let mut cluster = Cluster::new(Shape::BANK);
    let mut packed = nodes(MostAllocated::new(1).place(&mut cluster, &job(8, 2)));
    packed.dedup();
    assert_eq!(packed.len(), 1);
}

#[test]
fn hami_takes_a_module_for_one_chip() {
    let mut cluster = Cluster::new(Shape::BANK);
    let spots = Hami::new(1, true).place(&mut cluster, &job(2, 1)).unwrap();
    assert_eq!(spots.iter().map(|spot| spot.taken.count()).collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn stock_allocation_straddles() {
    let mut cluster = Cluster::new(Shape { nodes: 1, ..Shape::BANK });
    let mut stock = DraFirstFit::new(1);
    assert!(stock.place(&mut cluster, &job(1, 1)).is_some());
    let spots = stock.place(&mut cluster, &job(1, 2)).unwrap();
    assert!(spots[0].taken.straddles());
}

#[test]
fn tiers_stay_on_the_node_then_on_the_leaf() {
    let mut cluster = Cluster::new(Shape::BANK);
    let spots = nodes(TiersAndHash::new(true).place(&mut cluster, &job(4, 8)));
    assert_eq!(spots[0], spots[1]);
    assert_ne!(spots[1], spots[2]);
    assert_eq!(spots[1] / 8, spots[2] / 8);
}

#[test]
fn kueue_takes_the_smallest_domain_that_holds_the_job() {
    let mut cluster = Cluster::new(Shape::BANK);
    KueueBestFit.place(&mut cluster, &job(1, 8)).unwrap();
    assert_eq!(nodes(KueueBestFit.place(&mut cluster, &job(4, 2))), [0, 0, 0, 0]);
    assert_eq!(nodes(KueueBestFit.place(&mut cluster, &job(3, 8))), [1, 1, 2]);
}

#[test]
fn what_does_not_fit_leaves_the_cluster_as_it_was() {
    let shape = Shape { nodes: 2, ..Shape::BANK };
    let places: Vec<Box<dyn Place>> = vec![
        Box::new(RandomNode::new(1)),
        Box::new(LeastAllocated::new(1)),
        Box::new(DraFirstFit::new(1)),
        Box::new(Hami::new(1, true)),
        Box::new(TiersAndHash::new(true)),
        Box::new(KueueBestFit),
    ];
    for mut place in places {
        let mut cluster = Cluster::new(shape);
        assert!(place.place(&mut cluster, &job(5, 8)).is_none());
        assert_eq!(cluster, Cluster::new(shape));
    }
}
