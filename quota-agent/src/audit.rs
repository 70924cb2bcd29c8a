//! One round's comparison of a chip's ledgers with the vendor's numbers: reads both, finds out whose the processes
//! are, and puts overhead on slots. What follows from it is judged in `breach`.

use std::collections::BTreeMap;
use std::path::Path;

use vnpu_driver::hardware::ProcessMemory;
use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::quantity::Bytes;
use vnpu_quota_abi::quota::CHARGE_OVERHEAD;
use vnpu_quota_abi::slot::{owner_pid, owner_starttime};

use crate::agent::Agent;
use crate::breach::{Facts, Judgement, Limits, Watch};
use crate::claim::Claim;
use crate::ledger::{OnChip, Slot};
use crate::usage::SlotReading;
use crate::witness::{Evidence, Home, UsageFile, Witness};
use crate::{AgentError, Offender};

/// Where processes are looked at.
const PROC: &str = "/proc";

/// What stood in the ledgers before the vendor was asked.
#[derive(Debug, Clone, Default)]
pub struct Books {
    of_claims: BTreeMap<ClaimUid, Vec<SlotReading>>,
}

/// What a claim may be held to, by whoever gave it its share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Promise {
    /// The most memory of the chip that it was ever promised; nothing where that is its quota of now.
    pub memory: Bytes,
    /// UIDs of the pods that it is reserved for, as far as they are known.
    pub pods: Vec<String>,
}

/// What one claim has on the chip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimAudit {
    /// Whose.
    pub claim: ClaimUid,
    /// The numbers, and what follows.
    pub judgement: Judgement,
    /// The processes that the verdict is about.
    pub offenders: Vec<Offender>,
}

/// A chip's ledgers beside the vendor's numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChipAudit {
    /// The claims on the chip.
    pub claims: Vec<ClaimAudit>,
    /// Processes on the chip that are no claim's, as far as can be seen.
    pub strangers: Vec<(ProcessMemory, Home)>,
    /// Claims whose ledger could not be read: what their processes have is outside it.
    pub unreadable: u32,
}

/// A claim in the middle of an audit.
struct Party {
    claim: ClaimUid,
    usage: UsageFile,
    promise: Promise,
    quota: Bytes,
    charge: bool,
    device: usize,
    slots: Vec<SlotReading>,
    full: bool,
    processes: Vec<OnChip>,
    seen: BTreeMap<u32, (Home, Evidence)>,
}

impl Agent {
    /// The chips that claims have shares of here.
    pub fn chips(&self) -> Vec<DeviceUuid> {
        self.lock().chips().cloned().collect()
    }

    /// Reads the ledgers of all claims on `chip`, before the vendor is asked.
    pub fn books(&self, chip: &DeviceUuid) -> Books {
        let entries = self.lock();
        let mut books = Books::default();
        for (_, uid) in entries.claims_on(chip) {
            if let Ok(Some(claim)) = Claim::open(self.layout(), &uid)
                && let Ok(slots) = claim.usage.slots()
            {
                books.of_claims.insert(uid, slots);
            }
        }
        books
    }

    /// Compares the ledgers of all claims on `chip` with `processes`, the vendor's numbers, which were asked for after
    /// `before` was read; puts overhead on the slots of claims that pay for it. Claims that cannot be read are counted.
    pub fn audit(
        &self,
        chip: &DeviceUuid,
        processes: &[ProcessMemory],
        before: &Books,
        limits: &Limits,
        promise: &dyn Fn(&ClaimUid) -> Promise,
        watch: &mut Watch,
    ) -> ChipAudit {
        let mut out = ChipAudit::default();
        let mut parties = self.parties(chip, promise, &mut out);
        for process in by_pid(processes) {
            let witness = Witness::look(Path::new(PROC), self.aside(), process.pid);
            let whose = witness.as_ref().and_then(|w| whose(&parties, w));
            match (witness, whose) {
                (Some(witness), Some((index, evidence, slot))) => {
                    let Some(party) = parties.get_mut(index) else { continue };
                    party.processes.push(OnChip {
                        pid: process.pid,
                        starttime: witness.starttime,
                        bytes: process.bytes,
                        slot,
                        crowded: slot.is_none() && party.full && witness.may_have_mapped(&party.usage),
                    });
                    party.seen.insert(process.pid, (witness.home, evidence));
                }
                (Some(witness), None) => out.strangers.push((process, witness.home)),
                // It has ended since.
                (None, _) => (),
            }
        }
        for party in parties {
            let claim = party.claim.clone();
            let audit = self.settle(party, chip, before, limits, watch);
            match audit {
                Ok(audit) => out.claims.push(audit),
                Err(error) => {
                    tracing::debug!(%claim, %error, "overhead is not put on its processes");
                    out.unreadable += 1;
                }
            }
        }
        out
    }

