//! The admin HTTP server: `/livez`, `/readyz`, `/metrics`, and pages for people under `/debug/`. It serves
//! what it is given and decides nothing; it is meant for the node's own network, not for tenants.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, put};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::doors::{Doors, Peer};
use crate::logging::LevelHandle;
use crate::readiness::Readiness;

/// Makes a page from the request's query, the text behind `?`; empty without one.
type Page = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// What the server shows.
#[derive(Clone)]
pub struct Admin {
    registry: Arc<Registry>,
    readiness: Readiness,
    level: Option<LevelHandle>,
    pages: BTreeMap<&'static str, Page>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("pages", &self.pages.keys()).finish_non_exhaustive()
    }
}

impl Admin {
    /// Shows these metrics and this readiness.
    pub fn new(registry: Arc<Registry>, readiness: Readiness) -> Self {
        Self { registry, readiness, level: None, pages: BTreeMap::new() }
    }

    /// Lets `PUT /debug/log` change the log filter, from the daemon's own address only, and `GET` show it.
    #[must_use]
    pub fn with_level(mut self, level: LevelHandle) -> Self {
        self.level = Some(level);
        self
    }

    /// Adds `GET /debug/<name>`, made afresh at every request; the text is JSON.
    #[must_use]
    pub fn with_page(
        mut self,
        name: &'static str,
        page: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        self.pages.insert(name, Arc::new(move |_| page()));
        self
    }

    /// Adds `GET /debug/<name>?<query>`: a page that answers a question. The query comes as it was written.
    #[must_use]
    pub fn with_answers(
        mut self,
        name: &'static str,
        page: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Self {
        self.pages.insert(name, Arc::new(page));
        self
    }

    fn router(self) -> Router {
        Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/debug", get(index))
            .route("/debug/log", get(level))
            .route("/debug/log", put(set_level))
            .route("/debug/{page}", get(page))
            .with_state(Arc::new(self))
    }
}

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The socket failed.
    #[error("the admin server cannot go on: {0}; check --admin-address")]
    Io(#[from] io::Error),
}

impl AdminError {
    /// Whether starting again may help.
    pub const fn retryable(&self) -> bool {
        true
    }

    /// A stable low-cardinality word.
    pub const fn reason(&self) -> &'static str {
        "admin_io"
    }
}

/// Serves on `listener` until `stop` is cancelled, then lets open requests end. Connections are few per address
/// and short.
///
/// # Errors
/// The socket failed.
pub async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) -> Result<(), AdminError> {
    let service = admin.router().into_make_service_with_connect_info::<Peer>();
    axum::serve(Doors::new(listener), service).with_graceful_shutdown(stop.cancelled_owned()).await?;
    Ok(())
}

async fn readyz(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let code = if admin.readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, admin.readiness.report())
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &admin.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn index(State(admin): State<Arc<Admin>>) -> String {
    let mut text = String::from("/debug/log\n");
    for name in admin.pages.keys() {
        text.push_str("/debug/");
        text.push_str(name);
        text.push('\n');
    }
    text
}

async fn page(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> impl IntoResponse {
    let json = [(header::CONTENT_TYPE, "application/json")];
    match admin.pages.get(name.as_str()) {
        Some(page) => (StatusCode::OK, json, page(query.as_deref().unwrap_or_default())).into_response(),
        None => (StatusCode::NOT_FOUND, "no such page; GET /debug lists them\n").into_response(),
    }
}

async fn level(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    match &admin.level {
        Some(level) => (StatusCode::OK, format!("{}\n", level.current())),
        None => (StatusCode::NOT_FOUND, "logging is not managed here\n".to_owned()),
    }
}

/// Nobody's pods may silence or flood the log.
async fn set_level(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    filter: String,
) -> impl IntoResponse {
    if !peer.at_home {
        let text =
            "the log filter is changed from the daemon's own address only, with kubectl exec for example\n";
        return (StatusCode::FORBIDDEN, text.to_owned());
    }
    match admin.level.as_ref().map(|level| level.set(filter.trim())) {
        Some(Ok(())) => (StatusCode::OK, "ok\n".to_owned()),
        Some(Err(error)) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
        None => (StatusCode::NOT_FOUND, "logging is not managed here\n".to_owned()),
    }
}
