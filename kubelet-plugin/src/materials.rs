//! What a prepared claim consists of on the node: shared regions and one CDI file. Made from the plan and from
//! what is there, removed by what is observed; each step may be repeated after a crash.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use vnpu_cdi::{CdiDir, CdiError, ContainerEdits, Device, DeviceNode, Mount, Spec, qualified_name};
use vnpu_discovery::DiscoveryError;
use vnpu_driver::hardware::Chip;
use vnpu_driver::id::{ClaimUid, DeviceUuid, PoolName};
use vnpu_driver::live::{self, Wishes};
use vnpu_driver::prepare::{PlannedResult, PreparePlan};
use vnpu_quota_agent::{Agent, AgentError, ClaimRegions};

use crate::crash_at;
use crate::hardware::{Inventories, Standing};
use crate::vendors::Vendors;

/// Vendor and class of our CDI devices.
pub const CDI_KIND: &str = "vnpu.dev/claim";
/// Where containers find regions and libraries.
const IN_CONTAINER: &str = "/run/vnpu";
/// The front end, loaded into every process of an interposed container.
const PRELOAD_LIBRARY: &str = "libvnpu.so";
/// The back end, loaded on first use.
const CORE_LIBRARY: &str = "libvnpu_core.so";
/// The loader reads it in every container, whatever became of the environment.
const PRELOAD_FILE: &str = "/etc/ld.so.preload";

/// Why a claim's things could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// The CDI file.
    #[error(transparent)]
    Cdi(#[from] CdiError),
    /// The regions.
    #[error(transparent)]
    Regions(#[from] AgentError),
    /// The vendor's nodes and files.
    #[error("the vendor's device nodes and files: {0}")]
    Edits(#[from] DiscoveryError),
    /// A chip of the plan is not there.
    #[error("chip {chip} of request {request} is absent on this node: check the hardware (`vnpu doctor`)")]
    ChipAbsent {
        /// The chip.
        chip: DeviceUuid,
        /// The request.
        request: String,
    },
    /// Nobody looks for the vendor of a result's pool.
    #[error("the devices of pool {0} are not looked for on this node: see `vendors` in its NodeConfig")]
    Vendor(PoolName),
    /// A device node is missing or something else.
    #[error("{path} is no character device: {problem}; check --dev-root and the vendor's driver")]
    DeviceNode {
        /// The node.
        path: PathBuf,
        /// What is there instead.
        problem: String,
    },
    /// The interposer is not installed.
    #[error("{path} is missing: install the interposer there or correct --interposer-dir")]
    Interposer {
        /// The missing file.
        path: PathBuf,
    },
    /// The preload file could not be written.
    #[error("cannot {operation} {path}: {source}; check --runtime-dir")]
    Preload {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A path that cannot be written into a CDI file.
    #[error("path {0:?} is not valid UTF-8 and cannot stand in a CDI file")]
    Path(PathBuf),
}

impl MaterialError {
    /// Whether the same call may succeed later.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Cdi(e) => e.retryable(),
            Self::Regions(e) => e.retryable(),
            Self::Edits(e) => e.retryable(),
            Self::Path(_) | Self::Vendor(_) => false,
            Self::ChipAbsent { .. }
            | Self::DeviceNode { .. }
            | Self::Interposer { .. }
            | Self::Preload { .. } => true,
        }
    }

    /// Stable word for metrics and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Cdi(e) => e.reason(),
            Self::Regions(e) => e.reason(),
            Self::Edits(e) => e.reason(),
            Self::Vendor(_) => "vendor_not_served",
            Self::ChipAbsent { .. } => "device_absent",
            Self::DeviceNode { .. } => "device_node",
            Self::Interposer { .. } => "interposer_missing",
            Self::Preload { .. } => "preload_file",
            Self::Path(_) => "path_encoding",
        }
    }
}

/// What there is of a prepared claim's CDI file and regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// All, as it would be made now.
    Current,
    /// All, but the hardware's numbers or the driver's files have changed since.
    Outdated,
    /// Not all.
    Missing,
}

/// The directories, and who is asked about each vendor's devices. All calls block.
pub struct Materials {
    cdi_dir: PathBuf,
    runtime_dir: PathBuf,
    interposer_dir: PathBuf,
    vendors: Vendors,
    /// `None` until first used, and after another instance worked on the regions.
    agent: RwLock<Option<Arc<Agent>>>,
    /// Held while the preload file is looked at and written.
    preload: Mutex<()>,
}

impl std::fmt::Debug for Materials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Materials").field("cdi_dir", &self.cdi_dir).finish_non_exhaustive()
    }
}

impl Materials {
    /// Nothing is touched before the first call.
    pub fn new(cdi_dir: &Path, runtime_dir: &Path, interposer_dir: &Path, vendors: Vendors) -> Self {
        Self {
            cdi_dir: cdi_dir.to_owned(),
            runtime_dir: runtime_dir.to_owned(),
            interposer_dir: interposer_dir.to_owned(),
            vendors,
            agent: RwLock::new(None),
            preload: Mutex::new(()),
        }
    }

