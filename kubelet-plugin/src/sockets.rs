//! The two unix sockets that the kubelet dials: their names, binding over a stale one, who may connect, and
//! removal. What is served on them is elsewhere.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use vnpu_driver::DRIVER_NAME;

/// Longest path of a socket, without the terminating zero (`sun_path` has 108 bytes, unix(7)).
const LONGEST: usize = 107;

/// How often it is looked whether a socket is still there.
const LOOK: Duration = Duration::from_secs(5);

/// Why a socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit into a socket's address.
    #[error(
        "socket path {path} has {length} bytes, more than the {LONGEST} that a unix socket can have: choose a \
         shorter kubelet directory"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// Something that is no socket stands at the path.
    #[error("{0} exists and is not a socket: remove it")]
    Occupied(PathBuf),
    /// The system refused something.
    #[error("cannot {operation} {path}: {source}; is the kubelet's directory mounted and writable?")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl SocketError {
    /// Whether trying again may help without a change of configuration.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Io { .. })
    }

    /// Stable word.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "socket_too_long",
            Self::Occupied(_) => "socket_occupied",
            Self::Io { .. } => "socket_io",
        }
    }
}

/// Where the sockets are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPaths {
    /// Found by the kubelet; serves registration.
    pub registration: PathBuf,
    /// Told to the kubelet at registration; serves DRA.
    pub service: PathBuf,
}

impl SocketPaths {
    /// The paths; with a pod's UID they are that pod's own, so that two instances can overlap in an update.
    pub fn new(registry_dir: &Path, plugins_dir: &Path, pod_uid: Option<&str>) -> Self {
        let part = pod_uid.map(|uid| format!("-{uid}")).unwrap_or_default();
        Self {
            registration: registry_dir.join(format!("{DRIVER_NAME}{part}-reg.sock")),
            service: plugins_dir.join(DRIVER_NAME).join(format!("dra{part}.sock")),
        }
    }
}

/// A bound socket that is removed when dropped.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: Option<u64>,
}

impl BoundSocket {
    /// Binds `path` in place of a stale socket of an earlier run; its directory is made when absent. Only root
    /// and the own user can connect.
    ///
    /// # Errors
    /// A path that is too long or taken by something else, or the system's refusal.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let length = path.as_os_str().len();
        if length > LONGEST {
            return Err(SocketError::TooLong { path: path.to_owned(), length });
        }
        let io = |operation| move |source| SocketError::Io { operation, path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(io("make the directory of"))?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => {
                std::fs::remove_file(path).map_err(io("remove the stale socket"))?;
            }
            Ok(_) => return Err(SocketError::Occupied(path.to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io("look at")(e)),
        }
        let listener = UnixListener::bind(path).map_err(io("bind"))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(io("protect"))?;
        Ok(Self { listener, path: path.to_owned(), inode: inode(path) })
    }

    /// The next connection of somebody who may connect; others are closed at once.
    ///
    /// # Errors
    /// The system's refusal to accept.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            match stream.peer_cred() {
                Ok(peer) if may_connect(peer.uid()) => return Ok(stream),
                Ok(peer) => {
                    tracing::warn!(uid = peer.uid(), socket = %self.path.display(), "connection refused: neither root nor our own user");
                }
                Err(error) => {
                    tracing::warn!(%error, socket = %self.path.display(), "connection refused: the peer is unknown");
                }
            }
        }
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What to look for at the path.
    pub fn place(&self) -> Place {
        Place { path: self.path.clone(), inode: self.inode }
    }
}

/// Where a socket was bound, to see whether it can still be reached there.
#[derive(Debug, Clone)]
pub struct Place {
    path: PathBuf,
    inode: Option<u64>,
}

impl Place {
    /// Waits until nobody can reach the socket any more: its path is gone, or something dead took it. A living
    /// socket there is another instance's, and is left alone.
    pub async fn lost(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let found = inode(&self.path);
            if found.is_none() || (found != self.inode && is_dead(&self.path).await) {
                tracing::warn!(socket = %self.path.display(), "the socket was removed; it is bound again");
                return;
            }
        }
    }
}