    fn parties(
        &self,
        chip: &DeviceUuid,
        promise: &dyn Fn(&ClaimUid) -> Promise,
        out: &mut ChipAudit,
    ) -> Vec<Party> {
        let entries = self.lock();
        let mut parties = Vec::new();
        for (_, uid) in entries.claims_on(chip) {
            let party = self.party(&uid, chip, promise(&uid), out);
            match party {
                Ok(party) => parties.extend(party),
                Err(error) => {
                    tracing::debug!(claim = %uid, %error, "a claim is left out of the comparison");
                    out.unreadable += 1;
                }
            }
        }
        parties
    }

    fn party(
        &self,
        uid: &ClaimUid,
        chip: &DeviceUuid,
        promise: Promise,
        out: &mut ChipAudit,
    ) -> Result<Option<Party>, AgentError> {
        let Some(claim) = Claim::open(self.layout(), uid)? else { return Ok(None) };
        let Some(usage) = UsageFile::of(uid, &self.layout().usage(uid)) else { return Ok(None) };
        let chips = claim.quota.chips()?;
        let Some((device, (_, values))) = chips.into_iter().enumerate().find(|(_, (uuid, _))| uuid == chip)
        else {
            return Ok(None);
        };
        // Without a ledger that can be read nobody is in it.
        let slots = claim.usage.slots().unwrap_or_else(|error| {
            tracing::debug!(claim = %uid, %error, "its ledger cannot be read");
            out.unreadable += 1;
            Vec::new()
        });
        Ok(Some(Party {
            claim: uid.clone(),
            usage,
            promise,
            quota: Bytes(values.memory),
            charge: values.flags & CHARGE_OVERHEAD != 0,
            device,
            full: slots.len() >= usize::from(vnpu_quota_abi::SLOT_COUNT),
            slots,
            processes: Vec::new(),
            seen: BTreeMap::new(),
        }))
    }

    /// Judges one claim and puts overhead on its slots.
    fn settle(
        &self,
        party: Party,
        chip: &DeviceUuid,
        before: &Books,
        limits: &Limits,
        watch: &mut Watch,
    ) -> Result<ClaimAudit, AgentError> {
        let earlier = before.of_claims.get(&party.claim);
        let slots: BTreeMap<usize, Slot> = party
            .slots
            .iter()
            .filter_map(|now| {
                let then = earlier.into_iter().flatten();
                let mut then = then.filter(|then| (then.slot, then.owner) == (now.slot, now.owner));
                let before = then.next().and_then(|then| then.cells.get(party.device).copied());
                let after = *now.cells.get(party.device)?;
                Some((now.slot, Slot { owner: now.owner, before, after }))
            })
            .collect();
        let promised = party.promise.memory.max(party.quota);
        let facts = Facts { promised, slots, processes: party.processes };
        let judgement = watch.judge(limits, &party.claim, chip, &facts);
        if party.charge {
            let _entries = self.lock();
            if let Some(claim) = Claim::open(self.layout(), &party.claim)? {
                for (slot, overhead) in &judgement.balance.overheads {
                    if let Some(owner) = facts.slots.get(slot).map(|s| s.owner) {
                        claim.usage.put_overhead(*slot, owner, party.device, *overhead)?;
                    }
                }
            }
        }
        let mut seen = party.seen;
        let offenders = judgement.verdict.offenders().iter().filter_map(|process| {
            let (home, evidence) = seen.remove(&process.pid)?;
            Some(Offender { process: *process, home, evidence })
        });
        Ok(ClaimAudit { claim: party.claim, offenders: offenders.collect(), judgement })
    }
}

/// Libraries may name a process once for each of its connections.
fn by_pid(processes: &[ProcessMemory]) -> Vec<ProcessMemory> {
    let mut sums: BTreeMap<u32, u64> = BTreeMap::new();
    for process in processes {
        let sum = sums.entry(process.pid).or_default();
        *sum = sum.saturating_add(process.bytes.0);
    }
    sums.into_iter().map(|(pid, bytes)| ProcessMemory { pid, bytes: Bytes(bytes) }).collect()
}

/// Whose the process is, why, and its slot: of the claims that it may be of, one that it is attached to, else the one
/// that it is with the best reason.
fn whose(parties: &[Party], witness: &Witness) -> Option<(usize, Evidence, Option<usize>)> {
    let candidates = parties.iter().enumerate().filter_map(|(index, party)| {
        let evidence = witness.evidence(&party.usage, &party.promise.pods)?;
        let slot = witness.may_have_mapped(&party.usage).then(|| slot_of(party, witness)).flatten();
        Some((index, evidence, slot))
    });
    // Of several that are as good the first, so that it is the same one at every round.
    candidates.reduce(
        |best, next| {
            if (next.2.is_some(), next.1) > (best.2.is_some(), best.1) { next } else { best }
        },
    )
}

/// The slot of a process that has the ledger mapped. What is 0 in a slot its owner could not know (a container
/// without `/proc`).
fn slot_of(party: &Party, witness: &Witness) -> Option<usize> {
    let low = (witness.starttime & 0xffff_ffff) as u32;
    let its = |slot: &&SlotReading| {
        owner_pid(slot.owner) == witness.inner_pid
            && [0, low].contains(&owner_starttime(slot.owner))
            && [0, witness.namespace].contains(&slot.namespace)
    };
    party.slots.iter().find(its).map(|slot| slot.slot)
}
