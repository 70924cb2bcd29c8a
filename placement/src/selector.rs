//! CEL selectors of classes and requests, evaluated against published devices, with their results kept by what the
//! expression reads. What Kubernetes' CEL knows and this does not is taken as matching, and told.

mod functions;
mod mentions;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cel::objects::Key;
use cel::{Context, Env, Program, Value};

use crate::layout::{Catalog, DOMAIN, Layout, qualified};
use crate::node::Attribute;

use self::functions::{QuantityValue, VersionValue};
use self::mentions::Mentions;

/// What a selector says of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It matches.
    Yes,
    /// It does not.
    No,
    /// It cannot be compiled or evaluated here.
    Unknown,
}

/// A device as selectors see it.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// Its pool's layout.
    pub(crate) layout: &'a Layout,
    /// Own attributes of the pool's devices.
    pub(crate) own: &'a [u32],
    /// Which device.
    pub(crate) device: usize,
}

/// Selectors met so far.
pub(crate) struct Selectors {
    env: Arc<Env>,
    compiled: BTreeMap<Arc<str>, Compiled>,
}

struct Compiled {
    program: Option<Program>,
    mentions: Mentions,
    results: HashMap<Box<[u32]>, Verdict>,
}

impl Default for Selectors {
    fn default() -> Self {
        Self { env: Arc::new(Env::stdlib()), compiled: BTreeMap::new() }
    }
}

impl std::fmt::Debug for Selectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Selectors").field("compiled", &self.compiled.len()).finish_non_exhaustive()
    }
}

/// Results that are kept for one selector, before they are forgotten.
const KEPT_RESULTS: usize = 1 << 16;
/// Selectors that are kept compiled.
const KEPT_SELECTORS: usize = 4096;

impl Selectors {
    /// Whether the selector depends on attributes that devices of one layout do not share.
    pub(crate) fn reads_own(&mut self, text: &str) -> bool {
        self.compiled(text).mentions.reads_own()
    }

    /// What the selector says of a device.
    pub(crate) fn verdict(&mut self, catalog: &Catalog, text: &str, facts: Facts<'_>) -> Verdict {
        let env = Arc::clone(&self.env);
        let compiled = self.compiled(text);
        let Some(program) = &compiled.program else { return Verdict::Unknown };
        let key = compiled.mentions.key(catalog, facts);
        if let Some(known) = compiled.results.get(&key) {
            return *known;
        }
        let verdict = evaluate(env, program, catalog, facts, &compiled.mentions);
        if compiled.results.len() >= KEPT_RESULTS {
            compiled.results.clear();
        }
        compiled.results.insert(key, verdict);
        verdict
    }

    fn compiled(&mut self, text: &str) -> &mut Compiled {
        if self.compiled.len() >= KEPT_SELECTORS && !self.compiled.contains_key(text) {
            self.compiled.clear();
        }
        let env = &self.env;
        self.compiled.entry(Arc::from(text)).or_insert_with(|| {
            let program = env.compile(text).ok();
            let mentions = program.as_ref().map(|p| Mentions::of(p.expression())).unwrap_or_default();
            Compiled { program, mentions, results: HashMap::new() }
        })
    }
}

fn evaluate(
    env: Arc<Env>,
    program: &Program,
    catalog: &Catalog,
    facts: Facts<'_>,
    mentions: &Mentions,
) -> Verdict {
    let mut context = Context::with_env(env);
    if functions::add(&mut context).is_err() {
        return Verdict::Unknown;
    }
    context.add_variable_from_value("device", device_value(catalog, facts, mentions));
    match program.execute(&context) {
        Ok(Value::Bool(true)) => Verdict::Yes,
        Ok(Value::Bool(false)) => Verdict::No,
        _ => Verdict::Unknown,
    }
}

type Domains = BTreeMap<String, HashMap<Key, Value>>;

/// The variable `device` (`resource.k8s.io/v1` `CELDeviceSelector`).
fn device_value(catalog: &Catalog, facts: Facts<'_>, mentions: &Mentions) -> Value {
    let (mut attributes, mut capacity) = (Domains::new(), Domains::new());
    // A domain without anything in it is an empty map to Kubernetes, no error.
    for domain in &mentions.domains {
        attributes.entry(domain.clone()).or_default();
        capacity.entry(domain.clone()).or_default();
    }
    let form = facts.layout.form(facts.device);
    let sets = [form.map(|f| f.attributes), facts.own.get(facts.device).copied()];
    for (name, value) in
        sets.iter().flatten().filter_map(|set| catalog.attributes.get(*set)).flat_map(|s| s.iter())
    {
        if let (Some(name), Some(value)) = (catalog.texts.get(*name), catalog.values.get(*value)) {
            put(&mut attributes, name, attribute_value(value));
        }
    }
    for (name, amount) in
        form.and_then(|f| catalog.capacities.get(f.capacity)).iter().flat_map(|set| set.iter())
    {
        if let Some(name) = catalog.texts.get(*name) {
            put(&mut capacity, &qualified(name), QuantityValue::of(amount.value));
        }
    }
    let shareable = form.is_some_and(|f| f.shareable);
    let device = HashMap::from([
        (Key::from("driver"), Value::from(DOMAIN)),
        (Key::from("allowMultipleAllocations"), Value::Bool(shareable)),
        (Key::from("attributes"), domains_value(attributes)),
        (Key::from("capacity"), domains_value(capacity)),
    ]);
    Value::Map(device.into())
}

fn put(domains: &mut Domains, name: &str, value: Value) {
    let (domain, id) = name.split_once('/').unwrap_or((DOMAIN, name));
    domains.entry(domain.to_owned()).or_default().insert(Key::from(id), value);
}

fn domains_value(domains: Domains) -> Value {
    let map: HashMap<Key, Value> =
        domains.into_iter().map(|(domain, map)| (Key::from(domain), Value::Map(map.into()))).collect();
    Value::Map(map.into())
}

fn attribute_value(attribute: &Attribute) -> Value {
    match attribute {
        Attribute::String(text) => Value::from(text.as_str()),
        Attribute::Int(number) => Value::Int(*number),
        Attribute::Bool(truth) => Value::Bool(*truth),
        Attribute::Version(text) => VersionValue::of(text),
    }
}

#[cfg(test)]
mod tests;
