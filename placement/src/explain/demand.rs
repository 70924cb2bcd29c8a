//! A demand in the words of who wrote it.

use vnpu_driver::quantity::Bytes;

use crate::demand::{Ask, ClaimSpec, Count, Request};
use crate::plan::Group;
use crate::prepare::asks;
use crate::view::View;

/// One text per kind of pod.
pub(super) fn texts(view: &View, groups: &[Group]) -> Vec<String> {
    groups.iter().map(|group| group_text(view, group)).collect()
}

fn group_text(view: &View, group: &Group) -> String {
    let units = group.units.len();
    let pods = group.form.pods.len();
    let each = match (units, pods) {
        (1, 1) => "1 pod:".to_owned(),
        (_, 1) => format!("{units} pods, each"),
        _ => format!("{units} times {pods} pods that share a claim, together"),
    };
    let requests: Vec<String> = specs(view, group).iter().flat_map(|s| &s.requests).map(request).collect();
    let requests = if requests.is_empty() { "no devices".to_owned() } else { requests.join(" + ") };
    format!("{each} {requests}")
}

fn specs(view: &View, group: &Group) -> Vec<ClaimSpec> {
    group.form.pods.iter().flat_map(|asked| view.shapes.specs(*asked)).collect()
}

/// What one unit of the group needs of devices, as modules and chips where that is what it comes to.
pub(super) fn wish(view: &mut View, group: &Group) -> String {
    let specs = specs(view, group);
    let whole = asks(&specs).all(|ask| ask.capacity.is_empty() && !ask.admin_access);
    let counted = if whole { counted(view, group) } else { None };
    let plain = || specs.iter().flat_map(|s| &s.requests).map(request).collect::<Vec<_>>().join(" + ");
    match (counted, specs.is_empty()) {
        (Some(counted), _) => counted,
        (None, true) => "no devices".to_owned(),
        (None, false) => plain(),
    }
}

fn counted(view: &mut View, group: &Group) -> Option<String> {
    let room = |empty: &u32| *empty > 0;
    let node = u32::try_from(view.shapes.get(group.shape)?.empty.iter().position(room)?).ok()?;
    let (mut modules, mut chips) = (0u32, 0u32);
    for asked in &group.form.pods {
        let prepared = view.prepared(*asked, node);
        for request in prepared.claims.iter().flat_map(|claim| &claim.requests) {
            let ask = request.first()?;
            let candidate = ask.candidates.first()?;
            let layout = view.node(node)?.layouts.get(usize::from(candidate.pool))?;
            let form = layout.form(usize::from(candidate.device))?;
            let compound = !form.shareable && form.pays.len() > 1;
            *(if compound { &mut modules } else { &mut chips }) += ask.count?;
        }
    }
    let word = |count: u32, word: &str| match count {
        0 => None,
        1 => Some(format!("1 {word}")),
        _ => Some(format!("{count} {word}s")),
    };
    let words: Vec<String> = [word(modules, "module"), word(chips, "chip")].into_iter().flatten().collect();
    (!words.is_empty()).then(|| words.join(" and "))
}

fn request(request: &Request) -> String {
    let ways: Vec<String> = request.alternatives.iter().map(ask).collect();
    ways.join(", else ")
}

fn ask(ask: &Ask) -> String {
    let count = match ask.count {
        Count::Exactly(count) => count.to_string(),
        Count::All => "all".to_owned(),
    };
    let amounts: Vec<String> = ask
        .capacity
        .iter()
        .map(|(name, amount)| {
            let amount = if name == "memory" { Bytes(*amount).to_string() } else { amount.to_string() };
            format!("{name} {amount}")
        })
        .collect();
    let share = if amounts.is_empty() { String::new() } else { format!(" with {}", amounts.join(", ")) };
    let admin = if ask.admin_access { " (administrative)" } else { "" };
    format!("{count} x {}{share}{admin}", ask.class)
}
