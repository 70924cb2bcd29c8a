//! Puts the parts together: the admin server first, then the API client, then lease, certificates and webhooks side by
//! side; and takes them down in two stages when asked to end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vnpu_daemon::{Signals, kubeapi};
use vnpu_driver::controller_config::ControllerConfig;
use vnpu_telemetry::{Admin, LevelHandle, Readiness};

use crate::certificates::resolver::Resolver;
use crate::certificates::{self, Keeper};
use crate::config::Settings;
use crate::lease::candidate::Candidate;
use crate::lease::{Election, Leadership, wall_clock};
use crate::metrics::Metrics;
use crate::planner;
use crate::planner::metrics::PlannerMetrics;
use crate::planner::records::Records;
use crate::settings::Follower;
use crate::topology;
use crate::topology::metrics::TopologyMetrics;
use crate::webhook::admission::Admission;
use crate::webhook::lookup::Board;
use crate::webhook::{self, check, server};

/// How long everything may take to end after the first signal: pods get 30 s.
const GRACE: Duration = Duration::from_secs(20);

type Tasks = JoinSet<anyhow::Result<()>>;

/// What the parts share.
#[derive(Clone)]
pub struct Shared {
    /// The API server.
    pub client: Client,
    /// The configuration that is in force.
    pub config: watch::Receiver<Arc<ControllerConfig>>,
    /// Whether this replica leads.
    pub leadership: watch::Receiver<Leadership>,
    /// What the webhooks know; whoever watches the cluster writes it.
    pub board: Board,
    /// Whether the parts work.
    pub readiness: Readiness,
    /// What is counted.
    pub metrics: Metrics,
    /// Everything ends.
    pub stop: CancellationToken,
    /// Whatever acts as the leader runs in here: the lease is given back when nothing of it is left.
    pub acting: TaskTracker,
    /// Where to record what was seen and decided.
    pub record: Option<PathBuf>,
}

/// Runs the controller until a signal ends it.
///
/// # Errors
/// What keeps it from running at all, or the end of one of its parts.
pub async fn run(settings: Settings, level: LevelHandle) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let stop = CancellationToken::new();
    let mut tasks = Tasks::new();
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let planner_metrics = PlannerMetrics::register(&mut registry);
    let topology_metrics =
        TopologyMetrics::register(&mut registry, planner_metrics.topology_disagreements.clone());
    let records = Records::default();
    let (config, _kept) = follow_config(&settings, &metrics, &stop, &mut tasks)?;
    let readiness = match settings.webhook {
        // Ready is who can answer; what is not known yet is gated, which is safe.
        Some(_) => Readiness::of([certificates::PART, check::PART]),
        None => Readiness::of([planner::run::PART]),
    };
    let listener = match settings.webhook {
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on --webhook-address {address}"))?,
        ),
        None => None,
    };
    // It answers until everything else has ended.
    let (mut last, last_stop) = (Tasks::new(), CancellationToken::new());
    let admin = serve_admin(&settings, registry, &readiness, level, config.clone(), records.clone()).await?;
    if let Some((listener, admin)) = admin {
        let token = last_stop.clone();
        last.spawn(async move { Ok(vnpu_telemetry::serve(listener, admin, token).await?) });
    }

    let client = tokio::select! {
        client = kubeapi::reach(settings.args.kubeconfig.as_deref()) => client,
        () = signals.next() => return Ok(()),
    };
    let campaigning = !settings.args.no_planner;
    let candidate = Candidate::new(settings.identity.clone(), settings.timing, campaigning, wall_clock());
    let (namespace, lease) = (&settings.args.namespace, &settings.args.lease_name);
    let (election, leadership) = Election::new(client.clone(), namespace, lease, candidate, metrics.clone());
    let shared = Shared {
        client,
        config,
        leadership,
        board: Board::default(),
        readiness,
        metrics,
        stop: stop.clone(),
        acting: TaskTracker::new(),
        record: settings.args.record.clone(),
    };
    spawn(&mut tasks, election.run(stop.clone(), shared.acting.clone()));
    if let Some(listener) = listener {
        serve_webhooks(&settings, &shared, listener, &mut tasks)?;
    }
    spawn(&mut tasks, topology::run::run(shared.clone(), settings.identity.clone(), topology_metrics));
    tasks.spawn(plan_apart(shared.clone(), &settings, records, planner_metrics)?);
    tracing::info!(identity = settings.identity, webhook = ?settings.webhook, campaigning, "started");

    let ended = tokio::select! {
        () = signals.next() => Ok(()),
        // Parts end only when told to; one that ends by itself takes the process with it, and it is started anew.
        ended = tasks.join_next() => died(ended),
        ended = last.join_next(), if !last.is_empty() => died(ended),
    };
    shut_down(&stop, &mut tasks, &mut signals).await;
    last_stop.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(1), last.join_next()).await;
    ended
}

