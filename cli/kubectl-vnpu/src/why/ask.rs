//! Asking the controller for what it decided about a pod. Both replicas run, and only the leader knows: its pod is found
//! by the Lease; where that is not allowed, the Service is asked until a replica knows.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use serde::Serialize;
use serde_json::Value;
use vnpu_placement::Decision;

use crate::cluster::{ClusterError, answer};

/// The controller's Service and Lease.
const NAME: &str = "vnpu-controller";
/// The port of its admin server, by name and, where a pod does not say, by number.
const PORT: &str = "admin";
const PORT_NUMBER: i32 = 8091;
/// The Service answers from any replica: the chance that each of so many answers came from the one that does not lead
/// is below one in a hundred thousand, with two replicas.
const TRIES: usize = 17;

/// Where the controller is.
pub(super) enum Controller {
    /// At an address.
    Direct(Client),
    /// Behind the API server.
    Proxied {
        /// The API server.
        client: Client,
        /// The controller's namespace.
        namespace: String,
    },
}

/// What the controller knows.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase", tag = "answer")]
pub(super) enum Answer {
    /// It knows the pod's batch.
    Known(Box<Told>),
    /// It knows nothing of the pod.
    Unknown,
    /// It could not be asked.
    #[serde(rename_all = "camelCase")]
    Unreachable {
        /// Why.
        problem: String,
    },
}

/// What is told of a batch (`/debug/placement`).
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Told {
    /// As it came.
    pub(super) placement: Value,
    /// The decision with its record; `None` where the controller is of a version whose decisions look otherwise.
    #[serde(skip)]
    pub(super) decision: Option<Decision>,
    /// The record as text.
    #[serde(skip)]
    pub(super) text: String,
    /// What happened since, oldest first.
    #[serde(skip)]
    pub(super) events: Vec<String>,
}

impl Told {
    /// Reads one element of the page.
    pub(super) fn read(placement: Value) -> Self {
        let events = placement.get("events").and_then(Value::as_array);
        let events = events.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let decision = placement.get("decision").cloned();
        Self {
            decision: decision.and_then(|decision| serde_json::from_value(decision).ok()),
            text: placement.get("text").and_then(Value::as_str).unwrap_or_default().to_owned(),
            events,
            placement,
        }
    }
}

impl Controller {
    /// Asks for a pod.
    pub(super) async fn ask(&self, namespace: &str, pod: &str) -> Answer {
        let page = format!("debug/placement?pod={namespace}%2F{pod}");
        let told = match self {
            Self::Direct(client) => get(client, &format!("/{page}")).await,
            Self::Proxied { client, namespace } => ask_through(client, namespace, &page).await,
        };
        match told {
            Ok(Some(told)) => Answer::Known(Box::new(told)),
            Ok(None) => Answer::Unknown,
            Err(error) => Answer::Unreachable { problem: error.to_string() },
        }
    }
}

async fn ask_through(client: &Client, namespace: &str, page: &str) -> Result<Option<Told>, ClusterError> {
    let problem = match leader(client, namespace).await {
        Ok(Some((pod, port))) => {
            let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{page}");
            match get(client, &path).await {
                Ok(told) => return Ok(told),
                Err(error) => Some(error),
            }
        }
        Ok(None) => None,
        Err(error) => Some(error),
    };
    let path = format!("/api/v1/namespaces/{namespace}/services/{NAME}:{PORT}/proxy/{page}");
    for _ in 0..TRIES {
        match get(client, &path).await {
            Ok(None) => {}
            Ok(told) => return Ok(told),
            // The first way is the one that is meant to work.
            Err(error) => return Err(problem.unwrap_or(error)),
        }
    }
    Ok(None)
}

/// The leader's pod and the port of its admin server; `None` when nobody leads.
async fn leader(client: &Client, namespace: &str) -> Result<Option<(String, i32)>, ClusterError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let lease = answer("find the leading controller by its Lease", leases.get_opt(NAME)).await?;
    let holder = lease.and_then(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty());
    let Some(holder) = holder else { return Ok(None) };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let Some(pod) = answer("find the leading controller's pod", pods.get_opt(&holder)).await? else {
        return Ok(None);
    };
    let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
    let ports = containers.into_iter().flat_map(|container| container.ports.unwrap_or_default());
    let port = ports.filter(|port| port.name.as_deref() == Some(PORT)).map(|port| port.container_port).next();
    Ok(Some((holder, port.unwrap_or(PORT_NUMBER))))
}

/// The page: a list of batches, of which a pod is in one at most.
async fn get(client: &Client, path: &str) -> Result<Option<Told>, ClusterError> {
    const WHAT: &str = "ask the controller";
    let wrong = |message: String| ClusterError::Call { code: None, what: WHAT.to_owned(), message, hint: "" };
    let request = http::Request::get(path).body(Vec::new()).map_err(|e| wrong(e.to_string()))?;
    let page = answer(WHAT, client.request_text(request)).await?;
    let batches: Vec<Value> = serde_json::from_str(&page)
        .map_err(|e| wrong(format!("its answer is not what it should be: {e}")))?;
    Ok(batches.into_iter().next().map(Told::read))
}
