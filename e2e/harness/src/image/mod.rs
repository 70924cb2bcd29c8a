//! Container images made on the spot, without a registry: a root file system gathered from the host, and
//! the OCI archive that containerd imports.

mod archive;
mod rootfs;
mod tar;

pub use archive::ImageConfig;
pub use rootfs::RootFs;
