//! The loop: what the watches tell goes to the desk and to the auditor, what the desk wants is done, and nothing waits
//! for anything else.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use vnpu_driver::controller_config::ControllerConfig;
use vnpu_placement::Config;
use vnpu_placement::moment::Moment;

use super::act::Actor;
use super::action::Action;
use super::desk::{Change, Counts, Desk};
use super::known::Facts;
use super::metrics::PlannerMetrics;
use super::recording::Recording;
use super::records::Records;
use super::settings::Settings;
use super::watches::{self, Observed};
use crate::auditor::Auditor;
use crate::observe::slice::Slices;
use crate::observe::watch::Told;
use crate::run::Shared;

/// Changes that are taken before the desk looks: a burst is one look.
const BURST: usize = 4096;

/// So long after a change the auditor is asked.
const AUDIT: Duration = Duration::from_secs(1);

/// The part of readiness that waits for the watches.
pub const PART: &str = "watches";

/// What the loop keeps.
struct Planning {
    slices: Slices,
    desk: Desk,
    auditor: Auditor,
    facts: Facts,
    records: Records,
    metrics: PlannerMetrics,
    counted: Counts,
    straddling: BTreeSet<String>,
    /// When the auditor is asked next; `None` while nothing has changed since.
    audit_at: Option<Instant>,
    synced: BTreeSet<&'static str>,
    leads: bool,
    /// Where to record, and the recording that goes on.
    record: Option<PathBuf>,
    recording: Option<Recording>,
}

/// Runs until it is stopped. Only the leader acts; all others know as much, so that one of them can go on at once.
pub async fn run(shared: Shared, identity: String, records: Records, metrics: PlannerMetrics) {
    let (sender, mut receiver) = mpsc::channel(BURST);
    let mut watching = JoinSet::new();
    watches::start(&shared.client, &sender, &mut watching);
    let actor = Actor::new(shared.client.clone(), sender, identity, shared.leadership.clone());
    let mut acting: JoinSet<()> = JoinSet::new();
    let mut leadership = shared.leadership.clone();
    let mut config = shared.config.clone();
    let mut planning = Planning::new(&config.borrow_and_update(), records, metrics, shared.record.clone());
    shared.board.put(planning.facts.clone());
    let mut told = Vec::new();
    loop {
        let alarm = planning.alarm();
        told.clear();
        tokio::select! {
            () = shared.stop.cancelled() => break,
            count = receiver.recv_many(&mut told, BURST) => if count == 0 { break },
            changed = leadership.changed() => if changed.is_err() { break },
            changed = config.changed() => match changed {
                Ok(()) => planning.configure(&config.borrow_and_update()),
                Err(_) => break,
            },
            () = sleep_until(alarm) => {}
            Some(_) = acting.join_next() => {}
            Some(_) = watching.join_next() => break,
        }
        let begun = Instant::now();
        let now = now();
        planning.record();
        planning.learn(&mut told, now);
        if planning.known() {
            shared.readiness.ready(PART);
        }
        let lead = leadership.borrow_and_update().leader && planning.known();
        if planning.leads != lead {
            planning.leads = lead;
            // Another may act from now on; or nobody acted before.
            acting.shutdown().await;
            planning.desk.lead(lead);
        }
        for action in planning.step(now) {
            acting.spawn(shared.acting.track_future(actor.clone().act(action)));
        }
        planning.show(begun);
    }
}

impl Planning {
    fn new(
        config: &ControllerConfig,
        records: Records,
        metrics: PlannerMetrics,
        record: Option<PathBuf>,
    ) -> Self {
        let mut auditor = Auditor::default();
        auditor.know_classes(guarded(config));
        Self {
            slices: Slices::default(),
            desk: Desk::new(Settings::of(config), planner_config(config)),
            auditor,
            facts: Facts::default(),
            records,
            metrics,
            counted: Counts::default(),
            straddling: BTreeSet::new(),
            audit_at: None,
            synced: BTreeSet::new(),
            leads: false,
            record,
            recording: None,
        }
    }

    /// Begins a recording where one is wanted and none goes on: a file ends at its size.
    fn record(&mut self) {
        let Some(directory) = &self.record else { return };
        if self.recording.as_ref().is_some_and(Recording::is_alive) {
            return;
        }
        match Recording::begin(directory) {
            Ok(recording) => {
                self.desk.record_to(Some(recording.sink()));
                self.recording = Some(recording);
            }
            Err(error) => {
                tracing::error!(%error, "nothing is recorded until the next start");
                self.desk.record_to(None);
                self.record = None;
            }
        }
    }

