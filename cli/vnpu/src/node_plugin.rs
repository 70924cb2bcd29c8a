//! The node plugin on this machine, asked from outside: whether it runs, and what it says on its admin page.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use vnpu_driver::id::ClaimUid;

/// Tries to be alone with the plugin's lock, and the time between two of them: about a second in all.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);
/// A node that answers later than this has other worries.
const PATIENCE: Duration = Duration::from_millis(500);
/// More than the page of a node that is full of claims.
const LONGEST_ANSWER: u64 = 16 << 20;

/// Whether the plugin runs. It holds a shared lock on `<state-dir>/lock` for life; only somebody who gets the
/// exclusive one is alone. It is let go at once: several that ask beside each other are fine.
pub(crate) fn runs(state_dir: &Path) -> io::Result<bool> {
    match File::open(state_dir.join("lock")) {
        Ok(file) => is_alone(&file, || std::thread::sleep(PAUSE)).map(|alone| !alone),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether nobody keeps a lock on `file`. Somebody else who asks the same at this moment has one too, but not for
/// long.
fn is_alone(file: &File, mut pause: impl FnMut()) -> io::Result<bool> {
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return file.unlock().map(|()| true),
            Err(TryLockError::WouldBlock) => pause(),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    Ok(false)
}

/// What the plugin calls its claims: `namespace/name`. Empty when it does not answer.
pub(crate) fn claim_names(address: &str) -> BTreeMap<ClaimUid, String> {
    #[derive(Deserialize)]
    struct Claim {
        uid: String,
        plan: Option<Plan>,
    }
    #[derive(Deserialize)]
    struct Plan {
        namespace: String,
        name: String,
    }
    let claims: Vec<Claim> =
        page(address, "/debug/claims").ok().and_then(|p| serde_json::from_str(&p).ok()).unwrap_or_default();
    let named = claims.into_iter().filter_map(|claim| {
        let plan = claim.plan?;
        Some((ClaimUid::new(claim.uid).ok()?, format!("{}/{}", plan.namespace, plan.name)))
    });
    named.collect()
}

/// One page of the admin server. As HTTP/1.0, so that the answer comes in one piece and ends with the connection.
pub(crate) fn page(address: &str, path: &str) -> io::Result<String> {
    let bad = |words| io::Error::new(io::ErrorKind::InvalidData, words);
    let to = address.to_socket_addrs()?.next().ok_or_else(|| bad("it is no address"))?;
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer).map_err(|_| bad("it is no text"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| bad("it is no answer of HTTP"))?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        code => Err(io::Error::other(format!("it answers {}", code.unwrap_or("nothing")))),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn another_one_that_asks_at_the_same_moment_is_not_the_plugin() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let (ours, other) = (File::create(&path).unwrap(), File::create(&path).unwrap());
        other.lock().unwrap();
        let mut pauses = 0;
        let alone = is_alone(&ours, || {
            pauses += 1;
            if pauses == 2 {
                other.unlock().unwrap();
            }
        });
        assert!(alone.unwrap());
        assert_eq!(pauses, 2);
        other.lock_shared().unwrap();
        assert!(!is_alone(&ours, || ()).unwrap(), "who keeps it is");
    }

    /// Answers one request.
    fn server(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let size = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..size]).into_owned()
        });
        (address, thread)
    }

    #[test]
    fn claims_have_the_names_that_the_plugin_tells() {
        let uid = "00000001-0000-4000-8000-000000000000";
        let (address, thread) = server(concat!(
            "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n",
            r#"[{"uid":"00000001-0000-4000-8000-000000000000","state":"PrepareCompleted","#,
            r#""plan":{"namespace":"lab","name":"train","results":[]}},"#,
            r#"{"uid":"00000002-0000-4000-8000-000000000000","state":"Unprepared","plan":null}]"#
        ));
        let names = claim_names(&address);
        assert_eq!(names.get(&ClaimUid::new(uid).unwrap()).unwrap(), "lab/train");
        assert_eq!(names.len(), 1);
        assert!(thread.join().unwrap().starts_with("GET /debug/claims HTTP/1.0\r\n"));
    }

    #[test]
    fn what_is_no_answer_gives_no_names() {
        for answer in ["HTTP/1.0 404 Not Found\r\n\r\n[]", "HTTP/1.0 200 OK\r\n\r\nhello", "hello", ""] {
            let (address, thread) = server(answer);
            assert!(claim_names(&address).is_empty(), "{answer}");
            thread.join().unwrap();
        }
        assert!(claim_names("127.0.0.1:1").is_empty());
        assert!(claim_names("nonsense").is_empty());
    }
}
