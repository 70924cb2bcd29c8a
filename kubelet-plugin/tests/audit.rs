//! The ledgers beside the vendor's numbers: what rounds find stands in metrics, events and the claim's status, and the
//! claim's policy is followed as far as the evidence goes. Processes in real pods are the end-to-end cases'.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use serde_json::{Value, json};
use support::{Bench, name, settle, uid};
use vnpu_driver::hardware::ProcessMemory;
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::Bytes;
use vnpu_kubelet_plugin::audit::{Finding, round};
use vnpu_kubelet_plugin::breach::act_on;
use vnpu_kubelet_plugin::metrics::{ClaimChip, OneChip};
use vnpu_kubelet_plugin::node::Node;
use vnpu_kubelet_plugin::prepare::prepare;
use vnpu_kubelet_plugin::unprepare::unprepare;
use vnpu_kubelet_plugin::{regions, status};
use vnpu_quota_agent::{Limits, Verdict};

const LIMITS: Limits = Limits { per_process: Bytes(1 << 30), rounds: 2 };
const GIB: u64 = 1 << 30;

/// A process that has the file mapped, until it is dropped.
struct Holder(i32);

impl Holder {
    fn of(file: &File) -> Self {
        // SAFETY: the child only calls async-signal-safe functions, and lives no longer than this thread.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::mmap(
                    std::ptr::null_mut(),
                    4096,
                    libc::PROT_READ,
                    libc::MAP_SHARED,
                    file.as_raw_fd(),
                    0,
                );
                // Other tests hold locks on files, which must end when they say so.
                libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
                libc::pause();
                libc::_exit(0);
            }
            Self(pid)
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // SAFETY: our own child.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

struct World {
    bench: Bench,
    node: Arc<Node>,
    usage: File,
    told: BTreeSet<DeviceUuid>,
}

impl World {
    /// A prepared claim of 4 GiB with this policy.
    async fn new(breach: &str) -> Self {
        let bench = Bench::new(1);
        bench.api.share(1, "chip-0-0", "4Gi", "10");
        bench.api.edit(1, |claim| {
            let policy = json!({"apiVersion": "vnpu.dev/v1alpha1", "kind": "SharePolicy", "breach": breach});
            claim["status"]["allocation"]["devices"]["config"] =
                json!([{"source": "FromClaim", "opaque": {"driver": "vnpu.dev", "parameters": policy}}]);
        });
        let node = bench.start().await;
        prepare(&node, &name(1)).await.unwrap();
        settle(&node).await;
        regions::round(&node).await.unwrap();
        let usage = bench.path("run/claims").join(uid(1)).join("usage");
        let usage = File::options().read(true).write(true).open(usage).unwrap();
        Self { bench, node, usage, told: BTreeSet::new() }
    }

    /// What the vendor says of the claim's chip from now on.
    fn vendor(&self, processes: &[(i32, u64)]) {
        let list =
            processes.iter().map(|(pid, bytes)| ProcessMemory { pid: *pid as u32, bytes: Bytes(*bytes) });
        self.bench.hardware.processes.lock().unwrap().insert(chip(), list.collect());
    }

    /// So many rounds; what the last one found. What is to be done is done after each.
    async fn rounds(&mut self, count: u32) -> Vec<Verdict> {
        let mut last = Vec::new();
        for _ in 0..count {
            let findings: Vec<Finding> = round(&self.node, LIMITS, &mut self.told).await.unwrap();
            last = findings.iter().map(|f| f.audit.judgement.verdict.clone()).collect();
            act_on(&self.node, findings).await;
            settle(&self.node).await;
        }
        last
    }

    fn label(&self) -> ClaimChip {
        ClaimChip {
            namespace: "default".into(),
            claim: "claim-1".into(),
            claim_uid: uid(1),
            uuid: chip().to_string(),
        }
    }

    fn events(&self) -> Vec<String> {
        let events = self.bench.api.events.lock().unwrap();
        events.iter().map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    }

    async fn attached(&self) -> Value {
        let plan = self.node.store.look(|state| state.plans().next().cloned()).unwrap();
        status::read_and_write(&self.node, &plan).await.unwrap();
        let patches = self.bench.api.status_patches.lock().unwrap();
        let conditions = &patches.last().unwrap()["status"]["devices"][0]["conditions"];
        conditions.as_array().unwrap().iter().find(|c| c["type"] == "Attached").unwrap().clone()
    }
}

fn chip() -> DeviceUuid {
    DeviceUuid::new("VDIE-0-0").unwrap()
}

