//! The loop of the leader: what the sources tell goes to the survey, and what the survey wants is done, some nodes at a
//! time. A replica that does not lead watches nothing here.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use vnpu_driver::controller_config::{ControllerConfig, TopologySources};

use super::label::NodeSeen;
use super::metrics::TopologyMetrics;
use super::survey::{Outcome, Survey, Task};
use super::write::Writer;
use super::{Place, Table, kueue, read_table};
use crate::observe::watch::{Reader, Told, watch};
use crate::run::Shared;
use crate::settings::{Document, Fault, Follower};

/// Nodes that are written at the same time.
const AT_ONCE: usize = 16;
/// Changes that are taken before the survey looks.
const BURST: usize = 1024;
/// Without anything to do it is looked so often.
const IDLE: Duration = Duration::from_secs(60);

/// Keeps the labels of all nodes for as long as this process leads, until it is stopped.
pub async fn run(shared: Shared, identity: String, metrics: TopologyMetrics) {
    let mut leadership = shared.leadership.clone();
    loop {
        let leads = async { leadership.wait_for(|now| now.leader).await.is_ok() };
        if shared.stop.run_until_cancelled(leads).await != Some(true) {
            return;
        }
        let mut config = shared.config.clone();
        let sources = config.borrow_and_update().topology.clone();
        let writer = Writer {
            client: shared.client.clone(),
            identity: identity.clone(),
            leadership: shared.leadership.clone(),
        };
        // All that is written is written inside: when this is dropped nothing is.
        let term = shared.acting.track_future(keep(&sources, writer, &metrics));
        tokio::select! {
            () = term => {}
            () = shared.stop.cancelled() => return,
            _ = async { leadership.wait_for(|now| !now.leader).await.is_ok() } => {}
            // Other sources: everything is read anew.
            () = other_sources(&mut config, &sources) => {}
        }
        metrics.disagreements.set(0);
        metrics.table.valid.set(0);
    }
}

/// Returns when the configuration names other sources, or never will.
async fn other_sources(config: &mut watch::Receiver<Arc<ControllerConfig>>, sources: &TopologySources) {
    if config.wait_for(|config| config.topology != *sources).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What the watch tells of nodes.
#[derive(Debug)]
enum Change {
    There(String, Box<NodeSeen>, String),
    Gone(String),
}

/// The administrator's table; `None` until one could be read.
#[derive(Debug, Default, PartialEq)]
struct TableFile(Option<Table>);

impl Document for TableFile {
    const NAME: &'static str = "topology table";

    fn read(text: &str) -> Result<Self, Fault> {
        let table = read_table(text);
        table
            .map(|table| Self(Some(table)))
            .map_err(|error| Fault::Refused { message: error.to_string(), reason: error.reason() })
    }
}

/// What is read beside the nodes.
struct Beside {
    table: watch::Receiver<Arc<TableFile>>,
    levels: watch::Receiver<Option<Vec<String>>>,
    /// These keep channels open of which nothing ever comes.
    _no_table: Option<watch::Sender<Arc<TableFile>>>,
    _no_levels: Option<watch::Sender<Option<Vec<String>>>>,
}

impl Beside {
    fn begin(
        sources: &TopologySources,
        client: &Client,
        metrics: &TopologyMetrics,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let (table, no_table) = match &sources.csv {
            Some(path) => {
                let (follower, table) =
                    Follower::<TableFile>::begin_without(path.as_ref(), metrics.table.clone());
                tasks.spawn(follower.run(CancellationToken::new()));
                (table, None)
            }
            None => {
                let (sender, table) = watch::channel(Arc::new(TableFile(Some(Table::new()))));
                (table, Some(sender))
            }
        };
        let (levels, no_levels) = match &sources.kueue_topology {
            Some(name) => {
                let (sender, levels) = watch::channel(None);
                tasks.spawn(kueue::follow(client.clone(), name.clone(), sender));
                (levels, None)
            }
            None => {
                let (sender, levels) = watch::channel(Some(Vec::new()));
                (levels, Some(sender))
            }
        };
        Self { table, levels, _no_table: no_table, _no_levels: no_levels }
    }

    /// Gives the survey what is known; whether everything is. Before that nothing may be written: a source that cannot
    /// be read has not withdrawn what it said.
    fn show(&mut self, survey: &mut Survey) -> bool {
        let table = Arc::clone(&self.table.borrow_and_update());
        if let Some(table) = &table.0 {
            survey.know_table(table);
        }
        let levels = self.levels.borrow_and_update();
        if let Some(levels) = levels.as_ref() {
            survey.know_levels(levels);
        }
        table.0.is_some() && levels.is_some()
    }
}

/// Keeps the labels with these sources; ends only when a watch does.
async fn keep(sources: &TopologySources, writer: Writer, metrics: &TopologyMetrics) {
    let mut watching = JoinSet::new();
    let mut survey = Survey::new(sources.clone());
    let mut beside = Beside::begin(sources, &writer.client, metrics, &mut watching);
    let (sender, mut receiver) = mpsc::channel(BURST);
    watching.spawn(watch(Api::<PartialObjectMeta<Node>>::all(writer.client.clone()), nodes(), sender));
    let mut writing: JoinSet<Option<(String, Place, Outcome)>> = JoinSet::new();
    let mut told = Vec::new();
    loop {
        let known = beside.show(&mut survey);
        while known
            && writing.len() < AT_ONCE
            && let Some(task) = survey.next(Instant::now())
        {
            writing.spawn(carry_out(writer.clone(), task, metrics.clone()));
        }
        metrics.disagreements.set(i64::try_from(survey.disagreeing()).unwrap_or(i64::MAX));
        let idle = Instant::now() + IDLE;
        let alarm = survey.alarm().map_or(idle, |at| at.min(idle));
        told.clear();
        tokio::select! {
            count = receiver.recv_many(&mut told, BURST) => if count == 0 { return },
            Some(done) = writing.join_next() => {
                if let Ok(Some((node, place, outcome))) = done {
                    survey.done(&node, place, outcome, Instant::now());
                }
            }
            Ok(()) = beside.table.changed() => {}
            Ok(()) = beside.levels.changed() => {}
            () = sleep_until(alarm), if known && writing.len() < AT_ONCE => {}
            Some(_) = watching.join_next() => return,
        }
        for told in told.drain(..) {
            match told {
                Told::Change(Change::There(name, seen, version)) => survey.see(&name, *seen, &version),
                Told::Change(Change::Gone(name)) => survey.forget(&name),
                Told::Synced(_) => {}
            }
        }
    }
}

fn nodes() -> Reader<PartialObjectMeta<Node>, String, Change> {
    Reader {
        kind: "nodes",
        // Metadata alone.
        page: 500,
        identity: |object| Some(object.name_any()),
        there: |object| {
            let version = object.resource_version().unwrap_or_default();
            Some(Change::There(object.name_any(), Box::new(NodeSeen::read(&object.metadata)), version))
        },
        gone: Change::Gone,
    }
}

async fn carry_out(writer: Writer, task: Task, metrics: TopologyMetrics) -> Option<(String, Place, Outcome)> {
    match task {
        Task::Write { node, uid, place } => {
            let outcome = writer.write(&node, &uid, &place).await;
            metrics.count(match outcome {
                Outcome::Written(..) => "written",
                Outcome::Conflict(_) => "conflict",
                Outcome::Failed => "failed",
            });
            Some((node, place, outcome))
        }
        Task::Tell { node, uid, message } => {
            writer.tell(&node, &uid, message).await;
            None
        }
    }
}

#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;
