//! Puts the parts together: sockets first, then hardware, API client and checkpoint side by side, then the loops;
//! and takes them down in two stages when asked to end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::sync::{SetOnce, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vnpu_daemon::{Signals, kubeapi};
use vnpu_telemetry::{Admin, LevelHandle, Readiness};

use crate::audit::{self, Audits};
use crate::checkpoint::{Presence, Store};
use crate::config::Settings;
use crate::discover::{self, Discover, Progress};
use crate::events::Events;
use crate::hardware::{Inventories, Seen};
use crate::health::HealthJudge;
use crate::health_stream::HealthService;
use crate::keyed::KeyedLocks;
use crate::live::{self, Live};
use crate::materials::Materials;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::service::DraService;
use crate::sockets::{BoundSocket, SocketPaths, remove_dead};
use crate::vendors::Vendors;
use crate::{devices, health, publisher, reconcile, regions, server};

/// How long operations may go on after the first signal: pods get 30 s to end.
const GRACE: Duration = Duration::from_secs(20);

/// Runs the plugin until a signal ends it.
///
/// # Errors
/// What keeps it from running at all: sockets, the state directory, a checkpoint of a newer version.
pub async fn run(settings: Settings, level: LevelHandle) -> anyhow::Result<()> {
    // Before there is a socket: a signal that comes early must not leave one behind.
    let mut signals = Signals::new()?;
    let stop = CancellationToken::new();
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let place: Arc<SetOnce<Arc<Node>>> = Arc::default();
    let readiness = Readiness::of(["checkpoint", "discovery", "slices"]);

    let paths = SocketPaths::new(
        &settings.args.kubelet_registry_dir,
        &settings.args.kubelet_plugins_dir,
        settings.args.pod_uid.as_deref(),
    );
    serve_sockets(&paths, &place, &stop, &mut tasks)?;
    remove_dead(&paths).await;

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    serve_admin(&settings, registry, &readiness, level, &place, &stop, &mut tasks).await?;

    let vendors = Vendors::from_settings(&settings).context("the node's name")?;
    let (seen, seen_by_all) = watch::channel(Arc::new(Inventories::pending(&vendors)));
    let health = Arc::new(HealthJudge::new(settings.health_policy()));
    let progress = Progress::new(readiness.clone(), &vendors);
    for source in vendors.iter() {
        let discover = Discover {
            source: source.clone(),
            seen: seen.clone(),
            health: Arc::clone(&health),
            metrics: metrics.clone(),
            progress: progress.clone(),
        };
        let (period, token) = (settings.discovery_period(), stop.clone());
        tasks.spawn(async move {
            discover::run(discover, period, token).await;
            Ok(())
        });
    }
    let (judging, token) = (Arc::clone(&health), stop.clone());
    tasks.spawn(async move {
        health::run(judging, seen, token).await;
        Ok(())
    });
    let client: Arc<SetOnce<Client>> = Arc::default();
    let (connecting, kubeconfig, token) =
        (Arc::clone(&client), settings.args.kubeconfig.clone(), stop.clone());
    tasks.spawn(async move {
        if let Some(client) = token.run_until_cancelled(kubeapi::reach(kubeconfig.as_deref())).await {
            let _ = connecting.set(client);
            // A task that ends is a part that died; this one has done its work.
            token.cancelled().await;
        }
        Ok(())
    });

    let opening = open_node(&settings, vendors.clone(), (seen_by_all, health), client, metrics, &readiness);
    let opened = tokio::select! {
        opened = opening => Some(opened?),
        () = signals.next() => None,
    };
    let Some((node, _presence)) = opened else {
        stop.cancel();
        return Ok(());
    };
    // Before the first call can write a CDI file.
    reconcile::remove_temporaries(&node).await?;
    let _ = place.set(Arc::clone(&node));
    start_loops(&settings, &node, vendors, &readiness, &stop, &mut tasks);

    let ended = tokio::select! {
        () = signals.next() => Ok(()),
        () = node.store.broken() => Err(anyhow::anyhow!("the checkpoint's disk failed, and what it holds is not known")),
        // Loops end only when told to; one that ends by itself takes the process with it, and it is started anew.
        ended = tasks.join_next() => match ended {
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(Ok(()))) | None => Err(anyhow::anyhow!("a part of the plugin ended by itself")),
        },
    };
    shut_down(&node, &stop, &mut tasks, &mut signals).await;
    ended
}

fn serve_sockets(
    paths: &SocketPaths,
    place: &Arc<SetOnce<Arc<Node>>>,
    stop: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let endpoint = paths.service.to_str().context("the service socket's path is not valid UTF-8")?.to_owned();
    // The service before the registration: the kubelet connects as soon as it has registered.
    let service = BoundSocket::bind(&paths.service)?;
    let registration = BoundSocket::bind(&paths.registration)?;
    tracing::info!(registration = %paths.registration.display(), service = %paths.service.display(), "sockets are open");
    let health = HealthService::new(Arc::clone(place), stop.clone());
    let (dra, token) = (DraService::new(Arc::clone(place)), stop.clone());
    tasks.spawn(async move { Ok(server::serve_dra(service, dra, health, token).await?) });
    let token = stop.clone();
    tasks.spawn(async move { Ok(server::serve_registration(registration, &endpoint, token).await?) });
    Ok(())
}

