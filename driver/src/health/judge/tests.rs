use proptest::prelude::*;

use super::*;
use crate::fixtures::{dual, gpu, gpus};
use crate::hardware::{Fault, Vendor};
use crate::health::HealthRule;

/// One chip's life in seconds.
struct Life {
    judge: Judge,
    inventory: Inventory,
    now: u64,
}

impl Life {
    fn of(policy: HealthPolicy) -> Self {
        Self { judge: Judge::new(policy), inventory: dual(1), now: 1000 }
    }

    fn gpu(policy: HealthPolicy) -> Self {
        Self { inventory: gpus(vec![gpu(0)]), ..Self::of(policy) }
    }

    /// So many seconds later, a look: the taint, and the health that counts.
    fn look(&mut self, after: u64, health: &Health) -> (Option<TaintEffect>, Health) {
        self.now += after;
        let mut inventory = self.inventory.clone();
        inventory.chips[0].health = health.clone();
        let taints = self.judge.judge(Duration::from_secs(self.now), &mut inventory);
        let chip = &inventory.chips[0];
        assert!(inventory.chips[1..].iter().all(|other| !taints.contains_key(&other.uuid)));
        (taints.get(&chip.uuid).copied(), chip.health.clone())
    }

    fn taint(&mut self, after: u64, health: &Health) -> Option<TaintEffect> {
        self.look(after, health).0
    }

    fn next(&self) -> Option<u64> {
        self.judge.next().map(|next| next.as_secs() - self.now)
    }
}

fn sick() -> Health {
    Health::fault("alarm-3", "HBM")
}

fn evicting() -> HealthPolicy {
    let rule = HealthRule { vendor: None, codes: vec!["ALARM-*".to_owned()], action: Action::Evict };
    HealthPolicy { rules: vec![rule], ..HealthPolicy::default() }
}

const SCHEDULED_NO_MORE: Option<TaintEffect> = Some(TaintEffect::NoSchedule);
const EVICTED: Option<TaintEffect> = Some(TaintEffect::NoExecute);

#[test]
fn a_fault_counts_at_once_and_is_forgotten_slowly() {
    let mut life = Life::of(HealthPolicy::default());
    assert_eq!(life.look(0, &Health::Healthy), (None, Health::Healthy));
    assert_eq!(life.next(), None);
    assert_eq!(life.look(5, &sick()), (SCHEDULED_NO_MORE, sick()));
    assert_eq!(life.next(), None, "it stays as long as it is sick");
    assert_eq!(life.look(600, &Health::Healthy), (SCHEDULED_NO_MORE, sick()));
    assert_eq!(life.next(), Some(60));
    assert_eq!(life.taint(59, &Health::Healthy), SCHEDULED_NO_MORE);
    assert_eq!(life.look(1, &Health::Healthy), (None, Health::Healthy));
}

#[test]
fn each_relapse_doubles_the_time_and_an_hour_forgives() {
    let mut life = Life::of(HealthPolicy::default());
    for recovery in [60, 120, 240, 480, 960, 1920, 1920, 1920] {
        life.taint(1, &sick());
        assert_eq!(life.taint(1, &Health::Healthy), SCHEDULED_NO_MORE);
        assert_eq!(life.next(), Some(recovery));
        assert_eq!(life.taint(recovery - 1, &Health::Healthy), SCHEDULED_NO_MORE);
        assert_eq!(life.taint(1, &Health::Healthy), None);
    }
    life.taint(3601, &sick());
    life.taint(1, &Health::Healthy);
    assert_eq!(life.next(), Some(60));
}

