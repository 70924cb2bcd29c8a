//! A recording of the planner, replayed: what it decided, and whether it decides the same again.

use std::fmt::Write as _;

use vnpu_placement::{Decision, Input, Outcome, ReplayError, replay};

/// A replay.
#[derive(Debug)]
pub struct Replayed {
    /// What the planner decides.
    pub decisions: Vec<Decision>,
    /// The number of the first decision, from 1, that the recording tells differently; `None` when all are the same.
    pub differs: Option<usize>,
    /// Whether the last line was cut, as in a copy of a recording that goes on, and is left out.
    pub cut: bool,
}

/// Replays the lines of a recording.
///
/// # Errors
/// [`ReplayError`] for a whole line that cannot be read.
pub fn replayed(text: &str) -> Result<Replayed, ReplayError> {
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let (text, rest) = text.split_at_checked(whole).unwrap_or((text, ""));
    let decisions = replay(text.lines())?;
    let recorded = text.lines().filter_map(|line| match serde_json::from_str(line) {
        Ok(Input::Decided(decision)) => Some(*decision),
        _ => None,
    });
    let recorded: Vec<Decision> = recorded.collect();
    let pairs = decisions.iter().zip(&recorded).position(|(now, then)| now != then);
    // A recording that ended in the middle of a decision's lines is shorter, and no difference.
    let longer = (recorded.len() > decisions.len()).then_some(decisions.len());
    let differs = pairs.or(longer).map(|index| index + 1);
    Ok(Replayed { decisions, differs, cut: !rest.is_empty() })
}

/// One decision in a few lines.
pub fn told(decision: &Decision) -> String {
    let record = &decision.record;
    let at = record.now.0.as_secs_f64();
    let word = match decision.outcome {
        Outcome::Placed(_) => "placed",
        Outcome::Waiting { .. } => "waits",
        Outcome::NeverFits => "never fits",
    };
    let mut text = format!("{at:.3} s  {} {word}: {}\n", record.title, record.answer);
    for line in &record.plan {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    {} x {}", line.pods, line.node);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use vnpu_placement::batch::Mode;
    use vnpu_placement::{Config, Sink};

    use super::*;
    use crate::engine::simulate;
    use crate::mix::bank;
    use crate::ours::{Ours, Settings};

    struct Kept(Arc<Mutex<String>>);

    impl Sink for Kept {
        fn line(&mut self, line: &str) {
            let mut kept = self.0.lock().unwrap();
            kept.push_str(line);
            kept.push('\n');
        }
    }

    #[test]
    fn a_recorded_run_is_decided_the_same_again() {
        let workload = bank(1, 0.9, 150);
        let settings = Settings { patience: Duration::from_secs(600), mode: Mode::Pack };
        let mut ours = Ours::new(&workload.shape, settings, Config::default()).unwrap();
        let kept = Arc::new(Mutex::new(String::new()));
        ours.record_to(Box::new(Kept(Arc::clone(&kept))));
        simulate(&workload, &mut ours).unwrap();
        let text = kept.lock().unwrap().clone();
        let replayed = replayed(&text).unwrap();
        assert_eq!(replayed.differs, None);
        let placed = replayed.decisions.iter().filter(|d| matches!(d.outcome, Outcome::Placed(_)));
        assert_eq!(placed.count(), 150);
        assert!(told(&replayed.decisions[0]).contains("placed"));
        assert!(!replayed.cut);
        every_cut_is_replayed_up_to_its_last_whole_line(&text, replayed.decisions.len());
    }

    fn every_cut_is_replayed_up_to_its_last_whole_line(text: &str, decided: usize) {
        let end = text.len();
        for cut in [1, 2, 100, end / 7, end / 3, end - 2, end - 1] {
            let Some(copy) = text.get(..cut) else { continue };
            let replayed = replayed(copy).unwrap();
            assert!(replayed.cut, "after {cut} bytes");
            assert_eq!(replayed.differs, None, "after {cut} bytes");
            assert!(replayed.decisions.len() <= decided);
        }
        let half = text.lines().nth(1).unwrap().get(..20).unwrap();
        assert!(super::replayed(&format!("{half}\n")).is_err(), "a whole line that is no input is an error");
    }
}
