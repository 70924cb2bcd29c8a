//! The ledgers of a chip beside the vendor's numbers, with real regions and real processes.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::process::{Child, Command};
use std::sync::atomic::Ordering;

use support::{chip, kill, map, process_with_slot, shares, uid};
use vnpu_driver::hardware::ProcessMemory;
use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::quantity::Bytes;
use vnpu_driver::share::{ClaimShares, Overhead};
use vnpu_quota_abi::ledger;
use vnpu_quota_abi::slot::SlotTable;
use vnpu_quota_abi::view::UsageView;
use vnpu_quota_agent::{Agent, ChipAudit, Evidence, Limits, Promise, Spared, Verdict, Watch};

const GIB: u64 = 1 << 30;

/// An agent that makes rounds.
struct Rounds {
    agent: Agent,
    watch: Watch,
    limits: Limits,
    promise: Promise,
    _dir: tempfile::TempDir,
}

impl Rounds {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::open(dir.path()).unwrap();
        let limits = Limits { per_process: Bytes(GIB), rounds: 2 };
        Self { agent, watch: Watch::default(), limits, promise: Promise::default(), _dir: dir }
    }

    /// One round, in which the vendor sees these.
    fn round(&mut self, seen: &[(u32, u64)]) -> ChipAudit {
        let chip = DeviceUuid::new("A").unwrap();
        let seen: Vec<ProcessMemory> =
            seen.iter().map(|(pid, bytes)| ProcessMemory { pid: *pid, bytes: Bytes(*bytes) }).collect();
        let before = self.agent.books(&chip);
        let promise = |_: &ClaimUid| self.promise.clone();
        self.agent.audit(&chip, &seen, &before, &self.limits, &promise, &mut self.watch)
    }

    fn rounds(&mut self, count: u32, seen: &[(u32, u64)]) -> ChipAudit {
        (0..count).map(|_| self.round(seen)).last().unwrap()
    }
}

/// A process that has nothing to do with any claim.
fn stranger() -> Child {
    Command::new("sleep").arg("600").spawn().unwrap()
}

#[test]
fn overhead_is_put_on_the_slot_and_counts_against_the_quota() {
    let mut rounds = Rounds::new();
    let usage = rounds.agent.create(&shares(1, &[("B", 1), ("A", 4)])).unwrap().usage;
    let (_raw, mapping) = map(&usage);
    let view = UsageView::open(mapping).unwrap();
    let pid = process_with_slot(&usage, 7, 0);
    // The chip is the second of the claim's.
    view.cell(7, 1).unwrap().committed.store(GIB, Ordering::SeqCst);
    // Named twice, as by a library with two connections.
    let audit = rounds.rounds(3, &[(pid as u32, GIB), (pid as u32, 300)]);
    let balance = &audit.claims[0].judgement.balance;
    assert_eq!(
        (balance.ledger, balance.vendor, balance.overhead),
        (Bytes(GIB), Bytes(GIB + 300), Bytes(300))
    );
    assert_eq!(audit.claims[0].judgement.verdict, Verdict::Within);
    assert_eq!(view.cell(7, 0).unwrap().overhead.load(Ordering::SeqCst), 0, "another chip's");
    assert_eq!(view.cell(7, 1).unwrap().overhead.load(Ordering::SeqCst), 300);
    assert_eq!(ledger::sum(&view, 1).used(true), GIB + 300, "so it is refused to the next allocation");
    assert_eq!(rounds.agent.usage(&uid(1)).unwrap().chips[1].overhead, Bytes(300));
    // The vendor does not see it any more.
    rounds.round(&[]);
    assert_eq!(view.cell(7, 1).unwrap().overhead.load(Ordering::SeqCst), 0);
    kill(pid);
}

#[test]
fn overhead_beside_the_quota_is_told_and_not_charged() {
    let mut rounds = Rounds::new();
    let mut share = chip("A", 4);
    share.overhead = Overhead::Headroom;
    let usage = rounds.agent.create(&ClaimShares { claim: uid(1), chips: vec![share] }).unwrap().usage;
    let pid = process_with_slot(&usage, 0, GIB);
    let audit = rounds.rounds(3, &[(pid as u32, GIB + 300)]);
    assert_eq!(audit.claims[0].judgement.balance.overhead, Bytes(300));
    let (_raw, mapping) = map(&usage);
    let view = UsageView::open(mapping).unwrap();
    assert_eq!(view.cell(0, 0).unwrap().overhead.load(Ordering::SeqCst), 0);
    kill(pid);
}

