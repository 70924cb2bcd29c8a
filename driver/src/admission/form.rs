//! A claim's three lists, as submitted and as the rules look at them: one small form for every served version of the
//! API, with JSON pointers back to what the user wrote. It holds no opinion; the rules do.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::class::{ClassKind, Classes};
use super::selector;
use crate::DRIVER_NAME;
use crate::controller_config::MAX_LIST;
use crate::share_policy::SharePolicy;

/// The attribute that two chips of one module share.
pub const MODULE: &str = "vnpu.dev/module";
/// The attribute that no two devices share.
pub const UUID: &str = "vnpu.dev/uuid";

/// The lists of a claim's specification, as JSON.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lists {
    /// `spec.devices.requests`.
    pub requests: Vec<Value>,
    /// `spec.devices.constraints`.
    pub constraints: Vec<Value>,
    /// `spec.devices.config`.
    pub config: Vec<Value>,
}

/// What a claim is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A ResourceClaim.
    Claim,
    /// A ResourceClaimTemplate, which holds the specification one level deeper.
    Template,
}

impl Place {
    /// JSON pointer of the object with the lists.
    pub const fn devices(self) -> &'static str {
        match self {
            Self::Claim => "/spec/devices",
            Self::Template => "/spec/spec/devices",
        }
    }
}

/// A claim as the rules look at it.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// What it is written as.
    pub place: Place,
    /// What it is read from.
    pub lists: Lists,
    /// The requests in order.
    pub requests: Vec<Request>,
    /// The constraints in order.
    pub constraints: Vec<Constraint>,
    /// The configurations for our driver in order.
    pub policies: Vec<Policy>,
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Its name.
    pub name: String,
    /// JSON pointer.
    pub pointer: String,
    /// Whether it is a list of alternatives (`firstAvailable`).
    pub is_list: bool,
    /// Its alternatives; the only one where it is no list.
    pub alternatives: Vec<Ask>,
}

/// One alternative of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// The request.
    pub request: String,
    /// How constraints name it: the request, or `request/alternative`.
    pub path: String,
    /// JSON pointer of the object with the fields.
    pub pointer: String,
    /// The DeviceClass.
    pub class: String,
    /// What the class selects.
    pub kind: ClassKind,
    /// `allocationMode: All`.
    pub all: bool,
    /// How many devices; 1 where nothing is said.
    pub count: i64,
    /// `adminAccess`.
    pub admin: bool,
    /// What it asks for of a device's capacities, as text.
    pub capacity: BTreeMap<String, String>,
    /// The CEL expressions of its selectors.
    pub selectors: Vec<String>,
    /// Names of derived attributes.
    pub derived: Vec<String>,
    /// Held to single-die hardware by a selector that is exactly that.
    pub single: bool,
    /// Under `pairing: independent`, and not contradicted.
    pub independent: bool,
    /// Under `matchAttribute: vnpu.dev/module`.
    pub matched: bool,
}

impl Ask {
    /// A part of a device.
    pub fn is_share(&self) -> bool {
        !self.capacity.is_empty()
    }

    /// Chips of a class that reaches dual-die hardware, not for administration.
    pub fn is_ours(&self) -> bool {
        self.kind.reaches_halves() && !self.admin
    }

    /// Counts towards a straddle. Shares under `pairing: independent` do not, by definition.
    pub fn is_chip(&self) -> bool {
        self.is_ours() && !self.single && !(self.independent && self.is_share())
    }

    /// More than one chip of modules by name, whole or shared, in one request.
    pub fn is_npu_chip(&self) -> bool {
        self.is_chip() && self.kind == ClassKind::Npu && !self.all
    }
}

impl Request {
    /// The only alternative of a request that is no list.
    pub fn exactly(&self) -> Option<&Ask> {
        if self.is_list { None } else { self.alternatives.first() }
    }

    /// Whether it may end as a device of ours that is counted.
    pub fn is_ours(&self) -> bool {
        self.alternatives.iter().any(|a| a.kind.is_ours() && !a.admin)
    }
}

/// One constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// JSON pointer.
    pub pointer: String,
    /// What it names; empty means all.
    pub requests: Vec<String>,
    /// `matchAttribute`.
    pub matches: Option<String>,
    /// `distinctAttribute`.
    pub distinct: Option<String>,
}

impl Constraint {
    /// Whether it covers the alternative.
    pub fn covers(&self, ask: &Ask) -> bool {
        covers(&self.requests, ask)
    }

    /// Whether it wants the attribute to be the same.
    pub fn matches(&self, attribute: &str) -> bool {
        self.matches.as_deref() == Some(attribute)
    }

    /// Whether it wants the attribute to differ.
    pub fn parts(&self, attribute: &str) -> bool {
        self.distinct.as_deref() == Some(attribute)
    }
}

