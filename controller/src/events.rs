//! Events: what happens to an object, told where its owner looks for it.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

/// Who tells.
const COMPONENT: &str = "vnpu-controller";
/// Where events of objects without a namespace are.
const CLUSTER: &str = "default";
/// The API server's limit on an event's message.
const LONGEST: usize = 1024;

/// What is told.
#[derive(Debug, Clone)]
pub struct News {
    /// Of which object.
    pub about: ObjectReference,
    /// Whether something is wrong.
    pub warning: bool,
    /// Stable word in CamelCase.
    pub reason: &'static str,
    /// For people; what is longer than an event's message may be is cut off.
    pub message: String,
}

/// Writes one event under the name of this replica. One that cannot be written is lost.
pub async fn tell(client: &Client, identity: &str, news: News) {
    let about = news.about;
    let namespace = about.namespace.clone().unwrap_or_else(|| CLUSTER.to_owned());
    let name = about.name.clone().unwrap_or_default();
    let now = Timestamp::now();
    let event = Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}.")),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: about,
        type_: Some(if news.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(news.reason.to_owned()),
        message: Some(cut(news.message)),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(identity.to_owned()),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    if let Err(error) = api.create(&PostParams::default(), &event).await {
        tracing::debug!(namespace, name, %error, "could not write an event");
    }
}

fn cut(mut message: String) -> String {
    const END: &str = " ...";
    if message.len() > LONGEST {
        let mut end = LONGEST - END.len();
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str(END);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(cut("short".to_owned()), "short");
        let long = cut("\u{00e4}".repeat(1000));
        assert!(long.len() <= LONGEST && long.ends_with("\u{00e4} ..."));
    }
}