    fn configure(&mut self, config: &ControllerConfig) {
        self.desk.set_settings(Settings::of(config), planner_config(config));
        // A recording holds for one configuration.
        self.recording = None;
        self.auditor.know_classes(guarded(config));
    }

    /// Whether everything that is watched has been seen.
    fn known(&self) -> bool {
        watches::KINDS.iter().all(|kind| self.synced.contains(kind))
    }

    fn learn(&mut self, told: &mut Vec<Told<Observed>>, now: Moment) {
        if !told.is_empty() && self.audit_at.is_none() {
            self.audit_at = Some(Instant::now() + AUDIT);
        }
        for told in told.drain(..) {
            match told {
                Told::Change(observed) => {
                    for change in self.changes(observed) {
                        self.facts.learn(&change);
                        self.auditor.learn(&change);
                        self.desk.change(change, now);
                    }
                }
                Told::Synced(kind) => {
                    tracing::info!(kind, "seen all");
                    self.synced.insert(kind);
                }
            }
        }
    }

    /// What an observation changes: a rule may change many pools.
    fn changes(&mut self, observed: Observed) -> Vec<Change> {
        let pools = match observed {
            Observed::Change(change) => return vec![change],
            Observed::Slice(slice) => vec![self.slices.put(slice)],
            Observed::SliceGone(name) => self.slices.remove(&name).into_iter().collect(),
            Observed::Rule(rule) => self.slices.put_rule(rule),
            Observed::RuleGone(name) => self.slices.remove_rule(&name),
        };
        pools.into_iter().map(Change::Pool).collect()
    }

    /// What is to be done; what is only to be kept is kept.
    fn step(&mut self, now: Moment) -> Vec<Action> {
        let mut todo = Vec::new();
        for action in self.desk.step(now) {
            match action {
                Action::Record { decision, pods } => self.records.keep(*decision, pods),
                Action::Tell { pod, warning, reason, message } => {
                    self.records.note(&pod.display_name(), format!("{reason}: {message}"));
                    todo.push(Action::Tell { pod, warning, reason, message });
                }
                other => todo.push(other),
            }
        }
        todo
    }

    fn show(&mut self, begun: Instant) {
        let counts = self.desk.counts();
        self.metrics.count(self.counted, counts);
        self.counted = counts;
        let waiting = self.desk.planner().waiting_count();
        self.metrics.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.metrics.synced.set(i64::from(self.known()));
        if self.audit_at.is_some_and(|at| at <= begun) {
            self.audit_at = None;
            self.audit();
        }
        self.metrics.step_duration.observe(begun.elapsed().as_secs_f64());
    }
}

impl Planning {
    /// What the auditor finds goes over everything that is allocated, so it is not asked at every change.
    fn audit(&mut self) {
        self.desk.tidy();
        self.facts.tidy();
        let findings = self.auditor.findings();
        self.metrics.show(&findings, self.auditor.take_broken());
        for (claim, cards) in &findings.straddling {
            if self.straddling.insert(claim.clone()) {
                tracing::error!(
                    claim,
                    ?cards,
                    "the claim straddles modules: whoever allocated it went past the guard"
                );
            }
        }
        self.straddling.retain(|claim| findings.straddling.contains_key(claim));
    }

    /// When to go on although nothing is told.
    fn alarm(&self) -> Instant {
        const IDLE: Duration = Duration::from_secs(60);
        let wait = self.desk.next_alarm().map_or(IDLE, |at| at.since(now()).min(IDLE));
        // Whatever the alarm says, there is no use in looking more often.
        let desk = Instant::now() + wait.max(Duration::from_millis(5));
        self.audit_at.map_or(desk, |audit| audit.min(desk))
    }
}

fn planner_config(config: &ControllerConfig) -> Config {
    Config { depth: config.placement.queue_depth, aging_bound: config.placement.aging_bound.0 }
}

/// The classes that the administrator names here he also tells the guard of.
fn guarded(config: &ControllerConfig) -> Vec<String> {
    let classes = &config.classes;
    let all = [&classes.npu, &classes.accelerator, &classes.module, &classes.single_die];
    all.into_iter().flatten().cloned().collect()
}

/// The time, as the desk counts it.
pub fn now() -> Moment {
    Moment(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
