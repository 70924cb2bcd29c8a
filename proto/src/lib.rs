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

/// The service that tells the devices' health.
pub mod dra_health {
    /// Version `v1`, from Kubernetes 1.37 on.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!("generated/v1.rs");
    }
    /// Version `v1alpha1`, the same in all but the name.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    pub mod v1alpha1 {
        include!("generated/v1alpha1.rs");
    }
}
