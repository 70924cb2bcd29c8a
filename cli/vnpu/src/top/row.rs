//! From two looks to figures: what a claim used of a chip between them. Pure.

use std::time::Duration;

use serde::{Serialize, Serializer};
use vnpu_driver::share::ComputeMode;
use vnpu_quota_agent::ChipUsage;

use super::look::{Look, Owner, Seen};
use crate::wish::Word;

/// One claim on one chip. Counters since the regions were made, rates over the time between the two looks; a rate
/// is missing for a claim that was not there before, or whose counters went back.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// The claim's UID.
    pub(crate) claim: String,
    /// A run's name, or `namespace/name` of a claim where the plugin tells it, else the UID.
    pub(crate) name: String,
    /// `run` or `claim`.
    pub(crate) kind: &'static str,
    /// The process of `vnpu run`.
    pub(crate) pid: Option<u32>,
    /// The chip's UUID.
    pub(crate) chip: String,
    /// The number in the device node's name.
    pub(crate) phys_id: u32,
    /// Bytes that may be used.
    pub(crate) memory: u64,
    /// Bytes that are used.
    pub(crate) used: u64,
    /// Percent of the chip that are promised; 0 for a claim without a share.
    pub(crate) cores: u32,
    /// Treatment of compute over the share.
    #[serde(serialize_with = "word")]
    pub(crate) mode: ComputeMode,
    /// 0 to 10.
    pub(crate) priority: u8,
    /// Living processes that have a slot.
    pub(crate) processes: u32,
    /// Processes that found no slot.
    pub(crate) without_slot: u32,
    /// Percent of the chip's time that was used.
    pub(crate) share: Option<f64>,
    /// Percent of the time that threads waited for their turn, all threads added up: it can be more than 100.
    pub(crate) throttled: Option<f64>,
    /// Launches per second.
    pub(crate) launches: Option<f64>,
    /// Allocations refused.
    pub(crate) denied: u64,
    /// Launches let through because a wait had lasted too long.
    pub(crate) forced: u64,
    /// Allocations that went round the ledger.
    pub(crate) unaccounted: u64,
    /// Functions that the claim's processes asked for and that the interposer does not know.
    pub(crate) unhooked_functions: u64,
}

fn word<S: Serializer>(mode: &ComputeMode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Word(*mode))
}

/// All claims of `now`, chip by chip, by chip and name.
pub(crate) fn rows(before: &Look, now: &Look) -> Vec<Row> {
    let mut out = Vec::new();
    for (uid, seen) in &now.claims {
        let earlier = before.claims.get(uid);
        for (i, chip) in seen.reading.usage.chips.iter().enumerate() {
            let was = earlier.and_then(|e| Some((e, e.reading.usage.chips.get(i)?)));
            out.extend(row(uid.as_str(), seen, i, chip, was));
        }
    }
    out.sort_by(|a, b| (a.phys_id, &a.name, &a.claim).cmp(&(b.phys_id, &b.name, &b.claim)));
    out
}

fn row(uid: &str, seen: &Seen, i: usize, chip: &ChipUsage, was: Option<(&Seen, &ChipUsage)>) -> Option<Row> {
    let terms = seen.reading.terms.get(i)?;
    let (kind, name, pid) = match &seen.owner {
        Owner::Run { name, pid } => ("run", name, *pid),
        Owner::Node { name } => ("claim", name, None),
    };
    let rate = |of: fn(&ChipUsage) -> f64| {
        let (earlier, was) = was?;
        let seconds = seen.at.checked_duration_since(earlier.at)?.as_secs_f64();
        let grown = of(chip) - of(was);
        (seconds > 0.0 && grown >= 0.0).then(|| grown / seconds)
    };
    let usage = &seen.reading.usage;
    Some(Row {
        claim: uid.to_owned(),
        name: name.clone().unwrap_or_else(|| uid.to_owned()),
        kind,
        pid,
        chip: chip.uuid.to_string(),
        phys_id: chip.phys_id,
        memory: chip.quota.0,
        used: chip.used.0.saturating_add(chip.overhead.0),
        cores: if terms.mode == ComputeMode::BestEffort { 0 } else { terms.cores.0 },
        mode: terms.mode,
        priority: terms.priority,
        processes: usage.live_slots,
        without_slot: usage.without_slot,
        share: rate(|c| percent(c.compute.busy)),
        throttled: rate(|c| percent(c.compute.throttled)),
        launches: rate(|c| c.compute.launches as f64),
        denied: chip.denied.saturating_add(chip.denied_without_slot),
        forced: chip.compute.forced,
        unaccounted: chip.unaccounted,
        unhooked_functions: usage.unhooked_functions,
    })
}

