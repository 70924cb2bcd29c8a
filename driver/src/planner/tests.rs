use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::fixtures::{Around, any_inventory, chip, dual, gpu, gpus, partition, single};
use crate::slices::{AttributeValue, MAX_ATTRIBUTE, MAX_COUNTERS, MAX_DEVICES};

/// The rules of `resource.k8s.io/v1` (validation.go of Kubernetes 1.37) that a slice of ours could break.
fn check_limits(plan: &PoolPlan) -> Result<(), TestCaseError> {
    let mut defined = BTreeSet::new();
    let mut names = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for slice in &plan.slices {
        prop_assert!(keys.insert(slice.key.index()), "{} twice", slice.key);
        prop_assert_eq!(SliceKey::from_index(slice.key.index()), Some(slice.key));
        prop_assert!(slice.key.index() <= 0xf_ffff);
        match &slice.content {
            SliceContent::Counters(sets) => {
                prop_assert!((1..=MAX_COUNTER_SETS).contains(&sets.len()));
                for set in sets {
                    prop_assert!((1..=MAX_COUNTERS).contains(&set.counters.len()));
                    for counter in &set.counters {
                        prop_assert!(is_label(counter) && is_label(&set.name));
                        prop_assert!(defined.insert((set.name.clone(), counter.clone())), "{counter} twice");
                    }
                }
            }
            SliceContent::Devices(devices) => prop_assert!(devices.len() <= MAX_DEVICES),
        }
    }
    prop_assert!(!plan.slices.is_empty());
    for device in plan.devices() {
        prop_assert!(names.insert(device.name), "{} twice", device.name);
        check_device(device)?;
        for used in &device.consumes_counters {
            for counter in &used.counters {
                prop_assert!(
                    defined.contains(&(used.set.clone(), counter.clone())),
                    "{counter} is not defined"
                );
            }
        }
    }
    Ok(())
}

fn check_device(device: &DevicePlan) -> Result<(), TestCaseError> {
    prop_assert!(is_label(&device.name.to_string()));
    prop_assert!(device.attributes.len() + device.capacity.len() <= 32);
    prop_assert!(device.consumes_counters.len() <= 2 && device.taints.len() <= 4);
    for required in [
        "type",
        "vendor",
        "model",
        "productName",
        "uuid",
        "module",
        "dies",
        "chips",
        "leaf",
        "superpod",
        "driverVersion",
        "cudaVersion",
        "computeCapability",
        "linkGroup",
        "shareable",
        "profile",
    ] {
        prop_assert!(device.attributes.contains_key(required), "{} lacks {required}", device.name);
    }
    for value in device.attributes.values() {
        if let AttributeValue::Str(text) | AttributeValue::Version(text) = value {
            prop_assert!(text.len() <= MAX_ATTRIBUTE);
        }
    }
    for capacity in device.capacity.values() {
        let value = capacity.value.number();
        prop_assert!(value <= i64::MAX.unsigned_abs());
        prop_assert_eq!(capacity.policy.is_some(), device.allow_multiple_allocations);
        match capacity.policy {
            None => {}
            Some(RequestPolicy::Only(only)) => prop_assert_eq!(only.number(), value),
            Some(RequestPolicy::Range { default, min, max, step }) => {
                let (default, min, max, step) = (default.number(), min.number(), max.number(), step.number());
                prop_assert!(step > 0 && min + step <= value && max <= value);
                prop_assert!((min..=max).contains(&default));
                prop_assert_eq!((max - min) % step, 0);
                prop_assert_eq!((default - min) % step, 0);
            }
        }
    }
    Ok(())
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn names(plan: &PoolPlan) -> Vec<String> {
    plan.devices().map(|d| d.name.to_string()).collect()
}

fn find<'a>(plan: &'a PoolPlan, name: &str) -> Option<&'a DevicePlan> {
    plan.devices().find(|d| d.name.to_string() == name)
}

