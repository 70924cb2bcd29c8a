//! Which rules come, change and go.

use vnpu_driver::slices::TaintEffect::{NoExecute, NoSchedule};

use super::super::rule::Existing;
use super::*;

fn target(device: &str, chips: &[&str], module: Option<&str>) -> Target {
    Target {
        pool: "n/ascend".to_owned(),
        device: device.to_owned(),
        chips: chips.iter().map(|&chip| chip.to_owned()).collect(),
        module: module.map(str::to_owned),
    }
}

fn die(die: u32) -> Target {
    let name = format!("chip-3-{die}");
    target(&name, &[&name], Some("module-3"))
}

fn module() -> Target {
    target("module-3", &["chip-3-0", "chip-3-1"], Some("module-3"))
}

/// What there is after all steps were carried out.
fn after(rules: &Rules, wanted: &Wanted) -> Rules {
    let mut rules = rules.clone();
    for step in steps(&rules.clone(), wanted) {
        match step {
            Step::Create(place, effect) => {
                let name = rule::name(&place);
                rules.insert(place, Existing { name, effect });
            }
            Step::Change(name, effect) => {
                rules.values_mut().filter(|rule| rule.name == name).for_each(|rule| rule.effect = effect);
            }
            Step::Delete(name) => rules.retain(|_, rule| rule.name != name),
        }
    }
    assert_eq!(&now(&rules), wanted);
    rules
}

fn drain(rules: &Rules, target: Target, effect: TaintEffect) -> Rules {
    after(rules, &drained(rules, &[target], effect))
}

fn undrain(rules: &Rules, target: Target) -> Rules {
    after(rules, &returned(rules, &[target]))
}

fn shown(rules: &Rules) -> Vec<String> {
    rules.iter().map(|((_, device), rule)| format!("{device} {}", rule.effect.as_str())).collect()
}

#[test]
fn a_die_takes_its_module_along_and_leaves_its_mate() {
    let rules = drain(&Rules::new(), die(1), NoSchedule);
    assert_eq!(shown(&rules), ["chip-3-1 NoSchedule", "module-3 NoSchedule"]);
    assert!(steps(&rules, &drained(&rules, &[die(1)], NoSchedule)).is_empty(), "twice is no change");
    assert!(undrain(&rules, die(1)).is_empty());
    assert!(steps(&rules, &returned(&rules, &[die(0)])).is_empty(), "its mate was not drained");
}

#[test]
fn a_module_is_three_rules_and_comes_back_when_its_last_chip_does() {
    let rules = drain(&Rules::new(), module(), NoSchedule);
    assert_eq!(shown(&rules), ["chip-3-0 NoSchedule", "chip-3-1 NoSchedule", "module-3 NoSchedule"]);
    let rules = undrain(&rules, die(0));
    assert_eq!(shown(&rules), ["chip-3-1 NoSchedule", "module-3 NoSchedule"]);
    assert!(undrain(&rules, die(1)).is_empty());
    assert!(undrain(&rules, module()).is_empty());
}

#[test]
fn eviction_is_added_and_not_taken_back_by_a_drain_without() {
    let rules = drain(&Rules::new(), die(0), NoSchedule);
    let rules = drain(&rules, die(1), NoExecute);
    // Whoever has the module uses the chip that is to be left.
    assert_eq!(shown(&rules), ["chip-3-0 NoSchedule", "chip-3-1 NoExecute", "module-3 NoExecute"]);
    let again = drain(&rules, die(1), NoSchedule);
    assert_eq!(again, rules);
    assert_eq!(shown(&undrain(&rules, die(1))), ["chip-3-0 NoSchedule", "module-3 NoSchedule"]);
    assert_eq!(shown(&undrain(&rules, die(0))), ["chip-3-1 NoExecute", "module-3 NoExecute"]);
}

#[test]
fn a_module_goes_before_its_chips_and_comes_back_after_them() {
    let rules = Rules::new();
    let wanted = drained(&rules, &[module()], NoSchedule);
    let first = steps(&rules, &wanted).remove(0);
    assert_eq!(first, Step::Create(("n/ascend".to_owned(), "module-3".to_owned()), NoSchedule));
    let rules = after(&rules, &wanted);
    let last = steps(&rules, &Wanted::new()).pop();
    assert_eq!(last, Some(Step::Delete("vnpu-drain.n.ascend.module-3".to_owned())));
}

#[test]
fn other_chips_and_pools_are_left_alone() {
    let gpu = Target { pool: "n/nvidia".to_owned(), ..target("chip-3-0", &["chip-3-0"], None) };
    let rules = drain(&Rules::new(), gpu.clone(), NoSchedule);
    let rules = drain(&rules, die(0), NoSchedule);
    assert_eq!(rules.len(), 3);
    let rules = undrain(&rules, die(0));
    assert_eq!(rules.keys().cloned().collect::<Vec<_>>(), gpu.places().collect::<Vec<_>>());
}
