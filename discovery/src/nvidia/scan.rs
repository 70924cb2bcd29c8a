//! One pass over all GPUs. What fails on one GPU is that GPU's problem: one seen before is kept with what is known of
//! it, a new one is named and left out, and the others are served.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use vnpu_driver::hardware::{Chip, Health, Inventory, MultiDiePolicy, Partition, Problem, Traits, Vendor};
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::{Bytes, Percent};

use super::gpu::{Facts, Flaw, Look, Seen, Unanswered, Why, memory, uuid};
use super::library::{Answer, Handle, Library, Slices};
use super::links::{Links, groups};
use super::model::model;
use crate::error::DiscoveryError;
use crate::found::{Found, Identity};
use crate::sysfs;
use crate::worker::{CallKey, Steps, Worker};

/// A GPU by its index in NVML, and in it 0 for the GPU and 1 on for its instances.
pub(crate) type Place = (u32, u32);

/// The library's calls. What they are made on is an [`Arc<Library>`] of the call's own, so that a call can never meet
/// another initialisation than the one that its handle is of.
pub(crate) type Calls = Worker<(), Place>;

/// What no two devices may share.
const IDENTITIES: [Identity; 2] = [
    Identity {
        what: "several GPUs report the same UUID",
        reason: "duplicate_uuid",
        remedy: "update the driver or reset the devices",
        same: |one, other| one.uuid == other.uuid,
    },
    Identity {
        what: "several GPUs report the same minor number",
        reason: "duplicate_minor",
        remedy: "update the driver or reset the devices",
        same: |one, other| one.name() == other.name(),
    },
];

/// What earlier passes learnt, for the case that the library cannot say it now.
#[derive(Debug, Default)]
pub(crate) struct Known {
    chips: BTreeMap<Place, Chip>,
    links: BTreeMap<Place, Links>,
    /// By their indices in NVML.
    gpus: BTreeMap<u32, Facts>,
    /// The last pass had no answer to something that is not told as a problem.
    unanswered: bool,
    driver_version: String,
    cuda_version: String,
}

/// What a pass brought.
pub(crate) struct Passed {
    /// The devices, or why nothing can be said of any.
    pub(crate) inventory: Result<Inventory, DiscoveryError>,
    /// Where the library has them.
    pub(crate) devices: BTreeMap<DeviceUuid, (Place, Handle)>,
    /// Whether the library is to be initialised again.
    pub(crate) stale: bool,
}

/// One pass.
struct Pass<'a> {
    calls: &'a Calls,
    library: &'a Arc<Library>,
    sys_root: &'a Path,
    /// Whether what hardly ever changes is not asked.
    brief: bool,
    /// GPUs on which a call hung in this pass: each costs one deadline, not one per call.
    hung: RefCell<BTreeMap<u32, &'static str>>,
    stale: Cell<bool>,
    problems: RefCell<Vec<Problem>>,
    devices: RefCell<BTreeMap<DeviceUuid, (Place, Handle)>>,
}

/// Looks at all GPUs. `known` is updated to what this pass found. A brief look asks which GPUs there are and how they
/// are; of those that were there before the rest is believed.
pub(crate) fn scan(
    calls: &Calls,
    library: &Arc<Library>,
    sys_root: &Path,
    known: &mut Known,
    brief: bool,
) -> Passed {
    let pass = Pass {
        calls,
        library,
        sys_root,
        brief,
        hung: RefCell::default(),
        stale: Cell::new(false),
        problems: RefCell::default(),
        devices: RefCell::default(),
    };
    let inventory = pass.all(known).map_err(Unanswered::whole);
    Passed { inventory, devices: pass.devices.into_inner(), stale: pass.stale.get() }
}

