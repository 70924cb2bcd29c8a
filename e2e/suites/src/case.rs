//! What a case is.

use anyhow::Result;

use crate::context::Context;

/// One end-to-end case.
pub(crate) struct Case {
    /// Its name, `subject/what_it_proves`: stable, because people filter by it.
    pub(crate) name: &'static str,
    /// What it proves, in a sentence.
    pub(crate) about: &'static str,
    /// Does it. An error is a failure and says what was seen.
    pub(crate) run: fn(&mut Context) -> Result<()>,
}
