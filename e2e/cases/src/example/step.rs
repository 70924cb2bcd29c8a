//! One command of a README with what it prints: read out of the console blocks, and compared with what was seen.

use super::mask::masked;

/// A command that users paste, and what they then see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The command's line in the README, from 1.
    pub line: usize,
    /// The command, for a POSIX shell in the repository's root.
    pub command: String,
    /// What it prints on both outputs, line by line.
    pub expected: Vec<String>,
}

/// What a README's line is part of.
#[derive(PartialEq)]
enum Part {
    Text,
    Console,
    OtherBlock,
}

impl Step {
    /// The steps of a README, in order.
    ///
    /// # Errors
    /// What breaks the format, with the line.
    pub(crate) fn all_of(readme: &str) -> Result<Vec<Self>, String> {
        let mut steps: Vec<Self> = Vec::new();
        let mut part = Part::Text;
        // The first step of a block, so that output before it is not taken for that of the block above.
        let mut begin = 0;
        for (index, text) in readme.lines().enumerate() {
            let line = index + 1;
            let fence = text.trim_start().strip_prefix("```");
            let command = text.trim_start().strip_prefix("$ ");
            part = match (part, fence, command) {
                (Part::Text, Some("console"), _) => {
                    begin = steps.len();
                    Part::Console
                }
                (Part::Text, Some(_), _) => Part::OtherBlock,
                (Part::Console | Part::OtherBlock, Some(_), _) => Part::Text,
                (Part::Console, None, _) => {
                    let command = text.strip_prefix("$ ").map(str::to_owned);
                    if let Some(command) = command {
                        steps.push(Self { line, command, expected: Vec::new() });
                    } else if let Some(step) = steps.get_mut(begin..).and_then(<[Self]>::last_mut) {
                        step.expected.push(text.to_owned());
                    } else {
                        return Err(format!("line {line}: a console block begins with `$ ` and a command"));
                    }
                    Part::Console
                }
                (part, None, Some(_)) => {
                    // A misspelt fence must not take a command out of the test.
                    return Err(format!(
                        "line {line}: a command outside of a ```console block is tested by nobody ({})",
                        if part == Part::Text { "it is in no block" } else { "its block has another name" }
                    ));
                }
                (part, None, None) => part,
            };
        }
        if part != Part::Text {
            return Err("the last block does not end".into());
        }
        if steps.is_empty() {
            return Err("there is no ```console block".into());
        }
        Ok(steps)
    }

    /// Whether the command changes nothing: what it shows may lag behind, and it can be asked again.
    pub fn only_looks(&self) -> bool {
        ["get", "logs", "exec"].iter().any(|verb| self.command.starts_with(&format!("kubectl {verb} ")))
    }

    /// Compares what the command printed with the README.
    ///
    /// # Errors
    /// Both, with the lines marked that differ.
    pub fn compare(&self, seen: &str) -> Result<(), String> {
        let seen: Vec<String> = seen.lines().map(str::to_owned).collect();
        let same = |index: usize| match (self.expected.get(index), seen.get(index)) {
            (Some(expected), Some(seen)) => masked(expected) == masked(seen),
            (expected, seen) => expected.is_none() && seen.is_none(),
        };
        let count = self.expected.len().max(seen.len());
        if (0..count).all(same) {
            return Ok(());
        }
        let list = |lines: &[String]| -> String {
            let marked =
                |(index, line): (usize, &String)| format!("  {} {line}", if same(index) { ' ' } else { '!' });
            let all: Vec<String> = lines.iter().enumerate().map(marked).collect();
            if all.is_empty() { "  ! (nothing)".to_owned() } else { all.join("\n") }
        };
        let (expected, seen) = (list(&self.expected), list(&seen));
        Err(format!("`{}`\nexpected, by the README:\n{expected}\nseen:\n{seen}", self.command))
    }
}
