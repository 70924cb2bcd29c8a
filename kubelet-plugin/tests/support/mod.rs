//! A node for tests: stand-in hardware behind the discovery trait, an API server in this process, temporary
//! directories, and the real rest of the plugin.
#![allow(dead_code, unreachable_pub, missing_docs)] // every test file uses its part

pub mod api;
pub mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::{SetOnce, watch};
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};
use vnpu_discovery::{Backend, DiscoveryError, Heard, VendorLibrary};
use vnpu_driver::hardware::{
    Chip, DeviceNode, DriverMount, Health, Inventory, MultiDiePolicy, ProcessError, ProcessMemory,
    ProcessView, Traits, Usage, Vendor, VendorEdits,
};
use vnpu_driver::health::HealthPolicy;
use vnpu_driver::id::{DeviceUuid, NodeName};
use vnpu_driver::quantity::Bytes;
use vnpu_kubelet_plugin::audit::Audits;
use vnpu_kubelet_plugin::checkpoint::{Repairs, Store};
use vnpu_kubelet_plugin::events::Events;
use vnpu_kubelet_plugin::hardware::{Inventories, Look, Seen};
use vnpu_kubelet_plugin::health::HealthJudge;
use vnpu_kubelet_plugin::keyed::KeyedLocks;
use vnpu_kubelet_plugin::live::Live;
use vnpu_kubelet_plugin::materials::Materials;
use vnpu_kubelet_plugin::metrics::Metrics;
use vnpu_kubelet_plugin::node::Node;
use vnpu_kubelet_plugin::prepare::ClaimName;
use vnpu_kubelet_plugin::vendors::{Source, Vendors};

use api::FakeApi;

pub const NODE: &str = "node-1";
pub const POOL: &str = "node-1/ascend";

/// What becomes of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It brings the inventory.
    Answers,
    /// It does not end. To be ended by the test: a runtime waits for it.
    Hangs,
    /// It fails.
    Fails,
    /// There is no library.
    Missing,
}

/// Hardware that is what the test says.
pub struct FakeHardware {
    pub mood: Mutex<Mood>,
    pub inventory: Mutex<Inventory>,
    /// Processes on each chip that has some.
    pub processes: Mutex<BTreeMap<DeviceUuid, Vec<ProcessMemory>>>,
    /// What each chip does.
    pub usage: Mutex<BTreeMap<DeviceUuid, Usage>>,
    /// How often it was looked at.
    pub looks: AtomicUsize,
    /// Who listens.
    heard: Mutex<Option<Heard>>,
}

impl FakeHardware {
    /// Dual-die modules of twice 64Gi.
    pub fn modules(count: u32) -> Arc<Self> {
        let chips = (0..count).flat_map(|card| [0, 1].map(|die| chip(card, die))).collect();
        Self::of(Vendor::Ascend, chips)
    }

    /// GPUs of 80Gi.
    pub fn gpus(count: u32) -> Arc<Self> {
        let gpu = |card| Chip {
            uuid: DeviceUuid::new(format!("GPU-{card}")).unwrap(),
            module: None,
            model: "H100".into(),
            memory: Bytes::gib(80),
            phys_id: card,
            ..chip(card, 0)
        };
        Self::of(Vendor::Nvidia, (0..count).map(gpu).collect())
    }

    fn of(vendor: Vendor, chips: Vec<Chip>) -> Arc<Self> {
        Arc::new(Self {
            mood: Mutex::new(Mood::Answers),
            inventory: Mutex::new(Inventory {
                vendor,
                chips,
                multi_die_policy: MultiDiePolicy::Independent,
                driver_version: "25.0.rc1".into(),
                cuda_version: String::new(),
                superpod: None,
                problems: Vec::new(),
            }),
            processes: Mutex::default(),
            usage: Mutex::default(),
            looks: AtomicUsize::new(0),
            heard: Mutex::default(),
        })
    }

    /// The vendor says that something happened.
    pub fn tell(&self) {
        let heard = self.heard.lock().unwrap().clone();
        heard.expect("somebody listens").tell();
    }

