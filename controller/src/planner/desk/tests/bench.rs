//! A cluster of the tests, and what they say of it.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::*;
use crate::observe::slice::Slices;
use crate::observe::{claim, node, owner, pod, slice};
use crate::planner::patch::Tether;

/// A cluster whose API server does at once what the desk wants.
pub(super) struct Bench {
    pub(super) desk: Desk,
    pub(super) slices: Slices,
    pub(super) now: Moment,
    pub(super) version: u64,
    pub(super) pods: BTreeMap<String, Value>,
    pub(super) told: Vec<(String, String)>,
    /// The pods of the last record.
    pub(super) recorded: Vec<String>,
    /// The API server refuses patches of affinity.
    pub(super) refuses: bool,
    /// Pods that the desk wanted deleted.
    pub(super) deleted: Vec<String>,
    /// The API server lets nobody delete pods.
    pub(super) keeps: bool,
}

pub(super) fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl Bench {
    /// `nodes` nodes of `modules` modules, two on a leaf.
    pub(super) fn new(nodes: u32, modules: u32) -> Self {
        let mut bench = Self {
            desk: Desk::new(Settings::default(), Config::default()),
            slices: Slices::default(),
            now: Moment(Duration::from_secs(1_000_000)),
            version: 1,
            pods: BTreeMap::new(),
            told: Vec::new(),
            recorded: Vec::new(),
            refuses: false,
            deleted: Vec::new(),
            keeps: false,
        };
        for (name, kind) in [("npu.vnpu.dev", "chip"), ("npu-module.vnpu.dev", "module")] {
            let cel =
                format!(r#"device.driver == "vnpu.dev" && device.attributes["vnpu.dev"].type == "{kind}""#);
            let extended = (kind == "module").then_some("vnpu.dev/npu-module");
            let class = json!({
                "metadata": {"name": name},
                "spec": {"selectors": [{"cel": {"expression": cel}}], "extendedResourceName": extended},
            });
            bench.tell(Change::Class(claim::class(&object(class)).unwrap()));
        }
        for index in 0..nodes {
            bench.add_node(index, modules);
        }
        let spec = json!({"spec": {"devices": {"requests": [
            {"name": "m", "exactly": {"deviceClassName": "npu-module.vnpu.dev", "count": 1}},
        ]}}});
        let template: k8s_openapi::api::resource::v1::ResourceClaimTemplateSpec = object(spec);
        let spec = Arc::new(claim::spec(&template.spec.unwrap()));
        bench.tell(Change::Template(("bank".to_owned(), "module".to_owned()), spec));
        bench.desk.lead(true);
        bench
    }

    pub(super) fn add_node(&mut self, index: u32, modules: u32) {
        let name = format!("node-{index}");
        let labels = json!({"vnpu.dev/leaf": format!("leaf-{}", index / 2), "kubernetes.io/hostname": name});
        let node = json!({
            "metadata": {"name": name, "labels": labels},
            "status": {"allocatable": {"cpu": "64", "memory": "1Ti", "pods": "100"}},
        });
        self.tell(Change::Node(node::read(&object(node)).unwrap()));
        let counters: serde_json::Map<String, Value> = (0..modules)
            .flat_map(|m| [0, 1].map(|die| (format!("m{m}-c{die}"), json!({"value": "1"}))))
            .collect();
        let pool = json!({"name": format!("{name}/ascend"), "generation": 1, "resourceSliceCount": 2});
        let sets = json!([{"name": "modules-0", "counters": counters}]);
        self.slice(&format!("{name}-0"), &name, &pool, json!({"sharedCounters": sets}));
        let devices: Vec<Value> = (0..modules).flat_map(module).collect();
        self.slice(&format!("{name}-1"), &name, &pool, json!({"devices": devices}));
    }

    pub(super) fn slice(&mut self, slice_name: &str, node: &str, pool: &Value, content: Value) {
        let mut spec = json!({"driver": "vnpu.dev", "nodeName": node, "pool": pool});
        for (key, value) in content.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let object = object(json!({"metadata": {"name": slice_name}, "spec": spec}));
        let change = self.slices.put(slice::read(&object).unwrap());
        self.tell(Change::Pool(change));
    }

    pub(super) fn tell(&mut self, change: Change) {
        self.desk.change(change, self.now);
    }

    pub(super) fn job(&mut self, uid: &str, parallelism: u32) {
        let job = object(json!({"metadata": {"uid": uid}, "spec": {
            "parallelism": parallelism, "completions": parallelism,
            "template": {"spec": {"containers": []}},
        }}));
        self.tell(Change::Owner(uid.to_owned(), owner::job(&job)));
    }

    /// A gated pod of a Job that asks for a module.
    pub(super) fn pod(&mut self, name: &str, job: &str) {
        self.pod_with(name, job, json!({}));
    }

    pub(super) fn pod_with(&mut self, name: &str, job: &str, annotations: Value) {
        let owner =
            json!([{"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": job, "controller": true}]);
        let owner = if job.is_empty() { json!([]) } else { owner };
        let created = k8s_openapi::jiff::Timestamp::from_second(self.now.0.as_secs() as i64).unwrap();
        let pod = json!({
            "metadata": {"name": name, "namespace": "bank", "uid": name, "ownerReferences": owner,
                "annotations": annotations, "creationTimestamp": created.to_string()},
            "spec": {
                "schedulingGates": [{"name": "vnpu.dev/placement"}],
                "containers": [{"name": "main", "resources": {"requests": {"cpu": "1"}}}],
                "resourceClaims": [{"name": "m", "resourceClaimTemplateName": "module"}],
            },
            "status": {"phase": "Pending"},
        });
        self.put(name, pod);
    }

    pub(super) fn put(&mut self, name: &str, mut pod: Value) {
        self.version += 1;
        pod["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.pods.insert(name.to_owned(), pod.clone());
        self.tell(Change::Pod(Arc::new(pod::read(&object(pod)).unwrap())));
    }

    /// Steps until nothing is wanted any more, doing what is wanted. Tells which pods were placed where.
    pub(super) fn settle(&mut self) -> BTreeMap<String, String> {
        let mut placed = BTreeMap::new();
        loop {
            let actions = self.desk.step(self.now);
            if actions.is_empty() {
                return placed;
            }
            for action in actions {
                self.act(action, &mut placed);
            }
        }
    }

    pub(super) fn act(&mut self, action: Action, placed: &mut BTreeMap<String, String>) {
        match action {
            Action::Place { batch, pods } => {
                for placement in pods {
                    let name = placement.pod.name.clone();
                    let Some(mut pod) = self.pods.get(&name).cloned() else { continue };
                    if self.refuses && placement.tether != Tether::default() {
                        continue;
                    }
                    pod["status"]["nominatedNodeName"] = json!(placement.node);
                    pod["spec"]["schedulingGates"] = json!([]);
                    placed.insert(name.clone(), placement.node);
                    self.put(&name, pod);
                }
                self.tell(Change::Placed(batch));
            }
            Action::LetGo { pod, reason } => {
                let name = pod.name.clone();
                let mut object = self.pods[&name].clone();
                object["spec"]["schedulingGates"] = json!([]);
                placed.insert(name.clone(), reason.to_owned());
                self.put(&name, object);
            }
            Action::ClearNomination { pod } => {
                let name = pod.name.clone();
                let mut object = self.pods[&name].clone();
                object["status"]["nominatedNodeName"] = Value::Null;
                self.put(&name, object);
            }
            Action::Delete { pod } => {
                self.deleted.push(pod.name.clone());
                if self.keeps {
                    return self.tell(Change::NotDeleted(pod.uid.clone(), "forbidden".to_owned()));
                }
                self.pods.remove(&pod.name);
                self.tell(Change::PodGone(pod.uid.clone()));
            }
            Action::Tell { reason, message, .. } => self.told.push((reason.to_owned(), message)),
            Action::Record { pods, .. } => self.recorded = pods,
        }
    }

    /// The scheduler binds a pod.
    pub(super) fn bind(&mut self, name: &str, node: &str) {
        let mut pod = self.pods[name].clone();
        pod["spec"]["nodeName"] = json!(node);
        self.put(name, pod);
    }

    pub(super) fn later(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    pub(super) fn told(&self, reason: &str) -> bool {
        self.told.iter().any(|(told, _)| told == reason)
    }
}

/// The devices of one module.
fn module(card: u32) -> Vec<Value> {
    let consumes = |counters: Value| json!([{"counterSet": "modules-0", "counters": counters}]);
    let attributes =
        |kind: &str| json!({"type": {"string": kind}, "module": {"int": card}, "dies": {"int": 2}});
    let one = json!({"value": "1"});
    let (first, second) = (format!("m{card}-c0"), format!("m{card}-c1"));
    let mut devices = vec![json!({
        "name": format!("module-{card}"), "attributes": attributes("module"),
        "consumesCounters": consumes(json!({first.clone(): one, second.clone(): one})),
    })];
    for (die, counter) in [first, second].into_iter().enumerate() {
        let range = |max: &str, min: &str| {
            json!({
                "value": max,
                "requestPolicy": {"default": max, "validRange": {"min": min, "step": min, "max": max}},
            })
        };
        devices.push(json!({
            "name": format!("chip-{card}-{die}"), "attributes": attributes("chip"),
            "allowMultipleAllocations": true,
            "capacity": {"memory": range("64Gi", "1Gi"), "cores": range("100", "1")},
            "consumesCounters": consumes(json!({counter: one})),
        }));
    }
    devices
}

pub(super) fn nodes_of(placed: &BTreeMap<String, String>) -> BTreeSet<&str> {
    placed.values().map(String::as_str).collect()
}
