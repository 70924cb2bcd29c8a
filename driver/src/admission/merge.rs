//! Several whole dual-die chips in one request: what they cannot become, and how an even number becomes modules. N
//! modules cost the allocator a millisecond where N pairs of requests cost seconds.

use serde_json::{Map, Value, json};

use super::check::{IDENTITIES, npu_chips};
use super::class::NPU_MODULE;
use super::form::{Ask, MODULE};
use super::rule::{Bench, Edit, Effect, Level};
use super::selector::{self, SINGLE_DIE};
use crate::controller_config::{MAX_LIST, OddPolicy};

/// Words that mean something else on modules, or nothing.
const CHIP_WORDS: &[&str] = &["type", "chips", "capacity", "pcieRoot", "uuid", "pciBusID"];
/// Attributes that modules and single chips do not have in common.
const CHIP_ATTRIBUTES: &[&str] = &[
    "vnpu.dev/type",
    "vnpu.dev/chips",
    "resource.kubernetes.io/pcieRoot",
    "resource.kubernetes.io/pciBusID",
];

/// Whole chips, more than two, that will become modules (or will be refused).
fn many<'a>(bench: &Bench<'a>) -> impl Iterator<Item = (usize, &'a Ask)> {
    let odd = bench.config.odd_policy;
    npu_chips(bench)
        .filter(|(_, a)| !a.is_share() && a.count > 2)
        .filter(move |(_, a)| a.count % 2 == 0 || odd != OddPolicy::SingleDie)
}

/// How many modules hold the chips.
const fn modules(ask: &Ask) -> i64 {
    ask.count / 2 + ask.count % 2
}

/// `firstAvailable` as the user would write it.
fn spelled_out(ask: &Ask, module: &str) -> String {
    format!(
        "firstAvailable: [{{name: modules, deviceClassName: {module}, count: {}}}, {{name: chips, deviceClassName: {}, \
         count: {}, selectors: [{{cel: {{expression: '{SINGLE_DIE}'}}}}]}}]",
        modules(ask),
        ask.class,
        ask.count
    )
}

/// Own selectors that a module would not fit, or fit by accident.
pub fn chips_meant(bench: &Bench<'_>) -> Effect {
    let mut effect = Effect::default();
    for (_, ask) in many(bench) {
        // One that names a single device is refused as that.
        let meant = ask.selectors.iter().filter(|s| selector::equals(s, IDENTITIES).is_none());
        let Some(word) = meant.filter_map(|s| selector::mentions(s, CHIP_WORDS)).next() else { continue };
        let module = bench.classes.module_of(&ask.class).unwrap_or(NPU_MODULE);
        effect.refuse(
            ask,
            format!(
                "{} chips become modules, and a selector that mentions {word} means something else on a module; write \
                 both forms with the selectors that fit each: {}",
                ask.count,
                spelled_out(ask, module)
            ),
        );
    }
    effect
}

/// Constraints that chips of several modules, or modules beside chips, never satisfy.
pub fn constraint_over_modules(bench: &Bench<'_>) -> Effect {
    let mut effect = Effect::default();
    for (_, ask) in many(bench) {
        let named = |c: &super::form::Constraint| {
            let attribute = c.matches.as_deref().or(c.distinct.as_deref())?;
            let wrong = attribute == MODULE || c.matches.is_some() && CHIP_ATTRIBUTES.contains(&attribute);
            let word = if c.matches.is_some() { "matchAttribute" } else { "distinctAttribute" };
            wrong.then(|| format!("{word}: {attribute}"))
        };
        let covering = bench.form.constraints.iter().filter(|c| c.covers(ask));
        if let Some(constraint) = covering.filter_map(named).next() {
            let module = bench.classes.module_of(&ask.class).unwrap_or(NPU_MODULE);
            effect.refuse(
                ask,
                format!(
                    "{} chips are chips of {} modules, which {constraint} never lets pass; leave the constraint out: \
                     modules need none (ask for {} of {module})",
                    ask.count,
                    modules(ask),
                    modules(ask),
                ),
            );
        }
    }
    effect
}

/// The API takes 32 selectors, and ours is one more.
pub fn no_room_for_selector(bench: &Bench<'_>) -> Effect {
    let mut effect = Effect::default();
    let many = npu_chips(bench).filter(|(_, a)| !a.is_share() && a.count > 2);
    for (_, ask) in many.filter(|(_, a)| a.selectors.len() >= MAX_LIST) {
        let module = bench.classes.module_of(&ask.class).unwrap_or(NPU_MODULE);
        effect.refuse(
            ask,
            format!(
                "{} chips become modules or chips of single-die hardware, and {} selectors leave no room for the one that \
                 says so; join some with &&, or ask for {} of {module}",
                ask.count,
                ask.selectors.len(),
                modules(ask)
            ),
        );
    }
    effect
}

