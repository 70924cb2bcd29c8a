use proptest::prelude::*;
use vnpu_driver::id::NodeName;

use super::*;
use crate::fixtures::{owner, plan, plan_with};

/// An API server, as far as slices are concerned.
#[derive(Debug, Default, Clone)]
struct Server {
    slices: BTreeMap<String, api::ResourceSlice>,
    count: u32,
}

impl Server {
    fn list(&self) -> Vec<api::ResourceSlice> {
        self.slices.values().cloned().collect()
    }

    fn write(&mut self, write: &SliceWrite) {
        self.count += 1;
        match write {
            SliceWrite::Delete { name, resource_version, .. } => {
                let gone = self.slices.remove(name).unwrap();
                assert_eq!(&gone.metadata.resource_version, resource_version);
            }
            SliceWrite::Update(slice) => {
                let mut slice = (**slice).clone();
                let old = self.slices.get_mut(slice.metadata.name.as_ref().unwrap()).unwrap();
                assert_eq!(old.metadata.resource_version, slice.metadata.resource_version);
                slice.metadata.resource_version = Some(self.count.to_string());
                *old = slice;
            }
            SliceWrite::Create(slice) => {
                let mut slice = (**slice).clone();
                let name = format!("{}{:05}", slice.metadata.generate_name.as_ref().unwrap(), self.count);
                slice.metadata.name = Some(name.clone());
                slice.metadata.uid = Some(format!("uid-{}", self.count));
                slice.metadata.resource_version = Some(self.count.to_string());
                self.slices.insert(name, slice);
            }
        }
    }

    fn reach(&mut self, desired: &PoolPlan) -> SyncPlan {
        let plan = sync(desired, &self.list(), &owner(), 0);
        plan.writes.iter().for_each(|w| self.write(w));
        plan
    }

    /// What the scheduler demands of a whole pool.
    fn is_whole(&self, desired: &PoolPlan) -> bool {
        let pools: Vec<_> = self.slices.values().map(|s| s.spec.pool.clone()).collect();
        pools.windows(2).all(|w| w[0] == w[1])
            && pools.iter().all(|p| p.resource_slice_count == i64::try_from(pools.len()).unwrap())
            && pools.len() == desired.slices.len()
    }
}

fn kinds(plan: &SyncPlan) -> String {
    plan.writes
        .iter()
        .map(|w| match w {
            SliceWrite::Delete { .. } => 'd',
            SliceWrite::Update(_) => 'u',
            SliceWrite::Create(_) => 'c',
        })
        .collect()
}

#[test]
fn a_first_publication_creates_all_and_then_rests() {
    let mut server = Server::default();
    let first = server.reach(&plan(2));
    assert_eq!((kinds(&first).as_str(), first.generation), ("cc", 1));
    let second = server.reach(&plan(2));
    assert_eq!((kinds(&second).as_str(), second.generation), ("", 1));
}

#[test]
fn a_change_in_one_slice_is_one_write_at_the_same_generation() {
    let mut server = Server::default();
    server.reach(&plan(30));
    let next = server.reach(&plan_with(30, &[], &["chip-5-0"]));
    assert_eq!((kinds(&next).as_str(), next.generation), ("u", 1), "reordered for a half-used module");
}

#[test]
fn a_change_in_two_slices_moves_the_whole_pool_on() {
    let mut server = Server::default();
    server.reach(&plan(30));
    let next = server.reach(&plan_with(30, &["chip-5-0", "chip-25-0"], &[]));
    assert_eq!((kinds(&next).as_str(), next.generation), ("uuu", 2));
    assert!(server.is_whole(&plan(30)));
}

#[test]
fn slices_come_and_go_with_a_new_generation() {
    let mut server = Server::default();
    server.reach(&plan(2));
    let more = server.reach(&plan(30));
    assert_eq!((kinds(&more).as_str(), more.generation), ("uuc", 2));
    let less = server.reach(&plan(2));
    assert_eq!((kinds(&less).as_str(), less.generation), ("duu", 3));
}

