use proptest::prelude::*;

use super::*;
use crate::fixtures::dual;
use crate::prepare::tests::{claim, pool, uid};
use crate::prepare::{NodePool, plan_prepare};

/// A claim with two shares of one chip and one of another.
fn plan() -> PreparePlan {
    let inventory = dual(2);
    let pool = pool();
    let pools = [NodePool { pool: &pool, inventory: &inventory }];
    let claim = claim(&uid(1), &["a chip-0-0 4Gi 10", "b chip-0-0 2Gi 20", "c chip-0-1 8Gi 40"]);
    plan_prepare(&claim, &uid(1), &pools, []).unwrap()
}

fn wishes(cores: Option<&str>, memory: Option<&str>) -> Wishes {
    Wishes { live: true, cores: cores.map(str::to_owned), memory: memory.map(str::to_owned) }
}

/// Memory in GiB, percent and mode of each chip.
fn brief(shares: &ClaimShares) -> Vec<(u64, u32, ComputeMode)> {
    shares.chips.iter().map(|chip| (chip.memory.0 >> 30, chip.cores.0, chip.mode)).collect()
}

#[test]
fn annotations_are_read_by_name_and_live_is_a_word() {
    let written = |live: &str| {
        let texts = [(LIVE, live), (CORES, "30"), (MEMORY, "2Gi"), ("other/cores", "99")];
        Wishes::of(&texts.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    };
    assert_eq!(written("true"), wishes(Some("30"), Some("2Gi")));
    for other in ["True", "1", "", "false"] {
        assert!(!written(other).live, "{other}");
    }
    assert_eq!(Wishes::of(&BTreeMap::new()), Wishes::default());
}

#[test]
fn a_quota_moves_below_what_was_allocated_and_returns() {
    use ComputeMode::Hard;
    let plan = plan();
    let (lower, problems) = effective(&plan, &wishes(Some("5"), Some("3Gi")), None);
    assert_eq!((brief(&lower), problems), (vec![(3, 5, Hard), (3, 5, Hard)], vec![]));
    let (back, problems) = effective(&plan, &Wishes::default(), Some(&lower));
    assert_eq!((back, problems), (plan.shares, vec![]));
}

#[test]
fn compute_beyond_the_allocated_is_elastic_and_memory_beyond_it_is_refused() {
    use ComputeMode::{Elastic, Hard};
    let plan = plan();
    let (more, problems) = effective(&plan, &wishes(Some("35"), Some("7Gi")), None);
    // Per chip: of the first the claim has 30 percent, of the second 40.
    assert_eq!(brief(&more), [(6, 30, Elastic), (8, 35, Hard)]);
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!(
        (problem.annotation, problem.reason(), problem.retryable()),
        (MEMORY, "quota_too_large", false)
    );
    assert!(problem.to_string().contains("\"7Gi\" is more than the 6Gi"), "{problem}");
}

#[test]
fn what_cannot_be_followed_leaves_what_is_in_force() {
    let plan = plan();
    let (in_force, _) = effective(&plan, &wishes(Some("35"), Some("2Gi")), None);
    for (cores, memory, reasons) in [
        ("0", "1", ["quota_too_small", "quota_too_small"]),
        ("101", "9Gi", ["quota_too_large", "quota_too_large"]),
        ("a lot", "", ["quota_unreadable", "quota_unreadable"]),
        ("-5", "1.5", ["quota_unreadable", "quota_unreadable"]),
    ] {
        let (stays, problems) = effective(&plan, &wishes(Some(cores), Some(memory)), Some(&in_force));
        assert_eq!(stays, in_force, "{cores} {memory}");
        let found: Vec<_> = problems.iter().map(|p| (p.annotation, p.reason())).collect();
        assert_eq!(found, [(MEMORY, reasons[0]), (CORES, reasons[1])], "{problems:?}");
    }
    // One that can be followed is, whatever the other says.
    let (half, problems) = effective(&plan, &wishes(Some("x"), Some("1Gi")), Some(&in_force));
    assert_eq!((half.chips[0].memory, half.chips[0].cores), (Bytes::GIB, in_force.chips[0].cores));
    assert_eq!(problems.len(), 1);
}

#[test]
fn what_is_in_force_goes_on_unless_it_cannot_be_the_claims() {
    let plan = plan();
    let (in_force, _) = effective(&plan, &wishes(Some("35"), Some("2Gi")), None);
    assert_eq!(kept(&plan, &in_force), in_force);
    let mut strange = in_force.clone();
    (strange.chips[0].memory, strange.chips[0].cores) = (Bytes::gib(7), Percent(31));
    (strange.chips[1].memory, strange.chips[1].cores) = (Bytes(0), Percent(0));
    assert_eq!(kept(&plan, &strange), plan.shares);
    strange.chips.clear();
    assert_eq!(kept(&plan, &strange), plan.shares);
}

#[test]
fn administrative_access_lifts_no_ceiling() {
    let inventory = dual(1);
    let pool = pool();
    let mut claim = claim(&uid(1), &["a chip-0-0 4Gi 10", "b chip-0-0"]);
    claim.results[1].admin_access = true;
    let plan = plan_prepare(&claim, &uid(1), &[NodePool { pool: &pool, inventory: &inventory }], []).unwrap();
    let (_, problems) = effective(&plan, &wishes(None, Some("5Gi")), None);
    assert_eq!(problems.len(), 1, "{plan:?}");
}

proptest! {
    #[test]
    fn no_text_goes_beyond_the_allocated(cores in "[0-9]{1,4}|\\PC{0,6}", memory in "[0-9]{1,12}(Gi|G|Mi|)|\\PC{0,6}") {
        let plan = plan();
        let (shares, _) = effective(&plan, &wishes(Some(&cores), Some(&memory)), None);
        for share in &shares.chips {
            let (most, percent) = allocated(&plan, &share.uuid);
            prop_assert!((Bytes::GIB..=most).contains(&share.memory));
            prop_assert!((1..=percent.0).contains(&share.cores.0));
        }
    }
}