#[test]
fn pods_are_evicted_only_for_what_lasts_and_what_the_table_says() {
    let mut life = Life::of(evicting());
    assert_eq!(life.taint(0, &sick()), SCHEDULED_NO_MORE);
    assert_eq!(life.next(), Some(30));
    assert_eq!(life.taint(29, &sick()), SCHEDULED_NO_MORE);
    assert_eq!(life.taint(1, &sick()), EVICTED);
    assert_eq!(life.next(), None);
    // Until it is over it stays as strong, and also if it is another fault meanwhile.
    assert_eq!(life.taint(1, &Health::fault("fan", "slow")), EVICTED);
    assert_eq!(life.taint(1, &Health::Healthy), EVICTED);
    assert_eq!(life.taint(60, &Health::Healthy), None);

    let mut life = Life::of(HealthPolicy::default());
    life.taint(0, &sick());
    assert_eq!(life.taint(100_000, &sick()), SCHEDULED_NO_MORE);
}

#[test]
fn a_chip_that_flaps_is_tainted_once_and_evicts_nobody() {
    let mut life = Life::of(evicting());
    life.taint(0, &Health::Healthy);
    let mut told = Vec::new();
    for second in 0..600 {
        let health = if second % 2 == 0 { sick() } else { Health::Healthy };
        told.push(life.look(1, &health));
    }
    told.dedup();
    assert_eq!(told, [(SCHEDULED_NO_MORE, sick())]);
    assert_eq!(life.taint(59, &Health::Healthy), SCHEDULED_NO_MORE);
    assert_eq!(life.taint(1, &Health::Healthy), None);
}

#[test]
fn what_is_unknown_for_long_gets_no_new_claims() {
    let unknown = Health::Unknown("hangs".to_owned());
    let mut life = Life::of(HealthPolicy::default());
    assert_eq!(life.look(0, &unknown), (None, unknown.clone()));
    assert_eq!(life.next(), Some(60));
    assert_eq!(life.taint(59, &unknown), None);
    assert_eq!(life.look(1, &unknown), (SCHEDULED_NO_MORE, unknown.clone()));
    let other = Health::Unknown("fails".to_owned());
    assert_eq!(life.look(1, &other), (SCHEDULED_NO_MORE, other), "what is told is the newest");
    // A sick one whose health cannot be told is no better.
    life.taint(1, &sick());
    let told = life.look(1, &unknown);
    assert_eq!(told.0, SCHEDULED_NO_MORE);
    assert_eq!(told.1.to_string(), "HBM; nothing is known of it now: hangs");
    assert_eq!(life.look(1, &unknown), told, "it is said once");
    assert_eq!(life.look(600, &Health::Healthy), (SCHEDULED_NO_MORE, sick()));
    let hangs = Health::Unknown("hangs elsewhere".to_owned());
    assert_eq!(life.look(30, &hangs).1.to_string(), "HBM; nothing is known of it now: hangs elsewhere");
    life.taint(1, &Health::Healthy);
    assert_eq!(life.taint(59, &Health::Healthy), SCHEDULED_NO_MORE, "the time counts from the last doubt");
    assert_eq!(life.taint(1, &Health::Healthy), None);

    let mut patient = Life::of(HealthPolicy { unknown: None, ..HealthPolicy::default() });
    patient.taint(0, &unknown);
    assert_eq!((patient.taint(100_000, &unknown), patient.next()), (None, None));
}

#[test]
fn a_process_that_begins_anew_goes_on_with_the_taints_that_are_there() {
    let mut life = Life::of(evicting());
    let uuid = life.inventory.chips[0].uuid.clone();
    life.judge.remember(Duration::from_secs(1000), &uuid, TaintEffect::NoExecute);
    assert_eq!(life.taint(1, &Health::Healthy), EVICTED);
    assert_eq!(life.taint(58, &Health::Healthy), EVICTED);
    // Of what hangs now there is something to say, whatever was before.
    let (taint, told) = life.look(1, &Health::Unknown("hangs".to_owned()));
    assert!(taint == EVICTED && told.to_string().ends_with("hangs"), "{told}");
    assert_eq!(life.taint(1, &Health::Healthy), EVICTED);
    assert_eq!(life.taint(60, &Health::Healthy), None);
}

