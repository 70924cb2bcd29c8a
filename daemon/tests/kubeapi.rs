//! The connection to the API server where that is not there, is wrong, or never answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests may

use std::path::Path;
use std::time::{Duration, Instant};

use vnpu_daemon::kubeapi::{Patience, connect, reach};

fn patience(answer: Duration) -> Patience {
    Patience { connect: Duration::from_secs(5), answer, alive: Duration::from_secs(5) }
}

/// A kubeconfig for a server at `address`.
fn kubeconfig(directory: &Path, address: &str) -> std::path::PathBuf {
    let path = directory.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: k, cluster: {{server: 'http://{address}'}}}}]\n\
         contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn what_cannot_be_used_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none");
    let Err(error) = connect(Some(&missing), Patience::default()).await else { panic!("there is no file") };
    assert!(error.to_string().contains("check --kubeconfig"), "{error}");
    assert!(error.retryable(), "a file may come");
    assert_eq!(error.reason(), "api_setup");
    let wrong = directory.path().join("wrong");
    std::fs::write(&wrong, "current-context: [").unwrap();
    assert!(connect(Some(&wrong), Patience::default()).await.is_err());
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_after_the_patience() {
    let directory = tempfile::tempdir().unwrap();
    // It takes connections and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let path = kubeconfig(directory.path(), &listener.local_addr().unwrap().to_string());
    let client = connect(Some(&path), patience(Duration::from_millis(200))).await.unwrap();
    let begun = Instant::now();
    let answer = tokio::time::timeout(Duration::from_secs(30), client.apiserver_version()).await;
    assert!(answer.expect("it is waited for without an end").is_err());
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_kubeconfig_that_is_written_after_the_start_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    let late = {
        let path = path.clone();
        async move { reach(Some(&path)).await }
    };
    let late = tokio::spawn(late);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!late.is_finished());
    kubeconfig(directory.path(), "127.0.0.1:1");
    tokio::time::timeout(Duration::from_secs(30), late).await.expect("it never looks again").unwrap();
}
