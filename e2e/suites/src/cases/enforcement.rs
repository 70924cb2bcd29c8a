//! Device memory on the real node: what containers get of it, to the byte, by every way to ask for it.

use anyhow::{Context as _, Result, ensure};

use crate::case::Case;
use crate::context::Context;
use crate::images;
use crate::pods::{GIB, OUT_OF_MEMORY, Sleeper, hold, number, run, sh, sh_in, share, whole};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "enforcement/quota_is_exact_by_every_way",
        about: "a loop gets its quota to the page, frees it and gets it again, by every allocating function",
        run: quota_is_exact_by_every_way,
    },
    Case {
        name: "enforcement/processes_share_and_sigkill_returns",
        about: "processes of a container share the quota, see it in memory info, and a killed one's bytes return",
        run: processes_share_and_sigkill_returns,
    },
    Case {
        name: "enforcement/two_claims_are_two_quotas",
        about: "a container with two claims on two chips has two quotas that know nothing of each other",
        run: two_claims_are_two_quotas,
    },
    Case {
        name: "enforcement/containers_share_a_claim",
        about: "two containers of a pod with one claim share its quota",
        run: containers_share_a_claim,
    },
    Case {
        name: "enforcement/neighbours_are_independent",
        about: "of two pods on one chip one is at its limit and the other gets all of its own",
        run: neighbours_are_independent,
    },
    Case {
        name: "enforcement/whole_devices_are_not_limited",
        about: "a whole chip and a module show all their memory, and nothing of ours is in the container",
        run: whole_devices_are_not_limited,
    },
    Case {
        name: "enforcement/programs_that_launch_go_on",
        about: "programs that launch and wait do all of it under the interposer, linked or by dlsym, through ACL or the runtime",
        run: programs_that_launch_go_on,
    },
];

const QUOTA: u64 = 4 * GIB;
const MIB: u64 = 1 << 20;

/// How one way to allocate is tried: how it is reached, its kind, the chunk, and whether the runtime puts
/// `aclrtMalloc`'s padding on top.
type Way = (&'static str, &'static str, u64, bool);

const WAYS: &[Way] = &[
    ("dlsym", "align32", 64 * MIB, false),
    ("dlsym", "align32", 100 * MIB, false),
    ("dlsym", "align32", 777 * 1024, false),
    ("dlsym", "align32", 5 * MIB + 1024, false),
    ("dlsym", "malloc", 64 * MIB, true),
    ("dlsym", "malloc", 100 * MIB, true),
    ("dlsym", "cached", 128 * MIB, true),
    ("dlsym", "cfg", 64 * MIB, false),
    ("dlsym", "scheduler", 64 * MIB, false),
    ("dlsym", "managed", 64 * MIB, false),
    ("dlsym", "physical", 64 * MIB, false),
    ("dlsym", "pool", 64 * MIB, false),
    ("link", "align32", 64 * MIB, false),
    ("link", "malloc", 64 * MIB, true),
    ("rt", "rt", 64 * MIB, false),
    ("rt", "rt", 37 * MIB, false),
    ("rt", "rt-cached", 64 * MIB, false),
    ("rt", "rts", 64 * MIB, false),
    ("rt", "rt-alloc", 64 * MIB, false),
    ("rt", "rt-managed", 64 * MIB, false),
    ("rt", "rt-dvpp", 64 * MIB, false),
    ("rt", "rt-physical", 64 * MIB, false),
    ("rt-link", "rt", 64 * MIB, false),
];

/// What `acl-demo fill` must get: granted bytes, allocations, and what stays free.
fn expected(chunk: u64, padded: bool) -> (u64, u64, u64) {
    let cost = |size: u64| {
        let asked = if padded { size.next_multiple_of(32) + 32 } else { size };
        asked.next_multiple_of(if asked > MIB { 2 * MIB } else { 512 })
    };
    let (mut free, mut granted, mut allocations, mut size) = (QUOTA, 0, 0, chunk);
    while size >= 2 * MIB || size == chunk {
        let times = free / cost(size);
        (free, granted, allocations) =
            (free - times * cost(size), granted + times * size, allocations + times);
        size /= 2;
    }
    (granted, allocations, free)
}

