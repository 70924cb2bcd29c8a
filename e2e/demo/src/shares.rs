//! What `acl-demo busy` says of the chip's time that it got, and whether that is a share of it.

use anyhow::{Context, Result, ensure};

/// The mean share that it told last, in percent of the chip.
///
/// # Errors
/// It told none.
pub(crate) fn mean(said: &str) -> Result<f64> {
    word(said.lines().rfind(|line| line.starts_with("busy ")).context("it was never busy")?, "mean=")
}

/// The mean of the shares of its last `seconds` seconds, in percent of the chip; `None` until it told so many.
///
/// # Errors
/// A line of it is none.
pub(crate) fn latest(said: &str, seconds: usize) -> Result<Option<f64>> {
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("busy ")).collect();
    let Some(last) = lines.len().checked_sub(seconds).and_then(|from| lines.get(from..)) else {
        return Ok(None);
    };
    let shares = last.iter().map(|line| word(line, "share=")).collect::<Result<Vec<f64>>>()?;
    Ok((!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64))
}

fn word(line: &str, name: &str) -> Result<f64> {
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(name));
    Ok(word.with_context(|| format!("no {name} in {line:?}"))?.parse()?)
}

/// Whether two busy ones shared a chip about 30 to 70. Without quotas they would have half each; a machine that has no
/// time for the two gives both less.
///
/// # Errors
/// They did not.
pub(crate) fn check(small: f64, large: f64) -> Result<()> {
    let shared = (10.0..34.0).contains(&small) && large < 74.0 && large > 1.3 * small;
    ensure!(shared, "shares of 30 and 70 percent got {small:.1} and {large:.1}");
    Ok(())
}

/// Whether the one of 30 percent has about 10 now.
///
/// # Errors
/// It has not.
pub(crate) fn check_lowered(small: f64) -> Result<()> {
    ensure!((3.0..13.0).contains(&small), "a share that became 10 percent got {small:.1}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "hello\nbusy second=1 share=40.0 mean=40.0 launches=9\n\
        busy second=2 share=20.0 mean=30.0 launches=9\nbusy second=3 share=30.0 mean=30.5 launches=9\n";

    #[test]
    fn shares_are_those_that_were_said_last() {
        assert_eq!(mean(SAID).unwrap(), 30.5);
        assert_eq!(latest(SAID, 2).unwrap(), Some(25.0));
        assert_eq!(latest(SAID, 4).unwrap(), None);
        assert!(mean("hello").is_err() && latest("busy share=?", 1).is_err());
    }

    #[test]
    fn halves_are_no_shares_of_30_and_70() {
        check(30.0, 70.0).unwrap();
        check(20.0, 40.0).unwrap();
        check_lowered(10.0).unwrap();
        assert!(check_lowered(30.0).is_err() && check_lowered(0.0).is_err());
        for (small, large) in [(50.0, 50.0), (30.0, 30.0), (30.0, 80.0), (5.0, 70.0)] {
            assert!(check(small, large).is_err(), "{small} {large}");
        }
    }
}
