//! What admission admits cannot straddle: every allocation that a small machine has for an admitted claim is tried, and
//! judged by the definition of straddling alone.

// A test may panic; clippy knows that of test functions, not of what they call.
#![allow(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod support;

use proptest::prelude::*;
use serde_json::{Value, json};
use support::claims::claims;
use support::{create, patched, shipped};
use vnpu_driver::admission::form::{Ask, Form, MODULE, UUID};
use vnpu_driver::admission::{ClassKind, Classes, Objects, Place};
use vnpu_driver::controller_config::ControllerConfig;
use vnpu_driver::straddle::{Held, straddled_modules};

const MODULES: u32 = 3;

/// One device of the machine: a chip, or a whole module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Device {
    module: u32,
    /// `None`: the module.
    die: Option<u32>,
}

/// One device given to one alternative.
#[derive(Debug, Clone, Copy)]
struct Given<'f> {
    ask: &'f Ask,
    device: Device,
}

/// The devices of dual-die hardware that the alternative may be given; none where it can be had elsewhere only.
fn candidates(ask: &Ask) -> Vec<Device> {
    let dies: &[Option<u32>] = match ask.kind {
        _ if ask.single || ask.admin => &[],
        ClassKind::Npu | ClassKind::Accelerator => &[Some(0), Some(1)],
        ClassKind::Module => &[None],
        ClassKind::SingleDie | ClassKind::Partition | ClassKind::Foreign => &[],
    };
    (0..MODULES).flat_map(|module| dies.iter().map(move |die| Device { module, die: *die })).collect()
}

/// Whether both fit on the machine: only two shares of one chip overlap.
fn beside(one: &Given<'_>, other: &Given<'_>) -> bool {
    let apart = one.device.module != other.device.module
        || matches!((one.device.die, other.device.die), (Some(a), Some(b)) if a != b);
    let shares = one.ask.is_share() && other.ask.is_share() && one.ask.request != other.ask.request;
    apart || (shares && one.device == other.device)
}

/// Whether the constraints let them pass. `distinctAttribute` is wrong within one request in the real allocator, so it
/// is not relied on there.
fn constrained(form: &Form, given: &[Given<'_>]) -> bool {
    form.constraints.iter().all(|c| {
        let covered: Vec<&Given<'_>> = given.iter().filter(|g| c.covers(g.ask)).collect();
        let pairs =
            || covered.iter().enumerate().flat_map(|(i, a)| covered[..i].iter().map(move |b| (*a, *b)));
        let across = |a: &Given<'_>, b: &Given<'_>| {
            a.ask.request != b.ask.request && a.ask.count == 1 && b.ask.count == 1
        };
        (!c.matches(MODULE) || pairs().all(|(a, b)| a.device.module == b.device.module))
            && (!c.parts(MODULE) || pairs().all(|(a, b)| !across(a, b) || a.device.module != b.device.module))
            && (!c.parts(UUID) || pairs().all(|(a, b)| !across(a, b) || a.device != b.device))
    })
}

fn straddles(given: &[Given<'_>]) -> bool {
    let held: Vec<Held<u32>> = given
        .iter()
        .map(|g| Held {
            module: Some(g.device.module),
            dies: g.device.die.map_or(vec![0, 1], |die| vec![die]),
            excepted: g.ask.independent && g.ask.is_share(),
        })
        .collect();
    straddled_modules(&held).len() > 1
}

/// A straddling allocation, if the machine has one: requests from `request` on, `left` devices of the alternative
/// chosen for it, from candidate `from` on.
fn search<'f>(
    form: &'f Form,
    request: usize,
    chosen: Option<(&'f Ask, i64, usize)>,
    given: &mut Vec<Given<'f>>,
) -> Option<String> {
    if let Some((ask, left, from)) = chosen {
        if left == 0 {
            return search(form, request + 1, None, given);
        }
        for (at, device) in candidates(ask).into_iter().enumerate().skip(from) {
            let next = Given { ask, device };
            if given.iter().all(|g| beside(g, &next)) {
                given.push(next);
                let found = if constrained(form, given) {
                    search(form, request, Some((ask, left - 1, at + 1)), given)
                } else {
                    None
                };
                given.pop();
                if found.is_some() {
                    return found;
                }
            }
        }
        return None;
    }
    let Some(next) = form.requests.get(request) else {
        return straddles(given)
            .then(|| format!("{:?}", given.iter().map(|g| (&g.ask.path, g.device)).collect::<Vec<_>>()));
    };
    next.alternatives.iter().find_map(|ask| {
        // What is had from other hardware holds nothing here; `All` and too many never fit.
        let count = if candidates(ask).is_empty() { 0 } else { ask.count };
        search(form, request, Some((ask, count, 0)), given)
    })
}

fn straddling_allocation(claim: &Value) -> Option<String> {
    let config = ControllerConfig::default();
    let known = Objects::default();
    let form = Form::of(claim, Place::Claim, &Classes::new(&config, &known)).expect("a claim");
    search(&form, 0, None, &mut Vec::new())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_allocation_of_an_admitted_claim_straddles(claim in claims()) {
        let response = create(&claim, &ControllerConfig::default(), &shipped());
        if response.allowed() {
            let admitted = patched(&claim, &response);
            prop_assert_eq!(straddling_allocation(&admitted), None, "{}", admitted["spec"]);
        }
    }
}

#[test]
fn the_search_finds_what_straddles() {
    let claim = |devices: Value| json!({"spec": {"devices": devices}});
    let ask = |count: i64| json!({"deviceClassName": "npu.vnpu.dev", "count": count});
    let one = |name: &str, count| json!({"name": name, "exactly": ask(count)});
    let pair = json!([{"requests": ["a"], "matchAttribute": MODULE}]);
    assert!(straddling_allocation(&claim(json!({"requests": [one("a", 2)]}))).is_some());
    assert!(straddling_allocation(&claim(json!({"requests": [one("a", 1), one("b", 1)]}))).is_some());
    assert!(straddling_allocation(&claim(json!({"requests": [one("a", 4)]}))).is_some());
    assert!(straddling_allocation(&claim(json!({"requests": [one("a", 2)], "constraints": pair}))).is_none());
    assert!(
        straddling_allocation(&claim(json!({"requests": [one("a", 2), one("b", 1)], "constraints": pair})))
            .is_none()
    );
    let share = |name: &str| json!({"name": name, "exactly": {"deviceClassName": "npu.vnpu.dev", "capacity": {"requests": {"memory": "4Gi"}}}});
    let both = json!([{"requests": ["a", "b"], "matchAttribute": MODULE}]);
    assert!(
        straddling_allocation(&claim(json!({"requests": [share("a"), share("b")], "constraints": both})))
            .is_none()
    );
    let three = json!({"requests": [share("a"), share("b"), share("c")], "constraints": both});
    assert!(straddling_allocation(&claim(three)).is_some(), "two shares may fall on one chip");
}