    /// Who is asked about hardware.
    pub fn vendors(&self) -> &Vendors {
        &self.vendors
    }

    /// The regions' keeper, opened at first use.
    ///
    /// # Errors
    /// The runtime directory cannot be used.
    pub fn agent(&self) -> Result<Arc<Agent>, AgentError> {
        if let Some(agent) = self.agent.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            return Ok(Arc::clone(agent));
        }
        let mut place = self.agent.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = place.as_ref() {
            return Ok(Arc::clone(agent));
        }
        let agent = Arc::new(Agent::open(&self.runtime_dir)?);
        *place = Some(Arc::clone(&agent));
        Ok(agent)
    }

    /// Forgets what was remembered of the regions: another instance worked on them.
    pub fn forget_regions(&self) {
        *self.agent.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The CDI directory, made when absent.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn cdi(&self) -> Result<CdiDir, CdiError> {
        CdiDir::open(&self.cdi_dir, CDI_KIND)
    }

    /// Makes regions and CDI file of `plan`, in this order, for the chips' numbers of now. The quotas are what the
    /// claim's annotations ask for; where these are not known, those that are in force already.
    ///
    /// # Errors
    /// Whatever cannot be made; a repetition goes on from what is there.
    pub fn make(
        &self,
        plan: &PreparePlan,
        seen: &Inventories,
        wishes: Option<&Wishes>,
    ) -> Result<(), MaterialError> {
        let regions = if plan.interposed() {
            self.check_interposer()?;
            self.write_preload_file()?;
            let (agent, plan) = (self.agent()?, seen.renumbered(plan));
            let shares = match wishes {
                Some(wishes) => live::effective(&plan, wishes, None).0,
                None => match agent.shares(&plan.claim) {
                    Ok(Some(now)) => live::kept(&plan, &now),
                    // Those that cannot be read are made anew.
                    Ok(None) | Err(_) => plan.shares,
                },
            };
            Some(agent.create(&shares)?)
        } else {
            None
        };
        crash_at!("prepare.regions.after");
        let spec = self.spec(plan, seen, regions.as_ref())?;
        self.cdi()?.write(plan.claim.as_str(), &spec)?;
        crash_at!("prepare.cdi.after");
        Ok(())
    }

    /// What there is of a prepared claim.
    ///
    /// # Errors
    /// What is there cannot be read.
    pub fn condition(&self, plan: &PreparePlan, seen: &Inventories) -> Result<Condition, MaterialError> {
        let found = match self.cdi()?.read(plan.claim.as_str()) {
            Ok(spec) => spec,
            // Something that is no CDI file of ours: it is made again.
            Err(CdiError::Io { operation: "parse", .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let Some(found) = found else { return Ok(Condition::Missing) };
        let defined = plan.results.iter().all(|r| found.devices.iter().any(|d| d.name == r.cdi_device));
        let regions = if plan.interposed() { self.usable_regions(&plan.claim)? } else { None };
        if !defined || (plan.interposed() && regions.is_none()) {
            return Ok(Condition::Missing);
        }
        // What cannot be made now, because a chip is gone or nothing is known of it yet, is no better than what is there.
        let wanted = self.spec(plan, seen, regions.as_ref()).ok();
        Ok(if wanted.is_none_or(|wanted| wanted == found) { Condition::Current } else { Condition::Outdated })
    }

    /// Regions that cannot be read are none: they are made again, as if they were missing.
    fn usable_regions(&self, claim: &ClaimUid) -> Result<Option<ClaimRegions>, MaterialError> {
        match self.agent()?.regions(claim) {
            Err(error @ AgentError::Invalid { .. }) => {
                tracing::warn!(%claim, %error, "the regions of a prepared claim are unusable");
                Ok(None)
            }
            other => Ok(other?),
        }
    }

    fn spec(
        &self,
        plan: &PreparePlan,
        seen: &Inventories,
        regions: Option<&ClaimRegions>,
    ) -> Result<Spec, MaterialError> {
        let devices = plan.results.iter().map(|result| self.device(plan, result, seen, regions));
        Ok(Spec::new(CDI_KIND, devices.collect::<Result<_, _>>()?))
    }

    /// Removes the CDI file; absent is success.
    ///
    /// # Errors
    /// The system's refusal.
    pub fn remove_cdi(&self, claim: &ClaimUid) -> Result<(), MaterialError> {
        self.cdi()?.remove(claim.as_str())?;
        Ok(())
    }

    /// Removes the regions; absent is success.
    ///
    /// # Errors
    /// The system's refusal.
    pub fn remove_regions(&self, claim: &ClaimUid) -> Result<(), MaterialError> {
        self.agent()?.remove(claim)?;
        Ok(())
    }

    /// Claims that have a CDI file or regions here, whether or not anybody knows of them.
    ///
    /// # Errors
    /// A directory cannot be listed.
    pub fn observed(&self) -> Result<Vec<ClaimUid>, MaterialError> {
        let mut claims = self.agent()?.claims()?;
        claims.extend(self.cdi()?.list()?.into_iter().filter_map(|found| ClaimUid::new(found.id).ok()));
        claims.sort();
        claims.dedup();
        Ok(claims)
    }

    fn device(
        &self,
        plan: &PreparePlan,
        result: &PlannedResult,
        seen: &Inventories,
        regions: Option<&ClaimRegions>,
    ) -> Result<Device, MaterialError> {
        let absent =
            |chip: DeviceUuid| MaterialError::ChipAbsent { chip, request: result.request.to_string() };
        let chips = match seen.standing(result.pool.as_str()) {
            Standing::Known(inventory) => result.chips_in(inventory).map_err(absent)?,
            Standing::Pending | Standing::Absent => match result.chips.first() {
                Some(chip) => return Err(absent(chip.uuid.clone())),
                None => Vec::new(),
            },
        };
        let chips: Vec<Chip> = chips.into_iter().cloned().collect();
        let backend = self.vendors.backend(&result.pool);
        let vendor = backend.ok_or_else(|| MaterialError::Vendor(result.pool.clone()))?.edits(&chips)?;
        let mut edits = ContainerEdits::default();
        for node in &vendor.device_nodes {
            check_node(&node.host_path)?;
            edits.device_nodes.push(DeviceNode {
                path: text(&node.container_path)?,
                host_path: Some(text(&node.host_path)?),
                kind: Some("c".to_owned()),
                permissions: Some("rw".to_owned()),
                ..DeviceNode::default()
            });
        }
        for mount in &vendor.mounts {
            edits.mounts.push(Mount::bind(text(&mount.host_path)?, text(&mount.container_path)?, false));
        }
        if result.interpose
            && let Some(regions) = regions
        {
            edits.mounts.extend(self.quota_mounts(plan, result, regions)?);
        }
        Ok(Device { name: result.cdi_device.clone(), container_edits: edits, ..Device::default() })
    }

    /// The paths of `interposer.md`, section 4, as containers see them. The claim's quota names all chips of the
    /// claim, so every device of the claim brings the regions of all of them.
    fn quota_mounts(
        &self,
        plan: &PreparePlan,
        result: &PlannedResult,
        regions: &ClaimRegions,
    ) -> Result<Vec<Mount>, MaterialError> {
        let claim = format!("{IN_CONTAINER}/claims/{}", plan.claim);
        tracing::trace!(claim = %plan.claim, request = %result.request, "adding the quota");
        let mut mounts = vec![
            Mount::bind(text(&regions.quota)?, format!("{claim}/quota"), false),
            Mount::bind(text(&regions.usage)?, format!("{claim}/usage"), true),
        ];
        for (uuid, path) in &regions.devices {
            mounts.push(Mount::bind(text(path)?, format!("{IN_CONTAINER}/devices/{uuid}"), true));
        }
        mounts.push(Mount::bind(text(&self.interposer_dir)?, format!("{IN_CONTAINER}/lib"), false));
        mounts.push(Mount::bind(text(&self.preload_source())?, PRELOAD_FILE, false));
        Ok(mounts)
    }

    fn check_interposer(&self) -> Result<(), MaterialError> {
        for name in [PRELOAD_LIBRARY, CORE_LIBRARY] {
            let path = self.interposer_dir.join(name);
            if !path.is_file() {
                return Err(MaterialError::Interposer { path });
            }
        }
        Ok(())
    }

    fn preload_source(&self) -> PathBuf {
        self.runtime_dir.join("ld.so.preload")
    }

    /// Containers that run have the file mounted, so it is never written in place.
    fn write_preload_file(&self) -> Result<(), MaterialError> {
        // Claims are prepared side by side, and all of them need the one file.
        let _one = self.preload.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.preload_source();
        let content = format!("{IN_CONTAINER}/lib/{PRELOAD_LIBRARY}\n");
        if fs::read(&path).is_ok_and(|found| found == content.as_bytes()) {
            return Ok(());
        }
        let temporary = path.with_extension("preload.tmp");
        let failed = |operation| {
            let path = path.clone();
            move |source| MaterialError::Preload { operation, path, source }
        };
        fs::create_dir_all(&self.runtime_dir).map_err(failed("make the directory of"))?;
        fs::File::create(&temporary)
            .and_then(|mut file| {
                file.write_all(content.as_bytes())?;
                file.set_permissions(fs::Permissions::from_mode(0o644))?;
                file.sync_all()
            })
            .map_err(failed("write"))?;
        fs::rename(&temporary, &path).map_err(failed("rename"))
    }
}

/// The fully qualified names for the kubelet.
pub fn cdi_id(result: &PlannedResult) -> String {
    qualified_name(CDI_KIND, &result.cdi_device)
}

fn check_node(path: &Path) -> Result<(), MaterialError> {
    let problem = match fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_char_device() => return Ok(()),
        Ok(_) => "it is another kind of file".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(MaterialError::DeviceNode { path: path.to_owned(), problem })
}

fn text(path: &Path) -> Result<String, MaterialError> {
    path.to_str().map(str::to_owned).ok_or_else(|| MaterialError::Path(path.to_owned()))
}