impl Pass<'_> {
    fn all(&self, known: &mut Known) -> Result<Inventory, Unanswered> {
        let count = self.ask("nvmlDeviceGetCount_v2", None, Library::count)?;
        known.unanswered = false;
        if !self.brief {
            match self.ask("nvmlSystemGetDriverVersion", None, Library::driver_version) {
                Ok(version) => known.driver_version = version,
                // Without it containers get none of the driver's libraries.
                Err(unanswered) => {
                    known.unanswered |= unanswered.may_pass() || known.driver_version.is_empty();
                }
            }
            match self.ask("nvmlSystemGetCudaDriverVersion_v2", None, Library::cuda_version) {
                Ok(version) => known.cuda_version = format!("{}.{}", version / 1000, version % 1000 / 10),
                Err(unanswered) => known.unanswered |= unanswered.may_pass(),
            }
        }
        let mut found = Found::<Place>::default();
        let mut links = BTreeMap::new();
        for index in 0..count {
            let place = (index, 0);
            match self.gpu(index, known, &mut found) {
                Ok(seen) => _ = links.insert(place, seen),
                Err(flaw) => {
                    let health = self.flaw(place, flaw);
                    for (place, _) in known.chips.range((index, 0)..=(index, u32::MAX)) {
                        health.iter().for_each(|health| found.carry(*place, &known.chips, health));
                    }
                    links.extend(known.links.get(&place).map(|old| (place, old.clone())));
                }
            }
        }
        let mut problems = self.problems.take();
        known.chips = found.settle(&known.chips, &IDENTITIES, object, &mut problems);
        known.links = links;
        known.join();
        Ok(Inventory {
            vendor: Vendor::Nvidia,
            chips: known.chips.values().cloned().collect(),
            multi_die_policy: MultiDiePolicy::Independent,
            driver_version: known.driver_version.clone(),
            cuda_version: known.cuda_version.clone(),
            superpod: None,
            problems,
        })
    }

    fn ask<T: Send + 'static>(
        &self,
        function: &'static str,
        place: Option<Place>,
        call: impl FnOnce(&Library) -> Answer<T> + Send + 'static,
    ) -> Result<T, Unanswered> {
        let gpu = place.map(|(index, _)| index);
        if let Some(function) = gpu.and_then(|gpu| self.hung.borrow().get(&gpu).copied()) {
            return Err(Unanswered { function, why: Why::Hangs });
        }
        let library = Arc::clone(self.library);
        match self.calls.call(CallKey { function, place }, move |()| call(&library)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(refusal)) => {
                self.stale.set(self.stale.get() || refusal.is_stale());
                Err(Unanswered { function, why: Why::Refused(refusal) })
            }
            Err(_) => {
                self.hung.borrow_mut().extend(gpu.map(|gpu| (gpu, function)));
                Err(Unanswered { function, why: Why::Hangs })
            }
        }
    }

    /// Names a device that cannot be looked at; what that says of its health, if it may still be there.
    fn flaw(&self, place: Place, flaw: Flaw) -> Option<Health> {
        let (message, reason, health) = match flaw {
            Flaw::Unanswered(unanswered) => {
                (unanswered.message(), unanswered.reason(), Some(unanswered.health()))
            }
            Flaw::Unusable { message, reason } => (message, reason, None),
        };
        let object = object(place);
        // The caller says it once; here it would be said in every pass.
        tracing::debug!(object, message, reason, "discovery");
        self.problems.borrow_mut().push(Problem { object, message, reason: reason.to_owned() });
        health
    }

    /// A GPU or its instances, into `found`; the GPU's links.
    fn gpu(&self, index: u32, known: &mut Known, found: &mut Found<Place>) -> Result<Links, Flaw> {
        let library = Arc::clone(self.library);
        let believed = known.gpus.remove(&index).filter(|_| self.brief);
        let visit = move |steps: &Steps<'_, (), Place>| {
            Look { steps, library: &library, believed: believed.as_ref() }.gpu(index)
        };
        let (facts, hangs) = self.calls.visit((index, 0), visit).map_err(Unanswered::from)?;
        self.hung.borrow_mut().extend(hangs.map(|function| (index, function)));
        let Seen { facts, stale } = facts;
        self.stale.set(self.stale.get() || stale);
        let facts = facts?;
        if facts.trouble.is_none() {
            known.gpus.insert(index, facts.clone());
        }
        let Facts { handle, uuid, minor, memory, parted, name, pci, capability, ends, failed, trouble } =
            facts;
        if let Some(unanswered) = trouble {
            // What was known of it is better than half of what is now; of a new one half is better than nothing.
            if known.chips.iter().any(|((at, _), chip)| *at == index && chip.phys_id == minor) {
                return Err(unanswered.into());
            }
            self.flaw((index, 0), unanswered.into());
        }
        let product_name = name.unwrap_or_default();
        let chip = Chip {
            card: minor,
            die: 0,
            uuid,
            module: None,
            model: model(&product_name),
            product_name,
            memory,
            phys_id: minor,
            pci,
            numa_node: pci.and_then(|address| sysfs::numa_node(self.sys_root, address)),
            pcie_root: pci.and_then(|address| sysfs::pcie_root(self.sys_root, address)),
            health: match trouble {
                Some(unanswered) => unanswered.health(),
                None if failed => Health::fault(
                    "row-remap-failed",
                    "rows of its memory failed and could not be replaced: the GPU is to be exchanged",
                ),
                None => Health::Healthy,
            },
            traits: Traits {
                compute_capability: capability
                    .map_or_else(String::new, |(major, minor)| format!("{major}.{minor}")),
                ..Traits::default()
            },
        };
        if parted {
            // Instances reach no other GPU over links.
            self.instances((index, handle), &chip, known, found)?;
            return Ok(Links::default());
        }
        self.see((index, 0), handle, chip, found);
        Ok(Links { own: pci, ends: ends.unwrap_or_default() })
    }

    fn see(&self, place: Place, handle: Handle, chip: Chip, found: &mut Found<Place>) {
        self.devices.borrow_mut().insert(chip.uuid.clone(), (place, handle));
        found.see(place, chip);
    }

    /// The instances that exist on a partitioned GPU.
    fn instances(
        &self,
        (index, gpu): (u32, Handle),
        whole: &Chip,
        known: &Known,
        found: &mut Found<Place>,
    ) -> Result<(), Flaw> {
        let place = Some((index, 0));
        let most = self.ask("nvmlDeviceGetMaxMigDeviceCount", place, move |l| l.most_instances(gpu))?;
        let slices = self.ask("nvmlDeviceGetGpuInstanceProfileInfo", place, move |l| l.all_slices(gpu));
        // The largest GPUs of today have seven.
        let slices = slices.unwrap_or(7);
        let (mut seen, mut of, mut any) = (Vec::new(), Vec::new(), false);
        for number in 0..most {
            let place = (index, number.saturating_add(1));
            let before = of.len();
            let handle = self
                .ask("nvmlDeviceGetMigDeviceHandleByIndex", Some(place), move |l| l.instance(gpu, number));
            let chip = match handle {
                Ok(None) => continue,
                Ok(Some(handle)) => self.instance(handle, place, whole, slices, &mut of),
                Err(unanswered) => Err(unanswered.into()),
            };
            any = true;
            match chip {
                Ok((handle, chip)) => seen.push((place, handle, chip)),
                Err(flaw) => {
                    // Where that had no answer, it is in the GPU instance in which it was.
                    let was = known.chips.get(&place).and_then(|chip| chip.traits.partition.as_ref());
                    of.extend(was.filter(|_| of.len() == before).map(|part| part.gpu_instance));
                    if let Some(health) = self.flaw(place, flaw) {
                        found.carry(place, &known.chips, &health);
                    }
                }
            }
        }
        if !any {
            self.problems.borrow_mut().push(Problem {
                object: object((index, 0)),
                message:
                    "MIG is on, and there are no instances: nothing of it can be given out until some are \
                          made, or MIG is switched off"
                        .to_owned(),
                reason: "no_instances".to_owned(),
            });
        }
        // Compute instances of one GPU instance have its memory together.
        for (place, handle, chip) in seen {
            let mine = chip.traits.partition.as_ref().map(|part| part.gpu_instance);
            let together = of.iter().filter(|of| Some(**of) == mine).count() as u64;
            let memory = Bytes(chip.memory.0 / together.max(1));
            self.see(place, handle, Chip { memory, ..chip }, found);
        }
        Ok(())
    }

    /// A compute instance. In which GPU instance it is comes first, and into `of`: it has its part of that whatever
    /// becomes of it.
    fn instance(
        &self,
        handle: Handle,
        place: Place,
        whole: &Chip,
        slices: u32,
        of: &mut Vec<u32>,
    ) -> Result<(Handle, Chip), Flaw> {
        let at = Some(place);
        let gpu_instance = self.ask("nvmlDeviceGetGpuInstanceId", at, move |l| l.gpu_instance(handle))?;
        of.push(gpu_instance);
        let uuid = uuid(&self.ask("nvmlDeviceGetUUID", at, move |l| l.uuid(handle))?)?;
        let compute_instance =
            self.ask("nvmlDeviceGetComputeInstanceId", at, move |l| l.compute_instance(handle))?;
        let memory = memory(self.ask("nvmlDeviceGetMemoryInfo", at, move |l| l.memory(handle))?)?;
        let size = self.ask("nvmlDeviceGetAttributes_v2", at, move |l| l.slices(handle))?;
        let name = self.ask("nvmlDeviceGetName", at, move |l| l.name(handle)).unwrap_or_default();
        let partition = Partition {
            gpu_instance,
            compute_instance,
            profile: profile(&name, size),
            cores: Percent((size.compute.saturating_mul(100) / slices.max(1)).clamp(1, 100)),
        };
        let traits = Traits { partition: Some(partition), ..whole.traits.clone() };
        Ok((handle, Chip { uuid, memory, traits, ..whole.clone() }))
    }
}

