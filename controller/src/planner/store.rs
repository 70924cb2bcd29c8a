//! What the API server has of claims, templates, classes and controllers, and what a pod needs by them. Kept small:
//! only what placement asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vnpu_driver::id::{ClaimUid, NodeName};
use vnpu_placement::demand::{Ask, ClaimDemand, ClaimSpec, Count, PodDemand, Request};

use crate::observe::claim::{self, ClaimSeen, ClassSeen};
use crate::observe::owner::OwnerSeen;
use crate::observe::pod::{ClaimRef, PodSeen};

/// Every class has an extended resource of this name and its own.
const IMPLICIT: &str = "deviceclass.resource.kubernetes.io/";

/// Namespace and name.
pub type Named = (String, String);

/// What a claim is kept as.
#[derive(Debug, Clone)]
struct KeptClaim {
    uid: ClaimUid,
    spec: Arc<ClaimSpec>,
    allocated: bool,
    node: Option<NodeName>,
}

/// What a pod needs of us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// It is placed by these needs.
    Ours {
        /// What it needs.
        demand: PodDemand,
        /// Whether it also asks for devices of other drivers, which are not planned.
        foreign: bool,
    },
    /// It asks for nothing of this driver.
    NotOurs,
    /// What it names is not known yet.
    Unknown(String),
}

/// The objects.
#[derive(Debug, Default)]
pub struct Store {
    classes: BTreeMap<String, ClassSeen>,
    /// Names of the classes of this driver.
    ours: BTreeSet<String>,
    claims: BTreeMap<Named, KeptClaim>,
    templates: BTreeMap<Named, Arc<ClaimSpec>>,
    owners: BTreeMap<String, OwnerSeen>,
    pod_groups: BTreeMap<Named, u32>,
    /// Equal specifications are kept once.
    specs: BTreeSet<Arc<ClaimSpec>>,
}

impl Store {
    /// Takes a new or changed class.
    pub fn put_class(&mut self, class: ClassSeen) {
        let name = class.class.name.clone();
        if class.ours {
            self.ours.insert(name.clone())
        } else {
            self.ours.remove(&name)
        };
        self.classes.insert(name, class);
    }

    /// Forgets a class.
    pub fn remove_class(&mut self, name: &str) {
        self.classes.remove(name);
        self.ours.remove(name);
    }

    /// Takes a new or changed claim, and tells the UID of another one that had its name before.
    pub fn put_claim(&mut self, name: Named, claim: &ClaimSeen) -> Option<ClaimUid> {
        let kept = KeptClaim {
            uid: claim.uid.clone(),
            spec: self.shared(&claim.spec),
            allocated: claim.allocated.is_some(),
            node: claim.allocated.as_ref().and_then(|a| a.node.clone()),
        };
        let before = self.claims.insert(name, kept)?;
        (before.uid != claim.uid).then_some(before.uid)
    }

    /// Forgets a claim, and tells its UID.
    pub fn remove_claim(&mut self, name: &Named) -> Option<ClaimUid> {
        self.claims.remove(name).map(|claim| claim.uid)
    }

    /// Takes a new or changed template.
    pub fn put_template(&mut self, name: Named, spec: &Arc<ClaimSpec>) {
        let spec = self.shared(spec);
        self.templates.insert(name, spec);
    }

    /// Forgets a template.
    pub fn remove_template(&mut self, name: &Named) {
        self.templates.remove(name);
    }

    /// Takes what a controller says.
    pub fn put_owner(&mut self, uid: String, owner: OwnerSeen) {
        self.owners.insert(uid, owner);
    }

    /// Forgets a controller.
    pub fn remove_owner(&mut self, uid: &str) {
        self.owners.remove(uid);
    }

    /// What a controller says, where it is known.
    pub fn owner(&self, uid: &str) -> Option<OwnerSeen> {
        self.owners.get(uid).copied()
    }

    /// Takes what a PodGroup says; `None` for one that does not say how many.
    pub fn put_pod_group(&mut self, name: Named, size: Option<u32>) {
        match size {
            Some(size) => _ = self.pod_groups.insert(name, size),
            None => _ = self.pod_groups.remove(&name),
        }
    }

    /// Forgets a PodGroup.
    pub fn remove_pod_group(&mut self, name: &Named) {
        self.pod_groups.remove(name);
    }

    /// How many pods the pod's group wants at once, where it is in one that says.
    pub fn pod_group_size(&self, pod: &PodSeen) -> Option<u32> {
        let name = pod.pod_group.clone()?;
        self.pod_groups.get(&(pod.namespace.clone(), name)).copied()
    }

