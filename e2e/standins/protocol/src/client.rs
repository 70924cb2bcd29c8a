//! The libraries' end of the socket: finds the driver, survives forks and a restarted driver.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::frame::{read_frame, write_frame};
use crate::message::{Reply, Request};
use crate::{GPU_SOCKET_BELOW_ROOT, SOCKET_BELOW_ROOT, SOCKET_NAME, SOCKET_VARIABLE};

/// Why the driver could not be asked.
#[derive(Debug)]
pub struct ClientError(pub String);

/// One connection to the driver. The driver frees what was allocated over it when it closes.
#[derive(Default)]
pub struct Client {
    connection: Option<(u32, UnixStream)>,
    socket: Option<PathBuf>,
}

impl Client {
    /// A client that connects at its first call.
    pub const fn new() -> Self {
        Self { connection: None, socket: None }
    }

    /// A client of the driver at this socket, for tests and harnesses.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { connection: None, socket: Some(socket.into()) }
    }

    /// Asks the driver and waits for its answer, however long that takes: a driver that hangs is meant to hang.
    pub fn call(&mut self, request: &Request) -> Result<Reply, ClientError> {
        // A forked child has the parent's descriptor: it must not speak on it, nor is the memory behind it its own.
        let pid = std::process::id();
        if self.connection.as_ref().is_none_or(|(owner, _)| *owner != pid) {
            self.connection = Some((pid, connect(self.socket.as_deref())?));
        }
        let Some((_, stream)) = self.connection.as_mut() else {
            return Err(ClientError("no connection".to_owned()));
        };
        match write_frame(stream, request).and_then(|()| read_frame(stream)) {
            Ok(reply) => Ok(reply),
            Err(error) => {
                self.connection = None;
                Err(ClientError(format!("the stand-in driver went away: {error}")))
            }
        }
    }
}

fn connect(socket: Option<&Path>) -> Result<UnixStream, ClientError> {
    let mut tried = Vec::new();
    for path in socket.map_or_else(candidates, |socket| vec![socket.to_owned()]) {
        match UnixStream::connect(&path) {
            Ok(stream) => return Ok(stream),
            Err(error) => tried.push(describe(&path, &error)),
        }
    }
    Err(ClientError(format!("no stand-in driver answers: {}", tried.join("; "))))
}

fn describe(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn candidates() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os(SOCKET_VARIABLE) {
        return vec![path.into()];
    }
    let mut found = Vec::new();
    if let Some(directory) = library_directory() {
        found.push(directory.join(SOCKET_NAME));
        found.push(directory.join("..").join(SOCKET_NAME));
        found.push(directory.join("../Ascend/driver/lib64").join(SOCKET_NAME));
        // From /usr/lib/<architecture>, where the NVIDIA libraries are.
        found.push(directory.join("../../local/Ascend/driver/lib64").join(SOCKET_NAME));
        found.push(directory.join("../../..").join(GPU_SOCKET_BELOW_ROOT));
    }
    found.push(Path::new("/").join(SOCKET_BELOW_ROOT));
    found.push(Path::new("/").join(GPU_SOCKET_BELOW_ROOT));
    found.into_iter().map(|path| straight(&path).unwrap_or(path)).collect()
}

/// Without `..`: an address of a socket has room for 107 bytes. A link at its end is not followed.
fn straight(path: &Path) -> Option<PathBuf> {
    Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))
}

/// The directory of the shared library (or program) that this crate is linked into.
pub fn library_directory() -> Option<PathBuf> {
    // SAFETY: an all-zero Dl_info is a valid value (null pointers).
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the address is of a function in this object; `info` is a valid out-pointer.
    let found = unsafe { libc::dladdr(library_directory as *const libc::c_void, &mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr returned success, so dli_fname is a NUL-terminated string that lives as long as the object.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Path::new(OsStr::from_bytes(name.to_bytes())).parent().map(Path::to_owned)
}
