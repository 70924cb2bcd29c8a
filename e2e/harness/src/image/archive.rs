//! An OCI image layout of one uncompressed layer, as the tar archive that `ctr images import` takes.
//! Format: OCI image specification 1.1, `image-layout.md`; the name annotation is containerd's.

use anyhow::Result;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::rootfs::{Entry, RootFs};
use super::tar::Tar;

/// What an image runs when the pod does not say.
#[derive(Debug, Clone, Default)]
pub struct ImageConfig {
    /// The entry point.
    pub entrypoint: Vec<String>,
    /// Variables, `NAME=value`.
    pub environment: Vec<String>,
}

impl RootFs {
    /// The archive of an image called `name` (with its tag) of this root.
    ///
    /// # Errors
    /// When a path is too long for the archive format.
    pub fn archive(&self, name: &str, config: &ImageConfig) -> Result<Vec<u8>> {
        let layer = self.layer()?;
        let layer_digest = digest(&layer);
        let mut environment = vec!["PATH=/bin:/usr/bin:/sbin:/usr/sbin".to_owned()];
        environment.extend(config.environment.iter().cloned());
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Entrypoint": config.entrypoint, "Env": environment },
            "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config), "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": layer_digest, "size": layer.len(),
            }],
        }))?;
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest(&manifest), "size": manifest.len(),
                "annotations": { "io.containerd.image.name": name },
            }],
        }))?;
        let mut tar = Tar::default();
        tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.directory("blobs", 0o755)?;
        tar.directory("blobs/sha256", 0o755)?;
        for blob in [&layer, &config, &manifest] {
            tar.file(&format!("blobs/sha256/{}", digest(blob).trim_start_matches("sha256:")), 0o644, blob)?;
        }
        tar.file("index.json", 0o644, &index)?;
        Ok(tar.finish())
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = Tar::default();
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory { mode } => tar.directory(path, *mode)?,
                Entry::File { mode, content } => tar.file(path, *mode, content)?,
                Entry::Symlink { target } => tar.symlink(path, target)?,
            }
        }
        Ok(tar.finish())
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// The machine's name in OCI's terms, which are Go's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
