//! One look at all regions of the machine that may be seen: those of this user's runs, and those of the node plugin.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use vnpu_driver::id::ClaimUid;
use vnpu_quota_agent::{AgentError, ClaimReading, Reader};

use crate::base::Base;
use crate::node_plugin;
use crate::regions;

/// Where to look.
#[derive(Debug)]
pub(crate) struct Places {
    runs: Option<Base>,
    node: PathBuf,
    admin: String,
    // Of the plugin's claims; asked again when one is new.
    names: BTreeMap<ClaimUid, String>,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) claims: BTreeMap<ClaimUid, Seen>,
    /// What could not be seen, in words.
    pub(crate) problems: Vec<String>,
}

/// One claim.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) owner: Owner,
    pub(crate) reading: ClaimReading,
    pub(crate) at: Instant,
}

/// Whose claim it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Of `vnpu run`: the run's name and process, where they are known.
    Run { name: Option<String>, pid: Option<u32> },
    /// Of the node plugin: `namespace/name`, where the plugin tells it.
    Node { name: Option<String> },
}

impl Places {
    pub(crate) fn new(runs: Option<Base>, node: &Path, admin: &str) -> Self {
        Self { runs, node: node.to_owned(), admin: admin.to_owned(), names: BTreeMap::new() }
    }

    /// The places, in words.
    pub(crate) fn words(&self) -> String {
        let node = self.node.display();
        match &self.runs {
            Some(runs) => format!("{} and {node}", runs.dir().display()),
            None => node.to_string(),
        }
    }

    /// Looks.
    pub(crate) fn look(&mut self) -> Look {
        let mut look = Look { claims: BTreeMap::new(), problems: Vec::new() };
        if let Some(runs) = &self.runs {
            let notes: BTreeMap<_, _> = regions::runs(runs.dir()).unwrap_or_default().into_iter().collect();
            look.add(&Reader::new(runs.node()), |uid| {
                let note = notes.get(uid).cloned().flatten();
                Owner::Run { pid: note.as_ref().map(|n| n.pid), name: note.map(|n| n.name) }
            });
        }
        let node = Reader::new(&self.node);
        let claims = node.claims().unwrap_or_default();
        if claims.iter().any(|uid| !self.names.contains_key(uid)) && !self.admin.is_empty() {
            self.names = node_plugin::claim_names(&self.admin);
        }
        look.add(&node, |uid| Owner::Node { name: self.names.get(uid).cloned() });
        look
    }
}

impl Look {
    fn add(&mut self, reader: &Reader, owner: impl Fn(&ClaimUid) -> Owner) {
        let claims = match reader.claims() {
            Ok(claims) => claims,
            Err(error) => return self.problems.push(words(&error)),
        };
        for uid in claims {
            match reader.read(&uid) {
                Ok(Some(reading)) => {
                    let owner = owner(&uid);
                    self.claims.insert(uid, Seen { owner, reading, at: Instant::now() });
                }
                Ok(None) => (),
                Err(error) => self.problems.push(words(&error)),
            }
        }
    }
}

/// The agent's advice is for who runs it; whoever looks needs to know why he sees nothing.
fn words(error: &AgentError) -> String {
    match error {
        AgentError::Io { path, source, .. } => format!("{} cannot be seen: {source}", path.display()),
        AgentError::Invalid { path, problem } => format!("{} cannot be read: {problem}", path.display()),
        other => other.to_string(),
    }
}
