//! Proves what the kubelet sees of the program: who may connect, what it hears at registration whatever hangs
//! behind the sockets, and that a program that is told to end answers what it was asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use standin_protocol::{Fault, Machine};
use support::api::FakeApi;
use support::process::{Node, PATIENCE, PLUGIN, Running};
use support::{connect, dial, uid};
use tokio::time::timeout;
use tonic::transport::Endpoint;
use vnpu_proto::dra::v1;
use vnpu_proto::dra_health;
use vnpu_proto::pluginregistration::registration_client::RegistrationClient;
use vnpu_proto::pluginregistration::{InfoRequest, PluginInfo};

/// How long the kubelet waits for GetInfo.
const GET_INFO: Duration = Duration::from_secs(1);

fn sockets(node: &Node) -> [PathBuf; 2] {
    [node.path("registry/vnpu.dev-reg.sock"), node.path("plugins/vnpu.dev/dra.sock")]
}

fn log(node: &Node) -> String {
    std::fs::read_to_string(node.path("log")).unwrap()
}

/// A machine whose devices can be prepared, and an API server for it.
async fn node_and_api(machine: &Machine) -> (Node, Arc<FakeApi>) {
    let (node, api) = (Node::start(machine), FakeApi::new());
    for name in ["davinci0", "davinci1", "davinci_manager", "devmm_svm", "hisi_hdc"] {
        std::os::unix::fs::symlink("/dev/null", node.path("dev").join(name)).unwrap();
    }
    std::fs::write(node.path("kubeconfig"), api.listen().await).unwrap();
    (node, api)
}

/// The plugin with that API server, told everything by its environment, as in a pod.
fn start(node: &Node) -> Running {
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let kubeconfig = node.path("kubeconfig").display().to_string();
    let flags = node.command(&["--admin-address", &admin, "--kubeconfig", &kubeconfig]);
    let words: Vec<&str> = flags.get_args().map(|word| word.to_str().unwrap()).collect();
    let mut command = Command::new(PLUGIN);
    for pair in words.chunks(2) {
        let name = pair[0].trim_start_matches('-').replace('-', "_").to_uppercase();
        command.env(format!("VNPU_{name}"), pair[1]);
    }
    let mut running = Running::spawn(node, command, admin);
    running.until("sockets", |_| log(node).contains("sockets are open"));
    running
}

fn terminate(running: &Running) {
    kill_process(Pid::from_child(&running.plugin), Signal::TERM).unwrap();
}

