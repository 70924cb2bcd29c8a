//! What a container may do to its claim's regions, and what it gets when they are unusable: refused memory, one
//! line that says why, and never a hang or an end of the program.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::case::Case;
use crate::context::Context;
use crate::images;
use crate::pods::{GIB, OUT_OF_MEMORY, Said, Sleeper, WITHIN, hold, run, sh, share};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "regions/unusable_ones_refuse_memory",
        about: "a quota that is missing, cut short or of a newer layout: allocations are refused, with one line",
        run: unusable_ones_refuse_memory,
    },
    Case {
        name: "regions/quota_is_read_only_inside",
        about: "root in the container can neither write, replace nor remove the quota",
        run: quota_is_read_only_inside,
    },
    Case {
        name: "regions/a_spoiled_ledger_harms_nobody",
        about: "a process that overwrites the ledger stops nobody, hangs nobody, and a neighbour is untouched",
        run: a_spoiled_ledger_harms_nobody,
    },
];

/// The claim's files on the node.
fn on_node(context: &Context, claim: &str) -> Result<PathBuf> {
    let claim: Value =
        context.cluster.kubectl_json(&["get", "resourceclaim", claim, "-n", &context.namespace])?;
    let uid = claim.pointer("/metadata/uid").and_then(Value::as_str).context("a claim without UID")?;
    Ok(context.machine()?.handle.runtime.join("claims").join(uid))
}

/// Runs `acl-demo` under unusable regions and asserts what it gets.
fn refused(context: &Context, what: &str, words: &[&str]) -> Result<()> {
    // `timeout` so that a hang is an answer too.
    let command = ["timeout", "30", "acl-demo", "hold", "--bytes", "2Mi", "--seconds", "0"];
    let said: Said = run(context, "main", "main", &command)?;
    ensure!(!said.success && said.number("failed", "code")? == OUT_OF_MEMORY, "{what}: {said:?}");
    // kubectl has a line of its own about the exit code.
    let lines: Vec<&str> = said.err.lines().filter(|l| !l.contains("exit code")).collect();
    let [line] = lines.as_slice() else { anyhow::bail!("{what}: not one line: {said:?}") };
    ensure!(line.starts_with("vnpu: ") && words.iter().all(|w| line.contains(w)), "{what}: {line}");
    let info = sh(context, "main", "timeout 30 acl-demo info")?;
    ensure!(info.number("device ", "free")? == 0, "{what}: memory info shows free memory: {info:?}");
    let other = sh(context, "main", "ls / && echo unharmed")?;
    ensure!(other.err.is_empty() && other.out.contains("unharmed"), "{what}: {other:?}");
    Ok(())
}

fn unusable_ones_refuse_memory(context: &mut Context) -> Result<()> {
    images::tools(context)?;
    let pod = Sleeper { image: images::TOOLS, capabilities: &["SYS_ADMIN"], ..Sleeper::default() };
    Sleeper::start(context, &[share("npu", "4Gi", 10)], &[pod])?;
    let directory = on_node(context, "npu")?;
    let fine = sh(context, "main", "acl-demo hold --bytes 4Gi --seconds 0")?;
    ensure!(fine.out.contains("released") && fine.err.is_empty(), "{fine:?}");
    for (file, shorter) in [("quota", 100), ("usage", 4096)] {
        // In place: containers have the file itself mounted, not its name.
        let path = directory.join(file);
        let original = fs::read(&path)?;
        let open = || File::options().write(true).open(&path);
        open()?.set_len(shorter)?;
        let cut_short = refused(context, "cut short", &[file, "shorter than its layout"]);
        open()?.set_len(0)?;
        let empty = refused(context, "empty", &[file]);
        fs::write(&path, &original)?;
        // `min_reader`: who is older must not read on.
        open()?.write_all_at(&99_u16.to_ne_bytes(), 6)?;
        let newer = refused(context, "newer layout", &[file, "newer"]);
        open()?.write_all_at(&original, 0)?;
        cut_short.and(empty).and(newer)?;
        let again = sh(context, "main", "acl-demo hold --bytes 4Gi --seconds 0")?;
        ensure!(again.out.contains("released") && again.err.is_empty(), "{file} put back: {again:?}");
    }
    let unmount = "cd /run/vnpu/claims/* && umount quota && rm quota && ! ls quota";
    sh(context, "main", unmount)?;
    refused(context, "missing", &["quota", "No such file"])
}

