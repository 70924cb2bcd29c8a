use std::collections::BTreeSet;

use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::{Bytes, Percent};
use vnpu_quota_agent::{ChipUsage, ComputeUsage};

use super::*;

fn uid() -> ClaimUid {
    ClaimUid::new("00000001-0000-4000-8000-000000000000").unwrap()
}

fn usage(without_slot: u32, counted: u64) -> ClaimUsage {
    ClaimUsage {
        claim: uid(),
        chips: vec![ChipUsage {
            uuid: DeviceUuid::new("A").unwrap(),
            phys_id: 0,
            quota: Bytes(1000),
            cores: Percent(30),
            used: Bytes(500),
            reserved: Bytes(0),
            overhead: Bytes(0),
            denied: 1,
            unknown_frees: 0,
            unaccounted: 2,
            denied_without_slot: counted,
            compute: ComputeUsage {
                busy: Duration::from_millis(1500),
                throttled: Duration::from_millis(250),
                launches: 7,
                leases: 2,
                forced: counted,
            },
        }],
        live_slots: 512,
        slot_count: 512,
        without_slot,
        unhooked_functions: counted,
    }
}

/// The lines about claims as Prometheus gets them, without the labels.
fn lines(registry: &Registry) -> Vec<String> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let lines = text.lines().filter(|l| l.starts_with("vnpu_claim_") && l.contains("claim_uid="));
    let mut lines: Vec<String> =
        lines.map(|l| format!("{}{}", l.split_once('{').unwrap().0, l.rsplit_once('}').unwrap().1)).collect();
    lines.sort();
    lines
}

#[test]
fn the_usage_of_a_claim_is_shown_until_it_is_gone() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    metrics.show_usage("default", "share", &usage(1, 3));
    let shown = [
        "vnpu_claim_allocations_denied 1",
        "vnpu_claim_allocations_denied_without_slot 3",
        "vnpu_claim_allocations_unaccounted 2",
        "vnpu_claim_compute_busy_seconds 1.5",
        "vnpu_claim_compute_quota_percent 30",
        "vnpu_claim_compute_throttled_seconds 0.25",
        "vnpu_claim_launches 7",
        "vnpu_claim_launches_forced 3",
        "vnpu_claim_memory_quota_bytes 1000",
        "vnpu_claim_memory_used_bytes 500",
        "vnpu_claim_processes_without_slot 1",
        "vnpu_claim_unhooked_functions 3",
    ];
    assert_eq!(lines(&registry), shown);
    metrics.keep_claims(|claim| *claim == uid());
    assert_eq!(lines(&registry), shown);
    metrics.keep_claims(|_| false);
    assert_eq!(lines(&registry), Vec::<String>::new());
    metrics.show_usage("default", "share", &usage(1, 3));
    metrics.forget_claim(&uid());
    assert_eq!(lines(&registry), Vec::<String>::new());
}

#[test]
fn what_a_tenant_wrote_is_shown_as_the_greatest_number_there_is() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    metrics.show_usage("default", "share", &usage(u32::MAX, u64::MAX));
    let lines = lines(&registry);
    assert!(lines.contains(&format!("vnpu_claim_allocations_denied_without_slot {}", i64::MAX)), "{lines:?}");
    assert!(lines.contains(&format!("vnpu_claim_processes_without_slot {}", u32::MAX)), "{lines:?}");
}

/// By the sources: a family without series is not in the text that Prometheus gets.
#[test]
fn every_metric_stands_in_the_document_and_no_other() {
    let sources = [include_str!("../metrics.rs"), include_str!("audit.rs"), include_str!("devices.rs")];
    let literals = sources.iter().flat_map(|source| source.split('"').skip(1).step_by(2));
    let there: BTreeSet<&str> = literals.filter(|text| text.starts_with("vnpu_")).collect();
    let document = include_str!("../../../docs/metrics.md");
    let names = document
        .lines()
        .filter(|line| line.starts_with("| `vnpu_"))
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split('`').filter(|word| word.starts_with("vnpu_")))
        .filter_map(|word| word.split('{').next());
    let told: BTreeSet<&str> = names.map(|name| name.strip_suffix("_total").unwrap_or(name)).collect();
    assert!(there.len() > 30, "{there:?}");
    assert_eq!(there, told);
}
