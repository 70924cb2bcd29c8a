//! The functions that Kubernetes adds to CEL for quantities and versions, as far as selectors use them.

use std::cmp::Ordering;
use std::sync::Arc;

use cel::extractors::This;
use cel::objects::Opaque;
use cel::{Context, DeclarationError, ExecutionError, Value};
use semver::Version;
use vnpu_driver::quantity::{Bytes, Quantity};

/// A `kubernetes.Quantity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QuantityValue(Quantity);

/// A `kubernetes.Semver`; a text that is none keeps itself, and equals only itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VersionValue {
    /// A version.
    Version(Version),
    /// Some other text.
    Text(String),
}

impl QuantityValue {
    /// A whole number of units.
    pub(crate) fn of(units: u64) -> Value {
        Value::Opaque(Arc::new(Self(Quantity::from(Bytes(units)))))
    }
}

impl VersionValue {
    /// An attribute's version.
    pub(crate) fn of(text: &str) -> Value {
        let value = Version::parse(text).map_or_else(|_| Self::Text(text.to_owned()), Self::Version);
        Value::Opaque(Arc::new(value))
    }
}

impl Opaque for QuantityValue {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.Quantity"
    }
}

impl Opaque for VersionValue {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.Semver"
    }
}

/// Adds the functions to a context.
pub(crate) fn add(context: &mut Context<'_, '_>) -> Result<(), DeclarationError> {
    context.add_function("quantity", |text: Arc<String>| -> Result<Value, ExecutionError> {
        let value: Quantity = text.parse().map_err(|e| ExecutionError::function_error("quantity", e))?;
        Ok(Value::Opaque(Arc::new(QuantityValue(value))))
    })?;
    context.add_function("isQuantity", |text: Arc<String>| text.parse::<Quantity>().is_ok())?;
    context.add_function("semver", |text: Arc<String>| -> Result<Value, ExecutionError> {
        let value = Version::parse(&text).map_err(|e| ExecutionError::function_error("semver", e))?;
        Ok(Value::Opaque(Arc::new(VersionValue::Version(value))))
    })?;
    context.add_function("isSemver", |text: Arc<String>| Version::parse(&text).is_ok())?;
    context.add_function("compareTo", |This(this): This<Value>, other: Value| {
        compare(&this, &other).map(|o| o as i64)
    })?;
    context.add_function("isGreaterThan", |This(this): This<Value>, other: Value| {
        compare(&this, &other).map(Ordering::is_gt)
    })?;
    context.add_function("isLessThan", |This(this): This<Value>, other: Value| {
        compare(&this, &other).map(Ordering::is_lt)
    })?;
    context.add_function("asInteger", |This(this): This<Value>| as_integer(&this))
}

fn compare(this: &Value, other: &Value) -> Result<Ordering, ExecutionError> {
    let (Value::Opaque(left), Value::Opaque(right)) = (this, other) else {
        return Err(ExecutionError::function_error("compareTo", "not two quantities or versions"));
    };
    let quantities = left.downcast_ref::<QuantityValue>().zip(right.downcast_ref::<QuantityValue>());
    if let Some((left, right)) = quantities {
        return Ok(left.0.cmp(&right.0));
    }
    match left.downcast_ref::<VersionValue>().zip(right.downcast_ref::<VersionValue>()) {
        // Precedence leaves build metadata out.
        Some((VersionValue::Version(left), VersionValue::Version(right))) => Ok(left.cmp_precedence(right)),
        _ => Err(ExecutionError::function_error("compareTo", "not two quantities or versions")),
    }
}

fn as_integer(this: &Value) -> Result<i64, ExecutionError> {
    let Value::Opaque(value) = this else {
        return Err(ExecutionError::function_error("asInteger", "not a quantity"));
    };
    let whole = value.downcast_ref::<QuantityValue>().and_then(|q| q.0.whole());
    whole
        .and_then(|units| i64::try_from(units).ok())
        .ok_or_else(|| ExecutionError::function_error("asInteger", "not a whole number"))
}
