//! Rules that complete a claim: compute for shares that name only memory, and the constraints that keep two chips in
//! one module. They only add; nothing is reordered or taken away.

use serde_json::{Value, json};

use super::check::{lacks_cores, npu_chips};
use super::form::{Ask, MODULE, UUID, sets_mode};
use super::merge::fields_of;
use super::rule::{Bench, Edit, Effect, Level, edited};
use super::straddling::Lone;
use crate::DRIVER_NAME;
use crate::controller_config::MAX_LIST;
use crate::share_policy::{API_VERSION, KIND};

/// A share that names only memory gets a little compute, and may use what others leave: left alone it would have all of
/// the chip's compute, so that nobody else fits.
pub fn memory_without_cores(bench: &Bench<'_>) -> Effect {
    let form = bench.form;
    let cores = bench.config.defaults.cores;
    let asks = form.requests.iter().enumerate().filter_map(|(position, r)| Some((position, r.exactly()?)));
    let asks: Vec<(usize, &Ask)> =
        asks.filter(|(_, a)| !a.admin && lacks_cores(a) && !bench.refused.contains(&a.request)).collect();
    let set = |a: &Ask| {
        form.policies.iter().any(|p| p.covers(a) && sets_mode(&p.parameters))
            || bench.classes.policies(&a.class).iter().any(sets_mode)
    };
    let elastic: Vec<&str> = asks.iter().filter(|(_, a)| !set(a)).map(|(_, a)| a.request.as_str()).collect();
    let room = elastic.is_empty() || form.lists.config.len() < MAX_LIST;
    let mut effect = Effect::default();
    for (position, ask) in &asks {
        let is_elastic = elastic.contains(&ask.request.as_str());
        let request = form.lists.requests.get(*position).cloned().and_then(|r| with_cores(r, cores));
        let Some(request) = request.filter(|_| room || !is_elastic) else {
            effect.warn(
                ask,
                "memory without cores: the compute stays that of the whole chip, so nobody else fits on it (there is no \
                 room in config to make it elastic); name cores too",
            );
            continue;
        };
        effect.edits.push(Edit::Request(*position, request));
        let mode = if is_elastic { " with compute.mode: elastic, so it uses what others leave" } else { "" };
        let message = format!(
            "request {:?}: memory without cores gets cores: {cores}{mode}; name cores to have more for certain",
            ask.path
        );
        effect.note(Level::Changed, Some(&ask.request), &ask.pointer, message);
    }
    if room && !elastic.is_empty() {
        effect.edits.push(Edit::Config(json!({
            "requests": elastic,
            "opaque": {
                "driver": DRIVER_NAME,
                "parameters": {"apiVersion": API_VERSION, "kind": KIND, "compute": {"mode": "elastic"}},
            },
        })));
    }
    effect
}

fn with_cores(mut request: Value, cores: u32) -> Option<Value> {
    let capacity = fields_of(&mut request)?.get_mut("capacity")?.get_mut("requests")?.as_object_mut()?;
    capacity.insert("cores".to_owned(), cores.to_string().into());
    Some(request)
}

fn match_module(requests: &[&str]) -> Edit {
    Edit::Constraint(json!({"requests": requests, "matchAttribute": MODULE}))
}

fn no_room(effect: &mut Effect, ask: &Ask) {
    effect.refuse(
        ask,
        format!(
            "2 chips may be one chip each of two modules, and the claim has {MAX_LIST} constraints already, so none can be \
             added; ask for npu-module.vnpu.dev, or leave a constraint out"
        ),
    );
}

/// Two chips of one request come from one module.
pub fn pair_in_a_request(bench: &Bench<'_>) -> Effect {
    let mut effect = Effect::default();
    for (_, ask) in npu_chips(bench).filter(|(_, a)| a.count == 2 && !a.matched) {
        if effect.edits.len() >= bench.form.room_for_constraints() {
            no_room(&mut effect, ask);
            continue;
        }
        effect.edits.push(match_module(&[&ask.request]));
        let message = format!(
            "request {:?}: its 2 chips come from one module (constraint matchAttribute: vnpu.dev/module)",
            ask.path
        );
        effect.note(Level::Completed, Some(&ask.request), &ask.pointer, message);
    }
    effect
}

/// Requests of one chip are constrained two by two in the order written; one left over is untouched. Two shares may
/// fall on one chip, which is half a module: where that would make a second half, they are kept on two chips.
pub fn requests_two_by_two(bench: &Bench<'_>) -> Effect {
    let mut effect = Effect::default();
    let ones: Vec<&Ask> =
        npu_chips(bench).filter(|(_, a)| a.count == 1 && !a.matched).map(|(_, a)| a).collect();
    let mut apart = Vec::new();
    for pair in ones.chunks_exact(2) {
        let [first, second] = pair else { continue };
        if effect.edits.len() >= bench.form.room_for_constraints() {
            no_room(&mut effect, first);
            continue;
        }
        let names = [first.request.as_str(), second.request.as_str()];
        effect.edits.push(match_module(&names));
        if first.is_share() && second.is_share() && !kept_apart(bench, first, second) {
            apart.push(Edit::Constraint(json!({"requests": names, "distinctAttribute": UUID})));
        }
        let message = format!(
            "requests {:?} and {:?}: their chips come from one module (constraint matchAttribute: vnpu.dev/module)",
            names[0], names[1]
        );
        effect.note(Level::Completed, Some(&first.request), &first.pointer, message);
    }
    let halves =
        edited(bench.form, effect.edits.clone(), &bench.classes).map_or(0, |form| Lone::of(&form).halves());
    if halves > 1 && effect.edits.len() + apart.len() <= bench.form.room_for_constraints() {
        effect.edits.extend(apart);
    }
    effect
}

fn kept_apart(bench: &Bench<'_>, first: &Ask, second: &Ask) -> bool {
    bench.form.constraints.iter().any(|c| c.parts(UUID) && c.covers(first) && c.covers(second))
}
