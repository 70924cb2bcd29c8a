//! `vnpu-bench-plugin`: our node plugin beside a driver made with the official Go helper, in one run, on one API
//! server, measured through the kubelet's own DRA code. `make bench-plugin` builds everything and runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use vnpu_e2e_stack::{
    Artefacts, Machine, MachineNode, NodeHandle, Options, PluginOptions, RealNode, Stack, StackOptions,
};

mod disk;
mod figures;
mod machine;
mod report;
mod steady;

use figures::Figures;

/// Memory of a die of the stand-in machine, MiB.
const DIE_MIB: u64 = 65_536;

#[derive(Debug, Parser)]
#[command(about = "The node plugin's figures, beside those of a driver made with the official Go helper")]
struct Arguments {
    /// How often each of the two is measured; they take turns.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// Prepare and unprepare cycles for each number of callers.
    #[arg(long, default_value_t = 300)]
    cycles: u32,
    /// Dual-die modules of the stand-in machine.
    #[arg(long, default_value_t = 8)]
    modules: u32,
    /// Measure ours only: for a profiler, or to compare builds.
    #[arg(long)]
    ours_only: bool,
    /// CDI files and regions on the disk of the checkpoint, not on a tmpfs as `/run` of a node is.
    #[arg(long)]
    all_on_disk: bool,
    /// Another build of the plugin; nothing is optimised then but what it is.
    #[arg(long)]
    plugin: Option<PathBuf>,
    /// Measure only what ours takes of a node with two vendors' devices where nothing happens, for so many seconds.
    #[arg(long)]
    steady: Option<u64>,
    /// Also print the measurements, a line of JSON each.
    #[arg(long)]
    json: bool,
}

/// One of the two drivers that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Ours,
    Reference,
}

impl Which {
    fn label(self) -> &'static str {
        match self {
            Self::Ours => "vnpu",
            Self::Reference => "reference",
        }
    }

    fn driver(self) -> &'static str {
        match self {
            Self::Ours => "vnpu.dev",
            Self::Reference => "reference.vnpu.dev",
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let artefacts = Artefacts::build(arguments.plugin.is_none())?;
    let cluster = Options { real_node: RealNode::None, ..Options::default() };
    let stack = Stack::start(artefacts, StackOptions { cluster, ..StackOptions::default() })?;
    let outcome = match arguments.steady {
        Some(seconds) => steady::measure(&stack, arguments.modules, DIE_MIB, seconds),
        None => measure_all(arguments, &stack),
    };
    let stopped = stack.stop();
    let report = outcome?;
    stopped?;
    print!("{report}");
    Ok(())
}

fn measure_all(arguments: &Arguments, stack: &Stack) -> Result<String> {
    let node = stack.add_bare_node("bench-node", Machine::ascend_910c(arguments.modules, DIE_MIB))?;
    let volatile =
        if arguments.all_on_disk { None } else { disk::Volatile::below_memory(stack.cluster.id())? };
    let place = Place { stack, node: &node, volatile: volatile.as_ref().map(disk::Volatile::path) };
    let turns: &[Which] = if arguments.ours_only { &[Which::Ours] } else { &[Which::Ours, Which::Reference] };
    let mut runs = Vec::new();
    for round in 1..=arguments.rounds {
        for which in turns {
            eprintln!("  round {round}: {} (load {})", which.label(), machine::load());
            runs.push(place.measure(arguments, round, *which)?);
        }
    }
    Ok(report::report(&runs, arguments.modules, volatile.is_some()))
}

/// Where the drivers run.
struct Place<'a> {
    stack: &'a Stack,
    node: &'a MachineNode,
    volatile: Option<&'a Path>,
}

impl Place<'_> {
    /// One driver, started afresh in directories of its own.
    fn measure(&self, arguments: &Arguments, round: u32, which: Which) -> Result<Figures> {
        let handle = self.directories(&format!("{}-{round}", which.label()))?;
        // The first slice is to be seen being made.
        self.stack.cluster.kubectl_ok(&["delete", "resourceslices", "--all", "--wait=true"])?;
        let load_before = machine::load();
        let flush = disk::flush_times(&handle.state)?;
        let mut command = Command::new(self.stack.cluster.tool("bench-plugin")?);
        command
            .arg("--kubeconfig")
            .arg(self.stack.cluster.kubeconfig())
            .args(["--node", &handle.name, "--label", which.label(), "--driver", which.driver()])
            .args([
                "--pool",
                &format!("{}/{}", handle.name, if which == Which::Ours { "ascend" } else { "reference" }),
            ])
            .arg("--registry-dir")
            .arg(&handle.registry)
            .args([
                "--chips",
                &(arguments.modules * 2).to_string(),
                "--cycles",
                &arguments.cycles.to_string(),
            ])
            .arg("--")
            .args(self.driver(arguments, which, &handle)?)
            .stdout(Stdio::piped());
        let log = handle.root.join("bench.log");
        command.stderr(std::fs::File::create(&log)?);
        let output = command.spawn().and_then(std::process::Child::wait_with_output)?;
        if !output.status.success() {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = said.lines().collect();
            let end = lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n");
            bail!("measuring {}: {}\n{end}", which.label(), output.status);
        }
        let text = String::from_utf8(output.stdout).context("bench-plugin's output is not text")?;
        if arguments.json {
            eprint!("{text}");
        }
        Figures::read(which, round, &text, flush, format!("{load_before} .. {}", machine::load()))
    }

    /// Directories of one run: nothing that an earlier one left is found.
    fn directories(&self, name: &str) -> Result<NodeHandle> {
        let mut handle = self.node.handle.clone();
        handle.root = self.node.handle.root.join(name);
        let volatile = self.volatile.map_or_else(|| handle.root.clone(), |v| v.join(name));
        handle.registry = handle.root.join("registry");
        handle.plugins = handle.root.join("plugins");
        handle.state = handle.root.join("state");
        handle.cdi = volatile.join("cdi");
        handle.runtime = volatile.join("runtime");
        for directory in [&handle.registry, &handle.plugins, &handle.state, &handle.cdi, &handle.runtime] {
            std::fs::create_dir_all(directory)?;
        }
        Ok(handle)
    }

    fn driver(
        &self,
        arguments: &Arguments,
        which: Which,
        handle: &NodeHandle,
    ) -> Result<Vec<std::ffi::OsString>> {
        let command = match which {
            Which::Ours => {
                let mut options: PluginOptions = self.stack.plugin_options();
                if let Some(plugin) = &arguments.plugin {
                    options.program.clone_from(plugin);
                }
                // As it is shipped: its own default log level.
                options.environment.clear();
                handle.plugin_command(&options)
            }
            Which::Reference => {
                let program = self.stack.cluster.tool("reference-driver")?;
                vnpu_harness::ProcessSpec::new(program)
                    .arg("--kubeconfig")
                    .arg(self.stack.cluster.kubeconfig())
                    .args(["--node", &handle.name, "--driver", which.driver()])
                    .args(["--chips", &(arguments.modules * 2).to_string()])
                    .arg("--registry-dir")
                    .arg(&handle.registry)
                    .arg("--data-dir")
                    .arg(&handle.state)
                    .arg("--cdi-dir")
                    .arg(&handle.cdi)
            }
        };
        Ok(std::iter::once(command.program.into_os_string()).chain(command.arguments).collect())
    }
}
