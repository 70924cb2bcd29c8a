//! A guard case: one object, and whether the API server must take it. The comments at the top of the file say
//! the rest: the first line what it is about, then `# refused:`, `# as:` and `# needs:`.

use std::path::{Path, PathBuf};

use crate::{CaseError, files};

/// What the API server must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardVerdict {
    /// It takes the object.
    Legal,
    /// It refuses it, and the message contains this.
    Refused(String),
}

/// One file of `e2e/guard-cases`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardCase {
    /// The file's name without `.yaml`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// What it is about, one sentence.
    pub about: String,
    /// What must come of it.
    pub verdict: GuardVerdict,
    /// The user who creates it; the suite's own when `None`.
    pub user: Option<String>,
    /// The API version that the server must serve, such as `resource.k8s.io/v1beta1`.
    pub needs: Option<String>,
}

impl GuardCase {
    /// The cases of a directory with the folders `legal` and `refused`, by name.
    ///
    /// # Errors
    /// A folder or file that cannot be read, a refused case without its message, an unknown comment.
    pub fn load(directory: &Path) -> Result<Vec<Self>, CaseError> {
        let mut cases = Vec::new();
        for (folder, refused) in [("legal", false), ("refused", true)] {
            for path in files::entries(&directory.join(folder))? {
                cases.push(Self::read(&path, refused)?);
            }
        }
        Ok(cases)
    }

    fn read(path: &Path, refused: bool) -> Result<Self, CaseError> {
        let malformed = |what: String| CaseError::Form { path: path.to_owned(), what };
        let text = files::text(path)?;
        let mut comments = text.lines().map_while(|line| line.strip_prefix("# "));
        let about = comments
            .next()
            .ok_or_else(|| malformed("the first line must say what the case is about".into()))?;
        let (mut message, mut user, mut needs) = (None, None, None);
        for comment in comments {
            let (key, value) = comment.split_once(": ").unwrap_or((comment, ""));
            let slot = match key {
                "refused" => &mut message,
                "as" => &mut user,
                "needs" => &mut needs,
                other => return Err(malformed(format!("`{other}` is none of refused, as, needs"))),
            };
            *slot = Some(value.to_owned());
        }
        let verdict = match (refused, message) {
            (false, None) => GuardVerdict::Legal,
            (true, Some(message)) => GuardVerdict::Refused(message),
            (false, Some(_)) => return Err(malformed("a legal case is not refused".into())),
            (true, None) => {
                return Err(malformed("a refused case says the message: `# refused: ...`".into()));
            }
        };
        Ok(Self {
            name: files::stem(path),
            path: path.to_owned(),
            about: about.to_owned(),
            verdict,
            user,
            needs,
        })
    }

    /// The arguments of the kubectl call that tries the case in `namespace` and leaves nothing behind. The
    /// namespace needs the label `resource.kubernetes.io/admin-access: "true"`.
    pub fn kubectl(&self, namespace: &str) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["create", "--dry-run=server", "-n", namespace, "-f"].map(str::to_owned).to_vec();
        arguments.push(self.path.display().to_string());
        arguments.extend(self.user.iter().map(|user| format!("--as={user}")));
        arguments
    }

    /// Whether the API server did what it must; if not, the sentence that says so.
    ///
    /// # Errors
    /// That sentence.
    pub fn judge(&self, succeeded: bool, output: &str) -> Result<(), String> {
        let output = output.trim();
        match (&self.verdict, succeeded) {
            (GuardVerdict::Legal, true) => Ok(()),
            (GuardVerdict::Legal, false) => {
                Err(format!("{}: is legal, but was refused: {output}", self.name))
            }
            (GuardVerdict::Refused(_), true) => Err(format!("{}: must be refused, but was taken", self.name)),
            (GuardVerdict::Refused(message), false) if output.contains(message) => Ok(()),
            (GuardVerdict::Refused(message), false) => {
                Err(format!("{}: must be refused with `{message}`, but was with: {output}", self.name))
            }
        }
    }
}