    pub fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn mood(&self) -> Mood {
        while *self.mood.lock().unwrap() == Mood::Hangs {
            std::thread::sleep(Duration::from_millis(2));
        }
        *self.mood.lock().unwrap()
    }
}

fn chip(card: u32, die: u32) -> Chip {
    Chip {
        card,
        die,
        uuid: DeviceUuid::new(format!("VDIE-{card}-{die}")).unwrap(),
        module: Some(card),
        model: "910C".into(),
        product_name: "Stand-in".into(),
        memory: Bytes::gib(64),
        phys_id: card * 2 + die,
        pci: None,
        numa_node: None,
        pcie_root: None,
        health: Health::Healthy,
        traits: Traits::default(),
    }
}

impl ProcessView for FakeHardware {
    fn processes(&self, chip: &Chip) -> Result<Vec<ProcessMemory>, ProcessError> {
        self.mood();
        Ok(self.processes.lock().unwrap().get(&chip.uuid).cloned().unwrap_or_default())
    }
}

impl Backend for FakeHardware {
    fn vendor(&self) -> Vendor {
        self.inventory.lock().unwrap().vendor
    }

    fn listen(&self, heard: Heard) {
        *self.heard.lock().unwrap() = Some(heard);
    }

    fn usage(&self, chip: &Chip) -> Usage {
        self.mood();
        self.usage.lock().unwrap().get(&chip.uuid).copied().unwrap_or_default()
    }

    fn discover(&self) -> Result<Inventory, DiscoveryError> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        match self.mood() {
            Mood::Answers | Mood::Hangs => Ok(self.inventory.lock().unwrap().clone()),
            Mood::Fails => Err(DiscoveryError::Hanging { function: "init" }),
            Mood::Missing => Err(DiscoveryError::LibraryMissing {
                library: VendorLibrary::Nvml,
                searched: vec!["/lib".into()],
            }),
        }
    }

    /// `/dev/null` stands for every node: it is a character device everywhere.
    fn edits(&self, chips: &[Chip]) -> Result<VendorEdits, DiscoveryError> {
        let node = |path: String| DeviceNode { host_path: "/dev/null".into(), container_path: path.into() };
        let (chip, control, files) = match self.vendor() {
            Vendor::Ascend => ("/dev/davinci", "/dev/davinci_manager", "/usr/local/dcmi"),
            Vendor::Nvidia | Vendor::Other(_) => ("/dev/nvidia", "/dev/nvidiactl", "/usr/lib64/libcuda.so.1"),
        };
        let mut device_nodes: Vec<DeviceNode> =
            chips.iter().map(|c| node(format!("{chip}{}", c.phys_id))).collect();
        device_nodes.push(node(control.into()));
        let mounts = vec![DriverMount { host_path: "/usr".into(), container_path: files.into() }];
        Ok(VendorEdits { device_nodes, mounts })
    }
}

/// Everything of one node; a second one in the same directories stands for a restart.
pub struct Bench {
    dir: PathBuf,
    _owned: Option<tempfile::TempDir>,
    pub api: Arc<FakeApi>,
    pub hardware: Arc<FakeHardware>,
    /// Of another vendor, if there is one.
    pub gpus: Option<Arc<FakeHardware>>,
    /// What the chips' health amounts to; a plugin that starts anew has another.
    pub health: Arc<HealthJudge>,
}

impl Bench {
    pub fn new(modules: u32) -> Self {
        let owned = tempfile::tempdir().unwrap();
        let mut bench = Self::at(owned.path(), modules);
        bench._owned = Some(owned);
        bench
    }