#[test]
fn a_chip_that_is_gone_and_held_is_judged_by_the_table_until_it_is_back_or_given_back() {
    let absent = |action| {
        let rule = HealthRule { vendor: None, codes: vec![ABSENT.to_owned()], action };
        HealthPolicy { rules: vec![rule], ..HealthPolicy::default() }
    };
    let at = Duration::from_secs;
    let whole = dual(1);
    let uuid = whole.chips[0].uuid.clone();
    let mut rest = whole.clone();
    rest.chips.remove(0);
    let any = HealthRule { vendor: None, codes: vec!["*".to_owned()], action: Action::Evict };
    let all = HealthPolicy { rules: vec![any], ..HealthPolicy::default() };
    for (policy, effect, next) in [
        (absent(Action::Evict), TaintEffect::NoExecute, Some(at(40))),
        (absent(Action::NoSchedule), TaintEffect::NoSchedule, None),
        (absent(Action::Ignore), TaintEffect::NoSchedule, None),
        // Whoever wrote this meant faults.
        (all, TaintEffect::NoSchedule, None),
        (HealthPolicy::default(), TaintEffect::NoSchedule, None),
    ] {
        let mut judge = Judge::new(policy);
        let look = |judge: &mut Judge, second, inventory: &Inventory| {
            judge.judge(at(second), &mut inventory.clone()).get(&uuid).copied()
        };
        assert_eq!(look(&mut judge, 0, &whole), None);
        assert_eq!(look(&mut judge, 5, &rest), None, "nobody has it");
        assert!(judge.miss(at(10), Vendor::Ascend, [&uuid]));
        assert!(!judge.miss(at(15), Vendor::Ascend, [&uuid]), "that is no news");
        assert!(!judge.miss(at(15), Vendor::Nvidia, []), "of another vendor nothing is said");
        assert_eq!((look(&mut judge, 39, &rest), judge.next()), (SCHEDULED_NO_MORE, next));
        assert_eq!((look(&mut judge, 40, &rest), judge.next()), (Some(effect), None));
        assert_eq!(look(&mut judge, 41, &whole), None, "it is back");
        assert_eq!(look(&mut judge, 99, &rest), None);

        judge.miss(at(100), Vendor::Ascend, [&uuid]);
        assert_eq!(look(&mut judge, 129, &rest), SCHEDULED_NO_MORE, "the time begins anew");
        assert!(judge.miss(at(130), Vendor::Ascend, []));
        assert_eq!((look(&mut judge, 131, &rest), judge.next()), (None, None));
    }
}

#[test]
fn who_was_evicted_for_a_fault_is_not_let_back_because_the_chip_is_gone() {
    let mut life = Life::of(evicting());
    let uuid = life.inventory.chips[0].uuid.clone();
    life.taint(0, &sick());
    assert_eq!(life.taint(30, &sick()), EVICTED);
    life.judge.miss(Duration::from_secs(life.now), Vendor::Ascend, [&uuid]);
    let mut rest = life.inventory.clone();
    rest.chips.remove(0);
    let taints = life.judge.judge(Duration::from_secs(life.now + 1), &mut rest);
    assert_eq!(taints.get(&uuid).copied(), EVICTED);
}

#[test]
fn a_fault_goes_on_while_its_chip_is_gone() {
    let mut life = Life::of(evicting());
    let uuid = life.inventory.chips[0].uuid.clone();
    life.taint(0, &sick());
    let mut rest = life.inventory.clone();
    rest.chips.remove(0);
    let began = life.now;
    let at = |second: u64| Duration::from_secs(began + second);
    life.judge.judge(at(12), &mut rest);
    life.judge.miss(at(12), Vendor::Ascend, [&uuid]);
    assert_eq!(life.judge.next(), Some(at(30)));
    assert_eq!(life.judge.judge(at(29), &mut rest).get(&uuid).copied(), SCHEDULED_NO_MORE);
    assert_eq!(life.judge.judge(at(30), &mut rest).get(&uuid).copied(), EVICTED);
    life.now = began + 31;
    assert_eq!(life.taint(0, &sick()), EVICTED, "nor is it lifted because the chip is back with it");
}

