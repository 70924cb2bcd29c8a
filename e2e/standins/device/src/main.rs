//! `standin-device`: prepares a driver's directory, prints sample machines, and is the driver.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use standin_device::{LayoutOptions, MachineFile, Server, State, lay_out};
use standin_protocol::{GPU_SOCKET_BELOW_ROOT, Machine, SOCKET_BELOW_ROOT};

/// The kernel driver of a simulated machine with Ascend cards, NVIDIA GPUs or both.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer the stand-in vendor libraries until killed. Prints `ready` when the socket listens.
    Serve {
        /// The machine (YAML); changes take effect at once.
        #[arg(long)]
        config: PathBuf,
        /// Stands for `/` of the node: the socket lies in the driver's lib64 below it.
        #[arg(long)]
        driver_root: Option<PathBuf>,
        /// Listen here instead.
        #[arg(long)]
        socket: Option<PathBuf>,
    },
    /// Lay out the driver's files and device nodes.
    Prepare {
        /// The machine (YAML).
        #[arg(long)]
        config: PathBuf,
        /// Stands for `/` of the node.
        #[arg(long)]
        driver_root: PathBuf,
        /// Stands for `/dev` of the node.
        #[arg(long)]
        dev_root: PathBuf,
        /// Directory of the stand-in libraries; `../lib` beside this program without it.
        #[arg(long)]
        libraries: Option<PathBuf>,
    },
    /// Print a machine to start from.
    Sample {
        /// 910C (modules of two dies), 910B (single dies) or H100 (GPUs).
        #[arg(long, default_value = "910C")]
        chip: String,
        /// How many cards (modules, GPUs).
        #[arg(long, default_value_t = 1)]
        cards: u32,
        /// Memory of each die or GPU, MiB.
        #[arg(long, default_value_t = 65536)]
        memory_mib: u64,
    },
}

fn main() -> Result<(), Box<dyn Error>> {
    match Arguments::parse().command {
        Command::Serve { config, driver_root, socket } => {
            let (socket, gpus) = match (socket, driver_root) {
                (Some(socket), _) => (socket, None),
                (None, Some(root)) => (root.join(SOCKET_BELOW_ROOT), Some(root.join(GPU_SOCKET_BELOW_ROOT))),
                (None, None) => return Err("give --driver-root or --socket".into()),
            };
            let mut file = MachineFile::new(&config);
            let machine = file.changed()?.ok_or_else(|| format!("{}: cannot be read", config.display()))?;
            let server = Arc::new(Server::bind(&socket, State::new(machine))?);
            server.follow(file);
            if let Some(gpus) = gpus {
                server.serve_also(&gpus)?;
            }
            println!("ready socket={}", socket.display());
            std::io::stdout().flush()?;
            Ok(server.serve()?)
        }
        Command::Prepare { config, driver_root, dev_root, libraries } => {
            let machine = read(&config)?;
            let libraries = match libraries {
                Some(libraries) => libraries,
                None => std::env::current_exe()?.parent().ok_or("no directory")?.join("../lib"),
            };
            Ok(lay_out(&machine, &LayoutOptions { driver_root, dev_root, libraries })?)
        }
        Command::Sample { chip, cards, memory_mib } => {
            let machine = match chip.as_str() {
                "910C" => Machine::ascend_910c(cards, memory_mib),
                "910B" => Machine::ascend_910b(cards, memory_mib),
                "310P" => Machine::ascend_310p_duo(cards, memory_mib),
                "H100" => Machine::nvidia_h100(cards, memory_mib),
                other => return Err(format!("{other}: 910C, 910B, 310P or H100").into()),
            };
            print!("{}", serde_saphyr::to_string(&machine)?);
            Ok(())
        }
    }
}

fn read(path: &PathBuf) -> Result<Machine, Box<dyn Error>> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(standin_device::parse(&text, path)?)
}