fn quota_is_exact_by_every_way(context: &mut Context) -> Result<()> {
    images::tools(context)?;
    let pod = Sleeper { image: images::TOOLS, ..Sleeper::default() };
    Sleeper::start(context, &[share("npu", "4Gi", 10)], &[pod])?;
    let calls = WAYS.iter().map(|(via, kind, chunk, _)| {
        format!("echo '## {via} {kind} {chunk}'; acl-demo fill --via {via} --kind {kind} --chunk {chunk};")
    });
    let said = sh(context, "main", &calls.collect::<String>())?;
    ensure!(said.err.is_empty(), "something was said on standard error: {}", said.err);
    let parts: Vec<&str> = said.out.split("## ").skip(1).collect();
    ensure!(parts.len() == WAYS.len(), "{} of {} ways were tried:\n{}", parts.len(), WAYS.len(), said.out);
    for ((via, kind, chunk, padded), part) in WAYS.iter().zip(&parts) {
        let (granted, allocations, free) = expected(*chunk, *padded);
        for round in ["first", "again"] {
            let fill = format!("fill round={round}");
            let want = [
                ("granted", granted),
                ("allocations", allocations),
                ("code", OUT_OF_MEMORY),
                ("total", QUOTA),
                ("free", free),
            ];
            for (key, value) in want {
                let seen = number(part, &fill, key).with_context(|| format!("{via} {kind}: {part}"))?;
                ensure!(seen == value, "{via} {kind}, chunks of {chunk}: {key} should be {value}:\n{part}");
            }
            let freed = number(part, &format!("freed round={round}"), "free")?;
            ensure!(freed == QUOTA, "{via} {kind}: not all is free again:\n{part}");
        }
    }
    Ok(())
}

fn processes_share_and_sigkill_returns(context: &mut Context) -> Result<()> {
    Sleeper::start(context, &[share("npu", "4Gi", 10)], &[Sleeper::default()])?;
    hold(context, "main", "main", "a", "--bytes 3Gi")?;
    let info = sh(context, "main", "acl-demo info")?;
    ensure!(info.number("device ", "total")? == QUOTA, "{info:?}");
    ensure!(info.number("device ", "free")? == GIB, "{info:?}");
    let more = run(context, "main", "main", &["acl-demo", "hold", "--bytes", "1025Mi", "--seconds", "0"])?;
    ensure!(!more.success && more.number("failed", "code")? == OUT_OF_MEMORY, "{more:?}");
    hold(context, "main", "main", "b", "--bytes 1Gi")?;
    let full = sh(context, "main", "acl-demo info")?;
    ensure!(full.number("device ", "free")? == 0, "{full:?}");
    let none = run(context, "main", "main", &["acl-demo", "hold", "--bytes", "1Ki", "--seconds", "0"])?;
    ensure!(none.number("failed", "code")? == OUT_OF_MEMORY, "{none:?}");
    // No wait in between: whoever asks next must find the killed process's bytes.
    sh(context, "main", "kill -9 $(cat /tmp/a.pid)")?;
    hold(context, "main", "main", "c", "--bytes 3Gi")?;
    let crashes = "for i in 1 2 3 4 5 6 7 8 9 10; do acl-demo crash --bytes 4Gi; echo status=$?; done";
    sh(context, "main", "kill -9 $(cat /tmp/b.pid) $(cat /tmp/c.pid)")?;
    let crashed = sh(context, "main", crashes)?;
    ensure!(crashed.out.matches("holding bytes=4294967296").count() == 10, "{crashed:?}");
    ensure!(crashed.out.matches("status=137").count() == 10, "{crashed:?}");
    let forked = sh(context, "main", "acl-demo fork --bytes 2Gi")?;
    ensure!(forked.out.matches("holding bytes=2147483648").count() == 2, "{forked:?}");
    ensure!(forked.number("child", "free")? == 2 * GIB, "{forked:?}");
    let end = sh(context, "main", "acl-demo info")?;
    ensure!(end.number("device ", "free")? == QUOTA, "{end:?}");
    Ok(())
}