fn died(ended: Option<Result<anyhow::Result<()>, tokio::task::JoinError>>) -> anyhow::Result<()> {
    match ended {
        Some(Ok(Err(error))) => Err(error),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(Ok(()))) | None => Err(anyhow::anyhow!("a part of the controller ended by itself")),
    }
}

fn spawn(tasks: &mut Tasks, part: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        part.await;
        Ok(())
    });
}

/// What holds without a file, or keeps the channel of what never changes open.
type Kept = Option<watch::Sender<Arc<ControllerConfig>>>;

fn follow_config(
    settings: &Settings,
    metrics: &Metrics,
    stop: &CancellationToken,
    tasks: &mut Tasks,
) -> anyhow::Result<(watch::Receiver<Arc<ControllerConfig>>, Kept)> {
    let Some(path) = &settings.args.config else {
        let (sender, config) = watch::channel(Arc::default());
        metrics.config.valid.set(1);
        return Ok((config, Some(sender)));
    };
    let (follower, config) = Follower::<ControllerConfig>::begin(path, metrics.config.clone())?;
    spawn(tasks, follower.run(stop.clone()));
    Ok((config, None))
}

async fn serve_admin(
    settings: &Settings,
    registry: Registry,
    readiness: &Readiness,
    level: LevelHandle,
    config: watch::Receiver<Arc<ControllerConfig>>,
    records: Records,
) -> anyhow::Result<Option<(TcpListener, Admin)>> {
    let Some(address) = settings.admin else { return Ok(None) };
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on --admin-address {address}"))?;
    let shown = move || serde_json::to_string_pretty(config.borrow().as_ref()).unwrap_or_default();
    let admin = Admin::new(Arc::new(registry), readiness.clone())
        .with_level(level)
        .with_page("config", shown)
        .with_answers("placement", move |query| records.page(query));
    Ok(Some((listener, admin)))
}

fn serve_webhooks(
    settings: &Settings,
    shared: &Shared,
    listener: TcpListener,
    tasks: &mut Tasks,
) -> anyhow::Result<()> {
    let names = settings.names();
    let name = names.server.first().cloned().unwrap_or_default();
    let address = listener.local_addr().context("the webhook server's address")?;
    let resolver = Resolver::default();
    let keeper = Keeper::new(
        shared.client.clone(),
        names,
        Arc::new(SystemTime::now),
        resolver.clone(),
        shared.readiness.clone(),
        shared.metrics.clone(),
    );
    spawn(tasks, keeper.run(shared.stop.clone()));
    let admission = Admission::new(shared.config.clone(), shared.leadership.clone(), shared.board.clone());
    let router = webhook::router(Arc::new(admission), shared.metrics.clone());
    let tls = server::tls(resolver.clone())?;
    let patience = server::Patience::default();
    spawn(tasks, server::serve(listener, tls, router, shared.metrics.clone(), patience, shared.stop.clone()));
    spawn(tasks, check::run(address, name, resolver, shared.readiness.clone(), shared.stop.clone()));
    Ok(())
}

/// Plans on a thread of its own: a burst of news or a large plan must not hold up the answers of the webhooks. The future
/// ends with that thread.
fn plan_apart(
    shared: Shared,
    settings: &Settings,
    records: Records,
    metrics: PlannerMetrics,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + use<>> {
    let (identity, kubeconfig) = (settings.identity.clone(), settings.args.kubeconfig.clone());
    let (told, ended) = tokio::sync::oneshot::channel();
    let runtime =
        tokio::runtime::Builder::new_current_thread().max_blocking_threads(2).enable_all().build()?;
    let work = move || {
        runtime.block_on(async move {
            // Connections belong to the thread that made them.
            let client = shared.stop.run_until_cancelled(kubeapi::reach(kubeconfig.as_deref())).await;
            if let Some(client) = client {
                planner::run::run(Shared { client, ..shared }, identity, records, metrics).await;
            }
        });
        let _ = told.send(());
    };
    std::thread::Builder::new()
        .name("planner".to_owned())
        .spawn(work)
        .context("cannot start the planner's thread")?;
    Ok(async move { ended.await.context("the planner's thread broke off") })
}

/// First stage: nothing is begun any more, the lease is given back, open reviews are answered. A second signal or the
/// grace period cuts them off, which is as safe as a crash.
async fn shut_down(stop: &CancellationToken, tasks: &mut Tasks, signals: &mut Signals) {
    tracing::info!("ending");
    stop.cancel();
    let ending = async { while tasks.join_next().await.is_some() {} };
    tokio::select! {
        () = ending => tracing::info!("ended"),
        () = signals.next() => tracing::warn!("ended at once, by a second signal"),
        () = tokio::time::sleep(GRACE) => tracing::warn!("ended with something running"),
    }
}
