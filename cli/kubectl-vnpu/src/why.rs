//! The verb `why`: where a pod went and why, or why it waits. Asking the controller is in `ask`, what the pod itself tells
//! in `pod`, and the text in `text`.

mod ask;
mod pod;
mod text;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::json;

use crate::cluster::{
    ABSENT, ClusterArguments, ClusterError, UNREACHABLE, answer, block_on, connect, list, plain,
};
use crate::output;
use ask::{Answer, Controller};
use pod::{Happened, PodFacts};

/// What `why` is told.
#[derive(Debug, Args)]
pub(crate) struct WhyArguments {
    /// The pod.
    #[arg(value_name = "POD")]
    pod: String,
    /// Its namespace; without it the context's.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Everything as JSON.
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
    /// Address of the leading controller's admin server; without it the controller is asked through the API server.
    #[arg(long, env = "VNPU_CONTROLLER", hide_env_values = true, value_name = "http://HOST:PORT")]
    controller: Option<String>,
    /// Namespace of the controller.
    #[arg(long, value_name = "NAMESPACE", default_value = "vnpu-system")]
    controller_namespace: String,
}

/// How it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// JSON.
    Json,
}

/// All that was learned.
#[derive(Debug)]
struct Learned {
    pod: PodFacts,
    happened: Vec<Happened>,
    answer: Answer,
}

/// Explains the pod.
pub(crate) fn why(arguments: &WhyArguments) -> ExitCode {
    let learned = match block_on(learn(arguments)) {
        Ok(Some(learned)) => learned,
        Ok(None) => {
            let message = format!("there is no pod {}; is -n the right namespace?", arguments.pod);
            return output::complain("why", &message, ABSENT);
        }
        Err(error) => return output::complain("why", &error, UNREACHABLE),
    };
    let Learned { pod, happened, answer } = learned;
    match arguments.output {
        Some(Format::Json) => {
            output::print_json(&json!({"pod": pod, "events": happened, "controller": answer}));
        }
        None => output::print(&text::explain(&pod, &happened, &answer, Timestamp::now())),
    }
    ExitCode::SUCCESS
}

/// `None` when there is no such pod.
async fn learn(arguments: &WhyArguments) -> Result<Option<Learned>, ClusterError> {
    let (client, namespace) = connect(&arguments.cluster).await?;
    let namespace = arguments.namespace.clone().unwrap_or(namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let Some(object) = answer("read the pod", pods.get_opt(&arguments.pod)).await? else { return Ok(None) };
    let pod = PodFacts::read(&object);
    let controller = match &arguments.controller {
        Some(address) => Controller::Direct(plain(address)?),
        None => {
            Controller::Proxied { client: client.clone(), namespace: arguments.controller_namespace.clone() }
        }
    };
    let answer = controller.ask(&namespace, &arguments.pod).await;
    // Who may read pods may not read events everywhere; the rest is worth showing without them.
    let happened = events(client, &namespace, &pod).await.unwrap_or_default();
    Ok(Some(Learned { pod, happened, answer }))
}

async fn events(client: Client, namespace: &str, pod: &PodFacts) -> Result<Vec<Happened>, ClusterError> {
    let events: Api<Event> = Api::namespaced(client, namespace);
    let about = ListParams::default().fields(&format!("involvedObject.uid={}", pod.uid));
    let mut happened = list(&events, "list events", about, |event| Some(Happened::read(&event))).await?;
    happened.sort_by_key(|event| event.at);
    Ok(happened)
}
