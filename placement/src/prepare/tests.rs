use super::*;

#[test]
fn amounts_are_rounded_as_the_allocator_rounds_them() {
    const GI: u64 = 1 << 30;
    let memory = Capacity { value: 64 * GI, default: Some(64 * GI), range: Some((GI, GI, 64 * GI)) };
    let cores = Capacity { value: 100, default: Some(100), range: Some((1, 1, 100)) };
    let plain = Capacity { value: 10, default: None, range: None };
    for (capacity, asked, expected) in [
        (&memory, Some(3584 << 20), Some(4 * GI)),
        (&memory, Some(1_000_000_000), Some(GI)),
        (&memory, Some(0), Some(GI)),
        (&memory, Some(64 * GI), Some(64 * GI)),
        (&memory, Some(64 * GI + 1), None),
        (&memory, None, Some(64 * GI)),
        (&cores, Some(2), Some(2)),
        (&cores, Some(0), Some(1)),
        (&cores, Some(101), None),
        (&plain, None, Some(10)),
        (&plain, Some(3), Some(3)),
        (&plain, Some(11), None),
    ] {
        assert_eq!(consumed(capacity, asked), expected, "{asked:?} of {capacity:?}");
    }
}

#[test]
fn constraints_look_at_requests_by_name_or_by_both_names() {
    let ask = |name: &str| Ask {
        name: name.into(),
        class: "npu.vnpu.dev".into(),
        selectors: vec![],
        count: Count::Exactly(1),
        capacity: BTreeMap::new(),
        tolerations: vec![],
        admin_access: false,
    };
    let request = Request { name: "npu".into(), alternatives: vec![ask("modules"), ask("chips")] };
    for (names, sub, expected) in [
        (&[][..], "modules", true),
        (&["npu"], "modules", true),
        (&["npu/chips"], "modules", false),
        (&["npu/chips"], "chips", true),
        (&["other"], "chips", false),
    ] {
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        let constraint = Constraint { requests: names, attribute: "vnpu.dev/module".into(), distinct: false };
        assert_eq!(applies(&constraint, &request, &ask(sub)), expected, "{:?} {sub}", constraint.requests);
    }
}
