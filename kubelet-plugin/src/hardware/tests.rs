use vnpu_driver::hardware::{Health, PciAddress, Traits};
use vnpu_driver::quantity::Bytes;

use super::*;

const A: &str = "n/ascend";
const N: &str = "n/nvidia";

fn pool(name: &str) -> PoolName {
    PoolName::new(name).unwrap()
}

/// Both vendors, of which nothing is known.
fn pending() -> Inventories {
    let part = |vendor, name| Part {
        pool: pool(name),
        look: Look::Pending,
        served: nothing(vendor),
        taints: BTreeMap::new(),
        doubt: None,
    };
    Inventories { parts: vec![part(Vendor::Ascend, A), part(Vendor::Nvidia, N)] }
}

fn seen(vendor: Vendor, chips: &[(&str, u8)]) -> Look {
    let chips = chips.iter().zip(0..).map(|((uuid, bus), card)| Chip {
        card,
        die: 0,
        uuid: DeviceUuid::new(*uuid).unwrap(),
        module: None,
        model: String::new(),
        product_name: String::new(),
        memory: Bytes::gib(16),
        phys_id: card,
        pci: Some(PciAddress { domain: 0, bus: *bus, device: 0, function: 0 }),
        numa_node: None,
        pcie_root: None,
        health: Health::Healthy,
        traits: Traits::default(),
    });
    Look::Seen(Inventory { chips: chips.collect(), ..nothing(vendor) })
}

fn uuids(inventories: &Inventories, name: &str) -> Vec<String> {
    let Standing::Known(inventory) = inventories.standing(name) else { panic!("{name} is not known") };
    inventory.chips.iter().map(|chip| chip.uuid.to_string()).collect()
}

#[test]
fn of_a_vendor_that_was_not_looked_at_nothing_is_known_and_of_a_missing_one_only_beside_another() {
    let none = pending();
    assert_eq!((none.standing(A), none.standing("n/other")), (Standing::Pending, Standing::Absent));
    assert!(none.node_pools().is_empty() && none.absent_pools().is_empty());
    assert!(none.know(["n/other"].into_iter()) && !none.know([A, "n/other"].into_iter()));
    // The driver may not be installed yet.
    let missing = none.with(&pool(A), Look::Missing).with(&pool(N), Look::Missing);
    assert_eq!((missing.standing(A), missing.standing(N)), (Standing::Pending, Standing::Pending));
    let one = missing.with(&pool(N), seen(Vendor::Nvidia, &[("GPU-0", 1)]));
    assert_eq!(one.standing(A), Standing::Absent);
    assert_eq!(one.absent_pools().iter().map(|p| p.pool.as_str()).collect::<Vec<_>>(), [A]);
    assert_eq!(uuids(&one, N), ["GPU-0"]);
    assert!(one.know([A, N].into_iter()));
    // One that hangs says nothing of itself, and nothing of the others.
    let hanging = none.with(&pool(N), seen(Vendor::Nvidia, &[("GPU-0", 1)]));
    assert_eq!(hanging.standing(A), Standing::Pending);
    assert!(hanging.know([N].into_iter()) && !hanging.know([A].into_iter()));
}

#[test]
fn what_is_known_is_in_doubt_until_the_next_look_that_says_something() {
    let none = pending();
    assert!(!none.settled());
    assert_eq!(none.doubt(A), Some("the first look at the hardware has not ended"));
    assert_eq!(none.doubt("n/other"), Some("this node does not look for devices of this vendor"));
    let hanging = none.doubted(&pool(A), "it hangs").with(&pool(N), Look::Missing);
    assert!(hanging.settled());
    assert_eq!(hanging.doubt(A), Some("it hangs"));
    assert_eq!(hanging.doubt(N), Some("no vendor's library is on this node"));
    let one = hanging.with(&pool(A), seen(Vendor::Ascend, &[("NPU-0", 1)]));
    assert_eq!((one.doubt(A), one.doubt(N)), (None, None), "the other vendor's is absent");
    let doubted = one.doubted(&pool(A), "it hangs");
    assert_eq!((doubted.doubt(A), uuids(&doubted, A)), (Some("it hangs"), uuids(&one, A)));
    // A library that is away for a moment is no answer.
    assert_eq!(doubted.with(&pool(A), Look::Missing).doubt(A), Some("it hangs"));
    assert_eq!(doubted.with(&pool(A), seen(Vendor::Ascend, &[("NPU-0", 1)])), one);
}

#[test]
fn what_two_vendors_claim_the_first_keeps_whoever_is_seen_first() {
    let gpus = seen(Vendor::Nvidia, &[("GPU-0", 1), ("GPU-1", 2), ("SAME", 3)]);
    let npus = seen(Vendor::Ascend, &[("NPU-0", 7), ("NPU-1", 2), ("SAME", 9)]);
    let gpus_only = pending().with(&pool(N), gpus);
    assert_eq!(uuids(&gpus_only, N), ["GPU-0", "GPU-1", "SAME"]);
    let both = gpus_only.with(&pool(A), npus);
    assert_eq!(uuids(&both, A), ["NPU-0", "NPU-1", "SAME"]);
    assert_eq!(uuids(&both, N), ["GPU-0"]);
    let problems: Vec<_> = both.all().flat_map(|i| &i.problems).collect();
    let said =
        |n: usize| (problems[n].object.as_str(), problems[n].reason.as_str(), problems[n].message.as_str());
    let (object, reason, message) = said(0);
    assert_eq!((object, reason), ("nvidia chip-1-0", "pci_claimed_twice"));
    assert!(
        message.starts_with("the PCI address 0000:02:00.0 is claimed by ascend chip-1-0 too, which keeps it"),
        "{message}"
    );
    assert_eq!((said(1).0, said(1).1), ("nvidia chip-2-0", "duplicate_uuid"));
    assert_eq!(problems.len(), 2);
    // It is as it was when the other one's goes.
    assert_eq!(uuids(&both.with(&pool(A), seen(Vendor::Ascend, &[("NPU-0", 7)])), N).len(), 3);
}

#[test]
fn partitions_of_one_gpu_share_its_address() {
    let parts = pending().with(&pool(N), seen(Vendor::Nvidia, &[("MIG-0", 1), ("MIG-1", 1)]));
    assert_eq!(uuids(&parts, N), ["MIG-0", "MIG-1"]);
}
