//! The kubelet's gRPC services as Rust types, generated from `protos/` and checked in.
//! Nothing here is written by hand but the module names.

/// Registration of a plugin with the kubelet.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod pluginregistration {
    include!("generated/pluginregistration.rs");
}

/// The DRA service.
pub mod dra {
    /// Version `v1`, from Kubernetes 1.34 on.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!("generated/k8s.io.kubelet.pkg.apis.dra.v1.rs");
    }
    /// Version `v1beta1`, the same without share ids.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    pub mod v1beta1 {
        include!("generated/k8s.io.kubelet.pkg.apis.dra.v1beta1.rs");
    }
}
