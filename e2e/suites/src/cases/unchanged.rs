//! Programs that have nothing to do with devices, in containers with a share: they run as without us, whatever
//! their C library, and the node knows that nothing attached.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::case::Case;
use crate::context::Context;
use crate::images;
use crate::pods::{GIB, Sleeper, WITHIN, hold, run, sh, share};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "unchanged/programs_without_devices",
        about: "ls, sh, env, pipes and signals behave in a container with a share as in one without",
        run: programs_without_devices,
    },
    Case {
        name: "unchanged/glibc_2_31",
        about: "the same programs under glibc 2.31, and a program that allocates is held to its quota there",
        run: glibc_2_31,
    },
    Case {
        name: "unchanged/musl",
        about: "a program of an image with musl runs as ever, and its claim stays Attached=Unknown while it lives",
        run: musl,
    },
    Case {
        name: "unchanged/attached_says_when_a_process_came",
        about: "a claim's Attached is Unknown until a process of it uses the device, and True then",
        run: attached_says_when_a_process_came,
    },
];

/// What must come out the same with and without us: output, order, exit codes.
const PROGRAMS: &str = "ls /bin /nowhere 2>&1; echo ls=$?; env | grep -v -e HOSTNAME -e ^_= | sort; \
    sh -c 'exit 7'; echo exit=$?; sh -c 'kill -TERM $$'; echo signal=$?; echo a b c | cat | wc -w; \
    seq 3 | sort -r | tr '\\n' ' '; (true; false); echo $?; sh -c 'ulimit -s'; ls /proc/self/fd | wc -l; \
    timeout 0.1 sleep 5; echo timeout=$?; /lib/*-linux-gnu*/libc.so.6; echo libc=$?; id; date +%Y | wc -c; for i in 1 2 3 4 5 6 7 8 9 10; do true; done; echo end";

/// A pod in `image` with a share and one without, and that [`PROGRAMS`] does the same in both.
fn compare(context: &Context, image: &str) -> Result<()> {
    let pods = [
        Sleeper { image, ..Sleeper::default() },
        Sleeper { name: "plain", image, claims: &[], ..Sleeper::default() },
    ];
    Sleeper::start(context, &[share("npu", "4Gi", 10)], &pods)?;
    // The preload file itself is the one difference that there must be.
    let maps = sh(context, "main", "cat /etc/ld.so.preload; grep -c libvnpu.so /proc/self/maps")?;
    ensure!(maps.out.starts_with("/run/vnpu/lib/libvnpu.so\n") && !maps.out.ends_with("\n0\n"), "{maps:?}");
    let core = sh(context, "main", "! grep libvnpu_core /proc/self/maps")?;
    ensure!(core.err.is_empty(), "{core:?}");
    let (ours, plain) = (sh(context, "main", PROGRAMS)?, sh(context, "plain", PROGRAMS)?);
    ensure!(ours.err == plain.err, "with us standard error has {:?}, without {:?}", ours.err, plain.err);
    ensure!(ours.out == plain.out, "with us:\n{}\nwithout:\n{}", ours.out, plain.out);
    ensure!(ours.out.ends_with("end\n"), "{ours:?}");
    Ok(())
}

fn programs_without_devices(context: &mut Context) -> Result<()> {
    compare(context, vnpu_e2e_stack::DEMO_IMAGE)
}

fn glibc_2_31(context: &mut Context) -> Result<()> {
    context.machine()?;
    if images::old(context)?.is_none() {
        return Ok(());
    }
    compare(context, images::OLD)?;
    let version = sh(context, "main", "/lib/*-linux-gnu*/libc.so.6 | head -1")?;
    ensure!(version.out.contains("2.31"), "{version:?}");
    let fill = run(context, "main", "main", &["acl-demo", "fill"])?;
    ensure!(fill.err.is_empty(), "{fill:?}");
    ensure!(fill.number("fill", "granted")? == 4 * GIB, "{fill:?}");
    ensure!(fill.number("fill round=again", "granted")? == 4 * GIB, "{fill:?}");
    hold(context, "main", "main", "a", "--bytes 3Gi")?;
    let info = sh(
        context,
        "main",
        "acl-demo info; acl-demo crash --bytes 1Gi; kill -9 $(cat /tmp/a.pid); acl-demo info",
    )?;
    ensure!(info.number("device ", "free")? == GIB, "{info:?}");
    ensure!(info.out.ends_with(&format!("free={} used=0\n", 4 * GIB)), "{info:?}");
    Ok(())
}