/// So that one second's growth is a percentage of it.
fn percent(time: Duration) -> f64 {
    time.as_secs_f64() * 100.0
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use vnpu_driver::id::{ClaimUid, DeviceUuid};
    use vnpu_driver::quantity::{Bytes, Percent};
    use vnpu_quota_agent::{ChipTerms, ClaimReading, ClaimUsage, ComputeUsage};

    use super::*;

    fn look(at: Instant, busy: u64, launches: u64) -> Look {
        let uid = ClaimUid::new("00000001-0000-4000-8000-000000000000").unwrap();
        let chip = ChipUsage {
            uuid: DeviceUuid::new("A").unwrap(),
            phys_id: 3,
            quota: Bytes::gib(4),
            cores: Percent(30),
            used: Bytes::gib(1),
            reserved: Bytes(0),
            overhead: Bytes(7),
            denied: 2,
            unknown_frees: 0,
            unaccounted: 0,
            denied_without_slot: 1,
            compute: ComputeUsage {
                busy: Duration::from_millis(busy),
                throttled: Duration::from_millis(busy * 2),
                launches,
                leases: 0,
                forced: 4,
            },
        };
        let usage = ClaimUsage {
            claim: uid.clone(),
            chips: vec![chip],
            live_slots: 2,
            slot_count: 512,
            without_slot: 0,
            unhooked_functions: 9,
        };
        let terms = ChipTerms { cores: Percent(30), mode: ComputeMode::Hard, priority: 5, entry: 0 };
        let reading = ClaimReading { usage, terms: vec![terms], occupied: 2, damage: None };
        let owner = Owner::Run { name: Some("train".to_owned()), pid: Some(7) };
        Look { claims: BTreeMap::from([(uid, Seen { owner, reading, at })]), problems: Vec::new() }
    }

    /// The rows of a claim that used 600 ms of 2 s, waited for twice as long, and launched 50 times.
    pub(crate) fn example() -> Vec<Row> {
        let now = Instant::now();
        let later = now + Duration::from_secs(2);
        rows(&look(now, 1000, 100), &look(later, 1600, 150))
    }

    #[test]
    fn rates_are_what_grew_between_the_looks() {
        let rows = example();
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        let near = |rate: Option<f64>, to: f64| (rate.unwrap() - to).abs() < 1e-6;
        assert!(near(row.share, 30.0) && near(row.throttled, 60.0) && near(row.launches, 25.0), "{row:?}");
        assert_eq!((row.denied, row.forced, row.cores, row.processes), (3, 4, 30, 2));
        assert_eq!((row.used, row.memory, row.unhooked_functions), ((1 << 30) + 7, 4 << 30, 9));
    }

    #[test]
    fn a_claim_without_a_past_or_with_counters_that_went_back_has_no_rates() {
        let now = Instant::now();
        let empty = Look { claims: BTreeMap::new(), problems: Vec::new() };
        assert_eq!(rows(&empty, &look(now, 1, 1))[0].share, None);
        let later = now + Duration::from_secs(1);
        let row = &rows(&look(now, 1000, 5), &look(later, 10, 9))[0];
        assert_eq!((row.share, row.launches), (None, Some(4.0)));
        assert_eq!(rows(&look(now, 1, 1), &look(now, 2, 2))[0].share, None, "no time between them");
        assert_eq!(rows(&look(now, 1, 1), &empty).len(), 0);
    }
}
