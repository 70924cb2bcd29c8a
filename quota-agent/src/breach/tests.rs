use proptest::prelude::*;

use super::*;
use crate::ledger::Cell;

const LIMITS: Limits = Limits { per_process: Bytes(100), rounds: 3 };

fn uid(n: u32) -> ClaimUid {
    ClaimUid::new(format!("{n:08x}-0000-4000-8000-000000000000")).unwrap()
}

fn chip() -> DeviceUuid {
    DeviceUuid::new("A").unwrap()
}

fn process(pid: u32, bytes: u64, slot: Option<usize>) -> OnChip {
    OnChip { pid, starttime: 7, bytes: Bytes(bytes), slot, crowded: false }
}

/// A claim of 1000 bytes whose slot 0 says that it has so many.
fn facts(says: u64, processes: &[OnChip]) -> Facts {
    let after = Cell { committed: says, reserved: 0 };
    let slots = BTreeMap::from([(0, Slot { owner: 1, before: Some(after), after })]);
    Facts { promised: Bytes(1000), slots, processes: processes.to_vec() }
}

/// What the same facts are judged as in so many rounds: the verdicts' words, and where one began.
fn words(rounds: usize, facts: &Facts) -> Vec<(&'static str, bool)> {
    let mut watch = Watch::default();
    (0..rounds).map(|_| word(&watch.judge(&LIMITS, &uid(1), &chip(), facts))).collect()
}

fn word(judged: &Judgement) -> (&'static str, bool) {
    let word = match judged.verdict {
        Verdict::Within => "within",
        Verdict::Breach { .. } => "breach",
        Verdict::Bypass { .. } => "bypass",
    };
    (word, judged.begun)
}

#[test]
fn a_process_outside_for_three_rounds_is_a_bypass_that_begins_once() {
    let got = words(5, &facts(0, &[process(10, 1, None)]));
    assert_eq!(
        got,
        [("within", false), ("within", false), ("bypass", true), ("bypass", false), ("bypass", false)]
    );
}

#[test]
fn overhead_within_what_a_process_may_have_is_no_breach_and_more_is() {
    assert_eq!(words(5, &facts(1000, &[process(10, 1100, Some(0))])), [("within", false); 5]);
    let got = words(4, &facts(1000, &[process(10, 1101, Some(0))]));
    assert_eq!(got, [("within", false), ("within", false), ("breach", true), ("breach", false)]);
}

#[test]
fn what_a_tenant_writes_into_its_ledger_makes_no_difference_to_a_breach() {
    for says in [0, 1, 1000, u64::MAX] {
        assert_eq!(words(3, &facts(says, &[process(10, 1101, Some(0))]))[2].0, "breach", "{says}");
        assert_eq!(words(3, &facts(says, &[process(10, 900, Some(0))]))[2].0, "within", "{says}");
    }
}

#[test]
fn the_offender_of_a_breach_is_who_has_most_beyond_its_own_word() {
    let after = |committed| Cell { committed, reserved: 0 };
    let slot = |says| Slot { owner: 1, before: Some(after(says)), after: after(says) };
    let facts = Facts {
        promised: Bytes(1000),
        slots: BTreeMap::from([(0, slot(900)), (1, slot(0))]),
        processes: vec![process(10, 950, Some(0)), process(11, 400, Some(1))],
    };
    let mut watch = Watch::default();
    let judged = (0..3).map(|_| watch.judge(&LIMITS, &uid(1), &chip(), &facts)).last().unwrap();
    assert!(matches!(judged.verdict, Verdict::Breach { allowed: Bytes(1200), .. }), "{judged:?}");
    assert_eq!(judged.verdict.offenders().iter().map(|p| p.pid).collect::<Vec<_>>(), [11]);
}

#[test]
fn one_round_within_begins_the_count_anew_and_ends_a_breach() {
    let (over, fine) = (facts(0, &[process(10, 2000, Some(0))]), facts(0, &[process(10, 10, Some(0))]));
    let mut watch = Watch::default();
    let got: Vec<_> = [&over, &over, &fine, &over, &over, &over, &fine]
        .map(|facts| word(&watch.judge(&LIMITS, &uid(1), &chip(), facts)).0)
        .into();
    assert_eq!(got, ["within", "within", "within", "within", "within", "breach", "within"]);
}

#[test]
fn another_process_of_the_same_number_begins_the_count_anew() {
    let mut watch = Watch::default();
    let mut judge = |starttime| {
        let other = OnChip { starttime, ..process(10, 1, None) };
        word(&watch.judge(&LIMITS, &uid(1), &chip(), &facts(0, &[other]))).0
    };
    assert_eq!(
        [judge(1), judge(1), judge(2), judge(2), judge(2)],
        ["within", "within", "within", "within", "bypass"]
    );
}

/// One round of the reference model.
#[derive(Debug, Clone)]
struct Round {
    claim: u32,
    attached: Option<u64>,
    outside: Vec<u32>,
}

fn round() -> impl Strategy<Value = Round> {
    (0..3u32, prop::option::of(0..1500u64), prop::collection::btree_set(20..23u32, 0..3)).prop_map(
        |(claim, attached, outside)| Round { claim, attached, outside: outside.into_iter().collect() },
    )
}

proptest! {
    /// Against a model that keeps all rounds and looks back: a process is an offender exactly when it was outside in
    /// the claim's last three rounds, a claim in breach exactly when it was over in the last three and nobody is.
    #[test]
    fn verdicts_agree_with_all_that_was_seen(rounds in prop::collection::vec(round(), 1..60)) {
        let mut watch = Watch::default();
        let mut seen: BTreeMap<u32, Vec<Round>> = BTreeMap::new();
        for now in rounds {
            let mut processes: Vec<OnChip> = now.outside.iter().map(|pid| process(*pid, 10, None)).collect();
            processes.extend(now.attached.map(|bytes| process(10, bytes, Some(0))));
            let judged = watch.judge(&LIMITS, &uid(now.claim), &chip(), &facts(0, &processes));
            let history = seen.entry(now.claim).or_default();
            history.push(now);
            let last: Vec<&Round> = history.iter().rev().take(3).collect();
            let always = |of: &dyn Fn(&Round) -> bool| last.len() == 3 && last.iter().all(|r| of(r));
            let outside: Vec<u32> = (20..23).filter(|pid| always(&|r| r.outside.contains(pid))).collect();
            let over = always(&|r| {
                let has = r.attached.unwrap_or(0) + 10 * r.outside.len() as u64;
                has > 1000 + if r.attached.is_some() { 100 } else { 0 }
            });
            let expected = match (&outside[..], over) {
                ([], false) => "within",
                ([], true) => "breach",
                _ => "bypass",
            };
            prop_assert_eq!(word(&judged).0, expected);
            if expected == "bypass" {
                let named: Vec<u32> = judged.verdict.offenders().iter().map(|p| p.pid).collect();
                prop_assert_eq!(named, outside);
            }
        }
        watch.keep(|_| false);
        prop_assert_eq!(watch, Watch::default());
    }
}
