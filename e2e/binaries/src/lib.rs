//! The cluster's binaries (etcd, Kubernetes, containerd, runc, CNI plugins, our own Go helpers), built from
//! pinned Go modules and cached outside the tree. What is done with them lives in `vnpu-harness`.

mod build;
mod cargo;
mod key;
mod module;

pub use build::{Binaries, cache_root, ensure, ensure_all};
pub use cargo::forget_package;
pub use key::{go_version, key};
pub use module::{BuildStep, Module};

/// The root of the checkout this crate was compiled from.
pub fn repo_root() -> std::path::PathBuf {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().and_then(std::path::Path::parent).unwrap_or(here).to_path_buf()
}

#[cfg(test)]
mod tests;
