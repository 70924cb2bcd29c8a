//! Every directory of `examples/` is gone through as a user would: what its README's commands print is what the
//! README says. The format is described in `examples/README.md`.

use std::sync::LazyLock;

use anyhow::{Context as _, Result, ensure};
use vnpu_e2e_cases::Example;

use crate::case::Case;
use crate::context::Context;
use crate::example;

/// Like the tables of the other subjects, but found in the directory, so that a new example needs no line here.
pub(crate) static CASES: &LazyLock<Vec<Case>> = &FOUND;

static FOUND: LazyLock<Vec<Case>> = LazyLock::new(|| {
    // A directory that cannot be read has no cases; the one that is always there then fails and says so.
    let names = Example::names(&directory()).unwrap_or_default();
    let found = names.iter().map(|name| Case {
        // Made once, and needed until the program ends.
        name: format!("{PREFIX}{}", name.replace('-', "_")).leak(),
        about: format!("the commands in examples/{name}/README.md print what it says").leak(),
        run: one,
    });
    found.chain([READABLE]).collect()
});

const READABLE: Case = Case {
    name: "examples/all_are_readable",
    about: "there are examples, each with a README of the format",
    run: |_| {
        let examples = Example::load(&directory())?;
        ensure!(!examples.is_empty(), "{} has no example", directory().display());
        Ok(())
    },
};

/// The subject of these cases.
const PREFIX: &str = "examples/";

fn directory() -> std::path::PathBuf {
    vnpu_e2e_binaries::repo_root().join("examples")
}

/// Goes through the example after which the case, and so its namespace, is named.
fn one(context: &mut Context) -> Result<()> {
    let subject = PREFIX.replace('/', "-");
    let name = context.namespace.strip_prefix(&subject).context("this namespace is no example's")?;
    let example = Example::read(&directory(), name)?;
    context.machine()?;
    example::run(context, &example)
}