/// Classes of the administrator whose modules nobody named: another class's modules may be other hardware.
pub fn no_module_class(bench: &Bench<'_>) -> Effect {
    let mut effect = Effect::default();
    for (_, ask) in many(bench).filter(|(_, a)| bench.classes.module_of(&a.class).is_none()) {
        effect.refuse(
            ask,
            format!(
                "{} chips of {} are modules of a class that the configuration does not name (classes.modulesOf); write {}",
                ask.count,
                ask.class,
                spelled_out(ask, "the class of its modules")
            ),
        );
    }
    effect
}

/// An odd number where the administrator wants none.
pub fn odd_chips(bench: &Bench<'_>) -> Effect {
    let mut effect = Effect::default();
    if bench.config.odd_policy == OddPolicy::Reject {
        for (_, ask) in many(bench).filter(|(_, a)| a.count % 2 == 1) {
            effect.refuse(ask, super::straddling::odd_message(ask));
        }
    }
    effect
}

/// An odd number where the administrator keeps it to single-die hardware.
pub fn odd_on_single_die(bench: &Bench<'_>) -> Effect {
    let mut effect = Effect::default();
    if bench.config.odd_policy != OddPolicy::SingleDie {
        return effect;
    }
    for (position, ask) in npu_chips(bench).filter(|(_, a)| !a.is_share() && a.count > 2 && a.count % 2 == 1)
    {
        let Some(mut request) = bench.form.lists.requests.get(position).cloned() else { continue };
        let Some(fields) = fields_of(&mut request) else { continue };
        add_single_die(fields);
        effect.edits.push(Edit::Request(position, request));
        let message = format!(
            "request {:?}: {} chips are no whole modules, so only hardware without modules is taken (selector {SINGLE_DIE})",
            ask.path, ask.count
        );
        effect.note(Level::Changed, Some(&ask.request), &ask.pointer, message);
    }
    effect
}

/// An even number (or an odd one, rounded up) becomes modules where there are any, else chips of single-die hardware.
/// The request keeps its name, so constraints, configuration and containers go on naming it.
pub fn chips_as_modules(bench: &Bench<'_>) -> Effect {
    let mut effect = Effect::default();
    let reject = bench.config.odd_policy == OddPolicy::Reject;
    for (position, ask) in many(bench).filter(|(_, a)| a.count % 2 == 0 || !reject) {
        let Some(module) = bench.classes.module_of(&ask.class) else { continue };
        let Some(request) = bench.form.lists.requests.get(position).and_then(|r| as_modules(r, ask, module))
        else {
            continue;
        };
        effect.edits.push(Edit::Request(position, request));
        let rounded = if ask.count % 2 == 0 { "" } else { ", rounded up," };
        let message = format!(
            "request {:?}: {} chips{rounded} become {} of {module}, or {} of {} on hardware without modules; the request \
             keeps its name",
            ask.path,
            ask.count,
            modules(ask),
            ask.count,
            ask.class
        );
        effect.note(Level::Changed, Some(&ask.request), &ask.pointer, message);
    }
    effect
}

fn as_modules(request: &Value, ask: &Ask, module: &str) -> Option<Value> {
    let mut request = request.as_object()?.clone();
    let name = request.remove("name")?;
    let mut fields = match request.remove("exactly") {
        Some(Value::Object(fields)) => fields,
        Some(_) => return None,
        None => std::mem::take(&mut request),
    };
    // Alternatives cannot have administrative access; here it is false, and capacity is empty.
    for key in ["adminAccess", "capacity", "name"] {
        fields.remove(key);
    }
    let mut modules_form = fields.clone();
    modules_form.insert("name".to_owned(), "modules".into());
    modules_form.insert("deviceClassName".to_owned(), module.into());
    modules_form.insert("count".to_owned(), modules(ask).into());
    let mut chips_form = fields;
    chips_form.insert("name".to_owned(), "chips".into());
    add_single_die(&mut chips_form);
    request.remove("firstAvailable");
    request.insert("name".to_owned(), name);
    request.insert("firstAvailable".to_owned(), json!([modules_form, chips_form]));
    Some(Value::Object(request))
}

/// The object with the fields of a request that is no list.
pub(super) fn fields_of(request: &mut Value) -> Option<&mut Map<String, Value>> {
    if request.get("exactly").is_some() {
        return request.get_mut("exactly")?.as_object_mut();
    }
    request.as_object_mut()
}

fn add_single_die(fields: &mut Map<String, Value>) {
    let selector = json!({"cel": {"expression": SINGLE_DIE}});
    match fields.get_mut("selectors").and_then(Value::as_array_mut) {
        Some(list) => list.push(selector),
        None => _ = fields.insert("selectors".to_owned(), json!([selector])),
    }
}
