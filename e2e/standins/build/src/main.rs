//! `cargo run -p standin-build`: builds the stand-ins and prints where they are.

use clap::Parser;

/// Build the stand-in libraries and programs.
#[derive(Parser)]
struct Arguments {
    /// With optimisation.
    #[arg(long)]
    release: bool,
}

fn main() -> anyhow::Result<()> {
    let artefacts = standin_build::build(Arguments::parse().release)?;
    println!(
        "lib={}\nlib92={}\nbin={}",
        artefacts.lib.display(),
        artefacts.lib92.display(),
        artefacts.bin.display()
    );
    Ok(())
}
