//! The registration service: tells the kubelet who we are, and hears whether it took us.

use tokio::sync::watch;
use tonic::{Request, Response, Status};
use vnpu_driver::DRIVER_NAME;
use vnpu_proto::pluginregistration as api;

/// The services behind the endpoint and their versions, newest first, by the names that the kubelet knows: of each
/// service it takes the newest that it knows itself, and passes over what it does not know.
const VERSIONS: [&str; 4] =
    ["v1.DRAPlugin", "v1beta1.DRAPlugin", "v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth"];

/// What the kubelet said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registered {
    /// It has not asked yet.
    NotYet,
    /// We are registered.
    Yes,
    /// It refused, with its reason.
    Refused(String),
}

/// Serves registration.
#[derive(Debug, Clone)]
pub struct Registration {
    endpoint: String,
    state: watch::Sender<Registered>,
}

impl Registration {
    /// Registers the service at `endpoint`, an absolute path.
    pub fn new(endpoint: String) -> (Self, watch::Receiver<Registered>) {
        let (state, changes) = watch::channel(Registered::NotYet);
        (Self { endpoint, state }, changes)
    }
}

#[tonic::async_trait]
impl api::registration_server::Registration for Registration {
    async fn get_info(&self, _: Request<api::InfoRequest>) -> Result<Response<api::PluginInfo>, Status> {
        tracing::debug!("the kubelet asks who we are");
        Ok(Response::new(api::PluginInfo {
            r#type: "DRAPlugin".to_owned(),
            name: DRIVER_NAME.to_owned(),
            endpoint: self.endpoint.clone(),
            supported_versions: VERSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<api::RegistrationStatus>,
    ) -> Result<Response<api::RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!("registered with the kubelet");
            self.state.send_replace(Registered::Yes);
        } else {
            tracing::error!(error = %status.error, "the kubelet refused the registration");
            self.state.send_replace(Registered::Refused(status.error));
        }
        Ok(Response::new(api::RegistrationStatusResponse {}))
    }
}