/// What comes behind `MIG` in an instance's name; made from its sizes where the name has none.
fn profile(name: &str, size: Slices) -> String {
    match name.rsplit_once("MIG ") {
        Some((_, profile)) => profile.trim().to_owned(),
        None => format!("{}g.{}gb", size.compute, size.memory_mib.div_ceil(1024)),
    }
}

impl Known {
    /// Whether all that the last pass asked was answered, or is told as a problem.
    pub(crate) fn is_complete(&self) -> bool {
        !self.unanswered
    }

    /// Names the groups of GPUs that are joined.
    fn join(&mut self) {
        let chips = &self.chips;
        let gpus: Vec<(&str, &Links)> = self
            .links
            .iter()
            .filter_map(|(place, links)| Some((chips.get(place)?.uuid.as_str(), links)))
            .collect();
        let named: BTreeMap<String, String> =
            groups(&gpus).into_iter().map(|(uuid, name)| (uuid.to_owned(), name.to_owned())).collect();
        for chip in self.chips.values_mut() {
            chip.traits.link_group = named.get(chip.uuid.as_str()).cloned().unwrap_or_default();
        }
    }
}

fn object((index, instance): Place) -> String {
    match instance.checked_sub(1) {
        None => format!("GPU {index}"),
        Some(instance) => format!("GPU {index} MIG device {instance}"),
    }
}
