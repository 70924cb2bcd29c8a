//! Kueue's `Topology`, from which only the labels of its levels are taken. A cluster without Kueue is asked for it now
//! and then, and nothing else happens.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use kube::api::{ApiResource, DynamicObject};
use kube::error::DiscoveryError;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client, discovery};
use serde_json::Value;
use tokio::sync::watch;

const GROUP: &str = "kueue.x-k8s.io";
const KIND: &str = "Topology";
/// Whether Kueue has been installed is looked at so often.
const ABSENT: Duration = Duration::from_secs(300);
/// After a failure it is tried again after so long at first and at last.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Tells the levels of the Topology `name` whenever they change: none where there is no such Topology. Never ends.
pub async fn follow(client: Client, name: String, levels: watch::Sender<Option<Vec<String>>>) {
    let mut pause = PAUSE;
    let mut known_absent = false;
    loop {
        let ended = match find(&client).await {
            Ok(Some(resource)) => {
                known_absent = false;
                read(&client, &resource, &name, &levels, &mut pause).await
            }
            Ok(None) => {
                if !known_absent {
                    tracing::warn!(
                        topology = name,
                        "the configuration names a Topology of Kueue, and the cluster has no such kind"
                    );
                }
                known_absent = true;
                tell(&levels, Vec::new());
                tokio::time::sleep(ABSENT).await;
                continue;
            }
            Err(error) => error.to_string(),
        };
        tracing::warn!(
            topology = name,
            error = ended,
            "Kueue's Topology is not seen now; tried again in {pause:?}"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The kind as the API server serves it; its versions have the same levels.
async fn find(client: &Client) -> Result<Option<ApiResource>, kube::Error> {
    let group = match discovery::group(client, GROUP).await {
        Ok(group) => group,
        Err(kube::Error::Discovery(DiscoveryError::MissingApiGroup(_))) => return Ok(None),
        Err(error) => return Err(error),
    };
    let kinds = group.resources_by_stability().into_iter();
    Ok(kinds.map(|(resource, _)| resource).find(|resource| resource.kind == KIND))
}

/// Watches until the watch breaks off, and returns why.
async fn read(
    client: &Client,
    resource: &ApiResource,
    name: &str,
    levels: &watch::Sender<Option<Vec<String>>>,
    pause: &mut Duration,
) -> String {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let mut objects = pin!(watch_object(api, name));
    while let Some(object) = objects.next().await {
        match object {
            Ok(Some(object)) => tell(levels, levels_of(&object.data)),
            Ok(None) => {
                tracing::warn!(topology = name, "Kueue has no Topology of this name");
                tell(levels, Vec::new());
            }
            Err(error) => return error.to_string(),
        }
        *pause = PAUSE;
    }
    "the watch ended".to_owned()
}

fn tell(levels: &watch::Sender<Option<Vec<String>>>, now: Vec<String>) {
    levels.send_if_modified(|known| {
        let changed = known.as_ref() != Some(&now);
        if changed {
            tracing::info!(levels = ?now, "levels of Kueue's Topology");
            *known = Some(now);
        }
        changed
    });
}

/// `spec.levels[].nodeLabel`, widest first.
fn levels_of(object: &Value) -> Vec<String> {
    let levels = object.pointer("/spec/levels").and_then(Value::as_array);
    let labels = levels.into_iter().flatten().filter_map(|level| level.get("nodeLabel")?.as_str());
    labels.map(str::to_owned).collect()
}
