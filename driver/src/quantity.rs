//! Kubernetes quantities as exact integers: bytes and percents. Parsing follows
//! `k8s.io/apimachinery/pkg/api/resource`: a decimal number with a binary (`Ki`..`Ei`) or decimal
//! (`n`..`E`, `e3`) suffix; what is not a whole number of units is an error here, never rounded.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Device memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// One GiB: the step in which memory is claimed.
    pub const GIB: Self = Self(1 << 30);

    /// `n` GiB, saturating.
    pub const fn gib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 30))
    }

    /// Rounded down to whole GiB.
    pub const fn floor_gib(self) -> Self {
        Self(self.0 & !(Self::GIB.0 - 1))
    }

    /// The sum, stopping at the largest number.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, stopping at zero.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Bytes {
    /// Canonical Kubernetes form: the largest binary suffix that divides it, such as `4Gi`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let (mut value, mut suffix) = (self.0, "");
        for next in SUFFIXES.iter().skip(1) {
            if value == 0 || value % 1024 != 0 {
                break;
            }
            value /= 1024;
            suffix = next;
        }
        write!(f, "{value}{suffix}")
    }
}

impl FromStr for Bytes {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        Quantity::from_str(text)?.whole().map(Self).ok_or_else(|| InvalidQuantity::new(text, NOT_WHOLE))
    }
}

/// Percent of one chip's compute: the unit of the capacity `cores`, HAMi's word. 0 to 100 for one chip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Percent(pub u32);

impl Percent {
    /// The whole chip.
    pub const FULL: Self = Self(100);

    /// The sum, stopping at the largest number.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Percent {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let whole = Quantity::from_str(text)?.whole().ok_or_else(|| InvalidQuantity::new(text, NOT_WHOLE))?;
        u32::try_from(whole).map(Self).map_err(|_| InvalidQuantity::new(text, TOO_LARGE))
    }
}

const NOT_WHOLE: &str = "it must be a whole number of units, not negative";
const NOT_A_QUANTITY: &str = "it is not a Kubernetes quantity such as 4Gi, 4294967296 or 10";
const TOO_LARGE: &str = "it is larger than any device";
const TOO_FINE: &str = "it has digits below one billionth";

/// Why a text is not the quantity it was read as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("quantity {text:?}: {rule}")]
pub struct InvalidQuantity {
    /// The refused text, shortened to 80 characters.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl InvalidQuantity {
    fn new(text: &str, rule: &'static str) -> Self {
        Self { text: text.chars().take(80).collect(), rule }
    }
}

/// Any Kubernetes quantity, exactly: billionths of a unit. Compares by value, so `1Gi` equals `1073741824`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(i128);

const NANO: i128 = 1_000_000_000;

impl Quantity {
    /// The value as a whole number of units; `None` when it is negative or has a fraction.
    pub fn whole(self) -> Option<u64> {
        if self.0 < 0 || self.0 % NANO != 0 { None } else { u64::try_from(self.0 / NANO).ok() }
    }

    /// The value in units, a fraction counted as one more: how the scheduler reads requests. Zero for negative values,
    /// the largest number for larger ones.
    pub fn ceil(self) -> u64 {
        self.ceil_in(NANO)
    }

    /// The value in thousandths of a unit, rounded up: how the scheduler counts CPU. Bounded as [`Quantity::ceil`].
    pub fn ceil_thousandths(self) -> u64 {
        self.ceil_in(NANO / 1000)
    }

    fn ceil_in(self, unit: i128) -> u64 {
        let whole = self.0.max(0) / unit;
        let more = i128::from(self.0.max(0) % unit != 0);
        u64::try_from(whole.saturating_add(more)).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Quantity {
    /// One spelling per value, which the API reads as the same value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.whole() {
            Some(whole) => whole.fmt(f),
            None => write!(f, "{}n", self.0),
        }
    }
}

impl From<Bytes> for Quantity {
    fn from(bytes: Bytes) -> Self {
        Self(i128::from(bytes.0) * NANO)
    }
}

impl From<Percent> for Quantity {
    fn from(percent: Percent) -> Self {
        Self(i128::from(percent.0) * NANO)
    }
}

impl FromStr for Quantity {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        parse(text).map(Self).map_err(|rule| InvalidQuantity::new(text, rule))
    }
}

/// The grammar of the API: sign, digits with at most one point, suffix.
fn parse(text: &str) -> Result<i128, &'static str> {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return Err(NOT_A_QUANTITY);
    }
    let fraction = fraction.trim_end_matches('0');
    let mantissa = digits(whole)?
        .checked_mul(power(10, fraction.len())?)
        .and_then(|w| digits(fraction).ok().and_then(|f| w.checked_add(f)))
        .ok_or(TOO_LARGE)?;
    let (multiplier, exponent) = scale(suffix)?;
    // value = mantissa * multiplier * 10^(exponent - fraction digits), kept in billionths.
    let exponent = exponent + 9 - i32::try_from(fraction.len()).map_err(|_| TOO_FINE)?;
    let scaled = mantissa.checked_mul(multiplier).ok_or(TOO_LARGE)?;
    let nano = if scaled == 0 {
        0
    } else if exponent >= 0 {
        scaled.checked_mul(power(10, exponent.unsigned_abs() as usize)?).ok_or(TOO_LARGE)?
    } else {
        let divisor = power(10, exponent.unsigned_abs() as usize).map_err(|_| TOO_FINE)?;
        if scaled % divisor != 0 {
            return Err(TOO_FINE);
        }
        scaled / divisor
    };
    Ok(if negative { -nano } else { nano })
}

fn digits(text: &str) -> Result<i128, &'static str> {
    let mut value: i128 = 0;
    for digit in text.bytes() {
        value = value
            .checked_mul(10)
            .and_then(|v| v.checked_add(i128::from(digit.wrapping_sub(b'0'))))
            .ok_or(TOO_LARGE)?;
    }
    Ok(value)
}

fn power(base: i128, exponent: usize) -> Result<i128, &'static str> {
    u32::try_from(exponent).ok().and_then(|e| base.checked_pow(e)).ok_or(TOO_LARGE)
}

/// A suffix as a binary multiplier and a decimal exponent.
fn scale(suffix: &str) -> Result<(i128, i32), &'static str> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [(&str, i32); 10] = [
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("", 0),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    ];
    if let Some(steps) = BINARY.iter().position(|s| *s == suffix) {
        return Ok((power(1024, steps + 1)?, 0));
    }
    if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Ok((1, *exponent));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(NOT_A_QUANTITY)?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NOT_A_QUANTITY);
    }
    let exponent: i32 = exponent.parse().map_err(|_| TOO_LARGE)?;
    if exponent.abs() > 64 {
        return Err(if exponent > 0 { TOO_LARGE } else { TOO_FINE });
    }
    Ok((1, exponent))
}

#[cfg(test)]
mod tests;
