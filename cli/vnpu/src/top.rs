//! `vnpu top`: what the runs and claims on this machine may use and do use, again and again.

pub(crate) mod look;
mod row;
mod screen;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::base::Base;
use crate::error::RunError;
use look::{Look, Places};
use row::rows;

/// Options of `vnpu top`.
#[derive(Debug, Args)]
pub(crate) struct TopArguments {
    /// Show it once, over one interval, and end.
    #[arg(long)]
    once: bool,
    /// One JSON object for each interval, on a line of its own.
    #[arg(long)]
    json: bool,
    /// Seconds from look to look.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Where runs have their files [default: $XDG_RUNTIME_DIR/vnpu, else /run/vnpu-cli].
    #[arg(long, value_name = "DIR", env = "VNPU_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// Where the node plugin has the claims' files.
    #[arg(long, value_name = "DIR", env = "VNPU_RUNTIME_DIR", default_value = "/run/vnpu")]
    runtime_dir: PathBuf,
    /// Address of the node plugin's admin server, which knows the claims' names; empty to ask nobody.
    #[arg(long, value_name = "ADDRESS", env = "VNPU_ADMIN_ADDRESS", default_value = "127.0.0.1:8090")]
    admin_address: String,
}

/// From the figures that a person can follow to those of a slow node.
fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "it is no number of seconds".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("it must be 0.1 to 3600 seconds".to_owned())
    }
}

/// Shows it until somebody ends us, or once.
pub(crate) fn top(arguments: &TopArguments) -> Result<u8, RunError> {
    // Without a session there are no runs to show, unless they were asked for.
    let runs = match Base::find(arguments.run_dir.as_deref()) {
        Ok(base) => Some(base),
        Err(error) if arguments.run_dir.is_some() => return Err(error),
        Err(_) => None,
    };
    let mut places = Places::new(runs, &arguments.runtime_dir, &arguments.admin_address);
    let terminal = io::stdout().is_terminal() && !arguments.json;
    let mut before = places.look();
    loop {
        std::thread::sleep(arguments.interval);
        let now = places.look();
        let shown = match show(&before, &now, arguments, &places, terminal) {
            Ok(()) => Ok(()),
            // Whoever read it has seen enough.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
            Err(e) => Err(e),
        };
        shown.map_err(|e| RunError::io("write to", "standard output".as_ref(), e))?;
        if arguments.once {
            return Ok(0);
        }
        before = now;
    }
}

fn show(
    before: &Look,
    now: &Look,
    arguments: &TopArguments,
    places: &Places,
    terminal: bool,
) -> io::Result<()> {
    let rows = rows(before, now);
    let mut out = io::stdout().lock();
    if arguments.json {
        let seconds = arguments.interval.as_secs_f64();
        let object = serde_json::json!({ "interval": seconds, "claims": rows, "problems": now.problems });
        writeln!(out, "{object}")?;
    } else {
        let size = terminal.then(screen::size).flatten();
        let lines = screen::lines(&rows, &now.problems, &places.words(), size.map(|s| s.0));
        let redraw = terminal && !arguments.once;
        let height = size.filter(|_| redraw).map_or(usize::MAX, |s| s.1.saturating_sub(1));
        if redraw {
            // To the top, each line to its end, and what is below.
            write!(out, "\x1b[H")?;
            for line in lines.iter().take(height) {
                writeln!(out, "{line}\x1b[K")?;
            }
            write!(out, "\x1b[J")?;
        } else {
            lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
            if !arguments.once {
                writeln!(out)?;
            }
        }
    }
    out.flush()
}
