//! Cargo started by a program that cargo itself runs: it must not take that program's package for its own.

use std::process::Command;

/// Takes out of a command's environment what `cargo run` told this program about its own package. Build scripts
/// watch these variables (ring's does): with them, every build from within would undo every build from outside,
/// and compile half of the dependencies once more.
pub fn forget_package(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cargo_started_from_here_does_not_see_this_package() {
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "cargo test sets it");
        let output = forget_package(&mut Command::new("env")).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("CARGO="), "other variables stay: {text}");
        assert!(!text.contains("\nCARGO_PKG_") && !text.contains("\nCARGO_MANIFEST_"), "{text}");
    }
}
