//! The guard's rules over claims, as deploy/manifests/21-claim-guard.yaml has them in CEL: same questions, same order,
//! same words. A claim that passes all of them cannot straddle on any hardware.

use super::class::{GPU, NPU, NPU_MODULE};
use super::form::{Ask, Constraint, Form, MODULE, Request, UUID};
use super::rule::{Effect, Level};
use super::selector::SINGLE_DIE;

/// The alternatives of requests that ask for chips or modules anywhere; the others cost the guard nothing.
fn written(form: &Form) -> impl Iterator<Item = &Request> {
    use super::class::ClassKind::Module;
    form.requests
        .iter()
        .filter(|r| r.alternatives.iter().any(|a| a.kind.reaches_halves() || a.kind == Module))
}

fn asks(form: &Form) -> impl Iterator<Item = &Ask> {
    written(form).flat_map(|r| &r.alternatives)
}

fn refuse_each<'a>(asks: impl Iterator<Item = &'a Ask>, message: impl Fn(&Ask) -> String) -> Effect {
    let mut effect = Effect::default();
    for ask in asks {
        effect.refuse(ask, message(ask));
    }
    effect
}

/// A derived attribute must not pass for what the hardware says.
pub fn forged_attribute(form: &Form) -> Effect {
    let forged = |a: &&Ask| a.derived.iter().any(|name| name == MODULE || name == UUID);
    refuse_each(asks(form).filter(forged), |_| {
        "a derived attribute may not be called vnpu.dev/module or vnpu.dev/uuid: constraints over them must see what \
         the hardware says; give it a name of your own"
            .to_owned()
    })
}

/// All chips means those that happen to have room.
pub fn all_of_chips(form: &Form) -> Effect {
    refuse_each(asks(form).filter(|a| a.is_ours() && a.all), |a| {
        format!(
            "allocationMode All of chips ({}) means all that happen to have room, one chip of a module here and there; \
             ask for a count, or for the whole node with {NPU_MODULE} and allocationMode: All",
            a.class
        )
    })
}

/// Modules are exclusive.
pub fn share_of_module(form: &Form) -> Effect {
    use super::class::ClassKind::Module;
    refuse_each(asks(form).filter(|a| a.kind == Module && a.is_share()), |a| {
        format!(
            "a module ({}) is exclusive and has no shares; leave capacity out, or ask for a share of a chip of {NPU}",
            a.class
        )
    })
}

/// Independence is for shares.
pub fn independent_whole(form: &Form) -> Effect {
    let wrong = |a: &&Ask| a.is_ours() && !a.single && a.independent && !a.is_share();
    refuse_each(asks(form).filter(wrong), |_| {
        "pairing: independent is for shares only, and this asks for whole chips; leave pairing out, or name memory and \
         cores in capacity.requests"
            .to_owned()
    })
}

/// Chips of any vendor may be halves, and cannot be made modules.
pub fn accelerator_chips(form: &Form) -> Effect {
    use super::class::ClassKind::Accelerator;
    let most = |r: &Request| {
        let counts = r.alternatives.iter().filter(|a| a.is_chip() && a.kind == Accelerator).map(|a| a.count);
        counts.max().unwrap_or(0).max(0)
    };
    let chips: i64 = written(form).map(most).fold(0, i64::saturating_add);
    let mut effect = Effect::default();
    if chips > 1 {
        let message = format!(
            "{chips} chips of any vendor (accelerator.vnpu.dev) in one claim may be one chip each of several modules; ask \
             for firstAvailable: [{{name: modules, deviceClassName: {NPU_MODULE}, count: {}}}, {{name: gpus, \
             deviceClassName: {GPU}, count: {chips}}}], or on single-die hardware add the selector {SINGLE_DIE}",
            chips.saturating_add(1) / 2
        );
        // It is about them all, and nothing else need be said of any of them.
        for request in written(form).filter(|r| most(r) > 0) {
            effect.note(Level::Refused, Some(&request.name), &request.pointer, message.clone());
        }
    }
    effect
}

/// More than two shares lie on more than one module.
pub fn many_shares(form: &Form) -> Effect {
    refuse_each(asks(form).filter(|a| a.is_chip() && a.is_share() && a.count > 2), |a| {
        format!(
            "{} shares lie on more than one module, and may be one chip of each; ask for 2 under matchAttribute: \
             vnpu.dev/module, make a claim of each, or configure pairing: independent for this request",
            a.count
        )
    })
}

/// An even number of whole chips that are not modules.
pub fn many_chips(form: &Form) -> Effect {
    let many = |a: &&Ask| a.is_chip() && !a.is_share() && a.count > 2 && a.count % 2 == 0;
    refuse_each(asks(form).filter(many), |a| {
        format!(
            "{} chips may be one chip each of several modules, and chips of two modules never match; ask for {} of \
             {NPU_MODULE}, or on single-die hardware add the selector {SINGLE_DIE}",
            a.count,
            a.count / 2
        )
    })
}

/// An odd number of whole chips.
pub fn odd_chips(form: &Form) -> Effect {
    let odd = |a: &&Ask| a.is_chip() && !a.is_share() && a.count > 2 && a.count % 2 == 1;
    refuse_each(asks(form).filter(odd), odd_message)
}

