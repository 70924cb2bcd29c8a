//! The DRA service, v1 and v1beta1, over one implementation: batches become single claims that run side by
//! side, every requested claim gets an entry, and a claim's error is its own.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::SetOnce;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use vnpu_driver::prepare::PreparePlan;
use vnpu_proto::dra::{v1, v1beta1};

use crate::error::OperationError;
use crate::materials::cdi_id;
use crate::node::{DEADLINE, Node};
use crate::prepare::{ClaimName, prepare};
use crate::unprepare::unprepare;

const PREPARE: &str = "prepare";
const UNPREPARE: &str = "unprepare";

/// Serves the kubelet's calls once the node is set; until then they wait, within their deadline.
#[derive(Clone)]
pub struct DraService {
    node: Arc<SetOnce<Arc<Node>>>,
    calls: TaskTracker,
}

impl DraService {
    /// A service that works with what is put into `node`.
    pub fn new(node: Arc<SetOnce<Arc<Node>>>) -> Self {
        Self { node, calls: TaskTracker::new() }
    }

    /// The calls that wait for their answer; to be waited for at the end.
    pub fn calls(&self) -> TaskTracker {
        self.calls.clone()
    }

    /// Runs one operation per claim, side by side, each within the deadline. The work itself is not cut off: a
    /// kubelet that gave up asks again and then finds the result.
    async fn each<T, F>(
        &self,
        operation: &'static str,
        claims: Vec<ClaimName>,
        run: impl Fn(Arc<Node>, ClaimName) -> F,
    ) -> Vec<(String, Result<T, OperationError>)>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, OperationError>> + Send + 'static,
    {
        let _call = self.calls.token();
        let running = claims.into_iter().map(|claim| {
            let uid = claim.uid.clone();
            let one = self.one(operation, claim, &run);
            async move { (uid, one.await) }
        });
        futures::future::join_all(running).await
    }

    async fn one<T, F>(
        &self,
        operation: &'static str,
        claim: ClaimName,
        run: impl Fn(Arc<Node>, ClaimName) -> F,
    ) -> Result<T, OperationError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, OperationError>> + Send + 'static,
    {
        let begun = Instant::now();
        let name = claim.clone();
        let result = timeout(DEADLINE, async {
            let node = Arc::clone(self.node.wait().await);
            let work = run(Arc::clone(&node), claim);
            let task = Arc::clone(&node);
            let running = node.tasks.spawn(async move {
                // Giving back never waits for the turn of a Prepare: it needs no API server, a Prepare does.
                let limit = if operation == UNPREPARE { &task.unprepare_limit } else { &task.limit };
                let _turn = limit.acquire().await;
                // Nobody waits for this call any more, and a later one may have settled the claim otherwise.
                if begun.elapsed() >= DEADLINE {
                    return Err(OperationError::Deadline(DEADLINE));
                }
                work.await
            });
            running.await.unwrap_or(Err(OperationError::Internal))
        })
        .await
        .unwrap_or(Err(OperationError::Deadline(DEADLINE)));
        let took = begun.elapsed();
        let reason = result.as_ref().map_or_else(OperationError::reason, |_| "ok");
        if let Some(node) = self.node.get() {
            node.metrics.count(operation, reason, took);
        }
        match &result {
            Ok(_) => {
                tracing::info!(operation, claim = %format_args!("{}/{}", name.namespace, name.name), uid = %name.uid, ?took, "done");
            }
            Err(error) => {
                tracing::warn!(operation, claim = %format_args!("{}/{}", name.namespace, name.name), uid = %name.uid, ?took, reason, %error, "failed");
            }
        }
        result
    }

    async fn prepare_all(
        &self,
        claims: Vec<ClaimName>,
    ) -> Vec<(String, Result<PreparePlan, OperationError>)> {
        self.each(PREPARE, claims, |node, claim| async move { prepare(&node, &claim).await }).await
    }

    async fn unprepare_all(&self, claims: Vec<ClaimName>) -> Vec<(String, Result<(), OperationError>)> {
        self.each(UNPREPARE, claims, |node, claim| async move { unprepare(&node, &claim).await }).await
    }
}

/// The two versions differ in their types' module and in one field.
macro_rules! serve {
    ($version:ident, $device:expr) => {
        #[tonic::async_trait]
        impl $version::dra_plugin_server::DraPlugin for DraService {
            async fn node_prepare_resources(
                &self,
                request: Request<$version::NodePrepareResourcesRequest>,
            ) -> Result<Response<$version::NodePrepareResourcesResponse>, Status> {
                let claims = request.into_inner().claims.into_iter().map(|c| ClaimName {
                    namespace: c.namespace,
                    name: c.name,
                    uid: c.uid,
                });
                let results = self.prepare_all(claims.collect()).await;
                let claims = results.into_iter().map(|(uid, result)| {
                    let response = match result {
                        Ok(plan) => $version::NodePrepareResourceResponse {
                            devices: plan.results.iter().map($device).collect(),
                            error: String::new(),
                        },
                        Err(error) => $version::NodePrepareResourceResponse {
                            devices: Vec::new(),
                            error: error.for_kubelet(),
                        },
                    };
                    (uid, response)
                });
                Ok(Response::new($version::NodePrepareResourcesResponse { claims: claims.collect() }))
            }

            async fn node_unprepare_resources(
                &self,
                request: Request<$version::NodeUnprepareResourcesRequest>,
            ) -> Result<Response<$version::NodeUnprepareResourcesResponse>, Status> {
                let claims = request.into_inner().claims.into_iter().map(|c| ClaimName {
                    namespace: c.namespace,
                    name: c.name,
                    uid: c.uid,
                });
                let results = self.unprepare_all(claims.collect()).await;
                let claims = results.into_iter().map(|(uid, result)| {
                    let error = result.err().map(|e| e.for_kubelet()).unwrap_or_default();
                    (uid, $version::NodeUnprepareResourceResponse { error })
                });
                Ok(Response::new($version::NodeUnprepareResourcesResponse { claims: claims.collect() }))
            }
        }
    };
}

serve!(v1, |result| v1::Device {
    request_names: vec![result.request.to_string()],
    pool_name: result.pool.to_string(),
    device_name: result.device.to_string(),
    cdi_device_ids: vec![cdi_id(result)],
    share_id: result.share_id.clone(),
});

serve!(v1beta1, |result| v1beta1::Device {
    request_names: vec![result.request.to_string()],
    pool_name: result.pool.to_string(),
    device_name: result.device.to_string(),
    cdi_device_ids: vec![cdi_id(result)],
});