    /// Forgets specifications that nothing uses any more.
    pub fn tidy(&mut self) {
        self.specs.retain(|spec| Arc::strong_count(spec) > 1);
    }

    fn shared(&mut self, spec: &Arc<ClaimSpec>) -> Arc<ClaimSpec> {
        match self.specs.get(spec) {
            Some(known) => known.clone(),
            None => {
                self.specs.insert(spec.clone());
                spec.clone()
            }
        }
    }

    /// What a pod needs, as far as it is known; `default_cores` is what admission gives a share of memory alone.
    pub fn need(&self, pod: &PodSeen, default_cores: u64) -> Need {
        let mut claims = Vec::new();
        let mut foreign = false;
        for named in &pod.claims {
            let (demand, has_foreign) = match self.claim(pod, named, default_cores) {
                Ok(found) => found,
                Err(missing) => return Need::Unknown(missing),
            };
            foreign |= has_foreign;
            if !demand.spec.requests.is_empty() || demand.node.is_some() {
                claims.push(demand);
            }
        }
        claims.extend(self.extended(pod));
        if claims.iter().all(|c| c.spec.requests.is_empty()) {
            return Need::NotOurs;
        }
        let mut resources = pod.resources.clone();
        for name in pod.extended.keys().filter(|name| self.class_of(name).is_some()) {
            resources.0.remove(name);
        }
        Need::Ours { demand: PodDemand { resources, fit: pod.fit.clone(), claims }, foreign }
    }

    fn claim(
        &self,
        pod: &PodSeen,
        named: &ClaimRef,
        default_cores: u64,
    ) -> Result<(ClaimDemand, bool), String> {
        let name = |name: &str| (pod.namespace.clone(), name.to_owned());
        let found = match named {
            ClaimRef::Named(claim) => {
                let found = self.claims.get(&name(claim));
                Some(found.ok_or_else(|| format!("resourceclaim {claim}"))?)
            }
            ClaimRef::Template { claim, .. } => {
                claim.as_ref().and_then(|claim| self.claims.get(&name(claim)))
            }
        };
        let spec = match (found, named) {
            (Some(claim), _) => &claim.spec,
            (None, ClaimRef::Template { template, .. }) => self
                .templates
                .get(&name(template))
                .ok_or_else(|| format!("resourceclaimtemplate {template}"))?,
            (None, ClaimRef::Named(claim)) => return Err(format!("resourceclaim {claim}")),
        };
        let mut own = claim::ours(spec, &self.ours);
        if found.is_none() {
            fill_cores(&mut own, default_cores);
        }
        let demand = ClaimDemand {
            uid: found.map(|claim| claim.uid.clone()),
            shared: matches!(named, ClaimRef::Named(_)),
            node: found.filter(|claim| claim.allocated).and_then(|claim| claim.node.clone()),
            spec: own,
        };
        Ok((demand, claim::has_foreign(spec, &self.ours)))
    }

    /// The class of this driver behind an extended resource.
    fn class_of(&self, resource: &str) -> Option<&ClassSeen> {
        let class = match resource.strip_prefix(IMPLICIT) {
            Some(class) => self.classes.get(class)?,
            None => self.classes.values().find(|c| c.extended_resource.as_deref() == Some(resource))?,
        };
        class.ours.then_some(class)
    }

    /// The claim that the scheduler will make for a pod's extended resources: a request for each, without more.
    fn extended(&self, pod: &PodSeen) -> Option<ClaimDemand> {
        let request = |(name, units): (&String, &u64)| {
            let class = self.class_of(name)?;
            let ask = Ask {
                name: String::new(),
                class: class.class.name.clone(),
                selectors: Vec::new(),
                count: Count::Exactly(u32::try_from(*units).unwrap_or(u32::MAX)),
                capacity: BTreeMap::new(),
                tolerations: Vec::new(),
                admin_access: false,
            };
            Some(Request { name: name.clone(), alternatives: vec![ask] })
        };
        let requests: Vec<Request> =
            pod.extended.iter().filter(|(_, units)| **units > 0).filter_map(request).collect();
        (!requests.is_empty()).then(|| ClaimDemand {
            uid: None,
            shared: false,
            node: None,
            spec: ClaimSpec { requests, constraints: Vec::new() },
        })
    }
}

/// What admission will do to the claim of a template: a share that names memory alone gets the default of cores.
fn fill_cores(spec: &mut ClaimSpec, cores: u64) {
    for ask in spec.requests.iter_mut().flat_map(|r| &mut r.alternatives) {
        if ask.capacity.contains_key("memory") {
            ask.capacity.entry("cores".to_owned()).or_insert(cores);
        }
    }
}