/// What to write instead of an odd number.
pub(super) fn odd_message(ask: &Ask) -> String {
    let (count, half) = (ask.count, ask.count / 2);
    format!(
        "{count} chips are no whole modules; ask for {} or {} chips as {half} or {} of {NPU_MODULE}, for {half} of \
         {NPU_MODULE} and 1 of {NPU} in two requests, or on single-die hardware add the selector {SINGLE_DIE}",
        count - 1,
        count.saturating_add(1),
        half + 1
    )
}

/// Whole chips from different modules on purpose.
pub fn spread_chips(form: &Form) -> Effect {
    let parted = |a: &&Ask| {
        a.is_chip() && !a.is_share() && form.constraints.iter().any(|c| c.parts(MODULE) && c.covers(a))
    };
    refuse_each(asks(form).filter(parted), |_| {
        format!(
            "distinctAttribute: vnpu.dev/module takes whole chips one by one from different modules; leave the constraint \
             out, and ask for {NPU_MODULE} for more than one chip"
        )
    })
}

/// Two chips with nothing that keeps them together.
pub fn loose_pair(form: &Form) -> Effect {
    refuse_each(asks(form).filter(|a| a.is_chip() && a.count == 2 && !a.matched), |a| {
        format!(
            "2 chips may be one chip each of two modules; add constraints: [{{requests: [{}], matchAttribute: \
             vnpu.dev/module}}], or on single-die hardware the selector {SINGLE_DIE}",
            a.path
        )
    })
}

/// What may end as one chip of a module with nothing beside it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lone {
    /// Requests.
    pub(super) requests: Vec<String>,
    /// Groups under a constraint, by the names of their requests.
    pub(super) groups: Vec<String>,
}

impl Lone {
    pub(super) fn of(form: &Form) -> Self {
        let alone = |r: &&Request| r.alternatives.iter().any(|a| a.is_chip() && a.count == 1 && !a.matched);
        let groups = form.constraints.iter().filter(|c| c.matches(MODULE) && asks(form).any(|a| held(c, a)));
        Self {
            requests: written(form).filter(alone).map(|r| r.name.clone()).collect(),
            groups: groups.filter(|c| may_be_one_chip(form, c)).map(|c| names_of(form, c)).collect(),
        }
    }

    /// How many halves there may be.
    pub(super) fn halves(&self) -> usize {
        self.requests.len() + self.groups.len()
    }
}

fn held(constraint: &Constraint, ask: &Ask) -> bool {
    ask.is_chip() && constraint.covers(ask)
}

fn names_of(form: &Form, constraint: &Constraint) -> String {
    let mut names: Vec<&str> = Vec::new();
    for ask in asks(form).filter(|a| held(constraint, a)) {
        if !names.contains(&ask.request.as_str()) {
            names.push(&ask.request);
        }
    }
    names.join(" and ")
}

/// Whether the group under a constraint may end with one chip of its module: it is neither made of pairs alone, nor
/// holds a pair in any case, nor two requests that cannot fall on the same chip (one takes a whole chip, or their uuid
/// differs).
fn may_be_one_chip(form: &Form, group: &Constraint) -> bool {
    let in_any_case: Vec<&Request> =
        written(form).filter(|r| r.alternatives.iter().all(|a| held(group, a))).collect();
    let only_pairs = asks(form).filter(|a| held(group, a)).all(|a| a.count >= 2);
    let a_pair = in_any_case.iter().any(|r| r.alternatives.iter().all(|a| a.count >= 2));
    let a_whole = in_any_case.iter().any(|r| r.alternatives.iter().all(|a| !a.is_share()));
    let kept_apart = |d: &Constraint| {
        let apart = |r: &&&Request| r.alternatives.iter().all(|a| d.covers(a));
        d.parts(UUID) && in_any_case.iter().filter(apart).count() >= 2
    };
    let two_chips = in_any_case.len() >= 2 && (a_whole || form.constraints.iter().any(kept_apart));
    !only_pairs && !a_pair && !two_chips
}

/// More than one half.
pub fn lone_chips(form: &Form) -> Effect {
    let lone = Lone::of(form);
    let mut effect = Effect::default();
    if lone.halves() <= 1 {
        return effect;
    }
    let names: Vec<String> = lone.requests.iter().chain(&lone.groups).map(|n| format!("{n:?}")).collect();
    let two = match lone.requests.as_slice() {
        [first, second, ..] => format!("{first}, {second}"),
        _ => "a, b".to_owned(),
    };
    let apart = if lone.groups.is_empty() {
        ""
    } else {
        " and, where both are shares, {requests: [a, b], distinctAttribute: vnpu.dev/uuid}"
    };
    let message = format!(
        "the chips of {} may be one chip each of several modules; put the requests two by two under constraints: \
         [{{requests: [{two}], matchAttribute: vnpu.dev/module}}]{apart}, ask for {NPU_MODULE}, or make a claim of each",
        names.join(", ")
    );
    let pointer = format!("{}/requests", form.place.devices());
    effect.note(Level::Refused, None, &pointer, message);
    effect
}
