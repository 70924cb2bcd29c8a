//! The end-to-end cases: one cluster is brought up, the chosen cases run on it in order, a line each. It is
//! a program, not a test target, so that `cargo test` needs no root and no compiler for Go.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;

mod batches;
mod case;
mod cases;
mod context;
mod controllers;
mod doors;
mod dra;
mod example;
mod holding;
mod images;
mod plugins;
mod pods;
mod simulated;
mod written;

use case::Case;
use context::{Context, NotRun};

#[derive(Debug, Parser)]
#[command(about = "End-to-end cases on one fresh cluster")]
struct Arguments {
    /// Run only the cases whose name contains one of these; all without.
    filter: Vec<String>,
    /// Run only the cases with exactly these names.
    #[arg(long)]
    exact: bool,
    /// List the cases and what each proves.
    #[arg(long)]
    list: bool,
    /// Stop at the first failure.
    #[arg(long)]
    fail_fast: bool,
    /// After a failure keep the cluster until Enter is pressed, to look at it.
    #[arg(long)]
    hold: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let chosen: Vec<Case> = cases::all().into_iter().filter(|c| arguments.wants(c.name)).collect();
    if arguments.list {
        for case in &chosen {
            println!("{:<44} {}", case.name, case.about);
        }
        return ExitCode::SUCCESS;
    }
    if chosen.is_empty() {
        eprintln!("no case has a name like {:?}; --list shows all", arguments.filter);
        return ExitCode::FAILURE;
    }
    match run(&arguments, &chosen) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        let fits = |f: &String| if self.exact { name == f } else { name.contains(f.as_str()) };
        self.filter.is_empty() || self.filter.iter().any(fits)
    }
}

/// Runs the cases; whether all passed.
fn run(arguments: &Arguments, chosen: &[Case]) -> Result<bool> {
    let begun = Instant::now();
    let mut context = Context::start()?;
    println!(
        "cluster {} up in {:.1} s, {} cases",
        context.cluster.id(),
        seconds(begun.elapsed()),
        chosen.len()
    );
    let (mut failed, mut not_run, mut passed) = (Vec::new(), Vec::new(), 0);
    for case in chosen {
        let begun = Instant::now();
        let outcome = run_one(&mut context, case);
        let took = seconds(begun.elapsed());
        let left_out = context.take_not_run();
        let whole = left_out.iter().any(|l| matches!(l, NotRun::Whole));
        not_run.extend(left_out.iter().map(|l| match l {
            NotRun::Whole => case.name.to_owned(),
            NotRun::Part(part) => format!("{} ({part})", case.name),
        }));
        match outcome {
            Ok(()) if whole => println!("NOT RUN {:<44} {took:>6.1} s", case.name),
            Ok(()) => {
                println!("ok      {:<44} {took:>6.1} s", case.name);
                passed += 1;
            }
            Err(error) => {
                println!("FAILED  {:<44} {took:>6.1} s\n{error:#}\n", case.name);
                failed.push(case.name);
                if arguments.hold {
                    println!("export KUBECONFIG={}\nEnter ends it.", context.cluster.kubeconfig().display());
                    std::io::stdin().read_line(&mut String::new())?;
                }
                if arguments.fail_fast {
                    break;
                }
            }
        }
    }
    context.stop().context("taking the cluster down")?;
    let total = seconds(begun.elapsed());
    if failed.is_empty() && not_run.is_empty() {
        println!("all {passed} cases passed in {total:.0} s");
    } else if failed.is_empty() {
        println!("{passed} passed, {} not run: {}; in {total:.0} s", not_run.len(), not_run.join(", "));
    } else {
        println!("{} of {} cases failed in {total:.0} s: {}", failed.len(), chosen.len(), failed.join(", "));
        if !not_run.is_empty() {
            println!("{} not run: {}", not_run.len(), not_run.join(", "));
        }
        println!("logs: {}", Context::logs().display());
    }
    Ok(failed.is_empty())
}

/// Runs one case in a namespace of its own. A panic is a failure of this case, not of the suite.
fn run_one(context: &mut Context, case: &Case) -> Result<()> {
    context.enter(case.name)?;
    let outcome = catch_unwind(AssertUnwindSafe(|| (case.run)(context)));
    let outcome = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(anyhow!("panicked: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("(no message)")))
    });
    let left = context.leave();
    outcome.and(left)
}

fn seconds(duration: Duration) -> f32 {
    duration.as_secs_f32()
}
