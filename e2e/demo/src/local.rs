//! The first part: quotas on this machine, without Kubernetes.

use std::time::Instant;

use anyhow::Result;
use vnpu_e2e_stack::Artefacts;

use crate::machine::Machine;
use crate::shares;
use crate::shell::{Shell, note, path, promise};

/// Shows it.
///
/// # Errors
/// When a command does not answer as promised.
pub(crate) fn show(artefacts: &Artefacts) -> Result<()> {
    let begun = Instant::now();
    println!("\n#### 1. On this machine: any program under a share of a chip, without Kubernetes");
    let machine = Machine::start(artefacts)?;
    let mut environment = machine.environment();
    println!(
        "The accelerator is a stand-in below the vendor's C libraries; these variables say where it is:"
    );
    for (name, value) in &environment {
        println!("  {name}={}", value.to_string_lossy());
    }
    let programs = [artefacts.vnpu.parent(), Some(artefacts.standins.bin.as_path())];
    let programs: Vec<_> = programs.into_iter().flatten().collect();
    environment.push(("PATH".to_owned(), path(&programs)?));
    environment.push(("VNPU_INTERPOSER_DIR".to_owned(), artefacts.interposer.clone().into_os_string()));
    let mut shell = Shell::new(&artefacts.repository, environment);

    shell.step("A program asks the vendor's runtime how much memory the chip has");
    promise(&shell.run("acl-demo info")?, "total=68719476736")?;
    note("64 GiB: the whole chip");
    promise(&shell.run("vnpu run --memory 4Gi -- acl-demo info")?, "total=4294967296")?;
    note("the same program under a quota: the chip has 4 GiB");
    shell.took();

    shell.step("It allocates until it is refused, frees everything, and does it again");
    let filled = shell.run("vnpu run --memory 4Gi -- acl-demo fill --chunk 1Gi")?;
    promise(&filled, "round=first granted=4294967296 allocations=4 code=207001")?;
    promise(&filled, "round=again granted=4294967296 allocations=4 code=207001")?;
    note("207001 is the vendor's \"out of memory\", said at 4294967296 bytes: 4 GiB to the byte, of 64");
    shell.took();

    shell.step("A program and its child share one quota");
    let shared = shell.run("vnpu run --memory 4Gi -- acl-demo fork --bytes 2Gi")?;
    promise(&shared, "free=2147483648\n")?;
    promise(&shared, "free=0\n")?;
    note("2 GiB in each of the two processes: all 4 GiB are in use, and both see it");
    promise(&shell.run("vnpu run --memory 4Gi -- acl-demo fork --bytes 3Gi")?, "code=207001")?;
    note("3 GiB in the first: the second is out of memory");
    shell.took();

    compute(&mut shell)?;
    println!("\nThe first part took {:.1} s.", begun.elapsed().as_secs_f32());
    Ok(())
}

/// Two busy programs side by side, and a third for which nothing is left.
const SIDE_BY_SIDE: &str = "\
vnpu run --memory 4Gi --cores 30 --name small -- acl-demo busy --seconds 6 | sed 's/^/small: /' &
vnpu run --memory 4Gi --cores 70 --name large -- acl-demo busy --seconds 6 | sed 's/^/large: /' &
sleep 3; vnpu top --once; vnpu run --memory 4Gi --cores 10 -- acl-demo info; wait";

fn compute(shell: &mut Shell) -> Result<()> {
    shell.step("Two busy programs share the chip 30 to 70; nothing is left for a third");
    let said = shell.run(SIDE_BY_SIDE)?;
    let of = |name: &str| {
        let prefix = format!("{name}: ");
        let lines: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
        shares::mean(&lines.join("\n"))
    };
    let (small, large) = (of("small")?, of("large")?);
    shares::check(small, large)?;
    note(&format!(
        "30 percent got {small:.1}, 70 percent got {large:.1}, of the chip's time since they began"
    ));
    promise(&said, "--cores 10 is more than chip")?;
    note("the third is refused before it starts, with the names of those that have the chip");
    shell.took();
    Ok(())
}
