//! The command line.

use crate::families::KINDS;

/// Printed for `--help` and on a wrong command line.
const USAGE: &str =
    "usage: cuda-demo COMMAND [--via link|dlsym|dlsym-ptsz|proc|proc-ptsz|proc-old] [--kind KIND] \
[--device N] [--bytes N] [--chunk N] [--count N] [--seconds N] [--micros N] [--handle HEX]
  info     identity and memory of every visible device
  fill     allocate chunks until refused (then smaller ones down to 2Mi), free all, and again
  hold     allocate --bytes, hold for --seconds (for ever without)
  loop     allocate --bytes and free, --count times
  crash    allocate --bytes, then SIGKILL itself
  fork     allocate --bytes, fork, use the driver in the child, go on
  launch   launch --count kernels of --micros each and wait for them; every way to launch
  busy     launch such kernels for --seconds, and say each second what share of the device that was
  graph    capture 10 kernels of --micros into a graph, launch it --count times, say how long it took
  capture  what breaks a capture: queries from other threads, waiting, the legacy stream
  beside   capture --count times while another thread launches kernels of --micros
  pool     what pools reserve, and what a graph's memory takes
  vmm      reserve, create, map, export, import, release
  export   allocate --bytes, print an inter-process handle and hold it; `import --handle` opens it
  symbols  what the driver answers to names, versions and flags
  nvml     what NVML says
sizes take Ki, Mi, Gi; kinds of allocation:";

/// How the program gets at the driver's functions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Linked.
    Link,
    /// By `dlsym`.
    Dlsym { per_thread: bool },
    /// By `cuGetProcAddress`, the one of before CUDA 12 or the later one.
    Proc { old: bool, per_thread: bool },
}

/// What the command line says.
pub struct Options {
    pub command: String,
    pub via: Via,
    pub kind: String,
    pub device: i32,
    pub bytes: usize,
    pub chunk: usize,
    pub count: u64,
    pub seconds: Option<u64>,
    pub micros: u64,
    pub handle: String,
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
        Self::parse(std::env::args().skip(1)).unwrap_or_else(wrong)
    }

    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self {
            command: arguments.next()?,
            via: Via::Dlsym { per_thread: false },
            kind: "alloc".to_owned(),
            device: 0,
            bytes: 64 << 20,
            chunk: 64 << 20,
            count: 100,
            seconds: None,
            micros: 1000,
            handle: String::new(),
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next()?;
            match name.as_str() {
                "--via" => options.via = via(&value)?,
                "--kind" => options.kind = value,
                "--device" => options.device = value.parse().ok()?,
                "--bytes" => options.bytes = size(&value)?,
                "--chunk" => options.chunk = size(&value).filter(|chunk| *chunk > 0)?,
                "--count" => options.count = value.parse().ok()?,
                "--micros" => options.micros = value.parse().ok().filter(|micros| *micros > 0)?,
                "--seconds" => options.seconds = Some(value.parse().ok()?),
                "--handle" => options.handle = value,
                _ => return None,
            }
        }
        KINDS.contains(&options.kind.as_str()).then_some(options)
    }
}

fn via(text: &str) -> Option<Via> {
    Some(match text {
        "link" => Via::Link,
        "dlsym" => Via::Dlsym { per_thread: false },
        "dlsym-ptsz" => Via::Dlsym { per_thread: true },
        "proc" => Via::Proc { old: false, per_thread: false },
        "proc-ptsz" => Via::Proc { old: false, per_thread: true },
        "proc-old" => Via::Proc { old: true, per_thread: false },
        _ => return None,
    })
}

/// Prints the usage and ends the process with 2.
pub fn wrong<T>() -> T {
    eprintln!("{USAGE} {}", KINDS.join(", "));
    std::process::exit(2)
}
