//! What was found, line by line: for people, for programs, and as an exit code.

use std::fmt::Write;

use serde::Serialize;

/// How it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// As it should be.
    Ok,
    /// Works, with something to know.
    Warn,
    /// Does not fit.
    Fail,
    /// Could not be looked at.
    Unknown,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What it is about: `driver`, `libruntime.so`, …
    pub(crate) about: String,
    pub(crate) status: Status,
    /// What was found.
    pub(crate) found: String,
    /// What to do, if there is something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<String>,
    /// Names, one per line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) details: Vec<String>,
    /// Functions that we hook: for programs only, since they are many and all is well with them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hooked: Vec<String>,
}

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// This program's version.
    vnpu: &'static str,
    architecture: &'static str,
    kernel: String,
    findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn new() -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            vnpu: env!("CARGO_PKG_VERSION"),
            architecture: std::env::consts::ARCH,
            kernel: kernel.trim().to_owned(),
            findings: Vec::new(),
        }
    }

    /// Adds a finding without details.
    pub(crate) fn add(
        &mut self,
        about: &str,
        status: Status,
        found: impl Into<String>,
        advice: Option<&str>,
    ) {
        self.add_with(about, status, found, advice, Vec::new());
    }

    /// Adds a finding.
    pub(crate) fn add_with(
        &mut self,
        about: &str,
        status: Status,
        found: impl Into<String>,
        advice: Option<&str>,
        details: Vec<String>,
    ) {
        let (found, advice) = (found.into(), advice.map(str::to_owned));
        let hooked = Vec::new();
        self.findings.push(Finding { about: about.to_owned(), status, found, advice, details, hooked });
    }

    /// Says of the last finding which functions are hooked.
    pub(crate) fn hooks(&mut self, hooked: Vec<String>) {
        if let Some(last) = self.findings.last_mut() {
            last.hooked = hooked;
        }
    }

    fn count(&self, status: Status) -> usize {
        self.findings.iter().filter(|f| f.status == status).count()
    }

    /// 0 all fits, 1 something does not, 2 something could not be looked at.
    pub(crate) fn exit_code(&self) -> u8 {
        match (self.count(Status::Fail), self.count(Status::Unknown)) {
            (0, 0) => 0,
            (0, _) => 2,
            _ => 1,
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut out = format!("vnpu {} doctor on {}, Linux {}\n", self.vnpu, self.architecture, self.kernel);
        for finding in &self.findings {
            let word = match finding.status {
                Status::Ok => "ok",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
                Status::Unknown => "????",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{word:<4}  {}: {}", finding.about, finding.found);
            for detail in &finding.details {
                let _ = writeln!(out, "        {detail}");
            }
            if let Some(advice) = &finding.advice {
                let _ = writeln!(out, "      -> {advice}");
            }
        }
        let count = |status, one: &str, many: &str| match self.count(status) {
            0 => None,
            1 => Some(format!("1 {one}")),
            n => Some(format!("{n} {many}")),
        };
        let counts = [
            count(Status::Fail, "problem", "problems"),
            count(Status::Unknown, "thing that could not be looked at", "things that could not be looked at"),
            count(Status::Warn, "warning", "warnings"),
        ];
        let counts: Vec<String> = counts.into_iter().flatten().collect();
        let _ = match counts.as_slice() {
            [] => writeln!(out, "all fits"),
            counts => writeln!(out, "{}", counts.join(", ")),
        };
        out
    }

    pub(crate) fn json(&self) -> String {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            report: &'a Report,
            exit: u8,
        }
        let whole = Whole { report: self, exit: self.exit_code() };
        serde_json::to_string_pretty(&whole).map_or_else(|e| format!("{{\"error\":\"{e}\"}}\n"), |t| t + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_tells_problems_before_what_could_not_be_seen() {
        let mut report = Report::new();
        assert_eq!(report.exit_code(), 0);
        report.add("a", Status::Warn, "is odd", None);
        assert_eq!(report.exit_code(), 0);
        report.add("b", Status::Unknown, "is hidden", Some("ask root"));
        assert_eq!(report.exit_code(), 2);
        report.add_with("c", Status::Fail, "is bad", None, vec!["x".to_owned()]);
        assert_eq!(report.exit_code(), 1);
        let text = report.text();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "warn  a: is odd",
                "????  b: is hidden",
                "      -> ask root",
                "FAIL  c: is bad",
                "        x",
                "1 problem, 1 thing that could not be looked at, 1 warning",
            ]
        );
    }
}