fn two_claims_are_two_quotas(context: &mut Context) -> Result<()> {
    // 60 % and 60 % do not fit on one chip.
    let claims = [share("small", "4Gi", 60), share("large", "8Gi", 60)];
    let pod = Sleeper { claims: &["small", "large"], ..Sleeper::default() };
    Sleeper::start(context, &claims, &[pod])?;
    let info = sh(context, "main", "acl-demo info")?;
    ensure!(info.number("devices", "count")? == 2, "{info:?}");
    let total = |device: u64| info.number(&format!("device id={device} "), "total");
    let (small, large) = if total(0)? == 4 * GIB { (0, 1) } else { (1, 0) };
    ensure!((total(small)?, total(large)?) == (4 * GIB, 8 * GIB), "{info:?}");
    hold(context, "main", "main", "small", &format!("--device {small} --bytes 4Gi"))?;
    let fill = |device: u64| {
        run(
            context,
            "main",
            "main",
            &["acl-demo", "fill", "--device", &device.to_string(), "--chunk", "512Mi"],
        )
    };
    let (at_limit, other) = (fill(small)?, fill(large)?);
    ensure!(at_limit.number("fill", "granted")? == 0, "{at_limit:?}");
    ensure!(at_limit.number("fill", "code")? == OUT_OF_MEMORY, "{at_limit:?}");
    ensure!(other.number("fill", "granted")? == 8 * GIB, "{other:?}");
    ensure!(other.number("fill round=again", "granted")? == 8 * GIB, "{other:?}");
    Ok(())
}

fn containers_share_a_claim(context: &mut Context) -> Result<()> {
    let pod = Sleeper { containers: &["main", "side"], ..Sleeper::default() };
    Sleeper::start(context, &[share("npu", "4Gi", 10)], &[pod])?;
    hold(context, "main", "main", "a", "--bytes 3Gi")?;
    let side = sh_in(context, "main", "side", "acl-demo fill")?;
    ensure!(side.number("fill", "granted")? == GIB, "{side:?}");
    ensure!(side.number("fill", "total")? == QUOTA, "{side:?}");
    sh(context, "main", "kill -9 $(cat /tmp/a.pid)")?;
    // The killed process lived among other process ids, so that only the node's agent can know that it is dead.
    context.cluster.wait_for("the other container's bytes", crate::pods::WITHIN, || {
        Ok(sh_in(context, "main", "side", "acl-demo info")?.number("device ", "free")? == QUOTA)
    })?;
    let side = sh_in(context, "main", "side", "acl-demo fill")?;
    ensure!(side.number("fill", "granted")? == QUOTA, "{side:?}");
    Ok(())
}

fn neighbours_are_independent(context: &mut Context) -> Result<()> {
    let pods = ["first", "second"];
    let claims = pods.map(|name| share(name, "4Gi", 10));
    let sleepers = [("first", &["first"]), ("second", &["second"])].map(|(name, claims)| Sleeper {
        name,
        claims,
        ..Sleeper::default()
    });
    Sleeper::start(context, &claims, &sleepers)?;
    let mut chips = Vec::new();
    for pod in pods {
        chips.push(sh(context, pod, "acl-demo info")?.number("device ", "phys")?);
    }
    ensure!(chips.first() == chips.last(), "the pods are on chips {chips:?}, which proves nothing");
    hold(context, "first", "main", "a", "--bytes 4Gi")?;
    let refused = run(context, "first", "main", &["acl-demo", "hold", "--bytes", "2Mi", "--seconds", "0"])?;
    ensure!(refused.number("failed", "code")? == OUT_OF_MEMORY, "{refused:?}");
    let second = sh(context, "second", "acl-demo fill")?;
    ensure!(second.number("fill", "granted")? == QUOTA, "{second:?}");
    ensure!(second.number("fill", "allocations")? == 64, "{second:?}");
    let first = sh(context, "first", "acl-demo info; kill -0 $(cat /tmp/a.pid)")?;
    ensure!(first.number("device ", "free")? == 0, "{first:?}");
    Ok(())
}