    /// In a directory that outlives it: another process goes on there.
    pub fn at(dir: &std::path::Path, modules: u32) -> Self {
        for name in ["cdi", "state", "run", "interposer"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        for name in ["libvnpu.so", "libvnpu_core.so"] {
            std::fs::write(dir.join("interposer").join(name), "").unwrap();
        }
        Self {
            dir: dir.to_owned(),
            _owned: None,
            api: FakeApi::new(),
            hardware: FakeHardware::modules(modules),
            gpus: None,
            health: Arc::new(HealthJudge::new(HealthPolicy::default())),
        }
    }

    /// With so many GPUs beside.
    pub fn with_gpus(modules: u32, gpus: u32) -> Self {
        Self { gpus: Some(FakeHardware::gpus(gpus)), ..Self::new(modules) }
    }

    pub fn vendors(&self) -> Vendors {
        let all = std::iter::once(&self.hardware).chain(&self.gpus);
        let backends = all.map(|hardware| (Arc::clone(hardware) as Arc<dyn Backend>, false));
        Vendors::of(&NodeName::new(NODE).unwrap(), backends).unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub async fn start(&self) -> Arc<Node> {
        self.start_reporting().await.0
    }

    /// What the plugin makes at its start, without sockets and loops.
    pub async fn start_reporting(&self) -> (Arc<Node>, Repairs) {
        let (sender, seen) = watch::channel(self.inventories());
        std::mem::forget(sender);
        self.start_seeing(seen).await
    }

    /// What discovery finds now.
    pub fn inventories(&self) -> Arc<Inventories> {
        let vendors = self.vendors();
        let found = |seen: Inventories, source: &Source| {
            seen.with(&source.pool, Look::Seen(source.backend.discover().unwrap()))
        };
        Arc::new(self.health.judged(&vendors.iter().fold(Inventories::pending(&vendors), found)))
    }

    /// What is known before the first look.
    pub fn unseen(&self) -> Arc<Inventories> {
        Arc::new(Inventories::pending(&self.vendors()))
    }

    /// With a discovery that the test plays.
    pub async fn start_seeing(&self, seen: Seen) -> (Arc<Node>, Repairs) {
        let name = NodeName::new(NODE).unwrap();
        let (store, repairs) = Store::open(&self.path("state")).await.unwrap();
        let client = Arc::new(SetOnce::new());
        assert!(client.set(self.api.client()).is_ok());
        let tasks = TaskTracker::new();
        let node = Node {
            name: name.clone(),
            store,
            materials: Arc::new(Materials::new(
                &self.path("cdi"),
                &self.path("run"),
                &self.path("interposer"),
                self.vendors(),
            )),
            events: Events::new(name, Arc::clone(&client), tasks.clone()),
            client,
            seen,
            health: Arc::clone(&self.health),
            metrics: Metrics::register(&mut Default::default()),
            audits: Audits::default(),
            live: Live::default(),
            locks: KeyedLocks::default(),
            limit: tokio::sync::Semaphore::new(32),
            unprepare_limit: tokio::sync::Semaphore::new(32),
            tasks,
            changed: Arc::default(),
        };
        (Arc::new(node), repairs)
    }

    /// Names of the CDI devices that files define, and proof that nothing temporary lies about.
    pub fn cdi_devices(&self) -> BTreeSet<String> {
        let mut devices = BTreeSet::new();
        for entry in std::fs::read_dir(self.path("cdi")).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(path.extension().unwrap(), "json", "{}", path.display());
            let spec = container_device_interface::spec::read_spec(&path, 0).unwrap();
            devices.extend(spec.get_devices().into_keys());
        }
        devices
    }

    /// Claims that have regions.
    pub fn regions(&self) -> BTreeSet<String> {
        match std::fs::read_dir(self.path("run/claims")) {
            Ok(entries) => entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect(),
            Err(_) => BTreeSet::new(),
        }
    }
}

/// Connects to a socket.
pub async fn dial(path: PathBuf) -> Channel {
    connect(Endpoint::from_static("http://localhost"), path).await
}

/// As [`dial`], with what `endpoint` says of the connection.
pub async fn connect(endpoint: Endpoint, path: PathBuf) -> Channel {
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connect).await.unwrap()
}

pub fn uid(n: u32) -> String {
    format!("{n:08x}-1111-4222-8333-444455556666")
}

pub fn name(n: u32) -> ClaimName {
    ClaimName { namespace: "default".into(), name: format!("claim-{n}"), uid: uid(n) }
}

/// Waits for what happens beside the answer.
pub async fn settle(node: &Node) {
    node.tasks.close();
    node.tasks.wait().await;
    node.tasks.reopen();
}