#[test]
fn wiped_slices_come_back_newer_than_any_seen() {
    let plan = sync(&plan(1), &[], &owner(), 41);
    assert_eq!((kinds(&plan).as_str(), plan.generation), ("cc", 42));
}

#[test]
fn foreign_slices_are_left_alone_and_doubles_removed() {
    let mut server = Server::default();
    server.reach(&plan(1));
    let mut others = Vec::new();
    for (i, slice) in server.list().into_iter().enumerate() {
        let mut other = slice.clone();
        match i {
            0 => other.spec.driver = "gpu.example.com".to_owned(),
            _ => other.spec.pool.name = "node-1/nvidia".to_owned(),
        }
        other.metadata.name = Some(format!("{}-other", slice.metadata.name.unwrap()));
        others.push(other);
    }
    let mut observed = server.list();
    observed.extend(others);
    assert_eq!(kinds(&sync(&plan(1), &observed, &owner(), 0)), "");
    let mut double = server.list().remove(0);
    let name = format!("{}z", double.metadata.name.unwrap());
    double.metadata.name = Some(name.clone());
    observed.push(double);
    let cleaned = sync(&plan(1), &observed, &owner(), 0);
    assert_eq!(kinds(&cleaned), "duu");
    assert!(matches!(&cleaned.writes[0], SliceWrite::Delete { name: n, .. } if *n == name));
}

#[test]
fn a_node_made_again_owns_its_slices_again() {
    let mut server = Server::default();
    server.reach(&plan(1));
    let reborn = NodeOwner { name: NodeName::new("node-1").unwrap(), uid: "another-uid".to_owned() };
    assert_eq!(kinds(&sync(&plan(1), &server.list(), &reborn, 0)), "uu");
}

#[test]
fn a_taint_keeps_the_time_that_the_server_gave_it() {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    let mut server = Server::default();
    server.reach(&plan_with(1, &["chip-0-0"], &[]));
    for slice in server.slices.values_mut() {
        for taint in slice.spec.devices.iter_mut().flatten().flat_map(|d| d.taints.iter_mut().flatten()) {
            taint.time_added = Some(Time(Timestamp::UNIX_EPOCH));
        }
    }
    assert_eq!(kinds(&server.clone().reach(&plan_with(1, &["chip-0-0"], &[]))), "");
    server.reach(&plan_with(1, &["chip-0-0", "chip-0-1"], &[]));
    let kept = server
        .slices
        .values()
        .flat_map(|s| s.spec.devices.iter().flatten())
        .map(|d| d.taints.iter().flatten().filter(|t| t.time_added.is_some()).count())
        .collect::<Vec<_>>();
    assert_eq!(kept, [1, 1, 0], "module and chip 0 had theirs, chip 1's is new");
}

proptest! {
    // Up to four slices in all: more of the same would only take time.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// From any state that interrupted writers may leave, a few rounds reach the wish and then rest.
    #[test]
    fn any_interruption_converges(
        rounds in proptest::collection::vec((0u32..48, 0usize..6, any::<bool>()), 1..6),
        last in 0u32..48,
    ) {
        let mut server = Server::default();
        for (modules, done, wipe) in rounds {
            let desired = plan(modules);
            for write in sync(&desired, &server.list(), &owner(), 0).writes.iter().take(done) {
                server.write(write);
            }
            if wipe {
                server.slices.pop_first();
            }
        }
        let desired = plan(last);
        server.reach(&desired);
        prop_assert!(server.is_whole(&desired));
        prop_assert_eq!(kinds(&server.reach(&desired)), "", "at rest");
    }

    #[test]
    fn the_generation_never_falls(sizes in proptest::collection::vec(0u32..48, 1..6)) {
        let mut server = Server::default();
        let mut before = 0;
        for modules in sizes {
            let generation = server.reach(&plan(modules)).generation;
            prop_assert!(generation >= before);
            before = generation;
        }
    }
}