/// One line per fact, for snapshots that people can read.
fn text(plan: &PoolPlan) -> String {
    let mut out = format!("pool {}\n", plan.pool);
    for slice in &plan.slices {
        writeln!(out, "slice {:05x} {}", slice.key.index(), slice.key).unwrap();
        if let SliceContent::Counters(sets) = &slice.content {
            for set in sets {
                writeln!(
                    out,
                    "  {}: {} ... {} ({})",
                    set.name,
                    set.counters[0],
                    set.counters[31],
                    set.counters.len()
                )
                .unwrap();
            }
        }
        for device in slice.devices() {
            writeln!(
                out,
                "  {}{}",
                device.name,
                if device.allow_multiple_allocations { " shared" } else { "" }
            )
            .unwrap();
            for (name, value) in &device.attributes {
                writeln!(out, "    {name} = {value:?}").unwrap();
            }
            for (name, capacity) in &device.capacity {
                let policy = match capacity.policy {
                    None => String::new(),
                    Some(RequestPolicy::Only(value)) => format!(" (only {value})"),
                    Some(RequestPolicy::Range { default, min, max, step }) => {
                        format!(" (default {default}, {min} to {max} by {step})")
                    }
                };
                writeln!(out, "    {name}: {}{policy}", capacity.value).unwrap();
            }
            for used in &device.consumes_counters {
                writeln!(out, "    uses {} of {}", used.counters.join(", "), used.set).unwrap();
            }
            for taint in &device.taints {
                writeln!(out, "    taint {}={}:{}", taint.key, taint.value, taint.effect.as_str()).unwrap();
            }
        }
    }
    out
}

