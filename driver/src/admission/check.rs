//! Rules that look at a claim as submitted and change nothing: what can never be meant, and what its user should know.

use super::class::ClassKind;
use super::form::{Ask, Form, MODULE, Request};
use super::rule::{Bench, Effect, Level};
use super::selector;
use crate::share_policy::SharePolicy;

/// The capacities that a chip publishes.
const CAPACITIES: [&str; 2] = ["memory", "cores"];
/// Attributes that one device has.
pub(super) const IDENTITIES: &[&str] = &["uuid", "pciBusID"];

fn counted(form: &Form) -> impl Iterator<Item = &Ask> {
    form.asks().filter(|a| !a.admin)
}

/// Opaque configuration that Prepare could not read. Unknown fields are errors, so that no wish is lost silently.
pub fn policy(bench: &Bench<'_>) -> Effect {
    let mut effect = Effect::default();
    for policy in &bench.form.policies {
        if let Err(error) = SharePolicy::parse(&policy.parameters) {
            let message = format!("SharePolicy: {error}");
            effect.note(Level::Refused, None, &format!("{}/opaque/parameters", policy.pointer), message);
        }
    }
    effect
}

/// The API compares capacities by their exact text, and a device without the capacity never matches.
pub fn capacity_key(bench: &Bench<'_>) -> Effect {
    let mut effect = Effect::default();
    for ask in counted(bench.form).filter(|a| a.kind.has_shares()) {
        for key in ask.capacity.keys().filter(|key| !CAPACITIES.contains(&key.as_str())) {
            let message = format!(
                "no device has the capacity {key:?}, so none would ever match; write {}",
                meant(key).map_or("memory or cores".to_owned(), |word| format!("{word:?}"))
            );
            effect.refuse(ask, message);
        }
    }
    effect
}

/// The capacity that a misspelt key probably means.
fn meant(key: &str) -> Option<&'static str> {
    let key = key.rsplit('/').next().unwrap_or(key).to_lowercase();
    let near = |words: &[&str]| words.iter().any(|word| key.contains(word));
    if near(&["mem", "hbm"]) {
        Some("memory")
    } else if near(&["core", "compute", "percent"]) {
        Some("cores")
    } else {
        None
    }
}

/// Shares that a constraint parts, and that would have to be kept together.
pub fn spread_shares(bench: &Bench<'_>) -> Effect {
    let form = bench.form;
    let mut effect = Effect::default();
    for constraint in form.constraints.iter().filter(|c| c.parts(MODULE)) {
        let parted: Vec<&Ask> = form
            .asks()
            .filter(|a| a.is_chip() && a.is_share() && !a.matched && constraint.covers(a))
            .collect();
        let requests: std::collections::BTreeSet<&str> = parted.iter().map(|a| a.request.as_str()).collect();
        for ask in parted.iter().filter(|a| requests.len() > 1 || a.count > 1) {
            effect.refuse(
                ask,
                "distinctAttribute: vnpu.dev/module takes the shares from different modules, one chip of each; leave the \
                 constraint out, or configure pairing: independent for shares that may lie anywhere",
            );
        }
    }
    effect
}

/// A selector that one device fits, and more than one device wanted. (A list of devices, or all but one, is no such
/// selector.)
pub fn one_device_meant(bench: &Bench<'_>) -> Effect {
    let mut effect = Effect::default();
    for ask in bench.form.requests.iter().filter_map(Request::exactly) {
        let word = ask.selectors.iter().find_map(|s| selector::equals(s, IDENTITIES));
        if let Some(word) = word.filter(|_| ask.is_npu_chip() && ask.count > 1) {
            effect.refuse(
                ask,
                format!(
                    "a selector by {word} names one device, and {} are asked for, which nothing satisfies; ask for one \
                     chip in a request of its own, or leave {word} out",
                    ask.count
                ),
            );
        }
    }
    effect
}

/// The allocator's search is exponential in the requests.
pub fn request_limit(bench: &Bench<'_>) -> Effect {
    let limits = &bench.config.limits;
    let requests = bench.form.requests.iter().filter(|r| r.is_ours()).count();
    let pointer = format!("{}/requests", bench.form.place.devices());
    let mut effect = Effect::default();
    if requests > limits.max_requests {
        let message = format!(
            "{requests} requests of our devices, more than the {} allowed: the scheduler's search grows exponentially with \
             them; ask for several devices in one request (count), or make several claims",
            limits.max_requests
        );
        effect.note(Level::Refused, None, &pointer, message);
    } else if requests > limits.warn_requests {
        let message = format!(
            "{requests} requests of our devices: the scheduler's search grows exponentially with them; write the hardest \
             to satisfy first, or ask for several devices in one request (count)"
        );
        effect.note(Level::Warned, None, &pointer, message);
    }
    effect
}

/// Administrative access does not bypass capacity (measured; k/k issue 140729 for counters).
pub fn admin_access(bench: &Bench<'_>) -> Effect {
    let mut effect = Effect::default();
    for ask in bench.form.asks().filter(|a| a.admin && a.kind.is_ours()) {
        effect.warn(
            ask,
            "adminAccess does not fit on chips whose shares are all given away, so the pod may wait for ever; read the \
             hardware from the node plugin's metrics instead",
        );
    }
    effect
}

/// All the memory and a part of the compute: nobody else fits.
pub fn cores_without_memory(bench: &Bench<'_>) -> Effect {
    let mut effect = Effect::default();
    let has = |a: &Ask, key: &str| a.capacity.contains_key(key);
    for ask in counted(bench.form).filter(|a| a.kind.has_shares() && has(a, "cores") && !has(a, "memory")) {
        effect.warn(
            ask,
            "cores without memory: the memory stays that of the whole chip, so nobody else fits on it; name memory too",
        );
    }
    effect
}

/// Alternatives are not rewritten, so what is left out of one stays the whole chip's.
pub fn memory_only_alternative(bench: &Bench<'_>) -> Effect {
    let mut effect = Effect::default();
    let lists = bench.form.requests.iter().filter(|r| r.is_list);
    for ask in lists.flat_map(|r| &r.alternatives).filter(|a| !a.admin && lacks_cores(a)) {
        effect.warn(
            ask,
            "memory without cores: the compute stays that of the whole chip, so nobody else fits on it; name cores too",
        );
    }
    effect
}

/// A share that says how much memory and not how much compute.
pub(super) fn lacks_cores(ask: &Ask) -> bool {
    ask.kind.has_shares() && ask.capacity.contains_key("memory") && !ask.capacity.contains_key("cores")
}

/// Whether the request is one that the pairing rules look at: chips of modules, said exactly.
pub(super) fn npu_chips<'a>(bench: &Bench<'a>) -> impl Iterator<Item = (usize, &'a Ask)> {
    let requests = bench.form.requests.iter().enumerate();
    let refused = bench.refused;
    requests
        .filter_map(|(position, request)| Some((position, request.exactly()?)))
        .filter(move |(_, ask)| ask.is_npu_chip() && !refused.contains(&ask.request))
        .filter(|(_, ask)| ask.kind == ClassKind::Npu)
}
