//! Compares the claims' ledgers with the vendor's numbers at every period: puts overhead on processes, tells who uses a
//! chip outside the quotas, and has breaches acted upon. The comparison and the judgement are `quota-agent`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use vnpu_driver::hardware::{Chip, ProcessError, ProcessMemory};
use vnpu_driver::id::{ClaimUid, DeviceUuid, PoolName};
use vnpu_driver::live::allocated;
use vnpu_driver::plan::PreparePlan;
use vnpu_driver::record::ClaimState;
use vnpu_quota_agent::{AgentError, Books, ChipAudit, Limits, Promise, Verdict, Watch};

use crate::breach;
use crate::error::OperationError;
use crate::hardware::Inventories;
use crate::node::{Node, blocking};

/// So long a round waits for a vendor's library.
const ANSWER: Duration = Duration::from_secs(15);

/// What is remembered between rounds.
#[derive(Debug, Default)]
pub struct Audits {
    watch: Mutex<Watch>,
    /// Chips on which processes of a claim are outside its quota.
    outside: Mutex<BTreeMap<ClaimUid, BTreeSet<DeviceUuid>>>,
    /// UIDs of the pods that each claim is reserved for, as it was last read.
    pods: Mutex<BTreeMap<ClaimUid, Vec<String>>>,
    /// Pools whose vendor's library has not answered yet.
    asked: Arc<Mutex<BTreeSet<PoolName>>>,
    /// When something was last done about a claim.
    pub(crate) acted: Mutex<BTreeMap<ClaimUid, tokio::time::Instant>>,
}

impl Audits {
    /// The chips on which processes of the claim are outside its quota.
    pub fn outside(&self, claim: &ClaimUid) -> BTreeSet<DeviceUuid> {
        held(&self.outside).get(claim).cloned().unwrap_or_default()
    }

    /// Notes which pods a claim is reserved for.
    pub fn note_pods(&self, claim: &ClaimUid, pods: Vec<String>) {
        held(&self.pods).insert(claim.clone(), pods);
    }

    /// The pods that the claim is reserved for, as far as they are known.
    pub fn pods(&self, claim: &ClaimUid) -> Vec<String> {
        held(&self.pods).get(claim).cloned().unwrap_or_default()
    }

    fn keep(&self, wanted: impl Fn(&ClaimUid) -> bool) {
        held(&self.watch).keep(&wanted);
        held(&self.outside).retain(|claim, _| wanted(claim));
        held(&self.pods).retain(|claim, _| wanted(claim));
        held(&self.acted).retain(|claim, _| wanted(claim));
    }
}

/// A panic while it was held leaves at worst a round half noted.
pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a round at every period until `stop`.
pub async fn run(node: Arc<Node>, period: Duration, limits: Limits, stop: CancellationToken) {
    let mut told = BTreeSet::new();
    while stop.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
        match round(&node, limits, &mut told).await {
            Ok(findings) => {
                // In bounds: the next look must not wait for an API server.
                let acting = tokio::time::timeout(breach::ACTING, breach::act_on(&node, findings));
                let _ = stop.run_until_cancelled(acting).await;
            }
            Err(error) => {
                tracing::warn!(%error, "a comparison with the vendor's numbers failed; it is repeated")
            }
        }
    }
}

/// What a round found wrong with one claim on one chip.
#[derive(Debug)]
pub struct Finding {
    /// The claim.
    pub plan: PreparePlan,
    /// The chip.
    pub chip: DeviceUuid,
    /// Numbers, verdict, processes.
    pub audit: vnpu_quota_agent::ClaimAudit,
}

/// One round: all chips that have claims with quotas. Returns what is wrong; `told` remembers for which chips the vendor
/// could not answer, so that each is told once.
///
/// # Errors
/// The checkpoint or the runtime directory cannot be used.
pub async fn round(
    node: &Arc<Node>,
    limits: Limits,
    told: &mut BTreeSet<DeviceUuid>,
) -> Result<Vec<Finding>, OperationError> {
    let plans = plans(node);
    node.audits.keep(|claim| plans.contains_key(claim));
    let seen = Arc::clone(&node.seen.borrow());
    if plans.is_empty() {
        node.metrics.show_strangers(&BTreeMap::new());
        return Ok(Vec::new());
    }
    let books = open_books(node, seen).await?;
    let mut known = Vec::new();
    for (chip, books, answer) in ask(node, books).await {
        match answer {
            Ok(processes) => {
                told.remove(&chip);
                known.push((chip, books, processes));
            }
            Err(error) => {
                if told.insert(chip.clone()) {
                    tracing::warn!(%chip, %error, "the ledgers of a chip are not compared with the vendor's numbers");
                }
            }
        }
    }
    let audits = compare(node, &plans, limits, known).await?;
    Ok(take_in(node, &plans, audits))
}

fn plans(node: &Node) -> BTreeMap<ClaimUid, PreparePlan> {
    node.store.look(|state| {
        let done = state.states().filter_map(|(uid, state)| match state {
            ClaimState::PrepareCompleted(plan) if plan.interposed() => Some((uid.clone(), plan.clone())),
            _ => None,
        });
        done.collect()
    })
}