async fn serve_admin(
    settings: &Settings,
    registry: Registry,
    readiness: &Readiness,
    level: LevelHandle,
    place: &Arc<SetOnce<Arc<Node>>>,
    stop: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let Some(address) = settings.admin else { return Ok(()) };
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on --admin-address {address}"))?;
    let shown = Arc::clone(place);
    let admin = Admin::new(Arc::new(registry), readiness.clone())
        .with_level(level)
        .with_page("claims", move || claims_page(&shown));
    let token = stop.clone();
    tasks.spawn(async move { Ok(vnpu_telemetry::serve(listener, admin, token).await?) });
    Ok(())
}

/// What the checkpoint says, for people.
fn claims_page(place: &SetOnce<Arc<Node>>) -> String {
    use vnpu_driver::record::ClaimState;
    let Some(node) = place.get() else { return "[]".to_owned() };
    let claims = node.store.look(|state| {
        let claims = state.states().map(|(uid, state)| {
            let word = match state {
                ClaimState::PrepareStarted(_) => "PrepareStarted",
                ClaimState::PrepareCompleted(_) => "PrepareCompleted",
                ClaimState::UnprepareStarted(_) => "UnprepareStarted",
                ClaimState::Unprepared(_) => "Unprepared",
            };
            serde_json::json!({ "uid": uid, "state": word, "plan": state.plan() })
        });
        claims.collect::<Vec<_>>()
    });
    serde_json::Value::from(claims).to_string()
}

async fn open_node(
    settings: &Settings,
    vendors: Vendors,
    (seen, health): (Seen, Arc<HealthJudge>),
    client: Arc<SetOnce<Client>>,
    metrics: Metrics,
    readiness: &Readiness,
) -> anyhow::Result<(Arc<Node>, Presence)> {
    let args = &settings.args;
    std::fs::create_dir_all(&args.state_dir)
        .with_context(|| format!("cannot make --state-dir {}", args.state_dir.display()))?;
    let presence = Presence::take(&args.state_dir).await?;
    let (store, repairs) = Store::open(&args.state_dir).await?;
    if let Some(aside) = &repairs.quarantined {
        tracing::error!(kept = %aside.display(), "the checkpoint was damaged: what was whole is taken over, the rest comes from CDI files and the API server");
    }
    if repairs.truncated > 0 {
        tracing::warn!(
            bytes = repairs.truncated,
            "the end of the checkpoint was cut off by a crash and is dropped"
        );
    }
    readiness.ready("checkpoint");
    let tasks = TaskTracker::new();
    let concurrency = settings.concurrency();
    let node = Node {
        name: settings.node.clone(),
        store,
        materials: Arc::new(Materials::new(&args.cdi_dir, &args.runtime_dir, &args.interposer_dir, vendors)),
        events: Events::new(settings.node.clone(), Arc::clone(&client), tasks.clone()),
        client,
        seen,
        health,
        metrics,
        audits: Audits::default(),
        live: Live::default(),
        locks: KeyedLocks::default(),
        limit: tokio::sync::Semaphore::new(concurrency),
        unprepare_limit: tokio::sync::Semaphore::new(concurrency),
        tasks,
        changed: Arc::default(),
    };
    Ok((Arc::new(node), presence))
}

fn start_loops(
    settings: &Settings,
    node: &Arc<Node>,
    vendors: Vendors,
    readiness: &Readiness,
    stop: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) {
    let (worker, token) = (Arc::clone(node), stop.clone());
    tasks.spawn(async move {
        devices::run(worker, vendors, devices::PERIOD, token).await;
        Ok(())
    });
    let (worker, token, ready) = (Arc::clone(node), stop.clone(), readiness.clone());
    tasks.spawn(async move {
        publisher::run(worker, ready, token).await;
        Ok(())
    });
    let (worker, token) = (Arc::clone(node), stop.clone());
    tasks.spawn(async move {
        health::tell(worker, token).await;
        Ok(())
    });
    let (worker, token, period) = (Arc::clone(node), stop.clone(), settings.reconcile_period());
    tasks.spawn(async move {
        reconcile::run(worker, period, token).await;
        Ok(())
    });
    let (worker, token) = (Arc::clone(node), stop.clone());
    tasks.spawn(async move {
        live::run(worker, token).await;
        Ok(())
    });
    let (worker, token) = (Arc::clone(node), stop.clone());
    let (period, limits) = (settings.agent_period(), settings.limits());
    tasks.spawn(async move {
        audit::run(worker, period, limits, token).await;
        Ok(())
    });
    let (worker, token, period) = (Arc::clone(node), stop.clone(), settings.agent_period());
    tasks.spawn(async move {
        regions::run(worker, period, token).await;
        Ok(())
    });
}

/// First stage: no new calls, sockets away, running operations end. A second signal or the grace period cuts them
/// off, which is as safe as a crash.
async fn shut_down(
    node: &Arc<Node>,
    stop: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    signals: &mut Signals,
) {
    tracing::info!("ending");
    stop.cancel();
    node.tasks.close();
    let ending = async {
        while tasks.join_next().await.is_some() {}
        node.tasks.wait().await;
    };
    tokio::select! {
        () = ending => tracing::info!("ended"),
        () = signals.next() => tracing::warn!("ended at once, by a second signal"),
        () = tokio::time::sleep(GRACE) => tracing::warn!("ended with operations running"),
    }
}
