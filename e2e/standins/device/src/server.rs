//! The socket in front of the state: one thread per connection, one that watches the configuration file.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{PidfdFlags, pidfd_open};
use standin_protocol::{Request, read_frame, write_frame};

use crate::machine_file::MachineFile;
use crate::state::{PeerId, State};

/// How long a change of the file or of a fault may stay unseen.
const WATCH_PERIOD: Duration = Duration::from_millis(50);

/// How long one that waits for it may not hear of a change that was seen.
const CHANGE_PERIOD: Duration = Duration::from_millis(10);

/// The connected processes, each with a descriptor that tells its death.
type Living = Mutex<BTreeMap<PeerId, Arc<OwnedFd>>>;

/// A listening driver.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    state: Arc<Mutex<State>>,
    living: Arc<Living>,
    peers: AtomicU64,
    socket: PathBuf,
}

impl Server {
    /// Listens on `socket`; a socket that a dead driver left there is taken over.
    pub fn bind(socket: &Path, state: State) -> io::Result<Self> {
        Ok(Self {
            listener: listen(socket)?,
            state: Arc::new(Mutex::new(state)),
            living: Arc::default(),
            peers: AtomicU64::new(1),
            socket: socket.to_owned(),
        })
    }

    /// The state, for tests that look into the driver.
    pub fn state(&self) -> Arc<Mutex<State>> {
        Arc::clone(&self.state)
    }

    /// Follows the configuration file from a thread of its own, which also looks at how busy the GPUs are.
    pub fn follow(&self, mut file: MachineFile) {
        let state = self.state();
        thread::spawn(move || {
            loop {
                match file.changed() {
                    Ok(Some(machine)) => lock(&state).set_machine(machine),
                    Ok(None) => {}
                    Err(error) => eprintln!("standin-device: the machine stays as it was: {error}"),
                }
                lock(&state).look();
                thread::sleep(WATCH_PERIOD);
            }
        });
    }

    /// Serves for ever; returns only when the socket fails.
    pub fn serve(&self) -> io::Result<()> {
        self.serve_at(&self.listener)
    }

    /// Serves at a second socket as well.
    pub fn serve_also(self: &Arc<Self>, socket: &Path) -> io::Result<()> {
        let (server, listener) = (Arc::clone(self), listen(socket)?);
        thread::spawn(move || server.serve_at(&listener));
        Ok(())
    }

    fn serve_at(&self, listener: &UnixListener) -> io::Result<()> {
        for stream in listener.incoming() {
            let stream = stream?;
            let peer = PeerId(self.peers.fetch_add(1, Ordering::Relaxed));
            let (state, living) = (self.state(), Arc::clone(&self.living));
            thread::spawn(move || serve_one(stream, peer, &state, &living));
        }
        Ok(())
    }
}

/// Listens on `socket`; one that a dead driver left there is taken over.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = socket.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    // Any user in any container may use the device, as with the nodes' usual 0666.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody listens any more; a leftover file would only be taken over by the next driver anyway.
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Frees what dead processes had, before anybody is told how much is free: a kernel driver has done that by the
/// time a parent's `wait` returns.
fn bury(state: &Mutex<State>, living: &Living) {
    let mut living = lock(living);
    let mut fds: Vec<_> = living.values().map(|process| PollFd::new(&**process, PollFlags::IN)).collect();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if !matches!(poll(&mut fds, Some(&now)), Ok(1..)) {
        return;
    }
    let dead: Vec<PeerId> =
        living.keys().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(peer, _)| *peer).collect();
    for peer in dead {
        living.remove(&peer);
        lock(state).disconnect(peer);
    }
}

fn serve_one(mut stream: UnixStream, peer: PeerId, state: &Mutex<State>, living: &Living) {
    let Ok(credentials) = rustix::net::sockopt::socket_peercred(&stream) else { return };
    lock(state).connect(peer, credentials.pid.as_raw_nonzero().get());
    // The descriptor may live on in a forked child after the process died, so its death is watched by itself.
    let process = pidfd_open(credentials.pid, PidfdFlags::empty()).ok().map(Arc::new);
    if let Some(process) = &process {
        lock(living).insert(peer, Arc::clone(process));
    }
    let process = process.as_deref();
    while wait(&stream, process, None) == Event::Readable {
        let Ok(request) = read_frame::<Request>(&mut stream) else { break };
        if !wait_out_a_hang(&stream, process, state, &request)
            || !wait_for_a_change(&stream, process, state, &request)
        {
            break;
        }
        bury(state, living);
        let reply = lock(state).answer(peer, &request);
        if write_frame(&mut stream, &reply).is_err() {
            break;
        }
    }
    lock(living).remove(&peer);
    lock(state).disconnect(peer);
}

/// Waits while a fault says that the call hangs; false when the caller is gone.
fn wait_out_a_hang(
    stream: &UnixStream,
    process: Option<&OwnedFd>,
    state: &Mutex<State>,
    request: &Request,
) -> bool {
    while lock(state).hangs(request) {
        // A caller that waits for its answer sends nothing: readable means that it closed the socket.
        match wait(stream, process, Some(WATCH_PERIOD)) {
            Event::Quiet => {}
            Event::Readable | Event::Gone => return false,
        }
    }
    true
}

/// Waits while the machine is as the caller knows it, as long as the caller likes; false when the caller is gone.
fn wait_for_a_change(
    stream: &UnixStream,
    process: Option<&OwnedFd>,
    state: &Mutex<State>,
    request: &Request,
) -> bool {
    let Request::Changed { millis, .. } = request else { return true };
    let end = Instant::now() + Duration::from_millis(u64::from(*millis));
    while lock(state).waits(request) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match wait(stream, process, Some(left.min(CHANGE_PERIOD))) {
            Event::Quiet => {}
            Event::Readable | Event::Gone => return false,
        }
    }
    true
}

#[derive(PartialEq, Eq)]
enum Event {
    Readable,
    Gone,
    Quiet,
}

fn wait(stream: &UnixStream, process: Option<&OwnedFd>, at_most: Option<Duration>) -> Event {
    let timeout = at_most.map(|d| Timespec { tv_sec: 0, tv_nsec: i64::from(d.subsec_nanos()) });
    loop {
        let mut fds = vec![PollFd::new(stream, PollFlags::IN)];
        fds.extend(process.map(|process| PollFd::new(process, PollFlags::IN)));
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return Event::Gone,
            Ok(0) => return Event::Quiet,
            Ok(_) => {}
        }
        // What a dying process still wrote does not matter: nobody reads the answer.
        if fds.iter().skip(1).any(|fd| !fd.revents().is_empty()) {
            return Event::Gone;
        }
        return Event::Readable;
    }
}
