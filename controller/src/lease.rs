//! Leader election over one Lease of `coordination.k8s.io/v1`: who may act is decided in [`candidate`] without I/O, and
//! carried out here. What a leader does lives elsewhere; it looks at [`Leadership`] before it writes anything.
//!
//! The expiry of somebody else's lease is counted from when this process saw it change last, as Kubernetes' own
//! components count it, so that clocks of different machines are never compared.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub mod candidate;

use candidate::{Answer, Candidate, Record, Step};

use crate::metrics::Metrics;

/// How long a lease lasts and how it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// So long after the last sign of life others may take the lease.
    pub lease: Duration,
    /// So long after its last renewal a leader stops acting. Less than `lease`, so that it has stopped before anybody
    /// else begins.
    pub renew: Duration,
    /// Between two tries.
    pub retry: Duration,
}

impl Default for Timing {
    /// The values of Kubernetes' own components.
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), renew: Duration::from_secs(10), retry: Duration::from_secs(2) }
    }
}

impl Timing {
    /// Whether a leader stops before another one begins, and has time for more than one try before that.
    pub fn is_sound(&self) -> bool {
        self.lease > self.renew && self.renew > self.retry * 2 && !self.retry.is_zero()
    }
}

/// Whether this process leads, and whether anybody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// This process leads.
    pub leader: bool,
    /// Since when it is so.
    pub since: Instant,
    /// Until when a leader may act without another renewal. It moves on without waking those who wait for changes.
    pub until: Instant,
    /// Until when somebody, this process or another, is believed to lead. It moves on without waking anybody either.
    pub somebody_until: Option<Instant>,
}

impl Leadership {
    /// Nobody leads, as far as is known.
    pub fn unknown(now: Instant) -> Self {
        Self { leader: false, since: now, until: now, somebody_until: None }
    }

    /// Whether this process may act at `now`. To be asked before each write: the channel may be a moment late.
    pub fn may_act(&self, now: Instant) -> bool {
        self.leader && now < self.until
    }

    /// Whether a planner is alive somewhere.
    pub fn somebody_leads(&self, now: Instant) -> bool {
        self.somebody_until.is_some_and(|until| now < until)
    }
}

/// The election of one process.
#[derive(Debug)]
pub struct Election {
    api: Api<Lease>,
    name: String,
    candidate: Candidate,
    leadership: watch::Sender<Leadership>,
    metrics: Metrics,
}

