//! The verb `lint`: the admission webhook's answers about files. Reading, finding what is judged in a file, comparing
//! quotas and writing the report are in their own files; here is the order of it all.

mod quota;
mod read;
mod report;
mod subject;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use vnpu_driver::admission::{Context, Objects, Planner, review};
use vnpu_driver::controller_config::ControllerConfig;

use read::{Document, ReadError};
use report::Report;

/// Something was refused.
const REFUSED: u8 = 1;
/// Something could not be read.
const UNREADABLE: u8 = 2;

/// What `lint` is told.
#[derive(Debug, Args)]
pub(crate) struct LintArguments {
    /// A file, a directory (every .yaml, .yml and .json below it), or `-` for standard input. Can be given several
    /// times.
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", required = true)]
    filename: Vec<PathBuf>,
    /// The controller's configuration (kind ControllerConfig); its defaults without it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The namespace of objects that name none.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
}

/// Judges the files and says so.
pub(crate) fn lint(arguments: &LintArguments) -> ExitCode {
    let config = match arguments.config.as_deref().map_or(Ok(ControllerConfig::default()), read::config) {
        Ok(config) => config,
        Err(error) => return unreadable(&[error]),
    };
    let (documents, errors) = read::documents(&arguments.filename);
    let report = judge(&documents, &config, &arguments.namespace);
    // A closed pipe is the reader's choice, and no reason to fail.
    _ = std::io::stdout().write_all(report.text.as_bytes());
    if !errors.is_empty() {
        return unreadable(&errors);
    }
    ExitCode::from(if report.refused > 0 { REFUSED } else { 0 })
}

fn unreadable(errors: &[ReadError]) -> ExitCode {
    for error in errors {
        eprintln!("kubectl vnpu lint: {error}");
    }
    ExitCode::from(UNREADABLE)
}

/// The report over some documents.
fn judge(documents: &[Document], config: &ControllerConfig, namespace: &str) -> Report {
    let mut known = Objects::default();
    for document in documents {
        known.learn(&document.object, namespace);
    }
    let context = Context { config, known: &known, planner: Planner::Alive };
    let answer = |object: &Value| {
        let namespace = subject::namespace(object, namespace);
        review(&json!({"operation": "CREATE", "namespace": namespace, "object": object}), &context)
    };
    let mut report = Report::default();
    for document in documents {
        let subjects = subject::of(&document.object);
        let mut judged = false;
        for subject in &subjects {
            let response = answer(&subject.object);
            let instead = subject::as_claim(&subject.object).map(|claim| answer(&claim));
            judged |= report.tell(document, subject, &response, instead.as_ref());
        }
        report.count_other(judged);
    }
    for warning in quota::warnings(documents, config, namespace) {
        report.warn(&warning);
    }
    report.finish();
    report
}
