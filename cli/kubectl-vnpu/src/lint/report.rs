//! The report: one block for each object that concerns vnpu, and a sum at the end.

use std::fmt::Write;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};
use vnpu_driver::admission::form::Lists;
use vnpu_driver::admission::{Finding, Gating, Judged, Response, Verdict};

use super::read::Document;
use super::subject::Subject;

/// What was said so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The text.
    pub(crate) text: String,
    /// How many objects are refused.
    pub(crate) refused: usize,
    changed: usize,
    fine: usize,
    warnings: usize,
    others: usize,
}

impl Report {
    /// Says what becomes of one subject; `instead` is the answer to the claim that a template would be. Returns whether
    /// it concerns vnpu.
    pub(crate) fn tell(
        &mut self,
        document: &Document,
        subject: &Subject,
        response: &Response,
        instead: Option<&Response>,
    ) -> bool {
        let concerns = match &response.judged {
            Judged::Nothing(_) => false,
            Judged::Pod { gating, .. } => {
                let not_ours = Gating::No(vnpu_driver::admission::pod::NoGate::NotOurs);
                !response.allowed() || *gating != not_ours
            }
            Judged::Claim(_) | Judged::Reapplied | Judged::Malformed => true,
        };
        if !concerns {
            return false;
        }
        let mended = matches!(&response.judged, Judged::Claim(_)) && !response.operations.is_empty();
        let word = if !response.allowed() {
            self.refused += 1;
            "refused"
        } else if mended {
            self.changed += 1;
            "changed"
        } else {
            self.fine += 1;
            "ok"
        };
        let place = if subject.place.is_empty() { String::new() } else { format!(" ({})", subject.place) };
        self.line(0, &format!("{}:{}: {}{place}: {word}", document.file, document.line, subject.title));
        self.details(response);
        if !response.allowed()
            && let Some(Response { refusal: None, judged: Judged::Claim(verdict), .. }) = instead
        {
            self.line(1, "a template is not changed; write what its claims would become:");
            self.differences(verdict);
        }
        true
    }

    fn details(&mut self, response: &Response) {
        match &response.judged {
            Judged::Claim(verdict) => {
                self.findings("", &verdict.refusals);
                self.findings("warning: ", &verdict.warnings);
                self.findings("", &verdict.completed);
                if !response.operations.is_empty() {
                    self.differences(verdict);
                }
                self.warnings += verdict.warnings.len();
            }
            Judged::Pod { refusals, gating } => {
                self.findings("", refusals);
                match gating {
                    _ if !refusals.is_empty() => {}
                    Gating::Gate(_) | Gating::Preferred { .. } => {
                        self.line(1, "held back by the gate vnpu.dev/placement until its place is planned");
                    }
                    Gating::No(why) => self.line(1, &format!("not placed by vnpu ({})", why.reason())),
                }
            }
            Judged::Malformed => {
                let message = response.refusal.as_ref().map(|r| r.message.clone());
                self.line(1, &message.unwrap_or_default());
            }
            Judged::Nothing(_) | Judged::Reapplied => {}
        }
    }

    fn findings(&mut self, before: &str, findings: &[Finding]) {
        let mut said: Vec<&str> = Vec::new();
        for finding in findings {
            let message = finding.note.message.as_str();
            if !said.contains(&message) {
                said.push(message);
                self.line(1, &format!("{before}{message} [{}]", finding.reason));
            }
        }
    }

    /// The lists that change, as YAML, line by line.
    fn differences(&mut self, verdict: &Verdict) {
        let (before, after) = (lists(&verdict.before), lists(&verdict.after));
        for ((name, old), (_, new)) in before.iter().zip(&after).filter(|((_, old), (_, new))| old != new) {
            let (old, new) = (yaml(name, old), yaml(name, new));
            for change in TextDiff::from_lines(&old, &new).iter_all_changes() {
                let sign = match change.tag() {
                    ChangeTag::Delete => '-',
                    ChangeTag::Insert => '+',
                    ChangeTag::Equal => ' ',
                };
                self.line(2, &format!("{sign} {}", change.value().trim_end()));
            }
        }
    }

    /// A warning about several objects.
    pub(crate) fn warn(&mut self, message: &str) {
        self.warnings += 1;
        self.line(0, &format!("warning: {message}"));
    }

    /// Counts a document of which nothing was judged.
    pub(crate) fn count_other(&mut self, judged: bool) {
        self.others += usize::from(!judged);
    }

    /// The sum of it all.
    pub(crate) fn finish(&mut self) {
        let sum = format!(
            "{} refused, {} changed, {} ok, {} with nothing of vnpu; warnings: {}",
            self.refused, self.changed, self.fine, self.others, self.warnings
        );
        self.line(0, &sum);
    }

    fn line(&mut self, depth: usize, text: &str) {
        // Writing to a String cannot fail.
        _ = writeln!(self.text, "{}{text}", "  ".repeat(depth));
    }
}

fn lists(lists: &Lists) -> [(&'static str, &Vec<Value>); 3] {
    [("requests", &lists.requests), ("constraints", &lists.constraints), ("config", &lists.config)]
}

/// A list under its name; nothing for an empty one.
fn yaml(name: &str, list: &[Value]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let value = json!({ name: list });
    serde_saphyr::to_string(&AsWritten(&value)).unwrap_or_else(|_| value.to_string())
}

/// A value with the keys of its objects in the order in which people write them.
struct AsWritten<'a>(&'a Value);

impl Serialize for AsWritten<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const FIRST: [&str; 4] = ["name", "requests", "deviceClassName", "driver"];
        match self.0 {
            Value::Object(fields) => {
                let first = FIRST.iter().filter_map(|key| fields.get_key_value(*key));
                let rest = fields.iter().filter(|(key, _)| !FIRST.contains(&key.as_str()));
                serializer.collect_map(first.chain(rest).map(|(key, value)| (key, AsWritten(value))))
            }
            Value::Array(items) => serializer.collect_seq(items.iter().map(AsWritten)),
            plain => plain.serialize(serializer),
        }
    }
}