impl Election {
    /// A candidate for the Lease `namespace/name`. With `campaigning` false it only watches whether somebody leads.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        candidate: Candidate,
        metrics: Metrics,
    ) -> (Self, watch::Receiver<Leadership>) {
        let (leadership, seen) = watch::channel(Leadership::unknown(Instant::now()));
        let api = Api::namespaced(client, namespace);
        (Self { api, name: name.to_owned(), candidate, leadership, metrics }, seen)
    }

    /// Takes part until `stop`, then waits for `acting` (whoever acts as the leader) to end and gives the lease back,
    /// so that the next leader need not wait.
    pub async fn run(mut self, stop: CancellationToken, acting: TaskTracker) {
        loop {
            let round = async {
                self.round().await;
                self.pause().await;
            };
            if stop.run_until_cancelled(round).await.is_none() {
                break;
            }
        }
        self.leave(&acting).await;
    }

    /// Tries until there is nothing to do but wait.
    async fn round(&mut self) {
        // Read, write, and once more after a write that lost against another.
        for _ in 0..6 {
            let started = Instant::now();
            let step = self.candidate.next(started);
            if matches!(step, Step::Rest) {
                break;
            }
            let limit = self.candidate.patience(started);
            let answer = match tokio::time::timeout(limit, self.carry_out(step)).await {
                Ok(answer) => answer,
                Err(_) => Answer::Failed,
            };
            let failed = matches!(answer, Answer::Failed);
            self.candidate.take(started, Instant::now(), answer);
            self.publish();
            if failed {
                break;
            }
        }
        self.publish();
    }

    /// Until the next try, or until the lease that is held runs out.
    async fn pause(&mut self) {
        let now = Instant::now();
        let next = now + jittered(self.candidate.timing().retry);
        if let Some(until) = self.candidate.held_until()
            && until < next
        {
            tokio::time::sleep_until(until).await;
            self.publish();
        }
        tokio::time::sleep_until(next).await;
    }

    async fn carry_out(&self, step: Step) -> Answer {
        let result = match step {
            Step::Rest => return Answer::Failed,
            Step::Read => match self.api.get_opt(&self.name).await {
                Ok(Some(lease)) => Ok(Answer::Found { record: record(&lease), version: version(&lease) }),
                Ok(None) => Ok(Answer::Absent),
                Err(error) => Err(error),
            },
            Step::Create(wanted) => {
                let lease = object(&self.name, None, &wanted);
                self.api.create(&PostParams::default(), &lease).await.map(|lease| written(&lease))
            }
            Step::Replace { version, wanted } => {
                let lease = object(&self.name, Some(version), &wanted);
                self.api
                    .replace(&self.name, &PostParams::default(), &lease)
                    .await
                    .map(|lease| written(&lease))
            }
        };
        match result {
            Ok(answer) => answer,
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Answer::Conflict,
            Err(error) => {
                tracing::warn!(%error, lease = self.name, "the lease could not be asked for; it is tried again");
                self.metrics.lease_failures.inc();
                Answer::Failed
            }
        }
    }

    /// Tells what holds now.
    fn publish(&self) {
        let now = Instant::now();
        let held = self.candidate.held_until().filter(|until| now < *until);
        let somebody_until = self.candidate.somebody_until();
        self.leadership.send_if_modified(|shown| {
            let leader = held.is_some();
            let changed = shown.leader != leader;
            if changed {
                shown.since = now;
                tracing::info!(leader, lease = self.name, "leadership changed");
                self.metrics.leadership_changes.inc();
            }
            shown.leader = leader;
            shown.until = held.unwrap_or(now);
            shown.somebody_until = somebody_until;
            self.metrics.leader.set(i64::from(leader));
            changed
        });
    }

    /// Says that this process leads no more, waits for those who act, and gives the lease back. If they do not end in
    /// time the lease is left to run out.
    async fn leave(mut self, acting: &TaskTracker) {
        let until = self.candidate.held_until();
        self.leadership.send_modify(|shown| {
            shown.leader = false;
            shown.since = Instant::now();
            shown.until = shown.since;
        });
        self.metrics.leader.set(0);
        let Some(until) = until else { return };
        acting.close();
        if tokio::time::timeout_at(until, acting.wait()).await.is_err() {
            tracing::warn!(lease = self.name, "not given back: what acts under it has not ended");
            return;
        }
        let Some(step) = self.candidate.release() else { return };
        match tokio::time::timeout_at(until, self.carry_out(step)).await {
            Ok(Answer::Written { .. }) => tracing::info!(lease = self.name, "given back"),
            _ => tracing::info!(lease = self.name, "could not be given back; it runs out by itself"),
        }
    }
}

/// Between 1.0 and 1.2 times `period`, so that replicas that start together do not ask together for ever.
fn jittered(period: Duration) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    // Nothing secret hangs on it: the hasher's own random start is random enough.
    let share = RandomState::new().hash_one(()) % 200;
    let share = u32::try_from(share).unwrap_or(0);
    period + period / 1000 * share
}

fn written(lease: &Lease) -> Answer {
    Answer::Written { record: record(lease), version: version(lease) }
}

fn version(lease: &Lease) -> String {
    lease.metadata.resource_version.clone().unwrap_or_default()
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
    Record {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        lease: seconds.map(Duration::from_secs),
        acquired: spec.acquire_time.map(|t| t.0.as_microsecond()),
        renewed: spec.renew_time.map(|t| t.0.as_microsecond()),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}

/// The Lease that says what `wanted` says. Its times are for people; nobody here reads them as times.
fn object(name: &str, version: Option<String>, wanted: &Record) -> Lease {
    let seconds = wanted.lease.map(|d| i32::try_from(d.as_secs()).unwrap_or(i32::MAX).max(1));
    let time = |micros: Option<i64>| micros.and_then(|m| Timestamp::from_microsecond(m).ok()).map(MicroTime);
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            resource_version: version,
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(wanted.holder.clone().unwrap_or_default()),
            lease_duration_seconds: seconds,
            acquire_time: time(wanted.acquired),
            renew_time: time(wanted.renewed),
            lease_transitions: Some(wanted.transitions),
            ..LeaseSpec::default()
        }),
    }
}

/// The wall clock in microseconds since 1970, for the Lease's readers.
pub fn wall_clock() -> candidate::WallClock {
    Arc::new(|| Timestamp::now().as_microsecond())
}

#[cfg(test)]
mod tests;