fn whole_devices_are_not_limited(context: &mut Context) -> Result<()> {
    let claims = [whole("chip", "npu.vnpu.dev"), whole("module", "npu-module.vnpu.dev")];
    let pods = [("chip", &["chip"]), ("module", &["module"])].map(|(name, claims)| Sleeper {
        name,
        claims,
        ..Sleeper::default()
    });
    Sleeper::start(context, &claims, &pods)?;
    for (pod, devices) in [("chip", 1), ("module", 2)] {
        let info = sh(context, pod, "acl-demo info")?;
        ensure!(info.number("devices", "count")? == devices, "{pod}: {info:?}");
        for device in 0..devices {
            let seen = info.number(&format!("device id={device} "), "total")?;
            ensure!(seen == 64 * GIB, "{pod}, device {device} shows {seen} bytes: {info:?}");
        }
        let filled = sh(context, pod, &format!("acl-demo fill --device {} --chunk 16Gi", devices - 1))?;
        ensure!(filled.number("fill", "granted")? == 64 * GIB, "{pod}: {filled:?}");
        let ours =
            sh(context, pod, "ls -d /run/vnpu /etc/ld.so.preload 2>&1; grep vnpu /proc/self/maps; true")?;
        ensure!(ours.out.matches("No such file").count() == 2, "{pod}: {ours:?}");
        ensure!(!ours.out.contains("libvnpu"), "{pod}: {ours:?}");
    }
    Ok(())
}

fn programs_that_launch_go_on(context: &mut Context) -> Result<()> {
    images::tools(context)?;
    let pod = Sleeper { image: images::TOOLS, ..Sleeper::default() };
    Sleeper::start(context, &[share("npu", "4Gi", 100)], &[pod])?;
    for via in ["dlsym", "link", "rt", "rt-link"] {
        let said = sh(context, "main", &format!("timeout 60 acl-demo launch --via {via} --count 200"))?;
        ensure!(said.out == "launched count=200\n" && said.err.is_empty(), "{via}: {said:?}");
        // The same program, caught while it launches: what is loaded in it. A pod ends what it leaves behind.
        let script = format!(
            "acl-demo launch --via {via} --count 1000000000 > /tmp/{via} 2>&1 < /dev/null & pid=$!; i=0; \
             until grep -q libvnpu_core.so /proc/$pid/maps || [ $i = 200 ]; do sleep 0.1; i=$((i+1)); done; \
             sleep 1; kill -0 $pid && grep -o 'libvnpu[a-z_]*.so' /proc/$pid/maps | sort -u; kill -9 $pid; cat /tmp/{via}"
        );
        let loaded = sh(context, "main", &script)?;
        ensure!(loaded.out == "libvnpu.so\nlibvnpu_core.so\n", "{via}, while it launches: {loaded:?}");
    }
    // Whoever only launches has a slot too, and a claim that nobody allocates from is as free as before. One goes on for
    // as long as the node agent needs to see it: the others may all have come and gone between two of its rounds.
    let start = "acl-demo launch --count 1000000000 > /tmp/last 2>&1 < /dev/null & echo $! > /tmp/last.pid";
    sh(context, "main", start)?;
    super::unchanged::wait_attached(context, "npu", "True")?;
    sh(context, "main", "kill -9 $(cat /tmp/last.pid)")?;
    let info = sh(context, "main", "acl-demo info")?;
    ensure!(info.number("device ", "free")? == QUOTA, "{info:?}");
    Ok(())
}
