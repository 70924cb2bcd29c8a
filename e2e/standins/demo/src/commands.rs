//! The demo's commands. Every line of output is `event key=value ...`, flushed at once, for people and tests.

use std::ffi::c_void;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::api::{Api, KINDS, Refused};

/// Printed for `--help` and on a wrong command line.
const USAGE: &str =
    "usage: acl-demo COMMAND [--via dlsym|torch|link|rt|rt-link] [--kind KIND] [--device N] [--bytes N] \
[--chunk N] [--count N] [--seconds N] [--micros N] \
[--mode N]
  info    memory and physical id of every visible device
  fill    allocate chunks until refused (then smaller ones down to 2Mi), free all, and again
  hold    allocate --bytes, hold for --seconds (for ever without)
  usage   allocate --bytes, and say what the components have
  loop    allocate --bytes and free, --count times
  crash   allocate --bytes, then SIGKILL itself
  fork    allocate --bytes, fork, allocate in the child too, exit the child, go on
  launch  launch --count kernels of --micros each and wait for them
  graph   record 10 kernels of --micros into a graph while another thread launches 10, execute it --count
          times, say what share of the chip that was
  watched record a graph while another thread in capture mode --mode asks about an event
  busy    launch such kernels for --seconds, and say each second what share of the chip that was
sizes take Ki, Mi, Gi; kinds of allocation:";

/// What the command line says.
pub struct Options {
    pub command: String,
    pub via: String,
    kind: String,
    device: i32,
    bytes: usize,
    chunk: usize,
    count: u64,
    seconds: Option<u64>,
    micros: u64,
    mode: u32,
}

fn size(text: &str) -> Option<usize> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let shift = match unit {
        "" => 0,
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_shl(shift)
}

