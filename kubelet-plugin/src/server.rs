//! Serves the two sockets: DRA for as long as the plugin runs, registration bound anew whenever the kubelet
//! refused it or the socket was taken away.

use std::io;
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use vnpu_proto::dra::{v1, v1beta1};
use vnpu_proto::dra_health;
use vnpu_proto::pluginregistration::registration_server::RegistrationServer;

use crate::authority::AuthorityStream;
use crate::health_stream::HealthService;
use crate::registration::{Registered, Registration};
use crate::service::DraService;
use crate::sockets::{BoundSocket, Place, SocketError};

/// Longest pause between attempts to register after a refusal.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long an answer may take to its reader.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The gRPC server.
    #[error("the gRPC server cannot go on: {0}")]
    Transport(#[from] tonic::transport::Error),
}

impl ServeError {
    /// Whether starting again may help.
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Socket(e) => e.retryable(),
            Self::Transport(_) => true,
        }
    }

    /// Stable word.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Socket(e) => e.reason(),
            Self::Transport(_) => "grpc",
        }
    }
}

fn connections(socket: BoundSocket) -> impl Stream<Item = io::Result<AuthorityStream<UnixStream>>> {
    unfold(socket, |socket| async move { Some((accept(&socket).await, socket)) })
}

/// As [`connections`], and binds the socket again when it was removed; those who are connected stay so.
fn lasting_connections(socket: BoundSocket) -> impl Stream<Item = io::Result<AuthorityStream<UnixStream>>> {
    unfold(socket, |mut socket| async move {
        loop {
            let place = socket.place();
            tokio::select! {
                accepted = accept(&socket) => return Some((accepted, socket)),
                () = place.lost() => match BoundSocket::bind(socket.path()) {
                    Ok(again) => socket = again,
                    Err(error) => tracing::error!(%error, "the service cannot be reached; trying again"),
                },
            }
        }
    })
}

async fn accept(socket: &BoundSocket) -> io::Result<AuthorityStream<UnixStream>> {
    let accepted = socket.accept().await;
    if accepted.is_err() {
        // No descriptors left, for example: accepting again at once would only spin.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    accepted.map(AuthorityStream::new)
}

/// Serves both versions of DRA and of the devices' health on `socket` until `stop`; the socket is removed then. When it
/// is removed before, it is bound again.
///
/// # Errors
/// The server failed.
pub async fn serve_dra(
    socket: BoundSocket,
    service: DraService,
    health: HealthService,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let calls = service.calls();
    let serving = Server::builder()
        .add_service(v1::dra_plugin_server::DraPluginServer::new(service.clone()))
        .add_service(v1beta1::dra_plugin_server::DraPluginServer::new(service))
        .add_service(dra_health::v1::dra_resource_health_server::DraResourceHealthServer::new(health.clone()))
        .add_service(dra_health::v1alpha1::dra_resource_health_server::DraResourceHealthServer::new(health))
        .serve_with_incoming_shutdown(lasting_connections(socket), stop.clone().cancelled_owned());
    tokio::select! {
        served = serving => Ok(served?),
        () = answered(&calls, &stop) => {
            tracing::warn!("a watch on the devices' health is not read to its end");
            Ok(())
        }
    }
}

/// Waits until `stop`, and then until every call has been answered for some time. A watch whose reader stands still
/// does not see its own end, and is not waited for.
async fn answered(calls: &TaskTracker, stop: &CancellationToken) {
    stop.cancelled().await;
    calls.close();
    loop {
        calls.wait().await;
        tokio::time::sleep(LAST_WORDS).await;
        if calls.is_empty() {
            return;
        }
    }
}

/// Serves registration on `first`, and on new sockets at its path as often as needed, until `stop`.
///
/// # Errors
/// The server failed, or a socket could not be bound again.
pub async fn serve_registration(
    first: BoundSocket,
    endpoint: &str,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let path = first.path().to_owned();
    let mut socket = Some(first);
    let mut pause = Duration::from_secs(1);
    loop {
        let bound = match socket.take() {
            Some(socket) => socket,
            None => BoundSocket::bind(&path)?,
        };
        let (registration, changes) = Registration::new(endpoint.to_owned());
        let (round, place) = (stop.child_token(), bound.place());
        let serving = Server::builder()
            .add_service(RegistrationServer::new(registration))
            .serve_with_incoming_shutdown(connections(bound), round.clone().cancelled_owned());
        let watching = async {
            let refused = needs_new_socket(&place, changes).await;
            round.cancel();
            refused
        };
        let (served, refused) = tokio::join!(serving, async { stop.run_until_cancelled(watching).await });
        served?;
        match refused {
            None => return Ok(()),
            Some(true) => {
                // The kubelet looks at a socket once; a new one makes it ask again.
                if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    return Ok(());
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Some(false) => pause = Duration::from_secs(1),
        }
    }
}

/// Waits until the registration was refused (`true`) or the socket vanished (`false`).
async fn needs_new_socket(place: &Place, mut changes: tokio::sync::watch::Receiver<Registered>) -> bool {
    loop {
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                if matches!(*changes.borrow(), Registered::Refused(_)) {
                    return true;
                }
            }
            () = place.lost() => return false,
        }
    }
}