#[test]
fn a_process_with_the_ledger_mapped_but_no_slot_is_outside_and_is_not_killed_on_that_evidence() {
    let mut rounds = Rounds::new();
    let usage = rounds.agent.create(&shares(1, &[("A", 4)])).unwrap().usage;
    let pid = process_with_slot(&usage, 0, 0);
    let (_raw, mapping) = map(&usage);
    let view = UsageView::open(mapping).unwrap();
    // Another process's number stands there now.
    view.head(0).unwrap().owner.store(1, Ordering::SeqCst);
    assert_eq!(rounds.round(&[(pid as u32, 5)]).claims[0].offenders, []);
    let audit = rounds.round(&[(pid as u32, 5)]);
    let claim = &audit.claims[0];
    assert!(matches!(claim.judgement.verdict, Verdict::Bypass { .. }), "{claim:?}");
    let [offender] = &claim.offenders[..] else { panic!("{claim:?}") };
    assert_eq!((offender.process.pid, offender.evidence), (pid as u32, Evidence::Mapped));
    let kept = rounds.agent.kill(&uid(1), offender, &[]).unwrap_err();
    assert_eq!(kept, Spared::NotInContainer);
    kill(pid);
    assert_eq!(rounds.agent.kill(&uid(1), offender, &[]).unwrap_err(), Spared::Gone);
    assert_eq!(rounds.round(&[]).claims[0].judgement.verdict, Verdict::Within);
}

#[test]
fn a_slot_makes_nobody_elses_process_the_claims() {
    let mut rounds = Rounds::new();
    let usage = rounds.agent.create(&shares(1, &[("A", 4)])).unwrap().usage;
    let mut victim = stranger();
    let (_raw, mapping) = map(&usage);
    let view = UsageView::open(mapping).unwrap();
    view.raise_high_water(1);
    view.head(0).unwrap().owner.store(u64::from(victim.id()), Ordering::SeqCst);
    let audit = rounds.rounds(3, &[(victim.id(), 70 * GIB)]);
    assert_eq!(audit.claims[0].judgement.balance.vendor, Bytes(0));
    assert_eq!(audit.claims[0].judgement.verdict, Verdict::Within);
    assert_eq!(audit.strangers.iter().map(|(p, _)| p.pid).collect::<Vec<_>>(), [victim.id()]);
    victim.kill().unwrap();
    victim.wait().unwrap();
}

#[test]
fn a_lowered_quota_is_no_breach_of_what_was_promised() {
    let mut rounds = Rounds::new();
    let usage = rounds.agent.create(&shares(1, &[("A", 4)])).unwrap().usage;
    let pid = process_with_slot(&usage, 0, 4 * GIB);
    assert!(rounds.agent.change(&shares(1, &[("A", 1)])).unwrap());
    rounds.promise.memory = Bytes(4 * GIB);
    let seen = [(pid as u32, 4 * GIB + 5)];
    assert_eq!(rounds.rounds(3, &seen).claims[0].judgement.verdict, Verdict::Within);
    rounds.promise.memory = Bytes(0);
    let audit = rounds.rounds(3, &seen);
    assert!(matches!(audit.claims[0].judgement.verdict, Verdict::Breach { .. }), "{audit:?}");
    kill(pid);
}

#[test]
fn a_full_table_leaves_processes_without_a_slot_to_the_claims_policy() {
    let mut rounds = Rounds::new();
    let usage = rounds.agent.create(&shares(1, &[("A", 4)])).unwrap().usage;
    let pid = process_with_slot(&usage, 0, 0);
    let (_raw, mapping) = map(&usage);
    let view = UsageView::open(mapping).unwrap();
    view.raise_high_water(view.capacity());
    (0..view.capacity()).for_each(|i| view.head(i).unwrap().owner.store(1, Ordering::SeqCst));
    let audit = rounds.rounds(3, &[(pid as u32, 5)]);
    assert_eq!(audit.claims[0].judgement.verdict, Verdict::Within, "{audit:?}");
    assert_eq!(audit.claims[0].judgement.balance.attached, 1);
    view.head(9).unwrap().owner.store(0, Ordering::SeqCst);
    let audit = rounds.rounds(3, &[(pid as u32, 5)]);
    assert!(matches!(audit.claims[0].judgement.verdict, Verdict::Bypass { .. }), "{audit:?}");
    kill(pid);
}

#[test]
fn a_ledger_that_cannot_be_read_hides_no_other_and_excuses_nobody() {
    let mut rounds = Rounds::new();
    let broken = rounds.agent.create(&shares(1, &[("A", 4)])).unwrap().usage;
    let usage = rounds.agent.create(&shares(2, &[("A", 4)])).unwrap().usage;
    let pids = [process_with_slot(&broken, 0, 10), process_with_slot(&usage, 0, 10)];
    std::fs::File::options().write(true).open(&broken).unwrap().set_len(100).unwrap();
    let audit = rounds.rounds(3, &pids.map(|pid| (pid as u32, 10)));
    assert!(audit.unreadable > 0);
    let words: Vec<_> = audit.claims.iter().map(|c| (c.claim.clone(), c.offenders.len())).collect();
    assert_eq!(words, [(uid(1), 1), (uid(2), 0)]);
    pids.into_iter().for_each(kill);
}