type Answer = (DeviceUuid, Books, Result<Vec<ProcessMemory>, ProcessError>);

/// Asks the vendors side by side, with no session open: how long it takes is up to their libraries. One that does not
/// answer in time is not asked again before it did, and of its chips nothing is known in this round.
async fn ask(node: &Node, books: BTreeMap<PoolName, Vec<(Chip, Books)>>) -> Vec<Answer> {
    let asked = books.into_iter().filter_map(|(pool, books)| {
        let backend = Arc::clone(node.materials.vendors().backend(&pool)?);
        let free = held(&node.audits.asked).insert(pool.clone());
        if !free {
            tracing::debug!(%pool, "the vendor's library has not answered about processes yet");
            return None;
        }
        let (asked, name) = (Arc::clone(&node.audits.asked), pool.clone());
        let asking = tokio::task::spawn_blocking(move || {
            let ask = |(chip, books): (Chip, Books)| {
                let answer = backend.processes(&chip);
                (chip.uuid, books, answer)
            };
            let answers: Vec<Answer> = books.into_iter().map(ask).collect();
            held(&asked).remove(&pool);
            answers
        });
        Some(async move {
            let answer = tokio::time::timeout(ANSWER, asking).await;
            if answer.is_err() {
                tracing::warn!(pool = %name, "the vendor's library does not answer about processes within {ANSWER:?}");
            }
            answer
        })
    });
    let answers = futures::future::join_all(asked).await;
    answers.into_iter().flatten().flatten().flatten().collect()
}

/// What stands in the ledgers, by pool, before the vendors are asked.
async fn open_books(
    node: &Arc<Node>,
    seen: Arc<Inventories>,
) -> Result<BTreeMap<PoolName, Vec<(Chip, Books)>>, OperationError> {
    let session = node.session().await?;
    let materials = Arc::clone(&node.materials);
    let books = blocking(move || {
        // Opening the regions cleans up, which another instance must not see.
        let _session = session;
        let agent = materials.agent()?;
        let mut books: BTreeMap<PoolName, Vec<(Chip, Books)>> = BTreeMap::new();
        for uuid in agent.chips() {
            let Some((pool, chip)) = seen.find(&uuid) else { continue };
            books.entry(pool.clone()).or_default().push((chip.clone(), agent.books(&uuid)));
        }
        Ok::<_, AgentError>(books)
    });
    done(books.await)
}

type Known = (DeviceUuid, Books, Vec<ProcessMemory>);

async fn compare(
    node: &Arc<Node>,
    plans: &BTreeMap<ClaimUid, PreparePlan>,
    limits: Limits,
    known: Vec<Known>,
) -> Result<Vec<(DeviceUuid, ChipAudit)>, OperationError> {
    let session = node.session().await?;
    let (worker, plans) = (Arc::clone(node), plans.clone());
    let audits = blocking(move || {
        // Two instances must not put overhead on slots at once.
        let _session = session;
        let agent = worker.materials.agent()?;
        let mut watch = held(&worker.audits.watch);
        let audit = |(chip, books, processes): Known| {
            // Up to what was allocated a quota may have been higher when memory was taken.
            let promise = |claim: &ClaimUid| Promise {
                memory: plans.get(claim).map(|plan| allocated(plan, &chip).0).unwrap_or_default(),
                pods: worker.audits.pods(claim),
            };
            let audit = agent.audit(&chip, &processes, &books, &limits, &promise, &mut watch);
            (chip, audit)
        };
        Ok::<_, AgentError>(known.into_iter().map(audit).collect())
    });
    done(audits.await)
}

/// Notes and shows what was found; returns what is wrong.
fn take_in(
    node: &Node,
    plans: &BTreeMap<ClaimUid, PreparePlan>,
    audits: Vec<(DeviceUuid, ChipAudit)>,
) -> Vec<Finding> {
    let (mut findings, mut strangers) = (Vec::new(), BTreeMap::new());
    let mut outside = held(&node.audits.outside);
    for (chip, audit) in audits {
        strangers.insert(chip.clone(), audit.strangers.iter().map(|(process, _)| process.bytes).collect());
        for (process, home) in &audit.strangers {
            tracing::debug!(%chip, pid = process.pid, program = home.program, bytes = process.bytes.0, "a process that no claim explains");
        }
        for claim in audit.claims {
            let Some(plan) = plans.get(&claim.claim) else { continue };
            node.metrics.show_audit(&plan.namespace, &plan.name, &chip, &claim);
            let chips = outside.entry(claim.claim.clone()).or_default();
            match claim.judgement.verdict {
                Verdict::Bypass { .. } => chips.insert(chip.clone()),
                _ => chips.remove(&chip),
            };
            if claim.judgement.verdict != Verdict::Within {
                findings.push(Finding { plan: plan.clone(), chip: chip.clone(), audit: claim });
            }
        }
    }
    outside.retain(|_, chips| !chips.is_empty());
    drop(outside);
    node.metrics.show_strangers(&strangers);
    findings
}

fn done<T>(answer: Result<T, Option<AgentError>>) -> Result<T, OperationError> {
    answer.map_err(|error| error.map_or(OperationError::Internal, |e| OperationError::Material(e.into())))
}