#[test]
fn the_time_that_a_chip_was_away_says_nothing_of_its_health() {
    let mut life = Life::of(evicting());
    let mut rest = life.inventory.clone();
    rest.chips.remove(0);
    let mut away = |life: &mut Life, seconds: u64| {
        life.now += seconds;
        life.judge.judge(Duration::from_secs(life.now), &mut rest);
    };
    // Well for a moment, away, and back: that is not well for a minute.
    life.taint(0, &sick());
    life.taint(1, &Health::Healthy);
    away(&mut life, 70);
    assert_eq!(life.taint(1, &Health::Healthy), SCHEDULED_NO_MORE);
    assert_eq!(life.next(), Some(60));
    assert_eq!(life.taint(60, &Health::Healthy), None);
    // Nor is a fault that comes back with its chip one that has lasted.
    life.taint(4000, &sick());
    away(&mut life, 70);
    assert_eq!(life.taint(1, &sick()), SCHEDULED_NO_MORE);
    assert_eq!(life.taint(30, &sick()), EVICTED);
}

#[test]
fn what_cannot_be_seen_is_not_evicted_from_and_what_was_stays() {
    let rule = HealthRule { vendor: None, codes: vec![ABSENT.to_owned()], action: Action::Evict };
    let policy = HealthPolicy { rules: vec![rule], ..HealthPolicy::default() };
    let (at, whole) = (Duration::from_secs, dual(1));
    let [first, second] = [0, 1].map(|place: usize| whole.chips[place].uuid.clone());
    let mut none = whole.clone();
    none.chips.clear();
    let mut judge = Judge::new(policy.clone());
    judge.judge(at(0), &mut whole.clone());
    judge.miss(at(1), Vendor::Ascend, [&first]);
    judge.judge(at(31), &mut none);
    judge.miss(at(31), Vendor::Ascend, [&first, &second]);
    for second_of_it in [40, 60, 100] {
        let taints = judge.blind(at(second_of_it), Vendor::Ascend);
        assert_eq!([taints[&first], taints[&second]], [TaintEffect::NoExecute, TaintEffect::NoSchedule]);
    }
    assert_eq!(judge.judge(at(129), &mut none)[&second], TaintEffect::NoSchedule);
    assert_eq!(judge.judge(at(130), &mut none)[&second], TaintEffect::NoExecute);

    // A process that begins anew goes on with that, as long as the rules say so, and until the chip is back: well, it is
    // no sick one.
    for (policy, effect) in
        [(policy, TaintEffect::NoExecute), (HealthPolicy::default(), TaintEffect::NoSchedule)]
    {
        let mut anew = Judge::new(policy);
        anew.judge(at(0), &mut none);
        anew.remember_gone(&first);
        anew.miss(at(1), Vendor::Ascend, [&first]);
        assert_eq!(anew.judge(at(1), &mut none)[&first], effect);
        assert!(anew.judge(at(2), &mut whole.clone()).is_empty());
        anew.miss(at(3), Vendor::Ascend, [&first]);
        assert_eq!(anew.judge(at(3), &mut none)[&first], TaintEffect::NoSchedule);
    }
}

#[test]
fn a_chip_that_is_seen_late_after_a_start_was_not_well_until_then() {
    let mut life = Life::of(HealthPolicy::default());
    let uuid = life.inventory.chips[0].uuid.clone();
    life.judge.remember(Duration::from_secs(life.now), &uuid, TaintEffect::NoExecute);
    assert_eq!(life.taint(120, &Health::Healthy), EVICTED);
    assert_eq!(life.taint(60, &Health::Healthy), None);
}

