//! One pass over all Ascend chips. What fails on one die is that die's problem: a die seen before is kept with
//! unknown health, a new one is named and left out, and the others are served.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use vnpu_driver::hardware::{Chip, Inventory, MultiDiePolicy, Problem, Vendor};

use super::dcmi::{Answer, Dcmi, HCCS, NOT_SUPPORTED, Refusal, Slot};
use super::die::{Flaw, Look, Unanswered, Why};
use super::links::{Link, Links};
use super::whole;
use crate::error::{DiscoveryError, VendorLibrary};
use crate::found::{Found, Identity};
use crate::worker::{CallKey, Steps, Worker};

/// What earlier passes learnt, for the case that the library cannot say it now.
#[derive(Debug, Default)]
pub(crate) struct Known {
    chips: BTreeMap<Slot, Chip>,
    policy: Option<MultiDiePolicy>,
    driver_version: String,
    superpod: Option<u32>,
    links: Links,
    /// The last pass had no answer to something that is not told as a problem.
    unanswered: bool,
}

impl Known {
    /// Whether all that the last pass asked was answered, or is told as a problem.
    pub(crate) fn is_complete(&self) -> bool {
        !self.unanswered
    }
}

/// One pass.
struct Pass<'a, D> {
    worker: &'a Worker<D, Slot>,
    sys_root: &'a Path,
    /// Whether what hardly ever changes is not asked.
    brief: bool,
    /// Dies on which a call hung in this pass: each costs one deadline, not one per call.
    hung: RefCell<BTreeMap<Slot, &'static str>>,
    problems: RefCell<Vec<Problem>>,
}

/// Looks at all dies. `known` is updated to what this pass found. A brief look asks which dies there are and how they
/// are; of those that were there before the rest is believed.
pub(crate) fn scan<D: Dcmi>(
    worker: &Worker<D, Slot>,
    sys_root: &Path,
    known: &mut Known,
    brief: bool,
) -> Result<Inventory, DiscoveryError> {
    let pass = Pass { worker, sys_root, brief, hung: RefCell::default(), problems: RefCell::default() };
    known.unanswered = false;
    let cards = pass.global("dcmi_get_card_list", |d: &D| d.cards()).map_err(whole)?;
    if !brief {
        known.policy = pass.policy(known.policy);
        match pass.global("dcmi_get_driver_version", |d: &D| d.driver_version()) {
            Ok(version) => known.driver_version = version,
            Err(unanswered) => known.unanswered |= unanswered.may_pass(),
        }
    }
    let mut found = Found::<Slot>::default();
    for card in cards {
        pass.card(card, known, &mut found);
    }
    let mut chips = found.settle(&known.chips, &IDENTITIES, object, &mut pass.problems.borrow_mut());
    known.links.apply(&mut chips, |one, other| pass.link(one, other));
    if known.policy != Some(MultiDiePolicy::Union) {
        pass.problems.borrow_mut().extend(whole::problems(&chips, object));
    }
    if let Some(slot) = chips.keys().next().copied().filter(|_| !brief) {
        match pass.superpod(slot) {
            Ok(id) => known.superpod = id,
            // It is as it was.
            Err(()) => known.unanswered = true,
        }
    }
    known.chips = chips;
    Ok(Inventory {
        vendor: Vendor::Ascend,
        chips: known.chips.values().cloned().collect(),
        multi_die_policy: known.policy.unwrap_or(MultiDiePolicy::Independent),
        driver_version: known.driver_version.clone(),
        cuda_version: String::new(),
        superpod: known.superpod,
        problems: pass.problems.into_inner(),
    })
}

fn whole(unanswered: Unanswered) -> DiscoveryError {
    let (library, function) = (VendorLibrary::Dcmi, unanswered.function);
    match unanswered.why {
        Why::Code(code) => DiscoveryError::Call { library, function, code },
        Why::Absent => DiscoveryError::Call { library, function, code: NOT_SUPPORTED },
        Why::Hangs => DiscoveryError::Hanging { function },
    }
}

