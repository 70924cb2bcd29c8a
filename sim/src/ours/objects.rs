//! The objects that the planner is told of: classes, batches, claims and pods, as the driver and the controller make
//! them. Nodes and their devices are in `node.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use vnpu_driver::id::{ClaimUid, InvalidId, NodeName};
use vnpu_placement::batch::{Batch, BatchKey, Member, Mode, Reach};
use vnpu_placement::demand::{self, ClaimDemand, ClaimSpec, Count, PodDemand, Request};
use vnpu_placement::node::{BoundPod, Class};
use vnpu_placement::resources::Resources;

use crate::job::{Ask, Job, Thousandths};

/// The memory of a chip.
pub(super) const MEMORY: u64 = 64 << 30;
/// All of a chip's cores, in percent.
pub(super) const CORES: u64 = 100;

const CHIP: &str = "npu.vnpu.dev";
const MODULE: &str = "npu-module.vnpu.dev";

/// The DeviceClasses of the driver.
pub(super) fn classes() -> [Class; 2] {
    [(CHIP, "chip"), (MODULE, "module")].map(|(name, kind)| Class {
        name: name.to_owned(),
        selectors: vec![format!(
            "device.driver == \"vnpu.dev\" && device.attributes[\"vnpu.dev\"].type == \"{kind}\""
        )],
    })
}

/// A pod's UID.
pub(super) fn pod_uid(job: usize, pod: usize) -> String {
    format!("job-{job}-{pod}")
}

/// The UID of a pod's claim.
pub(super) fn claim_uid(job: usize, pod: usize) -> Result<ClaimUid, InvalidId> {
    ClaimUid::new(format!("{job:08x}-0000-4000-8000-{pod:012x}"))
}

/// A bound pod.
pub(super) fn bound_pod(uid: &str, node: &NodeName) -> BoundPod {
    BoundPod { uid: uid.to_owned(), node: node.clone(), resources: one_pod() }
}

fn one_pod() -> Resources {
    Resources(BTreeMap::from([("pods".to_owned(), 1)]))
}

/// A job as the controller would group it.
pub(super) fn batch(number: usize, job: &Job, patience: Duration, mode: Mode) -> Batch {
    let name = format!("job-{number}");
    let spec = spec(job.ask);
    let member = |pod: u32| {
        let claim = ClaimDemand {
            uid: claim_uid(number, pod as usize).ok(),
            shared: false,
            node: None,
            spec: spec.clone(),
        };
        Member {
            uid: pod_uid(number, pod as usize),
            name: format!("bank/{name}-{pod}"),
            rank: Some(pod),
            demand: Arc::new(PodDemand { resources: one_pod(), claims: vec![claim], ..PodDemand::default() }),
        }
    };
    Batch {
        key: BatchKey(Arc::from(name.as_str())),
        owner: format!("{:016x}", job.owner),
        title: format!("Job bank/{name}"),
        mode,
        reach: Reach::Preferred,
        priority: 0,
        arrived: job.arrival,
        patience,
        members: (0..job.pods).map(member).collect(),
        placed: Vec::new(),
        unmodelled: Vec::new(),
    }
}

/// A claim for whole modules, where there are any, one chip, or a part of one.
fn spec(ask: Ask) -> ClaimSpec {
    let plain = |class: &str, count: u32| demand::Ask {
        name: String::new(),
        class: class.to_owned(),
        selectors: Vec::new(),
        count: Count::Exactly(count),
        capacity: BTreeMap::new(),
        tolerations: Vec::new(),
        admin_access: false,
    };
    let alternatives = match ask {
        Ask::Chips(1) => vec![plain(CHIP, 1)],
        // As admission rewrites it.
        Ask::Chips(chips) => vec![
            demand::Ask { name: "modules".to_owned(), ..plain(MODULE, chips / 2) },
            demand::Ask {
                name: "chips".to_owned(),
                selectors: vec!["device.attributes[\"vnpu.dev\"].dies == 1".to_owned()],
                ..plain(CHIP, chips)
            },
        ],
        Ask::Share(part) => vec![demand::Ask { capacity: consumed(part), ..plain(CHIP, 1) }],
    };
    let request = Request { name: "npu".to_owned(), alternatives };
    ClaimSpec { requests: vec![request], constraints: Vec::new() }
}

/// What a part of a chip takes of its capacities.
pub(super) fn consumed(Thousandths(part): Thousandths) -> BTreeMap<String, u64> {
    let part = u64::from(part);
    BTreeMap::from([
        ("memory".to_owned(), MEMORY / 1000 * part),
        ("cores".to_owned(), (CORES * part).div_ceil(1000)),
    ])
}
