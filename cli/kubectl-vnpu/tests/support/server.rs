//! An API server that answers GETs with what was put under their paths, and writes down what it was asked.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each user takes what it needs")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "made for tests")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// Answers by path, without the query: in turn, the last one again and again.
type Answers = BTreeMap<String, Vec<(u16, String)>>;

#[derive(Clone)]
pub struct Server {
    address: String,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { address, answers: Arc::default(), asked: Arc::default() };
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.serve(&stream.unwrap()));
            }
        });
        server
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next answer to a path, after those put before.
    pub fn put(&self, path: &str, code: u16, body: &Value) {
        let mut answers = self.answers.lock().unwrap();
        answers.entry(path.to_owned()).or_default().push((code, body.to_string()));
    }

    /// Paths and queries of all requests.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// A kubeconfig with two contexts: `here`, whose namespace is `bank`, and `nowhere`.
    pub fn kubeconfig(&self) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "nowhere",
            "clusters": [
                {"name": "here", "cluster": {"server": self.address}},
                {"name": "nowhere", "cluster": {"server": "http://127.0.0.1:9"}},
            ],
            "users": [{"name": "me", "user": {}}],
            "contexts": [
                {"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "bank"}},
                {"name": "nowhere", "context": {"cluster": "nowhere", "user": "me"}},
            ],
        });
        file.write_all(config.to_string().as_bytes()).unwrap();
        file
    }

    fn serve(&self, stream: &TcpStream) {
        let mut lines = BufReader::new(stream).lines();
        while let Some(Ok(first)) = lines.next() {
            while let Some(Ok(header)) = lines.next() {
                if header.is_empty() {
                    break;
                }
            }
            let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
            let (code, body) = self.answer(path.split('?').next().unwrap());
            self.asked.lock().unwrap().push(path);
            let head = format!(
                "HTTP/1.1 {code} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let mut stream = stream;
            if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, path: &str) -> (u16, String) {
        let mut answers = self.answers.lock().unwrap();
        match answers.get_mut(path) {
            Some(list) if list.len() > 1 => list.remove(0),
            Some(list) => list[0].clone(),
            None => {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                    "reason": "NotFound", "message": format!("nothing at {path}")});
                (404, status.to_string())
            }
        }
    }
}