/// One configuration for our driver.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// JSON pointer.
    pub pointer: String,
    /// What it names; empty means all.
    pub requests: Vec<String>,
    /// The parameters as written.
    pub parameters: Value,
}

impl Policy {
    /// Whether it applies to the alternative.
    pub fn covers(&self, ask: &Ask) -> bool {
        covers(&self.requests, ask)
    }
}

fn covers(named: &[String], ask: &Ask) -> bool {
    named.is_empty() || named.iter().any(|name| *name == ask.request || *name == ask.path)
}

/// Why an object cannot be read as a claim. The API server refuses such objects by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: it must be {expected}: correct it")]
pub struct FormError {
    /// JSON pointer of what has another type.
    pub pointer: String,
    /// What belongs there.
    pub expected: &'static str,
}

impl FormError {
    /// Whether the same object may be read later: never.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word for metrics.
    pub const fn reason(&self) -> &'static str {
        "malformed"
    }
}

impl Lists {
    /// The lists of a claim or template; absent ones are empty.
    ///
    /// # Errors
    /// One of them is something else.
    pub fn of(object: &Value, place: Place) -> Result<Self, FormError> {
        let list = |name: &str| {
            let pointer = format!("{}/{name}", place.devices());
            match object.pointer(&pointer) {
                None | Some(Value::Null) => Ok(Vec::new()),
                Some(Value::Array(list)) => Ok(list.clone()),
                Some(_) => Err(FormError { pointer, expected: "a list" }),
            }
        };
        Ok(Self { requests: list("requests")?, constraints: list("constraints")?, config: list("config")? })
    }
}

impl Form {
    /// Reads a claim or template as submitted.
    ///
    /// # Errors
    /// A value of another type than the API's.
    pub fn of(object: &Value, place: Place, classes: &Classes<'_>) -> Result<Self, FormError> {
        Self::read(Lists::of(object, place)?, place, classes)
    }

    /// Reads lists.
    ///
    /// # Errors
    /// A value of another type than the API's.
    pub fn read(lists: Lists, place: Place, classes: &Classes<'_>) -> Result<Self, FormError> {
        let each = |name: &str, list: &[Value]| -> Vec<String> {
            (0..list.len()).map(|i| format!("{}/{name}/{i}", place.devices())).collect()
        };
        let mut form =
            Self { place, lists, requests: Vec::new(), constraints: Vec::new(), policies: Vec::new() };
        for (pointer, value) in
            each("constraints", &form.lists.constraints).into_iter().zip(&form.lists.constraints)
        {
            form.constraints.push(constraint(pointer, value)?);
        }
        for (pointer, value) in each("config", &form.lists.config).into_iter().zip(&form.lists.config) {
            form.policies.extend(policy(pointer, value)?);
        }
        for (pointer, value) in each("requests", &form.lists.requests).into_iter().zip(&form.lists.requests) {
            form.requests.push(request(pointer, value, classes)?);
        }
        for ask in form.requests.iter_mut().flat_map(|r| &mut r.alternatives) {
            ask.matched = form.constraints.iter().any(|c| c.matches(MODULE) && c.covers(ask));
            ask.independent = independent(&form.policies, ask);
        }
        Ok(form)
    }

    /// All alternatives of all requests.
    pub fn asks(&self) -> impl Iterator<Item = &Ask> {
        self.requests.iter().flat_map(|r| &r.alternatives)
    }

    /// Whether anything of ours is asked for.
    pub fn is_ours(&self) -> bool {
        self.asks().any(|a| a.kind.is_ours())
    }

    /// How many more constraints the API would take.
    pub fn room_for_constraints(&self) -> usize {
        MAX_LIST.saturating_sub(self.constraints.len())
    }
}

/// Said, and nowhere said otherwise. A word that nobody knows is not independence.
fn independent(policies: &[Policy], ask: &Ask) -> bool {
    let mut said =
        policies.iter().filter(|p| p.covers(ask)).filter_map(|p| p.parameters.get("pairing")).peekable();
    said.peek().is_some() && said.all(|pairing| pairing == "independent")
}

/// Whether a readable configuration sets `compute.mode`.
pub(crate) fn sets_mode(parameters: &Value) -> bool {
    SharePolicy::parse(parameters).is_ok_and(|policy| policy.compute.mode.is_some())
}