fn musl(context: &mut Context) -> Result<()> {
    context.machine()?;
    if images::musl(context)?.is_none() {
        return Ok(());
    }
    let pods = [
        Sleeper { image: images::MUSL, command: TICK, ..Sleeper::default() },
        Sleeper { name: "plain", image: images::MUSL, claims: &[], command: TICK, ..Sleeper::default() },
        Sleeper { name: "seen", claims: &["seen"], ..Sleeper::default() },
    ];
    Sleeper::start(context, &[share("npu", "4Gi", 10), share("seen", "4Gi", 10)], &pods)?;
    let probe = run(context, "main", "main", &["/bin/probe"])?;
    // Its loader does not read the preload file, which is there.
    ensure!(probe.success && probe.err.is_empty(), "{probe:?}");
    ensure!(probe.out == "probe musl=1 ours=0 dlsym=1 preload=1 variable=0\n", "{probe:?}");
    let program = "/run/vnpu/lib/libvnpu.so";
    let loader = format!("/lib/ld-musl-{}.so.1", std::env::consts::ARCH);
    let under = run(context, "main", "main", &[&loader, "--preload", program, "/bin/probe"])?;
    ensure!(under.out == "probe musl=1 ours=1 dlsym=1 preload=1 variable=0\n", "{under:?}");
    stays_unknown(context)
}

/// Counts seconds in an image with musl.
const TICK: &[&str] = &["/bin/probe", "tick"];

/// More than two rounds of the node's agent, which makes one every 5 s.
const ROUNDS: Duration = Duration::from_secs(12);

/// `Unknown` is what the condition begins with. That it is also what the agent finds shows only while the process
/// lives on, and while the agent finds another one in a pod beside it.
fn stays_unknown(context: &Context) -> Result<()> {
    wait_attached(context, "npu", "Unknown")?;
    let (begun, before) = (Instant::now(), ticks(context, "main")?);
    hold(context, "seen", "main", "a", "--bytes 1Gi")?;
    let mut seen = false;
    while begun.elapsed() < ROUNDS || !seen {
        let now = attached(context, "npu")?;
        ensure!(now.as_deref() == Some("Unknown"), "after {:?} Attached is {now:?}", begun.elapsed());
        seen = seen || attached(context, "seen")?.as_deref() == Some("True");
        ensure!(begun.elapsed() < WITHIN, "the agent did not find the process of the pod beside it");
        std::thread::sleep(Duration::from_millis(500));
    }
    // It counts as it did, at the pace of one without us, and is the process that the pod began with.
    let lived = begun.elapsed().as_secs() as usize;
    for pod in ["main", "plain"] {
        let now = ticks(context, pod)?;
        let least = if pod == "main" { before + lived - 2 } else { lived - 2 };
        ensure!(now >= least, "{pod} has counted to {now} after {lived} s, having begun at {before}");
        let path = "jsonpath={.status.containerStatuses[0].restartCount}";
        let restarts = context.kubectl(&["get", "pod", pod, "-o", path])?;
        ensure!(restarts == "0", "{pod} was restarted {restarts} times");
    }
    println!("        Unknown for {lived} s while it counted from {before} to {}", ticks(context, "main")?);
    Ok(())
}

/// How far the pod's process has counted, without a gap and with nothing else said.
fn ticks(context: &Context, pod: &str) -> Result<usize> {
    let said = context.kubectl(&["logs", pod])?;
    let gap = said.lines().enumerate().find(|(n, line)| *line != format!("tick {n}"));
    ensure!(
        gap.is_none(),
        "line {gap:?} of the log of {pod} is not what it says in a pod of its own:\n{said}"
    );
    Ok(said.lines().count())
}

fn attached_says_when_a_process_came(context: &mut Context) -> Result<()> {
    Sleeper::start(context, &[share("npu", "4Gi", 10)], &[Sleeper::default()])?;
    wait_attached(context, "npu", "Unknown")?;
    sh(context, "main", "ls; env; sleep 1")?;
    ensure!(attached(context, "npu")?.as_deref() == Some("Unknown"), "ls has attached");
    hold(context, "main", "main", "a", "--bytes 1Gi")?;
    wait_attached(context, "npu", "True")
}

/// Waits until the claim's `Attached` has this status.
pub(super) fn wait_attached(context: &Context, claim: &str, status: &str) -> Result<()> {
    let mut last = None;
    let waited = context.cluster.wait_for(&format!("Attached to be {status}"), WITHIN, || {
        last = attached(context, claim)?;
        Ok(last.as_deref() == Some(status))
    });
    waited.with_context(|| format!("it is {last:?}"))
}

/// The status of the condition `Attached` of the claim's device.
fn attached(context: &Context, claim: &str) -> Result<Option<String>> {
    let claim = context.cluster.kubectl_json(&["get", "resourceclaim", claim, "-n", &context.namespace])?;
    let conditions = claim.pointer("/status/devices/0/conditions").and_then(Value::as_array);
    let found =
        conditions.into_iter().flatten().find(|c| c.get("type").and_then(Value::as_str) == Some("Attached"));
    Ok(found.and_then(|c| c.get("status")?.as_str().map(str::to_owned)))
}