impl<D: Dcmi> Pass<'_, D> {
    fn global<T: Send + 'static>(
        &self,
        function: &'static str,
        call: impl FnOnce(&D) -> Answer<T> + Send + 'static,
    ) -> Result<T, Unanswered> {
        self.call(function, None, call)
    }

    fn ask<T: Send + 'static>(
        &self,
        function: &'static str,
        slot: Slot,
        call: impl FnOnce(&D) -> Answer<T> + Send + 'static,
    ) -> Result<T, Unanswered> {
        if let Some(function) = self.hung.borrow().get(&slot).copied() {
            return Err(Unanswered { function, why: Why::Hangs });
        }
        let answer = self.call(function, Some(slot), call);
        if let Err(Unanswered { why: Why::Hangs, .. }) = answer {
            self.hung.borrow_mut().insert(slot, function);
        }
        answer
    }

    fn call<T: Send + 'static>(
        &self,
        function: &'static str,
        slot: Option<Slot>,
        call: impl FnOnce(&D) -> Answer<T> + Send + 'static,
    ) -> Result<T, Unanswered> {
        match self.worker.call(CallKey { function, place: slot }, call) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Refusal::Code(code))) => Err(Unanswered { function, why: Why::Code(code) }),
            Ok(Err(Refusal::Absent)) => Err(Unanswered { function, why: Why::Absent }),
            Err(_) => Err(Unanswered { function, why: Why::Hangs }),
        }
    }

    fn problem(&self, object: String, message: String, reason: &str) {
        // The caller says it once; here it would be said in every pass.
        tracing::debug!(object, message, reason, "discovery");
        self.problems.borrow_mut().push(Problem { object, message, reason: reason.to_owned() });
    }

    /// Unknown to older drivers and single-die hardware: then every die stands alone.
    fn policy(&self, before: Option<MultiDiePolicy>) -> Option<MultiDiePolicy> {
        match self.global("dcmi_get_multi_die_policy", |d: &D| d.multi_die_policy()) {
            Ok(0) => Some(MultiDiePolicy::Union),
            Ok(_) => Some(MultiDiePolicy::Independent),
            Err(unanswered) if unanswered.unsupported() => Some(MultiDiePolicy::Independent),
            Err(unanswered) => {
                self.problem("multi-die policy".to_owned(), unanswered.message(), unanswered.reason());
                before
            }
        }
    }

    /// Asked of one chip: it is the node's. Hardware without super-pods refuses the question.
    fn superpod(&self, slot: Slot) -> Result<Option<u32>, ()> {
        match self.ask("dcmi_get_device_info", slot, move |d: &D| d.super_pod(slot)) {
            Ok(u32::MAX) => Ok(None),
            Ok(id) => Ok(Some(id)),
            Err(unanswered) if unanswered.may_pass() => Err(()),
            // Hardware without super-pods refuses the question, with whatever code.
            Err(_) => Ok(None),
        }
    }

    fn link(&self, one: Slot, other: Slot) -> Link {
        let function = "dcmi_get_topo_info_by_device_id";
        let hung = |slot: &Slot| self.hung.borrow().contains_key(slot);
        if hung(&one) || hung(&other) {
            return Link::Silent;
        }
        let answer = self.ask(function, one, move |d: &D| d.connection(one, other));
        // Either may be the cause, and one deadline is enough for both.
        if hung(&one) {
            self.hung.borrow_mut().insert(other, function);
        }
        match answer {
            Ok(kind) if HCCS.contains(&kind) => Link::Joined,
            Ok(_) => Link::Apart,
            Err(unanswered) if unanswered.unsupported() => Link::Untold,
            Err(_) => Link::Silent,
        }
    }

    fn card(&self, card: i32, known: &Known, found: &mut Found<Slot>) {
        let key = Slot { card, device: -1 };
        let devices = match self.ask("dcmi_get_device_num_in_card", key, move |d: &D| d.devices(card)) {
            Ok(devices) => devices,
            Err(unanswered) => {
                self.problem(format!("card {card}"), unanswered.message(), unanswered.reason());
                let slots: Vec<Slot> = known.chips.keys().filter(|slot| slot.card == card).copied().collect();
                if !unanswered.nothing_there() {
                    let health = unanswered.health();
                    slots.into_iter().for_each(|slot| found.carry(slot, &known.chips, &health));
                }
                return;
            }
        };
        for device in 0..devices.beyond {
            let slot = Slot { card, device };
            match self.die(slot, known.chips.get(&slot)) {
                Ok(Some(chip)) => {
                    found.see(slot, chip);
                }
                Ok(None) => {}
                Err(Flaw::Unanswered(unanswered)) if unanswered.nothing_there() => {}
                Err(Flaw::Unanswered(unanswered)) => {
                    self.problem(object(slot), unanswered.message(), unanswered.reason());
                    found.carry(slot, &known.chips, &unanswered.health());
                }
                Err(Flaw::Unusable { message, reason }) => self.problem(object(slot), message, reason),
            }
        }
    }

    /// The chip in a slot; `None` for a device that is no NPU.
    fn die(&self, slot: Slot, before: Option<&Chip>) -> Result<Option<Chip>, Flaw> {
        let (before, sys_root, brief) = (before.cloned(), self.sys_root.to_owned(), self.brief);
        let visit = move |steps: &Steps<'_, D, Slot>| {
            Look { steps, slot, sys_root: &sys_root, brief }.chip(before.as_ref())
        };
        match self.worker.visit(slot, visit) {
            Ok((chip, hangs)) => {
                self.hung.borrow_mut().extend(hangs.map(|function| (slot, function)));
                chip
            }
            Err(hangs) => {
                self.hung.borrow_mut().insert(slot, hangs.0);
                Err(Unanswered::from(hangs).into())
            }
        }
    }
}

fn object(slot: Slot) -> String {
    format!("card {} die {}", slot.card, slot.device)
}

/// What no two dies may share.
const IDENTITIES: [Identity; 2] = [
    Identity {
        what: "several dies report the same VDie id",
        reason: "duplicate_uuid",
        remedy: "update the driver or reset the devices",
        same: |one, other| one.uuid == other.uuid,
    },
    Identity {
        what: "several dies report the same physical id",
        reason: "duplicate_phys_id",
        remedy: "update the driver or reset the devices",
        same: |one, other| one.phys_id == other.phys_id,
    },
];