fn quota_is_read_only_inside(context: &mut Context) -> Result<()> {
    Sleeper::start(context, &[share("npu", "4Gi", 10)], &[Sleeper::default()])?;
    let path = on_node(context, "npu")?.join("quota");
    let before = fs::read(&path)?;
    let attempts = [
        "dd if=/dev/zero of=quota bs=64 count=1 conv=notrunc",
        ": > quota",
        "rm -f quota",
        "mv quota other",
        "echo x > other && mv other quota",
        "chmod 666 quota",
        "ln -sf /tmp/mine quota",
        "touch quota",
    ];
    for attempt in attempts {
        let script = format!("cd /run/vnpu/claims/* && {attempt}");
        let said = run(context, "main", "main", &["sh", "-c", &script])?;
        ensure!(!said.success, "{attempt} succeeded: {said:?}");
    }
    for read_only in ["/etc/ld.so.preload", "/run/vnpu/lib/libvnpu.so", "/run/vnpu/lib/libvnpu_core.so"] {
        let said =
            run(context, "main", "main", &["sh", "-c", &format!(": > {read_only} || rm {read_only}")])?;
        ensure!(!said.success, "{read_only} can be written: {said:?}");
    }
    ensure!(fs::read(&path)? == before, "the quota has changed");
    let fill = sh(context, "main", "acl-demo fill")?;
    ensure!(fill.number("fill", "granted")? == 4 * GIB, "{fill:?}");
    Ok(())
}

fn a_spoiled_ledger_harms_nobody(context: &mut Context) -> Result<()> {
    let names = ["main", "neighbour"];
    let claims = names.map(|name| share(name, "4Gi", 10));
    let pods = [("main", &["main"]), ("neighbour", &["neighbour"])].map(|(name, claims)| Sleeper {
        name,
        claims,
        ..Sleeper::default()
    });
    Sleeper::start(context, &claims, &pods)?;
    let ledger = on_node(context, "main")?.join("usage");
    let size = fs::metadata(&ledger)?.len();
    let sound = fs::read(&ledger)?;
    hold(context, "neighbour", "main", "n", "--bytes 1Gi")?;
    for (source, from) in [("zeros", "/dev/zero"), ("noise", "/dev/urandom")] {
        hold(context, "main", "main", source, "--bytes 1Gi --seconds 6")?;
        // Beside one process that holds memory and one that allocates and frees all the time.
        let spoil = format!(
            "acl-demo loop --bytes 64Mi --count 3000 > /tmp/loop-{source} 2>&1 & \
             for i in 1 2 3 4 5; do dd if={from} of=$(echo /run/vnpu/claims/*/usage) bs={size} count=1 \
             conv=notrunc 2> /dev/null; sleep 0.05; done; wait $!; echo loop=$?"
        );
        let said = sh(context, "main", &spoil)?;
        ensure!(["loop=0", "loop=1"].iter().any(|end| said.out.contains(end)), "{source}: {said:?}");
        // Whatever is in it now, the next process gets an answer: memory or a refusal.
        let next = run(context, "main", "main", &["timeout", "30", "acl-demo", "fill", "--chunk", "1Gi"])?;
        let answered = next.number("fill", "code").or_else(|_| next.number("failed", "code"));
        ensure!(answered.is_ok_and(|code| code == OUT_OF_MEMORY), "{source}: {next:?}");
        context.cluster.wait_for("the holder to end by itself", WITHIN, || {
            Ok(sh(context, "main", &format!("cat /tmp/{source}"))?.out.contains("released"))
        })?;
        File::options().write(true).open(&ledger)?.write_all_at(&sound, 0)?;
    }
    let machine = context.machine()?;
    ensure!(machine.ready(&context.cluster), "the node's plugin did not survive it");
    let neighbour = sh(context, "neighbour", "acl-demo info")?;
    ensure!(neighbour.number("device ", "free")? == 3 * GIB, "{neighbour:?}");
    let fill = sh(context, "neighbour", "kill -9 $(cat /tmp/n.pid); acl-demo fill")?;
    ensure!(fill.number("fill", "granted")? == 4 * GIB, "{fill:?}");
    Ok(())
}