#[test]
fn a_node_of_one_module_publishes_it_and_its_chips() {
    let around = Around {
        labels: NodeLabels { leaf: "leaf-3".to_owned(), superpod: "7".to_owned() },
        ..Around::default()
    };
    insta::assert_snapshot!(text(&around.plan(&dual(1))), @r#"
    pool node-1/ascend
    slice 00000 counters-0
      modules-0: m0-c0 ... m15-c1 (32)
    slice 40000 modules-0
      module-0
        chips = Int(2)
        computeCapability = Version("0.0.0")
        cudaVersion = Version("0.0.0")
        dies = Int(2)
        driverVersion = Version("25.0.0-rc1")
        leaf = Str("leaf-3")
        linkGroup = Str("")
        model = Str("910C")
        module = Int(0)
        productName = Str("Stand-in")
        profile = Str("")
        resource.kubernetes.io/numaNode = Int(0)
        shareable = Bool(true)
        superpod = Str("7")
        type = Str("module")
        uuid = Str("M-VDIE-0000-0")
        vendor = Str("ascend")
        cores: 200
        memory: 128Gi
        uses m0-c0, m0-c1 of modules-0
      chip-0-0 shared
        chips = Int(1)
        computeCapability = Version("0.0.0")
        cudaVersion = Version("0.0.0")
        dies = Int(2)
        driverVersion = Version("25.0.0-rc1")
        leaf = Str("leaf-3")
        linkGroup = Str("")
        model = Str("910C")
        module = Int(0)
        productName = Str("Stand-in")
        profile = Str("")
        resource.kubernetes.io/numaNode = Int(0)
        resource.kubernetes.io/pciBusID = Str("0000:00:00.0")
        resource.kubernetes.io/pcieRoot = Str("pci0000:00")
        shareable = Bool(true)
        superpod = Str("7")
        type = Str("chip")
        uuid = Str("VDIE-0000-0")
        vendor = Str("ascend")
        cores: 100 (default 100, 1 to 100 by 1)
        memory: 64Gi (default 64Gi, 1Gi to 64Gi by 1Gi)
        uses m0-c0 of modules-0
      chip-0-1 shared
        chips = Int(1)
        computeCapability = Version("0.0.0")
        cudaVersion = Version("0.0.0")
        dies = Int(2)
        driverVersion = Version("25.0.0-rc1")
        leaf = Str("leaf-3")
        linkGroup = Str("")
        model = Str("910C")
        module = Int(0)
        productName = Str("Stand-in")
        profile = Str("")
        resource.kubernetes.io/numaNode = Int(0)
        resource.kubernetes.io/pciBusID = Str("0000:00:00.0")
        resource.kubernetes.io/pcieRoot = Str("pci0000:00")
        shareable = Bool(true)
        superpod = Str("7")
        type = Str("chip")
        uuid = Str("VDIE-0000-1")
        vendor = Str("ascend")
        cores: 100 (default 100, 1 to 100 by 1)
        memory: 64Gi (default 64Gi, 1Gi to 64Gi by 1Gi)
        uses m0-c1 of modules-0
    "#);
}

#[test]
fn a_node_of_two_modules_lists_the_half_used_one_first() {
    let plan = Around::using(&["chip-1-1"]).plan(&dual(2));
    assert_eq!(names(&plan), ["module-1", "chip-1-0", "chip-1-1", "module-0", "chip-0-0", "chip-0-1"]);
}

#[test]
fn a_single_die_node_publishes_chips_without_counters() {
    insta::assert_snapshot!(text(&Around::default().plan(&single(1))), @r#"
    pool node-1/ascend
    slice 80000 chips-0
      chip-0-0 shared
        chips = Int(1)
        computeCapability = Version("0.0.0")
        cudaVersion = Version("0.0.0")
        dies = Int(1)
        driverVersion = Version("25.0.0-rc1")
        leaf = Str("")
        linkGroup = Str("")
        model = Str("910B")
        module = Int(-1)
        productName = Str("Stand-in")
        profile = Str("")
        resource.kubernetes.io/numaNode = Int(0)
        resource.kubernetes.io/pciBusID = Str("0000:00:00.0")
        resource.kubernetes.io/pcieRoot = Str("pci0000:00")
        shareable = Bool(true)
        superpod = Str("")
        type = Str("chip")
        uuid = Str("VDIE-0000-0")
        vendor = Str("ascend")
        cores: 100 (default 100, 1 to 100 by 1)
        memory: 64Gi (default 64Gi, 1Gi to 64Gi by 1Gi)
    "#);
}

#[test]
fn a_gpu_is_a_chip_and_a_partitioned_gpu_is_its_partitions() {
    let plan = Around::default().plan(&gpus(vec![gpu(0), partition(1, 9), partition(1, 10)]));
    assert_eq!(names(&plan), ["partition-1-9-0", "partition-1-10-0", "chip-0-0"]);
    insta::assert_snapshot!(text(&Around::default().plan(&gpus(vec![gpu(0), partition(1, 9)]))), @r#"
    pool node-1/nvidia
    slice 60000 partitions-0
      partition-1-9-0
        chips = Int(0)
        computeCapability = Version("9.0.0")
        cudaVersion = Version("12.8.0")
        dies = Int(1)
        driverVersion = Version("570.124.6")
        leaf = Str("")
        linkGroup = Str("GPU-0000")
        model = Str("H100")
        module = Int(-1)
        productName = Str("Stand-in")
        profile = Str("1g.10gb")
        resource.kubernetes.io/numaNode = Int(0)
        resource.kubernetes.io/pciBusID = Str("0000:01:00.0")
        resource.kubernetes.io/pcieRoot = Str("pci0000:01")
        shareable = Bool(true)
        superpod = Str("")
        type = Str("partition")
        uuid = Str("MIG-0001-9")
        vendor = Str("nvidia")
        cores: 14
        memory: 10Gi
    slice 80000 chips-0
      chip-0-0 shared
        chips = Int(1)
        computeCapability = Version("9.0.0")
        cudaVersion = Version("12.8.0")
        dies = Int(1)
        driverVersion = Version("570.124.6")
        leaf = Str("")
        linkGroup = Str("GPU-0000")
        model = Str("H100")
        module = Int(-1)
        productName = Str("Stand-in")
        profile = Str("")
        resource.kubernetes.io/numaNode = Int(0)
        resource.kubernetes.io/pciBusID = Str("0000:00:00.0")
        resource.kubernetes.io/pcieRoot = Str("pci0000:00")
        shareable = Bool(true)
        superpod = Str("")
        type = Str("chip")
        uuid = Str("GPU-0000")
        vendor = Str("nvidia")
        cores: 100 (default 100, 1 to 100 by 1)
        memory: 80Gi (default 80Gi, 1Gi to 80Gi by 1Gi)
    "#);
}

#[test]
fn nothing_has_more_attributes_and_capacities_than_the_api_takes() {
    // `resource.k8s.io/v1`: 32 together. What is published today leaves room for what comes.
    let mut fields: Vec<usize> = [dual(1), gpus(vec![gpu(0), partition(1, 1)])]
        .iter()
        .flat_map(|inventory| Around::default().plan(inventory).devices().cloned().collect::<Vec<_>>())
        .map(|device| device.attributes.len() + device.capacity.len())
        .collect();
    fields.sort_unstable();
    assert_eq!(fields, [19, 21, 21, 21, 21], "16 attributes, up to 3 standard ones, 2 capacities");
}

#[test]
fn every_device_of_every_kind_has_the_same_keys() {
    let keys = |device: &DevicePlan| -> Vec<String> {
        device.attributes.keys().filter(|key| !key.contains('/')).cloned().collect()
    };
    let plans = [dual(1), single(1), gpus(vec![gpu(0), partition(1, 1)])].map(|i| Around::default().plan(&i));
    let all: BTreeSet<Vec<String>> = plans.iter().flat_map(PoolPlan::devices).map(keys).collect();
    assert_eq!(all.len(), 1, "{all:?}");
}

#[test]
fn partitions_of_eight_cards_fill_a_slice_and_a_ninth_of_a_card_is_named() {
    let chips = (0..9).flat_map(|card| (1..=8).map(move |gi| partition(card, gi))).collect();
    let plan = Around::default().plan(&gpus(chips));
    assert_eq!(plan.slices.iter().map(|s| s.devices().len()).collect::<Vec<_>>(), [64, 8]);
    assert_eq!(plan.slices[1].key, SliceKey::Partitions(1));
    let nine = gpus((1..=9).map(|gi| partition(3, gi)).collect());
    let plan = Around::default().plan(&nine);
    assert_eq!((plan.devices().count(), plan.problems.len()), (8, 1));
    assert_eq!(plan.problems[0].reason, "too_many_partitions");
}

#[test]
fn a_gpu_that_was_partitioned_while_it_was_held_stays_beside_its_partitions() {
    let mut around = Around::using(&["chip-0-0"]);
    around.vanished = vec![gpu(0)];
    let plan = around.plan(&gpus(vec![partition(0, 1)]));
    assert_eq!(names(&plan), ["partition-0-1-0", "chip-0-0"]);
    assert_eq!(find(&plan, "chip-0-0").unwrap().taints[0].value, "absent");
    around = Around::using(&["partition-0-1-0"]);
    around.vanished = vec![partition(0, 1), partition(0, 2)];
    let plan = around.plan(&gpus(vec![gpu(0)]));
    assert_eq!(names(&plan), ["partition-0-1-0", "chip-0-0"], "what nobody holds goes");
}

#[test]
fn a_chip_whose_driver_cannot_share_is_only_given_whole() {
    let mut inventory = single(1);
    inventory.chips[0].traits.whole_only = Some("the driver is too old".to_owned());
    let plan = Around::default().plan(&inventory);
    let device = find(&plan, "chip-0-0").unwrap();
    assert!(!device.allow_multiple_allocations);
    assert!(device.capacity.values().all(|capacity| capacity.policy.is_none()));
    assert_eq!(device.attributes["shareable"], AttributeValue::Bool(false));
}

#[test]
fn sixty_four_cards_are_one_counter_slice_and_four_device_slices() {
    let plan = Around::default().plan(&dual(64));
    let keys: Vec<String> = plan.slices.iter().map(|s| s.key.to_string()).collect();
    assert_eq!(keys, ["counters-0", "modules-0", "modules-1", "modules-2", "modules-3"]);
    assert_eq!(plan.slices.iter().map(|s| s.devices().len()).collect::<Vec<_>>(), [0, 63, 63, 63, 3]);
    check_limits(&plan).unwrap();
}

#[test]
fn a_hundred_and_twenty_eight_modules_need_one_counter_slice() {
    let counters = |n| {
        let plan = Around::default().plan(&dual(n));
        plan.slices.iter().filter(|s| matches!(s.content, SliceContent::Counters(_))).count()
    };
    assert_eq!((counters(128), counters(129)), (1, 2));
}

#[test]
fn a_module_with_a_dead_die_is_not_published_but_its_living_chip_is() {
    let mut inventory = dual(2);
    inventory.chips.remove(1);
    assert_eq!(names(&Around::default().plan(&inventory)), ["chip-0-0", "module-1", "chip-1-0", "chip-1-1"]);
}

#[test]
fn an_allocated_module_with_a_dead_die_stays_tainted() {
    let mut inventory = dual(1);
    let dead = inventory.chips.remove(1);
    let mut around = Around::using(&["module-0"]);
    around.vanished = vec![dead];
    let plan = around.plan(&inventory);
    assert_eq!(names(&plan), ["module-0", "chip-0-0"]);
    assert_eq!(find(&plan, "module-0").unwrap().taints[0].value, "absent");
    assert!(find(&plan, "chip-0-0").unwrap().taints.is_empty());
    around.in_use.clear();
    assert_eq!(names(&around.plan(&inventory)), ["chip-0-0"], "released, it goes");
}

#[test]
fn an_allocated_chip_that_vanished_stays_tainted_and_its_mate_is_usable() {
    let mut inventory = dual(1);
    let dead = inventory.chips.remove(0);
    let mut around = Around::using(&["chip-0-0"]);
    around.vanished = vec![dead];
    let plan = around.plan(&inventory);
    assert_eq!(names(&plan), ["chip-0-0", "chip-0-1"]);
    assert_eq!(find(&plan, "chip-0-0").unwrap().taints[0].value, "absent");
    assert!(find(&plan, "chip-0-1").unwrap().taints.is_empty());
}

#[test]
fn a_sick_die_taints_its_module_and_not_its_mate() {
    let tainted = |sick: &[(u32, TaintEffect)]| -> Vec<String> {
        let sick = sick.iter().map(|(die, effect)| (DeviceName::Chip { card: 0, die: *die }, *effect));
        let plan = Around { sick: sick.collect(), ..Around::default() }.plan(&dual(1));
        let taints = plan.devices().flat_map(|d| d.taints.iter().map(move |taint| (d, taint)));
        taints.map(|(d, taint)| format!("{} {} {}", d.name, taint.value, taint.effect.as_str())).collect()
    };
    assert_eq!(
        tainted(&[(0, TaintEffect::NoSchedule)]),
        ["module-0 unhealthy NoSchedule", "chip-0-0 unhealthy NoSchedule"]
    );
    // Of a module the worse die counts.
    assert_eq!(
        tainted(&[(0, TaintEffect::NoSchedule), (1, TaintEffect::NoExecute)]),
        ["module-0 unhealthy NoExecute", "chip-0-0 unhealthy NoSchedule", "chip-0-1 unhealthy NoExecute"]
    );
}

#[test]
fn under_the_union_policy_only_modules_are_published() {
    let mut inventory = dual(2);
    inventory.multi_die_policy = MultiDiePolicy::Union;
    assert_eq!(names(&Around::default().plan(&inventory)), ["module-0", "module-1"]);
    let held = Around::using(&["chip-1-0"]).plan(&inventory);
    assert_eq!(names(&held), ["module-1", "chip-1-0", "module-0"], "a chip given out before stays counted");
}

#[test]
fn numa_is_on_a_module_only_when_its_dies_agree() {
    let mut inventory = dual(2);
    inventory.chips[1].numa_node = Some(9);
    inventory.chips[2].numa_node = Some(-1);
    let plan = Around::default().plan(&inventory);
    let numa = |name: &str| find(&plan, name).unwrap().attributes.get(attributes::NUMA_NODE).cloned();
    assert_eq!(numa("module-0"), None);
    assert_eq!(numa("module-1"), None);
    assert_eq!(numa("chip-0-1"), Some(AttributeValue::Int(9)));
    assert_eq!(numa("chip-1-0"), None);
}

#[test]
fn memory_is_published_in_whole_gib_and_small_chips_only_whole() {
    let policy = |bytes: u64| {
        let mut inventory = single(1);
        inventory.chips[0].memory = Bytes(bytes);
        let plan = Around::default().plan(&inventory);
        check_limits(&plan).unwrap();
        plan.devices().next().unwrap().capacity["memory"]
    };
    let range = |gib: u64| {
        let value = CapacityValue::Bytes(Bytes::gib(gib));
        let step = CapacityValue::Bytes(Bytes::GIB);
        Capacity { value, policy: Some(RequestPolicy::Range { default: value, min: step, max: value, step }) }
    };
    let only = |bytes: u64| {
        let value = CapacityValue::Bytes(Bytes(bytes));
        Capacity { value, policy: Some(RequestPolicy::Only(value)) }
    };
    assert_eq!(policy(65_452 << 20), range(63));
    assert_eq!(policy(2 << 30), range(2));
    assert_eq!(policy((2 << 30) - 1), only(1 << 30));
    assert_eq!(policy(1 << 29), only(1 << 29));
    assert_eq!(policy(0), only(0));
}

#[test]
fn chips_that_cannot_be_named_are_problems_and_the_others_are_served() {
    let mut inventory = single(1);
    for (card, die, module) in [(MAX_CARD, 0, None), (5, 2, Some(5)), (6, 0, Some(7)), (8, 99, None)] {
        let mut odd = chip(0, die, false, Bytes::gib(8));
        (odd.card, odd.module) = (card, module);
        inventory.chips.push(odd);
    }
    let mut twin = chip(0, 0, false, Bytes::gib(8));
    twin.uuid = "other".parse().unwrap();
    inventory.chips.push(twin);
    let plan = Around::default().plan(&inventory);
    assert_eq!(names(&plan), ["chip-0-0"]);
    let reasons: Vec<&str> = plan.problems.iter().map(|p| p.reason.as_str()).collect();
    assert_eq!(
        reasons,
        ["card_out_of_range", "die_out_of_range", "module_mismatch", "die_out_of_range", "duplicate_place"]
    );
}

#[test]
fn a_node_without_devices_publishes_one_empty_slice() {
    let plan = Around::default().plan(&dual(0));
    assert_eq!(
        plan.slices,
        [SlicePlan { key: SliceKey::Chips(0), content: SliceContent::Devices(Vec::new()) }]
    );
}

#[test]
fn slice_names_tell_their_key_and_sort_by_it() {
    let node = NodeName::new("node-1").unwrap();
    let keys = [SliceKey::Counters(0), SliceKey::Counters(3), SliceKey::Modules(0), SliceKey::Chips(70_000)];
    let generated: Vec<String> = keys.iter().map(|k| k.generate_name(&node)).collect();
    assert_eq!(generated[0], "00000-vnpu.dev-node-1-");
    assert!(generated.is_sorted());
    for (key, name) in keys.iter().zip(&generated) {
        assert_eq!(SliceKey::from_slice_name(&format!("{name}x7k2p")), Some(*key));
    }
    for foreign in
        ["", "0000", "node-1-vnpu.dev-abc", "00000-gpu.example.com-n", "0000G-vnpu.dev-n", "fffffé"]
    {
        assert_eq!(SliceKey::from_slice_name(foreign), None, "{foreign}");
    }
    let long = NodeName::new(vec!["a".repeat(62); 4].join(".")).unwrap();
    let cut = SliceKey::Chips(1).generate_name(&long);
    assert!(cut.len() <= 58 && cut.ends_with("a-"), "{cut}");
}

proptest! {
    #[test]
    fn whatever_the_hardware_the_api_takes_the_slices(
        inventory in any_inventory(),
        used in any::<u64>(),
    ) {
        let mut around = Around::default();
        // Every second chip or so is in use; some of those have vanished.
        let mut inventory = inventory;
        for (i, chip) in inventory.chips.iter().enumerate() {
            if used >> (i % 64) & 1 == 1 {
                around.in_use.insert(chip.name());
            }
        }
        let (gone, here) = inventory.chips.into_iter().partition(|c| used.rotate_left(c.card % 64) & 3 == 3);
        inventory.chips = here;
        around.vanished = gone;
        check_limits(&around.plan(&inventory))?;
    }

    #[test]
    fn a_card_that_vanishes_changes_nothing_about_the_others(
        inventory in any_inventory(),
        which in any::<prop::sample::Index>(),
    ) {
        let around = Around::default();
        let before = around.plan(&inventory);
        if inventory.chips.is_empty() {
            return Ok(());
        }
        let card = inventory.chips[which.index(inventory.chips.len())].card;
        let mut less = inventory.clone();
        less.chips.retain(|c| c.card != card);
        let after = around.plan(&less);
        let of_others = |plan: &PoolPlan| -> BTreeMap<DeviceName, (SliceKey, DevicePlan)> {
            plan.slices
                .iter()
                .flat_map(|s| s.devices().iter().map(|d| (d.name, (s.key, d.clone()))))
                .filter(|(name, _)| match name {
                    DeviceName::Chip { card: c, .. }
                    | DeviceName::Module { card: c }
                    | DeviceName::Partition { card: c, .. } => *c != card,
                })
                .collect()
        };
        prop_assert_eq!(of_others(&before), of_others(&after));
        // Counter sets are whole or away, never smaller.
        let sets = |plan: &PoolPlan| -> BTreeMap<String, Vec<String>> {
            plan.slices
                .iter()
                .filter_map(|s| match &s.content {
                    SliceContent::Counters(sets) => Some(sets),
                    SliceContent::Devices(_) => None,
                })
                .flatten()
                .map(|set| (set.name.clone(), set.counters.clone()))
                .collect()
        };
        let sets_before = sets(&before);
        for (name, counters) in sets(&after) {
            prop_assert_eq!(sets_before.get(&name), Some(&counters));
        }
    }

    #[test]
    fn the_order_of_discovery_does_not_matter(inventory in any_inventory(), turn in 0usize..64) {
        let mut turned = inventory.clone();
        let places = turned.chips.len().max(1);
        turned.chips.rotate_left(turn % places);
        prop_assert_eq!(Around::default().plan(&turned).slices, Around::default().plan(&inventory).slices);
    }

    #[test]
    fn chips_of_one_module_share_its_number_and_stand_together(inventory in any_inventory()) {
        let plan = Around::default().plan(&inventory);
        for slice in &plan.slices {
            let cards: Vec<u32> = slice.devices().iter().map(|d| match d.name {
                DeviceName::Chip { card, .. }
                | DeviceName::Module { card }
                | DeviceName::Partition { card, .. } => card,
            }).collect();
            let mut runs = cards.clone();
            runs.dedup();
            let distinct: BTreeSet<u32> = cards.iter().copied().collect();
            prop_assert_eq!(runs.len(), distinct.len());
            for (device, card) in slice.devices().iter().zip(cards) {
                let module = if device.consumes_counters.is_empty() { -1 } else { i64::from(card) };
                prop_assert_eq!(device.attributes.get("module"), Some(&AttributeValue::Int(module)));
            }
        }
    }
}