#[test]
fn the_table_goes_by_codes_the_administrators_rules_first() {
    let known = |codes: &[&str]| Fault {
        codes: codes.iter().map(|c| (*c).to_owned()).collect(),
        message: String::new(),
    };
    let rule = |vendor, code: &str, action| HealthRule { vendor, codes: vec![code.to_owned()], action };
    let none = HealthPolicy::default();
    assert_eq!(none.action(Vendor::Ascend, &known(&["0x80e01801", "alarm-1"])), Action::Ignore);
    assert_eq!(none.action(Vendor::Ascend, &known(&["0x80e01801", "alarm-3"])), Action::NoSchedule);
    assert_eq!(none.action(Vendor::Nvidia, &known(&["xid-13"])), Action::Ignore);
    assert_eq!(none.action(Vendor::Nvidia, &known(&["xid-130"])), Action::NoSchedule);
    assert_eq!(none.action(Vendor::Ascend, &known(&["xid-13"])), Action::NoSchedule);
    assert_eq!(none.action(Vendor::Nvidia, &known(&[])), Action::NoSchedule);
    let rules = vec![
        rule(None, "0x80E01801", Action::Evict),
        rule(Some(Vendor::Nvidia), "xid-*", Action::NoSchedule),
        rule(None, "xid-13", Action::Evict),
        rule(None, "*", Action::Ignore),
    ];
    let own = HealthPolicy { rules, ..HealthPolicy::default() };
    assert_eq!(own.action(Vendor::Ascend, &known(&["0x80e01801", "alarm-1"])), Action::Evict);
    assert_eq!(own.action(Vendor::Nvidia, &known(&["xid-13"])), Action::NoSchedule);
    assert_eq!(own.action(Vendor::Ascend, &known(&["XID-13"])), Action::Evict);
    assert_eq!(own.action(Vendor::Ascend, &known(&["alarm-3"])), Action::Ignore);
}

#[test]
fn faults_that_are_ignored_are_not_told_and_the_strongest_counts() {
    let mut life = Life::gpu(evicting());
    let user = Fault::new("xid-13", "a program's error");
    assert_eq!(life.look(0, &Health::Unhealthy(vec![user.clone()])), (None, Health::Healthy));
    let both = Health::Unhealthy(vec![user, Fault::new("alarm-3", "HBM")]);
    assert_eq!(life.look(1, &both), (SCHEDULED_NO_MORE, sick()));
    assert_eq!(life.taint(30, &both), EVICTED);
}

proptest! {
    /// Whatever a chip does: what was published last is what a look later says, nothing is lifted early, and asking when
    /// something may change without a look never names a time at which nothing does.
    #[test]
    fn a_taint_is_there_with_every_fault_and_lifted_only_by_health(
        looks in proptest::collection::vec((0_u64..100, 0_u8..4), 1..200)
    ) {
        let mut life = Life::of(evicting());
        let mut well_since = None;
        let mut tainted = None;
        for (after, what) in looks {
            let health = match what {
                0 => sick(),
                1 => Health::Unknown("hangs".to_owned()),
                _ => Health::Healthy,
            };
            let (taint, told) = life.look(after, &health);
            prop_assert_eq!(matches!(told, Health::Healthy), taint.is_none() && health == Health::Healthy);
            if health == Health::Healthy {
                let since = *well_since.get_or_insert(life.now);
                prop_assert!(taint.is_some() || tainted.is_none() || life.now - since >= 60);
            } else {
                well_since = None;
                prop_assert!(matches!(health, Health::Unknown(_)) || taint.is_some());
                prop_assert!(tainted.is_none() || taint.is_some());
            }
            tainted = taint;
            if let Some(next) = life.judge.next() {
                prop_assert!(next > Duration::from_secs(life.now), "asked again at once, for ever");
                let before = life.look(0, &health);
                let then = next.as_secs() - life.now;
                let changed = life.look(then, &health);
                tainted = changed.0;
                prop_assert_ne!(before, changed);
            }
        }
    }
}
