//! The devices' health as the kubelet is told it, for the status of the pods that use them: v1 and v1alpha1 over one
//! implementation. It needs no API server. How a device is comes from `driver`.
//!
//! What the kubelet does with it (Kubernetes 1.37, `pkg/kubelet/cm/dra`): it watches every instance that is registered,
//! into one memory per driver, and forgets all of that when any of the streams ends; another instance's next message
//! fills it again. A stream that ended is opened anew after 5 s. What was not heard again for
//! `health_check_timeout_seconds` counts as unknown.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, unfold};
use futures::{Stream, StreamExt as _};
use tokio::sync::{SetOnce, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use vnpu_driver::device_health::{
    DeviceHealth, DeviceState, PoolInput, chip_health, device_health, published_devices, unknown_chips,
};
use vnpu_driver::prepare::NodePool;
use vnpu_proto::dra_health::{v1, v1alpha1};

use crate::hardware::{Inventories, Seen};
use crate::node::Node;

/// What did not change is told again after so long: a third of [`BELIEVED`].
pub const AGAIN: Duration = Duration::from_secs(10);
/// For so long the kubelet believes what it was told; also what it takes when it is not told.
pub const BELIEVED: Duration = Duration::from_secs(30);
/// For so long the first message waits for vendors that were not looked at yet. The kubelet waits for ever; those who
/// look at a pod's status should not.
pub const FIRST: Duration = Duration::from_secs(5);

/// Serves the kubelet's watches on the devices' health, each until the plugin stops.
#[derive(Clone)]
pub struct HealthService {
    node: Arc<SetOnce<Arc<Node>>>,
    stop: CancellationToken,
}

impl HealthService {
    /// A service that tells of what is put into `node`, until `stop`.
    pub fn new(node: Arc<SetOnce<Arc<Node>>>, stop: CancellationToken) -> Self {
        Self { node, stop }
    }

    /// The lists to send, each made when the connection takes one: a slow reader finds what is under way already, and
    /// then the newest; those between are never made.
    fn watch(&self, version: &'static str) -> impl Stream<Item = Vec<DeviceHealth>> + Send + 'static {
        tracing::info!(version, "the devices' health is watched");
        let place = Arc::clone(&self.node);
        let lists = unfold(None, move |watching: Option<Watching>| {
            let place = Arc::clone(&place);
            async move {
                let mut watching = match watching {
                    Some(watching) => watching,
                    None => Watching::begin(place.wait().await),
                };
                let list = watching.next().await;
                Some((list, Some(watching)))
            }
        });
        lists.take_until(self.stop.clone().cancelled_owned())
    }
}

/// One stream.
struct Watching {
    node: Arc<Node>,
    seen: Seen,
    held: watch::Receiver<()>,
    told: Option<Vec<DeviceHealth>>,
    /// When something is told whether or not it is news.
    due: Instant,
}

impl Watching {
    fn begin(node: &Arc<Node>) -> Self {
        Self {
            seen: node.seen.clone(),
            held: node.changed.subscribe(),
            node: Arc::clone(node),
            told: None,
            due: Instant::now() + FIRST,
        }
    }

    /// The next list, once there is one to tell.
    async fn next(&mut self) -> Vec<DeviceHealth> {
        loop {
            // Before the look, so that what changes during it is another change.
            let seen = Arc::clone(&self.seen.borrow_and_update());
            self.held.mark_unchanged();
            let list = all_devices(&self.node, &seen);
            let news = match &self.told {
                None => seen.settled(),
                Some(told) => *told != list,
            };
            if news || Instant::now() >= self.due {
                self.due = Instant::now() + AGAIN;
                self.told = Some(list.clone());
                return list;
            }
            tokio::select! {
                () = tokio::time::sleep_until(self.due) => {}
                Ok(()) = self.seen.changed() => {}
                Ok(()) = self.held.changed() => {}
            }
        }
    }
}

/// Every published device of every vendor, and what claims hold of those of which nothing is known.
fn all_devices(node: &Node, seen: &Inventories) -> Vec<DeviceHealth> {
    let known: Vec<NodePool<'_>> = seen.node_pools().into_iter().chain(seen.absent_pools()).collect();
    let published = known.iter().flat_map(|known| published(node, seen, known));
    let unknown = node.in_use().into_iter().filter(|(pool, _)| !known.iter().any(|known| known.pool == pool));
    let held = unknown.flat_map(|(pool, devices)| {
        let why = seen.doubt(pool.as_str()).unwrap_or("nothing is known of it");
        let chips = unknown_chips(devices.iter().copied(), why);
        device_health(&pool, devices, &chips)
    });
    published.chain(held).collect()
}

fn published(node: &Node, seen: &Inventories, known: &NodePool<'_>) -> Vec<DeviceHealth> {
    let NodePool { pool, inventory } = *known;
    let (in_use, vanished) = node.held(pool, inventory);
    let input = PoolInput { node: &node.name, inventory, in_use: &in_use, vanished: &vanished };
    // The pool's name was made of the node's before.
    let devices = published_devices(&input).unwrap_or_default();
    device_health(pool, devices, &chip_health(inventory, &vanished, seen.doubt(pool.as_str())))
}

/// The two versions differ in their types' module alone.
macro_rules! serve {
    ($version:ident) => {
        #[tonic::async_trait]
        impl $version::dra_resource_health_server::DraResourceHealth for HealthService {
            type NodeWatchResourcesStream =
                BoxStream<'static, Result<$version::NodeWatchResourcesResponse, Status>>;

            async fn node_watch_resources(
                &self,
                _: Request<$version::NodeWatchResourcesRequest>,
            ) -> Result<Response<Self::NodeWatchResourcesStream>, Status> {
                let messages = self.watch(stringify!($version)).map(|list| {
                    let now = seconds(Node::now().since_epoch());
                    let devices = list.into_iter().map(|device| $version::DeviceHealth {
                        device: Some($version::DeviceIdentifier {
                            pool_name: device.pool.to_string(),
                            device_name: device.device.to_string(),
                        }),
                        health: match device.state {
                            DeviceState::Healthy => $version::HealthStatus::Healthy,
                            DeviceState::Unknown => $version::HealthStatus::Unknown,
                            DeviceState::Unhealthy => $version::HealthStatus::Unhealthy,
                        }
                        .into(),
                        last_updated_time: now,
                        health_check_timeout_seconds: seconds(BELIEVED),
                        message: device.message,
                    });
                    Ok($version::NodeWatchResourcesResponse { devices: devices.collect() })
                });
                Ok(Response::new(messages.boxed()))
            }
        }
    };
}

serve!(v1);
serve!(v1alpha1);

/// Whole seconds, as the messages have them.
fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}
