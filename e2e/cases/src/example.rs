//! An example: the file that users apply, and its README, whose console blocks say what comes of it (the format
//! is described in `examples/README.md`). Running the commands is the suites' business.

mod mask;
mod step;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use step::Step;

use crate::{CaseError, files};

/// One directory of `examples`.
#[derive(Debug, Clone)]
pub struct Example {
    /// The directory's name.
    pub name: String,
    /// The file that users apply.
    pub manifest: PathBuf,
    /// What users paste, in the order of the README, and what they then see.
    pub steps: Vec<Step>,
}

impl Example {
    /// The names of the examples of a directory, in order.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn names(directory: &Path) -> Result<Vec<String>, CaseError> {
        let examples = files::entries(directory)?.into_iter().filter(|path| path.is_dir());
        Ok(examples.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    /// The examples of a directory, by name.
    ///
    /// # Errors
    /// A README that is missing, cannot be read, or breaks the format.
    pub fn load(directory: &Path) -> Result<Vec<Self>, CaseError> {
        Self::names(directory)?.iter().map(|name| Self::read(directory, name)).collect()
    }

    /// The example `name` of a directory.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn read(directory: &Path, name: &str) -> Result<Self, CaseError> {
        let directory = directory.join(name);
        let readme = directory.join("README.md");
        let malformed = |what| CaseError::Form { path: readme.clone(), what };
        let steps = Step::all_of(&files::text(&readme)?).map_err(malformed)?;
        let apply = format!("kubectl apply -f examples/{name}/{name}.yaml");
        if !steps.iter().any(|step| step.command == apply) {
            return Err(malformed(format!("no console block has the line `$ {apply}`")));
        }
        if !steps.iter().any(|step| step.only_looks() && !step.expected.is_empty()) {
            return Err(malformed("no console block looks at what came of it".into()));
        }
        Ok(Self { name: name.to_owned(), manifest: directory.join(format!("{name}.yaml")), steps })
    }
}