/// Waits for the end; its exit code.
fn ended(running: &mut Running) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = running.plugin.try_wait().unwrap() {
            return status.code();
        }
        assert!(begun.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the kubelet is told, in time: of several calls the fastest counts, because this machine may be busy.
async fn get_info(node: &Node) -> PluginInfo {
    let [path, _] = sockets(node);
    let mut registration = RegistrationClient::new(timeout(PATIENCE, dial(path)).await.unwrap());
    let mut times = Vec::new();
    loop {
        let begun = Instant::now();
        let asked = timeout(PATIENCE, registration.get_info(InfoRequest {})).await;
        let info = asked.expect("GetInfo hangs").unwrap().into_inner();
        times.push(begun.elapsed());
        if begun.elapsed() < GET_INFO {
            return info;
        }
        assert!(times.len() < 5, "the kubelet gives up after {GET_INFO:?}: {times:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_info_is_exact_and_in_time_while_everything_behind_it_hangs() {
    let mut machine = Machine::ascend_910c(1, 65536);
    let hang = Fault { function: "dcmi_init".to_owned(), card: None, device: None, error: -8005, hang: true };
    machine.faults = vec![hang];
    let (node, api) = node_and_api(&machine).await;
    api.hangs.store(true, Ordering::Relaxed);
    // Another instance is at work on claims.
    let other = File::create(node.path("state/operations.lock")).unwrap();
    other.lock().unwrap();
    let mut running = start(&node);
    let exact = PluginInfo {
        r#type: "DRAPlugin".to_owned(),
        name: "vnpu.dev".to_owned(),
        endpoint: sockets(&node)[1].display().to_string(),
        supported_versions: [
            "v1.DRAPlugin",
            "v1beta1.DRAPlugin",
            "v1.DRAResourceHealth",
            "v1alpha1.DRAResourceHealth",
        ]
        .map(str::to_owned)
        .to_vec(),
    };
    assert_eq!(get_info(&node).await, exact);
    running.until("a hanging library", |r| {
        r.get("/readyz").is_some_and(|answer| answer.contains("dcmi_init does not return"))
    });
    assert_eq!(get_info(&node).await, exact);
    assert!(api.asked.lock().unwrap().is_empty(), "it still waits for the other instance");
    drop(other);
    running.until("a call to the API server", |_| !api.asked.lock().unwrap().is_empty());
    assert_eq!(get_info(&node).await, exact);
    terminate(&running);
    assert_eq!(ended(&mut running), Some(0), "nor is the end held up");
}

/// What the server at `path` says first to somebody with this user ID; `None` when it hangs up.
fn greeting(path: &Path, user: u32) -> std::io::Result<Option<u8>> {
    let path = path.to_owned();
    let knock = move || {
        // The kernel has user IDs per thread, and this thread ends here.
        let user = rustix::process::Uid::from_raw(user);
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        let mut stream = std::os::unix::net::UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut first = [0];
        // HTTP/2's preface and empty settings, to which every server answers with its own.
        let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
        match stream.write_all(&hello).and_then(|()| stream.read(&mut first)) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(first[0])),
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(None),
            Err(e) => Err(e),
        }
    };
    std::thread::spawn(knock).join().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_root_and_our_own_user_are_served() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be another user");
        return;
    }
    let (node, _api) = node_and_api(&Machine::ascend_910c(1, 65536)).await;
    let mut running = start(&node);
    let nobody = 65534;
    std::fs::set_permissions(node.dir.path(), Permissions::from_mode(0o755)).unwrap();
    for (number, path) in sockets(&node).iter().enumerate() {
        let refused = greeting(path, nobody).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "the file's mode says so too");
        // What is left when the mode does not: somebody who was given the socket, or a mode that was changed.
        std::fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
        assert_eq!(greeting(path, nobody).unwrap(), None, "{}", path.display());
        assert!(greeting(path, 0).unwrap().is_some(), "{}", path.display());
        let said = || log(&node).matches("connection refused: neither root nor our own user").count();
        running.until("a line in the log", |_| said() == number + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_a_prepare_in_flight_be_answered_and_leaves_no_socket() {
    let (node, api) = node_and_api(&Machine::ascend_910c(1, 65536)).await;
    api.share(1, "chip-0-0", "4Gi", "10");
    let mut running = start(&node);
    running.until("readiness", |r| r.get("/readyz").is_some_and(|a| a.starts_with("HTTP/1.1 200")));
    let [registration, service] = sockets(&node);
    let mut dra = v1::dra_plugin_client::DraPluginClient::new(dial(service.clone()).await);
    api.hangs.store(true, Ordering::Relaxed);
    let claim = v1::Claim { namespace: "default".into(), uid: uid(1), name: "claim-1".into() };
    let request = v1::NodePrepareResourcesRequest { claims: vec![claim] };
    let preparing = tokio::spawn(async move { dra.node_prepare_resources(request).await });
    running.until("a Prepare at work", |_| api.was_asked("/resourceclaims/claim-1"));
    terminate(&running);
    running.until("the registration socket gone", |_| !registration.exists());
    assert!(!preparing.is_finished());
    api.hangs.store(false, Ordering::Relaxed);
    let answer = timeout(PATIENCE, preparing).await.unwrap().unwrap();
    let answer = answer.unwrap_or_else(|status| panic!("{status}; {}", log(&node))).into_inner();
    assert_eq!(answer.claims[&uid(1)].error, "", "{}", log(&node));
    assert_eq!(ended(&mut running), Some(0));
    assert!(!registration.exists() && !service.exists());
    assert!(node.path(&format!("cdi/vnpu.dev-claim_{}.json", uid(1))).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_watches_on_health_and_waits_for_none_that_is_not_read() {
    use dra_health::v1::NodeWatchResourcesRequest;
    use dra_health::v1::dra_resource_health_client::DraResourceHealthClient;

    let (node, _api) = node_and_api(&Machine::ascend_910c(64, 65536)).await;
    let mut running = start(&node);
    let [_, service] = sockets(&node);
    let mut read = DraResourceHealthClient::new(dial(service.clone()).await);
    let mut read = read.node_watch_resources(NodeWatchResourcesRequest {}).await.unwrap().into_inner();
    let first = timeout(PATIENCE, read.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.devices.len(), 3 * 64);
    // Room for less than one message.
    let narrow = Endpoint::from_static("http://localhost").initial_stream_window_size(1024);
    let mut unread = DraResourceHealthClient::new(connect(narrow, service).await);
    let _unread = unread.node_watch_resources(NodeWatchResourcesRequest {}).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    terminate(&running);
    assert_eq!(timeout(PATIENCE, read.message()).await.unwrap().unwrap(), None);
    assert_eq!(ended(&mut running), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}; {}", begun.elapsed(), log(&node));
    assert!(log(&node).contains("a watch on the devices' health is not read to its end"), "{}", log(&node));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_a_plugin_that_waits_for_another_instance() {
    let (node, _api) = node_and_api(&Machine::ascend_910c(1, 65536)).await;
    let other = File::create(node.path("state/operations.lock")).unwrap();
    other.lock().unwrap();
    let mut running = start(&node);
    terminate(&running);
    assert_eq!(ended(&mut running), Some(0));
    assert!(sockets(&node).iter().all(|path| !path.exists()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_during_the_start_leaves_no_socket() {
    let (node, _api) = node_and_api(&Machine::ascend_910c(1, 65536)).await;
    // The socket of a killed instance, at which the start looks for a second.
    let dead = node.path("registry/vnpu.dev-killed-reg.sock");
    drop(std::os::unix::net::UnixListener::bind(dead).unwrap());
    let mut running = start(&node);
    terminate(&running);
    assert_eq!(ended(&mut running), Some(0));
    assert!(sockets(&node).iter().all(|path| !path.exists()));
}
