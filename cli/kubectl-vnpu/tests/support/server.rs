//! An API server that answers GETs with what was put under their paths, takes what is written to it, and writes down what
//! it was asked.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each user takes what it needs")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "made for tests")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
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

    /// Paths and queries of all requests; those that write begin with the method and end with the body.
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
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = || {
                let mut line = String::new();
                let read = reader.read_line(&mut line).unwrap_or_default();
                (read > 0).then(|| line.trim_end().to_owned())
            };
            let Some(first) = line() else { return };
            let mut length = 0;
            while let Some(header) = line().filter(|header| !header.is_empty()) {
                if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let body = String::from_utf8(body).unwrap();
            let mut words = first.split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let (code, body) = if method == "GET" {
                self.asked.lock().unwrap().push(path.to_owned());
                self.answer(path.split('?').next().unwrap())
            } else {
                self.asked.lock().unwrap().push(format!("{method} {path} {body}"));
                self.write(method, path.split('?').next().unwrap(), body)
            };
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

    /// What is written comes back, unless something was put for the method and the path.
    fn write(&self, method: &str, path: &str, body: String) -> (u16, String) {
        let key = format!("{method} {path}");
        if self.answers.lock().unwrap().contains_key(&key) {
            return self.answer(&key);
        }
        let deleted = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
        if method == "DELETE" { (200, deleted.to_string()) } else { (200, body) }
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