impl Options {
    /// Reads the command line; on a wrong one prints the usage and ends the process with 2.
    pub fn read() -> Self {
        Self::parse(std::env::args().skip(1)).unwrap_or_else(|| {
            eprintln!("{USAGE} {}", KINDS.join(", "));
            std::process::exit(2)
        })
    }

    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self {
            command: arguments.next()?,
            via: "dlsym".to_owned(),
            kind: String::new(),
            device: 0,
            bytes: 64 << 20,
            chunk: 64 << 20,
            count: 100,
            seconds: None,
            micros: 1000,
            mode: 0,
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next()?;
            match name.as_str() {
                "--via" => options.via = value,
                "--kind" => options.kind = value,
                "--device" => options.device = value.parse().ok()?,
                "--bytes" => options.bytes = size(&value)?,
                "--chunk" => options.chunk = size(&value).filter(|chunk| *chunk > 0)?,
                "--count" => options.count = value.parse().ok()?,
                "--mode" => options.mode = value.parse().ok()?,
                "--micros" => options.micros = value.parse().ok()?,
                "--seconds" => options.seconds = Some(value.parse().ok()?),
                _ => return None,
            }
        }
        if !["dlsym", "torch", "link", "rt", "rt-link"].contains(&options.via.as_str()) {
            return None;
        }
        if options.kind.is_empty() {
            options.kind = if options.runtime() { "rt" } else { "align32" }.to_owned();
        }
        KINDS.contains(&options.kind.as_str()).then_some(options)
    }

    /// Whether the runtime is used directly, without ACL.
    pub fn runtime(&self) -> bool {
        self.via.starts_with("rt")
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away is no reason to stop.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Runs the command; the process's exit code.
pub fn run(options: &Options, api: Api) -> i32 {
    match act(options, api) {
        Ok(()) => 0,
        Err(refused) => {
            say(&format!("failed function={} code={}", refused.function, refused.code));
            1
        }
    }
}

fn act(options: &Options, mut api: Api) -> Result<(), Refused> {
    api.init()?;
    if options.command == "info" {
        return info(&mut api);
    }
    api.set_device(options.device)?;
    match options.command.as_str() {
        "fill" => fill(options, &mut api),
        "hold" => {
            let pointer = take(options, &mut api)?;
            match options.seconds {
                Some(seconds) => std::thread::sleep(Duration::from_secs(seconds)),
                None => loop {
                    std::thread::sleep(Duration::from_secs(3600));
                },
            }
            api.free(&options.kind, pointer)?;
            say("released");
            Ok(())
        }
        "loop" => {
            for _ in 0..options.count {
                let pointer = api.allocate(&options.kind, options.bytes)?;
                api.free(&options.kind, pointer)?;
            }
            say(&format!("looped count={}", options.count));
            Ok(())
        }
        "crash" => {
            take(options, &mut api)?;
            // SAFETY: raise takes a signal number; SIGKILL ends this process.
            unsafe { libc::raise(libc::SIGKILL) };
            Ok(())
        }
        "usage" => {
            take(options, &mut api)?;
            let (current, peak) = api.components()?;
            say(&format!("usage current={current} peak={peak}"));
            Ok(())
        }
        "fork" => fork(options, &mut api),
        "launch" => {
            for _ in 0..options.count {
                api.launch(options.micros * 1000)?;
            }
            api.synchronize()?;
            say(&format!("launched count={}", options.count));
            Ok(())
        }
        "graph" => {
            let begun = Instant::now();
            api.graph(GRAPH, options.micros * 1000, options.count)?;
            let (work, took) = (options.count * GRAPH * options.micros, begun.elapsed());
            let share = work as f64 / took.as_micros().max(1) as f64 * 100.0;
            say(&format!("executed count={} share={share:.1}", options.count));
            Ok(())
        }
        "watched" => {
            api.watched(options.micros * 1000, options.mode)?;
            say("recorded");
            Ok(())
        }
        "busy" => busy(options, &mut api),
        _ => {
            eprintln!("{USAGE} {}", KINDS.join(", "));
            std::process::exit(2)
        }
    }
}

/// Kernels in a graph.
const GRAPH: u64 = 10;

/// Launches between two waits: a program that looks at its results now and then.
const BATCH: u64 = 32;

fn busy(options: &Options, api: &mut Api) -> Result<(), Refused> {
    let begun = Instant::now();
    let (mut all, mut second, mut seconds) = (0, 0, 0);
    let mut from = begun;
    while seconds < options.seconds.unwrap_or(u64::MAX) {
        for _ in 0..BATCH {
            api.launch(options.micros * 1000)?;
        }
        api.synchronize()?;
        (all, second) = (all + BATCH, second + BATCH);
        let took = from.elapsed();
        if took >= Duration::from_secs(1) {
            seconds += 1;
            let percent = |launches: u64, time: Duration| {
                (launches * options.micros) as f64 / time.as_micros().max(1) as f64 * 100.0
            };
            say(&format!(
                "busy second={seconds} share={:.1} mean={:.1} launches={all}",
                percent(second, took),
                percent(all, begun.elapsed())
            ));
            (second, from) = (0, Instant::now());
        }
    }
    Ok(())
}

fn info(api: &mut Api) -> Result<(), Refused> {
    let count = api.device_count()?;
    say(&format!("devices count={count}"));
    for device in 0..count {
        api.set_device(device)?;
        let (memory, phys) = (api.memory()?, api.phys_id(device)?);
        let (free, total) = (memory.free, memory.total);
        let used = total.saturating_sub(free);
        say(&format!("device id={device} phys={phys} total={total} free={free} used={used}"));
    }
    Ok(())
}

fn take(options: &Options, api: &mut Api) -> Result<*mut c_void, Refused> {
    let pointer = api.allocate(&options.kind, options.bytes)?;
    let memory = api.memory()?;
    say(&format!(
        "holding bytes={} pid={} total={} free={}",
        options.bytes,
        std::process::id(),
        memory.total,
        memory.free
    ));
    Ok(pointer)
}

/// Smallest piece that `fill` tries.
const SMALLEST: usize = 2 << 20;

fn fill(options: &Options, api: &mut Api) -> Result<(), Refused> {
    for round in ["first", "again"] {
        let (mut held, mut granted, mut chunk, mut code) = (Vec::new(), 0, options.chunk, 0);
        while chunk >= SMALLEST || chunk == options.chunk {
            match api.allocate(&options.kind, chunk) {
                Ok(pointer) => {
                    held.push(pointer);
                    granted += chunk;
                }
                Err(refused) => {
                    code = refused.code;
                    chunk /= 2;
                }
            }
        }
        let memory = api.memory()?;
        say(&format!(
            "fill round={round} granted={granted} allocations={} code={code} total={} free={}",
            held.len(),
            memory.total,
            memory.free
        ));
        for pointer in held {
            api.free(&options.kind, pointer)?;
        }
        let memory = api.memory()?;
        say(&format!("freed round={round} total={} free={}", memory.total, memory.free));
    }
    Ok(())
}

fn fork(options: &Options, api: &mut Api) -> Result<(), Refused> {
    let pointer = take(options, api)?;
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let ended = api.set_device(options.device).and_then(|()| take(options, api).map(|_| ()));
        if let Err(refused) = &ended {
            say(&format!("failed function={} code={}", refused.function, refused.code));
        }
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(i32::from(ended.is_err())) };
    }
    let mut status = 0;
    // SAFETY: a child of this process and a valid out-pointer.
    unsafe { libc::waitpid(child, &mut status, 0) };
    let memory = api.memory()?;
    say(&format!("child status={status} total={} free={}", memory.total, memory.free));
    api.free(&options.kind, pointer)
}
