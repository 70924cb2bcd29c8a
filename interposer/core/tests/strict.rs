//! What ends while our helper thread looks after it, and what may not be mixed: a driver that forgives nothing
//! (`fake/strict.c`) tells on every use of something that has ended, and says how much work there was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use support::{GIB, Node, gpu_share, uid};
use tempfile::TempDir;
use vnpu_driver::quantity::Percent;

/// The driver and its program.
fn built() -> &'static Path {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    DIR.get_or_init(|| support::library_and_client("strict.c", "libcuda.so.1")).path()
}

/// Runs a program of `strict.c` in a claim of the whole GPU; how much of its work was charged.
fn charged(what: &str) -> f64 {
    let run = run(what, 100);
    assert_eq!(run.forced, 0, "{what}: {}", run.log);
    run.busy / run.worked
}

/// Runs a program in a claim of so much of the GPU.
fn run(what: &str, cores: u32) -> Run {
    let node = Node::empty();
    let mut gpu = gpu_share([7; 16], GIB);
    gpu.cores = Percent(cores);
    node.claim(1, vec![gpu]);
    let mut command = support::client(built(), &node);
    command.arg(what);
    let begun = Instant::now();
    let out = command.output().unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    let (text, log) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert!(text.contains("failed=0 wrongs=0 worked="), "{what}: {text}{log}");
    let worked = text.trim_end().rsplit('=').next().unwrap().trim().parse::<f64>().unwrap();
    let compute = node.agent.usage(&uid(1)).unwrap().chips[0].compute;
    Run { seconds, worked: worked / 1e9, busy: compute.busy.as_secs_f64(), forced: compute.forced, text, log }
}

struct Run {
    /// How long the program ran.
    seconds: f64,
    /// Seconds of work that the device did.
    worked: f64,
    /// Seconds that were charged.
    busy: f64,
    /// Launches that were let through out of despair.
    forced: u64,
    text: String,
    log: String,
}

#[test]
fn a_stream_that_ends_is_touched_no_more() {
    charged("streams");
}

#[test]
fn a_context_that_ends_is_touched_no_more() {
    charged("contexts");
}

#[test]
fn nothing_of_ours_gets_into_a_capture() {
    charged("captures");
}

/// Contexts take turns on the device, and what one waits for another is charged to both: never less than the work.
#[test]
fn work_of_two_contexts_is_charged() {
    let charged = charged("mixed");
    assert!((0.9..2.2).contains(&charged), "{charged}");
}

#[test]
fn a_primary_context_ends_with_its_last_holder() {
    let charged = charged("holders");
    assert!((0.9..1.3).contains(&charged), "{charged}");
}

#[test]
fn a_launch_that_takes_long_on_its_way_is_charged() {
    let charged = charged("slow");
    assert!((0.9..4.0).contains(&charged), "{charged}");
}

#[test]
fn threads_that_wait_for_long_are_not_let_through_for_each_others_sake() {
    let Run { seconds, worked, busy, forced, log, .. } = run("threads", 1);
    assert_eq!(forced, 0, "{log}");
    // The share, what an idle claim saves up, and what is charged only when it is over.
    let most = 0.01 * seconds + 0.020 + 3.0 * 0.030;
    assert!(worked <= most && busy >= worked - 0.061, "{worked} of {most}, {busy} charged");
}

#[test]
fn a_call_of_the_vendors_that_does_not_return_holds_up_one_launch_and_the_limit_comes_back() {
    let run = run("hang", 100);
    let times: Vec<u64> = run
        .text
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("first=").or_else(|| word.strip_prefix("second="))?.parse().ok())
        .collect();
    // Two seconds for the first launch that finds it; none for those after it.
    assert!((1900..20_000).contains(&times[0]) && times[1] < 1000, "{}", run.text);
    assert!(
        run.forced >= 20 && run.log.matches("does not return").count() == 1,
        "{} {}",
        run.forced,
        run.log
    );
    assert!(run.busy > 0.1, "what was launched afterwards is charged: {}", run.busy);
}

/// A graph does not go on what short kernels were allowed: there is never one behind another that is not measured.
#[test]
fn graphs_go_one_at_a_time_whatever_kernels_were_allowed() {
    let run = run("graphs", 100);
    let deepest =
        run.text.split_whitespace().find_map(|word| word.strip_prefix("deepest=")?.parse::<u64>().ok());
    let milliseconds = deepest.unwrap() / 1_000_000;
    assert!((40..=105).contains(&milliseconds), "{}", run.text);
}

/// Another thread's mark goes into the stream that waits for all threads' own.
#[test]
fn work_in_a_threads_own_default_stream_is_charged() {
    let charged = charged("own");
    assert!((0.9..1.2).contains(&charged), "{charged}");
}

/// Also of threads that have ended, in whose place the next one is.
#[test]
fn work_of_threads_that_have_ended_is_charged() {
    let charged = charged("jobs");
    assert!((0.9..1.2).contains(&charged), "{charged}");
}

/// A capture hides the stream that waits for all threads' own: what cannot be marked then passes, and nobody waits for it.
#[test]
fn a_capture_beside_a_threads_own_default_stream_holds_nobody_up() {
    let run = run("beside", 100);
    let waited = run.seconds - run.worked;
    assert!(run.forced == 0 && waited < 2.0, "{} {waited} {}", run.forced, run.log);
}

#[test]
fn work_in_the_default_stream_is_charged_although_a_capture_hides_it() {
    let charged = charged("hidden");
    assert!((0.9..1.2).contains(&charged), "{charged}");
}

/// Also when the lease goes back between two steps: what it allowed goes with it.
#[test]
fn every_step_of_a_program_that_waits_for_each_is_charged() {
    for cores in [30, 100] {
        let Run { seconds, worked, busy, forced, log, .. } = run("steps", cores);
        let most = f64::from(cores) / 100.0 * seconds + 0.030;
        assert!(busy > 0.97 * worked && worked <= most, "{cores} %: {worked} of {most}, {busy} charged");
        assert_eq!(forced, 0, "{log}");
    }
}

#[test]
fn kernels_and_graphs_of_two_threads_do_not_starve_each_other() {
    let run = run("both", 100);
    let number = |key: &str| -> u64 {
        run.text.split_whitespace().find_map(|word| word.strip_prefix(key)?.parse().ok()).unwrap()
    };
    assert!(number("graphs=") > 20 && number("kernels=") > 200, "{}", run.text);
    assert_eq!(run.forced, 0, "{}", run.log);
}
