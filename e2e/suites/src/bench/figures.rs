//! What one run measured, read from the lines that `bench-plugin` prints.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::Which;

/// One number of a run, for example ("prepare_p99_ms", 8 callers).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// What was measured.
    pub(crate) name: &'static str,
    /// Callers for latencies and rates, cycles for memory, else 0.
    pub(crate) at: u64,
}

impl Key {
    /// A figure of its own.
    pub(crate) const fn new(name: &'static str, at: u64) -> Self {
        Self { name, at }
    }
}

/// One driver in one round.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Which driver.
    pub(crate) which: Which,
    /// The round.
    pub(crate) round: u32,
    /// Load averages before and after.
    pub(crate) load: String,
    /// Median and 99th percentile of flushing the checkpoint's disk just before, ms.
    pub(crate) flush: (f64, f64),
    /// The numbers: ms, 1/s, MB.
    pub(crate) values: BTreeMap<Key, f64>,
}

const LATENCIES: [&str; 5] =
    ["prepare_p50_ms", "prepare_p99_ms", "unprepare_p50_ms", "unprepare_p99_ms", "per_s"];

impl Figures {
    /// Reads `bench-plugin`'s lines of JSON.
    ///
    /// # Errors
    /// A line that is none.
    pub(crate) fn read(
        which: Which,
        round: u32,
        text: &str,
        flush: (f64, f64),
        load: String,
    ) -> Result<Self> {
        let mut values = BTreeMap::new();
        for line in text.lines() {
            let value: Value = serde_json::from_str(line).with_context(|| format!("no figure: {line}"))?;
            let number = |name: &str| value.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
            let count = |name: &str| value.get(name).and_then(Value::as_u64).unwrap_or_default();
            let mut keep = |name, at, number| {
                values.insert(Key::new(name, at), number);
            };
            match value.get("figure").and_then(Value::as_str).unwrap_or_default() {
                "start_to_sockets" => keep("start_to_sockets", 0, number("ms")),
                "start_to_first_slice" => keep("start_to_slice", 0, number("ms")),
                "rss_idle" => keep("rss", 0, megabytes(number("kib"))),
                "rss_after" => keep("rss", count("cycles"), megabytes(number("kib"))),
                "reads" => {
                    keep("read_p50_ms", count("callers"), number("p50_ms"));
                    keep("read_p99_ms", count("callers"), number("p99_ms"));
                }
                "cycles" => LATENCIES.iter().for_each(|name| keep(name, count("callers"), number(name))),
                _ => {}
            }
        }
        Ok(Self { which, round, load, flush, values })
    }
}

fn megabytes(kib: f64) -> f64 {
    kib * 1024.0 / 1e6
}
