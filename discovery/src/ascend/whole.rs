//! Why Ascend chips are only given whole, in words, and the problem that tells it once for all of them.

use std::collections::BTreeMap;

use vnpu_driver::hardware::{Chip, Problem};

use super::dcmi::Slot;

/// The switch is there and off, as it is after every boot.
pub(crate) const SWITCH_OFF: &str =
    "the device-share switch is off: npu-smi set -t device-share -i <card> -c <die> -d 1";
/// The driver has no switch, so it lets one container at a time hold a chip.
pub(crate) const UNSUPPORTED: &str = "this driver, or this hardware, has no device-share switch (dcmi_get_device_share_enable): a newer driver may";

/// So many dies are named, and the rest counted.
const NAMED: usize = 4;

/// One problem for each reason.
pub(crate) fn problems(chips: &BTreeMap<Slot, Chip>, object: impl Fn(Slot) -> String) -> Vec<Problem> {
    let mut reasons: BTreeMap<&str, Vec<Slot>> = BTreeMap::new();
    for (slot, chip) in chips {
        if let Some(why) = &chip.traits.whole_only {
            reasons.entry(why).or_default().push(*slot);
        }
    }
    let problem = |(why, slots): (&str, Vec<Slot>)| {
        let mut names: Vec<String> = slots.iter().take(NAMED).map(|slot| object(*slot)).collect();
        if slots.len() > NAMED {
            names.push(format!("and {} more", slots.len() - NAMED));
        }
        Problem {
            object: names.join(", "),
            message: format!("{why}; published whole only"),
            reason: "whole_only".to_owned(),
        }
    };
    reasons.into_iter().map(problem).collect()
}