fn request(pointer: String, value: &Value, classes: &Classes<'_>) -> Result<Request, FormError> {
    let object = object(&pointer, value)?;
    let name = text(&pointer, object, "name")?.unwrap_or_default();
    let mut alternatives = Vec::new();
    let list = list(&pointer, object, "firstAvailable")?;
    for (position, sub) in list.iter().enumerate() {
        let pointer = format!("{pointer}/firstAvailable/{position}");
        let fields = self::object(&pointer, sub)?;
        let path = format!("{name}/{}", text(&pointer, fields, "name")?.unwrap_or_default());
        alternatives.push(ask(&name, path, pointer, fields, classes)?);
    }
    if list.is_empty() {
        // v1beta1 has the fields of `exactly` in the request itself.
        let (pointer, fields) = match object.get("exactly") {
            Some(exactly) => {
                let pointer = format!("{pointer}/exactly");
                let fields = self::object(&pointer, exactly)?;
                (pointer, fields)
            }
            None => (pointer.clone(), object),
        };
        alternatives.push(ask(&name, name.clone(), pointer, fields, classes)?);
    }
    Ok(Request { name, pointer, is_list: !list.is_empty(), alternatives })
}

fn ask(
    request: &str,
    path: String,
    pointer: String,
    fields: &Map<String, Value>,
    classes: &Classes<'_>,
) -> Result<Ask, FormError> {
    let class = text(&pointer, fields, "deviceClassName")?.unwrap_or_default();
    let count = match fields.get("count") {
        None | Some(Value::Null) => 1,
        Some(value) => value
            .as_i64()
            .ok_or_else(|| FormError { pointer: format!("{pointer}/count"), expected: "a whole number" })?,
    };
    let admin = match fields.get("adminAccess") {
        None | Some(Value::Null) => false,
        Some(value) => value.as_bool().ok_or_else(|| FormError {
            pointer: format!("{pointer}/adminAccess"),
            expected: "true or false",
        })?,
    };
    let expression = |s: &Value| s.pointer("/cel/expression").and_then(Value::as_str).map(str::to_owned);
    let selectors: Vec<String> =
        list(&pointer, fields, "selectors")?.iter().map(|s| expression(s).unwrap_or_default()).collect();
    let derived = list(&pointer, fields, "derivedAttributes")?;
    Ok(Ask {
        request: request.to_owned(),
        path,
        kind: classes.kind(&class),
        class,
        all: text(&pointer, fields, "allocationMode")?.as_deref() == Some("All"),
        count,
        admin,
        capacity: capacity(&pointer, fields)?,
        single: selectors.iter().any(|s| selector::is_single_die(s)),
        selectors,
        derived: derived.iter().filter_map(|d| d.get("name")?.as_str().map(str::to_owned)).collect(),
        independent: false,
        matched: false,
        pointer,
    })
}

fn capacity(pointer: &str, fields: &Map<String, Value>) -> Result<BTreeMap<String, String>, FormError> {
    let pointer = format!("{pointer}/capacity");
    let Some(capacity) = fields.get("capacity").filter(|c| !c.is_null()) else { return Ok(BTreeMap::new()) };
    let requests = match object(&pointer, capacity)?.get("requests") {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(requests) => object(&format!("{pointer}/requests"), requests)?,
    };
    let amount = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Ok(requests.iter().map(|(key, value)| (key.clone(), amount(value))).collect())
}

fn constraint(pointer: String, value: &Value) -> Result<Constraint, FormError> {
    let fields = object(&pointer, value)?;
    Ok(Constraint {
        requests: names(&pointer, fields)?,
        matches: text(&pointer, fields, "matchAttribute")?,
        distinct: text(&pointer, fields, "distinctAttribute")?,
        pointer,
    })
}

fn policy(pointer: String, value: &Value) -> Result<Option<Policy>, FormError> {
    let fields = object(&pointer, value)?;
    let Some(opaque) = fields.get("opaque").filter(|o| o.get("driver") == Some(&Value::from(DRIVER_NAME)))
    else {
        return Ok(None);
    };
    let requests = names(&pointer, fields)?;
    let parameters = opaque.get("parameters").cloned().unwrap_or_default();
    Ok(Some(Policy { pointer, requests, parameters }))
}

fn names(pointer: &str, fields: &Map<String, Value>) -> Result<Vec<String>, FormError> {
    let list = list(pointer, fields, "requests")?;
    Ok(list.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect())
}

fn object<'a>(pointer: &str, value: &'a Value) -> Result<&'a Map<String, Value>, FormError> {
    value.as_object().ok_or_else(|| FormError { pointer: pointer.to_owned(), expected: "an object" })
}

fn list<'a>(pointer: &str, fields: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], FormError> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(FormError { pointer: format!("{pointer}/{key}"), expected: "a list" }),
    }
}

fn text(pointer: &str, fields: &Map<String, Value>, key: &str) -> Result<Option<String>, FormError> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(FormError { pointer: format!("{pointer}/{key}"), expected: "text" }),
    }
}
