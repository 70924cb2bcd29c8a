//! The webhooks: `/claims` (claims and templates) and `/pods`, as API servers call them. Requests are read, counted and
//! answered here; what the answers say is decided by a [`Reviewer`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use http::{StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes};
use serde_json::Value;
use tokio::sync::Semaphore;

pub mod admission;
pub mod check;
pub mod guests;
pub mod lookup;
pub mod review;
pub mod server;

pub use review::{Decision, Review, ReviewError, Verdict};

use crate::metrics::{Metrics, Reviewed};

/// A body beyond this is refused: API servers take requests of 3 MiB at most.
pub const LARGEST: usize = 3 << 20;
/// Bodies that are read at the same time have so many bytes together at most.
const IN_ALL: usize = 32 << 20;
/// A body that takes longer is given up; API servers wait 2 s (`timeoutSeconds` in the webhook configurations).
const SLOWEST: Duration = Duration::from_secs(2);

/// Decides about objects. It neither waits nor asks anybody: what it needs to know it has at hand.
pub trait Reviewer: Send + Sync + 'static {
    /// About a claim, a template or a pod; `request` is the `request` of an AdmissionReview.
    fn review(&self, request: &Value) -> Verdict;
}

/// Allows everything: for measuring what the rest costs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Indifferent;

impl Reviewer for Indifferent {
    fn review(&self, _request: &Value) -> Verdict {
        Verdict::allowed()
    }
}

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Claim,
    Pod,
}

impl Subject {
    const fn name(self) -> &'static str {
        match self {
            Self::Claim => "claims",
            Self::Pod => "pods",
        }
    }
}

/// Why a request got no verdict.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Review(#[from] ReviewError),
    #[error("the body has more than {LARGEST} bytes")]
    Large,
    #[error("the body ended early: {0}")]
    Broken(String),
    #[error("the body did not come within {SLOWEST:?}")]
    Slow,
    #[error("the reviewer failed: please report this with the controller's log")]
    Defect,
}

impl Failure {
    const fn reason(&self) -> &'static str {
        match self {
            Self::Review(error) => error.reason(),
            Self::Large => "body_too_large",
            Self::Broken(_) => "body_broken",
            Self::Slow => "body_slow",
            Self::Defect => "defect",
        }
    }

    const fn code(&self) -> StatusCode {
        match self {
            Self::Review(_) | Self::Broken(_) => StatusCode::BAD_REQUEST,
            Self::Large => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Defect => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

struct Desk {
    reviewer: Arc<dyn Reviewer>,
    metrics: Metrics,
    /// In KiB.
    room: Semaphore,
}

/// Answers with what `reviewer` decides.
pub fn router(reviewer: Arc<dyn Reviewer>, metrics: Metrics) -> Router {
    let desk = Desk { reviewer, metrics, room: Semaphore::new(IN_ALL / 1024) };
    let claims = |State(desk): State<Arc<Desk>>, request: Request| async move {
        desk.serve(Subject::Claim, request).await
    };
    let pods = |State(desk): State<Arc<Desk>>, request: Request| async move {
        desk.serve(Subject::Pod, request).await
    };
    Router::new()
        .route("/claims", post(claims))
        .route("/pods", post(pods))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(Arc::new(desk))
}

impl Desk {
    async fn serve(&self, subject: Subject, request: Request) -> Response {
        let started = Instant::now();
        let (response, outcome, reason) = match self.review(request.into_body()).await {
            Ok((answer, outcome, reason)) => {
                let response = ([(header::CONTENT_TYPE, "application/json")], answer).into_response();
                (response, outcome, reason)
            }
            Err(failure) => {
                let reason = failure.reason();
                tracing::warn!(webhook = subject.name(), error = %failure, reason, "a review that got no verdict");
                ((failure.code(), format!("{failure} [{reason}]\n")).into_response(), "failed", reason)
            }
        };
        let reviewed = Reviewed { webhook: subject.name(), outcome, reason };
        self.metrics.count_review(reviewed, started.elapsed());
        response
    }

    async fn review(&self, body: Body) -> Result<(Vec<u8>, &'static str, &'static str), Failure> {
        let body = tokio::time::timeout(SLOWEST, self.read(body)).await.map_err(|_| Failure::Slow)??;
        // Without waiting from here on: one document at a time is in memory, whatever is sent.
        let review = Review::read(&body)?;
        let decide = AssertUnwindSafe(|| self.reviewer.review(review.request()));
        // One object that the reviewer cannot stand must not cost others their connection.
        let verdict = catch_unwind(decide).map_err(|_| Failure::Defect)?;
        let answer = review.answer(&verdict).map_err(ReviewError::from)?;
        Ok((answer, verdict.decision.outcome(), verdict.reason))
    }

    async fn read(&self, body: Body) -> Result<Bytes, Failure> {
        // What it says it has, or as much as it may have.
        let most = body.size_hint().upper().and_then(|n| usize::try_from(n).ok()).unwrap_or(LARGEST);
        if most > LARGEST {
            return Err(Failure::Large);
        }
        let room = u32::try_from(most / 1024 + 1).unwrap_or(u32::MAX);
        let _room = self.room.acquire_many(room).await.map_err(|_| Failure::Slow)?;
        match Limited::new(body, LARGEST).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Failure::Large),
            Err(error) => Err(Failure::Broken(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