/// Whether a socket file stands at `path` that nobody listens on.
async fn is_dead(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    // A listener whose queue is full lets us wait; it is alive.
    let answer = tokio::time::timeout(Duration::from_secs(1), UnixStream::connect(path)).await;
    is_socket && matches!(answer, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Removes sockets of earlier instances of this plugin that were killed: the kubelet would go on dialling them.
/// `paths` are our own and stay.
pub async fn remove_dead(paths: &SocketPaths) {
    let mut dead = Vec::new();
    for (own, end) in [(&paths.registration, "-reg.sock"), (&paths.service, ".sock")] {
        let start = if end == ".sock" { "dra" } else { DRIVER_NAME };
        for entry in own.parent().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten()
        {
            let (path, name) = (entry.path(), entry.file_name());
            // `<start><end>`, or with a pod's UID in between.
            let part = name.to_str().and_then(|name| name.strip_prefix(start)?.strip_suffix(end));
            let named = part.is_some_and(|part| part.is_empty() || part.starts_with('-'));
            if named && path != *own && is_dead(&path).await {
                dead.push((inode(&path), path));
            }
        }
    }
    if dead.is_empty() {
        return;
    }
    // Between bind and listen a living one refuses too.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (seen, path) in dead {
        if inode(&path) == seen && is_dead(&path).await {
            match std::fs::remove_file(&path) {
                Ok(()) => {
                    tracing::info!(socket = %path.display(), "the socket of a killed instance is removed")
                }
                Err(error) => tracing::warn!(%error, socket = %path.display(), "a dead socket stays"),
            }
        }
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        // Another instance without a pod's UID may have put its own socket there meanwhile.
        if self.inode.is_some() && inode(&self.path) == self.inode {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::symlink_metadata(path).ok().map(|m| m.ino())
}

/// The kubelet is root; our own user is us, in tests and benches.
fn may_connect(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_pods_own_when_it_is_known() {
        let of = |uid| SocketPaths::new(Path::new("/r"), Path::new("/p"), uid);
        assert_eq!(of(None).registration.to_str(), Some("/r/vnpu.dev-reg.sock"));
        assert_eq!(of(None).service.to_str(), Some("/p/vnpu.dev/dra.sock"));
        assert_eq!(of(Some("u")).registration.to_str(), Some("/r/vnpu.dev-u-reg.sock"));
        assert_eq!(of(Some("u")).service.to_str(), Some("/p/vnpu.dev/dra-u.sock"));
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_ours_is_removed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/x.sock");
        std::mem::forget(BoundSocket::bind(&path).unwrap());
        let socket = BoundSocket::bind(&path).unwrap();
        let (_client, _server) = tokio::join!(async { UnixStream::connect(&path).await.unwrap() }, async {
            socket.accept().await.unwrap()
        });
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_successors_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let old = BoundSocket::bind(&path).unwrap();
        let new = BoundSocket::bind(&path).unwrap();
        drop(old);
        assert!(path.exists());
        drop(new);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn sockets_of_killed_instances_are_removed_and_of_living_ones_not() {
        let dir = tempfile::tempdir().unwrap();
        let of = |uid| SocketPaths::new(&dir.path().join("r"), &dir.path().join("p"), Some(uid));
        let (ours, killed, living) = (of("ours"), of("killed"), of("living"));
        for path in [&killed.registration, &killed.service] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            drop(std::os::unix::net::UnixListener::bind(path).unwrap());
        }
        let _alive = [&living.registration, &living.service].map(|path| BoundSocket::bind(path).unwrap());
        let foreign = dir.path().join("r/x.dev-reg.sock");
        drop(std::os::unix::net::UnixListener::bind(&foreign).unwrap());
        remove_dead(&ours).await;
        for path in [&killed.registration, &killed.service] {
            assert!(!path.exists(), "{}", path.display());
        }
        for path in [&living.registration, &living.service, &foreign] {
            assert!(path.exists(), "{}", path.display());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_is_lost_when_it_is_removed_or_a_dead_one_took_its_place_but_not_to_a_living_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let patience = Duration::from_secs(60);
        let ours = BoundSocket::bind(&path).unwrap();
        let place = ours.place();
        assert!(tokio::time::timeout(patience, place.lost()).await.is_err(), "it is there");
        std::fs::remove_file(&path).unwrap();
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(tokio::time::timeout(patience, place.lost()).await.is_err(), "another instance has it");
        drop(other);
        tokio::time::timeout(patience, place.lost()).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        tokio::time::timeout(patience, place.lost()).await.unwrap();
    }

    #[tokio::test]
    async fn a_path_that_does_not_fit_and_a_file_in_the_way_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(108));
        assert!(BoundSocket::bind(&long).unwrap_err().to_string().contains("107"));
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(BoundSocket::bind(&file), Err(SocketError::Occupied(_))));
        assert!(file.exists());
    }
}
