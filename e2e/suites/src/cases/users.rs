//! Tenants that are not root: as another user, and as root of a user namespace of their own. Neither owns the files
//! that the interposer shares with the node.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use serde_json::json;
use vnpu_harness::ProcessSpec;

use super::unchanged::wait_attached;
use crate::case::Case;
use crate::context::Context;
use crate::pods::{GIB, OUT_OF_MEMORY, Sleeper, WITHIN, hold, run, sh, share};
use crate::simulated::{list, text};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "users/not_root",
        about: "user 1000 without any capability is held to its quota to the byte, and its process has a slot",
        run: not_root,
    },
    Case {
        name: "users/user_namespace",
        about: "root of a pod with hostUsers: false is held to its quota to the byte, and its process has a slot",
        run: user_namespace,
    },
];

const QUOTA: u64 = 4 * GIB;

/// That the pod `main` gets its quota, all of it and no byte more, and that the node sees its process.
fn held(context: &Context, uid: u32) -> Result<()> {
    let who = sh(context, "main", "id -u; cat /proc/self/uid_map; grep CapEff /proc/self/status")?;
    println!("        user: {}", who.out.split_whitespace().collect::<Vec<_>>().join(" "));
    ensure!(who.out.lines().next() == Some(uid.to_string().as_str()), "{who:?}");
    wait_attached(context, "npu", "Unknown")?;
    let fill = sh(context, "main", "acl-demo fill")?;
    ensure!(fill.err.is_empty(), "{fill:?}");
    for round in ["first", "again"] {
        let line = format!("fill round={round}");
        for (key, value) in [("granted", QUOTA), ("total", QUOTA), ("free", 0), ("code", OUT_OF_MEMORY)] {
            let seen = fill.number(&line, key)?;
            ensure!(seen == value, "{line}: {key} is {seen}, not {value}: {fill:?}");
        }
        ensure!(fill.number(&format!("freed round={round}"), "free")? == QUOTA, "{fill:?}");
    }
    hold(context, "main", "main", "a", "--bytes 3Gi")?;
    wait_attached(context, "npu", "True")?;
    let more = run(context, "main", "main", &["acl-demo", "hold", "--bytes", "1025Mi", "--seconds", "0"])?;
    ensure!(!more.success && more.number("failed", "code")? == OUT_OF_MEMORY, "{more:?}");
    let mine = sh(context, "main", "grep ^Uid: /proc/$(cat /tmp/a.pid)/status; acl-demo info")?;
    ensure!(mine.out.split_whitespace().nth(1) == Some(uid.to_string().as_str()), "{mine:?}");
    ensure!(mine.number("device ", "free")? == GIB, "{mine:?}");
    // What a killed process held is there for the next one of its user.
    sh(context, "main", "kill -9 $(cat /tmp/a.pid)")?;
    hold(context, "main", "main", "b", "--bytes 4Gi")?;
    Ok(())
}

fn not_root(context: &mut Context) -> Result<()> {
    // As strict as the Pod Security Standard "restricted" asks.
    let security = json!({
        "runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": true, "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    let label = "pod-security.kubernetes.io/enforce=restricted";
    context.cluster.kubectl_ok(&["label", "namespace", &context.namespace, label])?;
    Sleeper::start(context, &[share("npu", "4Gi", 10)], &[Sleeper { security, ..Sleeper::default() }])?;
    let id = sh(context, "main", "grep CapEff /proc/self/status")?;
    ensure!(id.out.ends_with("0000000000000000\n"), "{id:?}");
    held(context, 1000)
}

fn user_namespace(context: &mut Context) -> Result<()> {
    let machine = context.machine()?;
    let stage = STAGE.replace("$nodes", &machine.handle.dev_root.display().to_string());
    let stage = format!("mkdir -p {UNCOVERED}; mount -t proc proc {UNCOVERED}\n{stage}");
    let ready = on_node(context, &stage).and_then(|()| on_node(context, "mount --rbind /mnt /dev"));
    let outcome = match &ready {
        Ok(()) => in_namespace(context),
        Err(error) => {
            context.not_run(&format!("the node cannot be made ready for user namespaces: {error:#}"));
            Ok(())
        }
    };
    // Lazily: what still runs keeps what it has.
    if ready.is_ok() {
        on_node(context, "umount -l /dev")?;
    }
    on_node(context, &format!("umount -l /mnt || :; umount {UNCOVERED} || :; rmdir {UNCOVERED}"))?;
    outcome
}

/// The kernel lets a user namespace mount a `/proc` only where a whole one is seen already, and the harness covers
/// some settings in the node's. A machine of its own has that without this one.
const UNCOVERED: &str = "/run/vnpu-uncovered-proc";

/// In a user namespace runc binds devices from the path that they have in the container. On hardware that is theirs on
/// the node too; here the node's `/dev` gets the simulated ones beside all that it has, in the node's view alone.
const STAGE: &str = "mount -t tmpfs -o mode=755 dev /mnt
    for entry in /dev/*; do
        to=/mnt/${entry##*/}
        if [ -L $entry ]; then cp -P $entry $to
        elif [ -d $entry ]; then mkdir $to; mount --rbind $entry $to
        else touch $to; mount --bind $entry $to; fi
    done
    for entry in $nodes/*; do
        if [ ! -e /mnt/${entry##*/} ]; then touch /mnt/${entry##*/}; mount --bind $entry /mnt/${entry##*/}; fi
    done";

/// Runs a script in the node's view of the file system.
fn on_node(context: &Context, script: &str) -> Result<()> {
    let output = context.cluster.run_on_node(&ProcessSpec::new("sh").args(["-ec", script]))?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn in_namespace(context: &Context) -> Result<()> {
    // Without a claim first: whether this kernel and runtime can do it at all is not about us.
    let plain = Sleeper { name: "plain", claims: &[], host_users: Some(false), ..Sleeper::default() };
    Sleeper::apply(context, &[], &[plain])?;
    if let Some(why) = refused(context, "plain")? {
        context.not_run(&format!("pods with hostUsers: false do not start here: {why}"));
        return Ok(());
    }
    let pod = Sleeper { host_users: Some(false), ..Sleeper::default() };
    Sleeper::apply(context, &[share("npu", "4Gi", 10)], &[pod])?;
    if let Some(why) = refused(context, "main")? {
        bail!("with a claim it does not start: {why}");
    }
    let map = sh(context, "main", "cat /proc/self/uid_map")?;
    ensure!(map.out.split_whitespace().nth(1) != Some("0"), "root in the pod is root on the node: {map:?}");
    held(context, 0)
}

/// Waits until the pod runs, or has an event that says why it does not.
fn refused(context: &Context, pod: &str) -> Result<Option<String>> {
    let begun = Instant::now();
    loop {
        if context.cluster.pod_phase(&context.namespace, pod)? == "Running" {
            return Ok(None);
        }
        let events = list(context, "events")?;
        // The scheduler too complains while the claim is new, and then goes on.
        let failed = events.iter().find(|e| {
            let reason = text(e, "/reason");
            text(e, "/involvedObject/name") == pod
                && reason.starts_with("Failed")
                && reason != "FailedScheduling"
        });
        if let Some(event) = failed {
            return Ok(Some(text(event, "/message").to_owned()));
        }
        ensure!(begun.elapsed() < WITHIN, "the pod does not start, and nobody says why");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}