#[tokio::test]
async fn a_process_outside_the_quota_is_told_everywhere_until_it_is_gone() {
    let mut world = World::new("report").await;
    let holder = Holder::of(&world.usage);
    world.vendor(&[(holder.0, 5 << 20)]);
    assert_eq!(world.rounds(1).await, [], "one look is no proof");
    assert_eq!(world.attached().await["status"], "Unknown");
    let verdicts = world.rounds(2).await;
    assert!(matches!(&verdicts[..], [Verdict::Bypass { offenders }] if offenders.len() == 1), "{verdicts:?}");
    let attached = world.attached().await;
    assert_eq!((&attached["status"], &attached["reason"]), (&"False".into(), &"OutsideQuota".into()));
    let shown = world.node.metrics.audit.clone();
    assert_eq!(shown.outside.get(&world.label()).unwrap().get(), 1);
    assert_eq!(shown.bypasses.get(&world.label()).unwrap().get(), 1, "begun once, whatever rounds it lasts");
    assert_eq!(world.events(), ["QuotaBypassed"]);
    let text = world.bench.api.events.lock().unwrap()[0]["message"].as_str().unwrap().to_owned();
    assert!(text.contains(&format!("process {} (", holder.0)) && text.contains("with 5Mi"), "{text}");

    drop(holder);
    world.vendor(&[]);
    assert_eq!(world.rounds(1).await, []);
    assert_eq!(world.attached().await["status"], "Unknown");
    assert_eq!(shown.outside.get(&world.label()).unwrap().get(), 0);
    // All of it goes with the claim.
    unprepare(&world.node, &name(1)).await.unwrap();
    world.rounds(1).await;
    assert!(shown.outside.get(&world.label()).is_none() && shown.bypasses.get(&world.label()).is_none());
}

#[tokio::test]
async fn a_claim_that_has_more_than_it_can_have_is_a_breach_and_its_overhead_is_not() {
    let mut world = World::new("report").await;
    let holder = Holder::of(&world.usage);
    // One chip: the slots of 256 bytes from 256; the owner first, then 128 on the cell of the chip.
    world.usage.write_all_at(&(holder.0 as u64).to_ne_bytes(), 256).unwrap();
    world.usage.write_all_at(&1_u16.to_ne_bytes(), 16).unwrap();
    world.vendor(&[(holder.0, 5 * GIB)]);
    assert_eq!(world.rounds(4).await, [], "a GiB of overhead is allowed");
    let shown = world.node.metrics.audit.clone();
    assert_eq!(shown.vendor_bytes.get(&world.label()).unwrap().get(), 5 << 30);
    assert_eq!(shown.overhead_bytes.get(&world.label()).unwrap().get(), 5 << 30, "it said nothing itself");
    world.vendor(&[(holder.0, 5 * GIB + 1)]);
    let verdicts = world.rounds(2).await;
    assert!(
        matches!(&verdicts[..], [Verdict::Breach { allowed: Bytes(a), .. }] if *a == 5 * GIB),
        "{verdicts:?}"
    );
    assert_eq!(
        (shown.breaches.get(&world.label()).unwrap().get(), world.events()),
        (1, vec!["QuotaExceeded".into()])
    );
    assert_ne!(world.attached().await["status"], "False", "it is in the ledger");
}

#[tokio::test]
async fn a_policy_ends_or_evicts_nobody_who_cannot_be_shown_to_be_the_claims() {
    for (policy, refusal) in [("kill", "ProcessNotEnded"), ("evict", "PodNotEvicted")] {
        let mut world = World::new(policy).await;
        // That it has the file open says only that it could reach it.
        let holder = Holder::of(&world.usage);
        world.vendor(&[(holder.0, 1)]);
        world.rounds(4).await;
        assert_eq!(world.events(), ["QuotaBypassed", refusal], "{policy}");
        // SAFETY: asks only.
        assert_eq!(unsafe { libc::kill(holder.0, 0) }, 0, "{policy}");
    }
}

#[tokio::test]
async fn processes_that_no_claim_explains_are_shown_by_chip() {
    let mut world = World::new("kill").await;
    let mut stranger = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    world.vendor(&[(stranger.id() as i32, 3), (stranger.id() as i32, 4), (i32::MAX, 5)]);
    assert_eq!(world.rounds(4).await, []);
    let shown = world.node.metrics.audit.clone();
    let label = OneChip { uuid: chip().to_string() };
    assert_eq!(shown.strangers.get(&label).unwrap().get(), 1, "named twice, and one that is gone");
    assert_eq!(shown.stranger_bytes.get(&label).unwrap().get(), 7);
    assert_eq!(world.events(), Vec::<String>::new());
    unprepare(&world.node, &name(1)).await.unwrap();
    world.rounds(1).await;
    assert!(shown.strangers.get(&label).is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}
