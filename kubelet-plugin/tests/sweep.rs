//! Kills a busy node plugin at random places and random moments, again and again in the same directories, and
//! judges after every restart. Run with `--features failpoints`; `VNPU_SWEEP_KILLS` says how often (60).
#![cfg(feature = "failpoints")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::{Bench, name, settle, uid};
use vnpu_driver::quantity::Bytes;
use vnpu_driver::record::ClaimState;
use vnpu_kubelet_plugin::failpoints::PLACES;
use vnpu_kubelet_plugin::node::Node;
use vnpu_kubelet_plugin::prepare::prepare;
use vnpu_kubelet_plugin::reconcile::{reconcile, recover_all};
use vnpu_kubelet_plugin::unprepare::unprepare;

const DIRECTORY: &str = "VNPU_SWEEP_DIRECTORY";
const SEED: &str = "VNPU_SWEEP_SEED";
const KILLS: &str = "VNPU_SWEEP_KILLS";
/// Kills in the same directories before everything is given back and must be gone.
const GENERATIONS: u32 = 20;
/// Operations at the same time; each has its own claims, so that the journal has an order.
const CALLERS: u32 = 4;
/// Operations of one caller in one life.
const STEPS: u32 = 40;

/// (device, GiB, per cent); a module has neither. More is wanted than there is, so that a claim that is counted
/// twice, or not at all, shows.
const CLAIMS: [(&str, u64, u64); 15] = [
    ("chip-0-0", 16, 20),
    ("chip-0-0", 16, 20),
    ("chip-0-0", 16, 20),
    ("chip-0-0", 16, 20),
    ("chip-0-0", 16, 20),
    ("chip-0-0", 16, 20),
    ("chip-0-1", 32, 50),
    ("chip-0-1", 32, 50),
    ("chip-0-1", 32, 50),
    ("chip-1-0", 8, 10),
    ("chip-1-1", 8, 10),
    ("module-0", 0, 0),
    ("module-1", 0, 0),
    ("module-1", 0, 0),
    ("chip-1-1", 60, 95),
];

fn claims() -> impl Iterator<Item = u32> {
    (0..).take(CLAIMS.len())
}

fn claim(n: u32) -> (&'static str, u64, u64) {
    CLAIMS[n as usize]
}

fn bench(dir: &Path) -> Bench {
    let bench = Bench::at(dir, 2);
    for n in claims() {
        let (device, memory, cores) = claim(n);
        bench.api.allocate(n, &[("npu", device, &format!("{memory}Gi"), &cores.to_string())]);
    }
    bench
}

/// SplitMix64: the same seed makes the same choices.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What callers asked for and were told, as the kubelet would remember it. A line is one write to a file that
/// is open for appending: it is there whole, or the kill came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Never,
    /// Asked, and killed before the answer: both outcomes are right.
    Open,
    /// Prepared, with this inode of the ledger (0 for a module).
    Prepared(u64),
    Refused,
    GivenBack,
}

fn note(journal: &fs::File, line: &str) {
    let mut journal = journal;
    journal.write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn journal(dir: &Path) -> BTreeMap<u32, Last> {
    let mut last: BTreeMap<u32, Last> = claims().map(|n| (n, Last::Never)).collect();
    for line in fs::read_to_string(dir.join("journal")).unwrap_or_default().lines() {
        let mut words = line.split(' ');
        let word = words.next().unwrap();
        let n = words.next().unwrap().parse().unwrap();
        let said = match word {
            "prepare" | "unprepare" => Last::Open,
            "prepared" => Last::Prepared(words.next().unwrap().parse().unwrap()),
            "refused" => Last::Refused,
            "given-back" => Last::GivenBack,
            other => panic!("{other}"),
        };
        last.insert(n, said);
    }
    last
}

fn ledger(bench: &Bench, n: u32) -> PathBuf {
    bench.path(&format!("run/claims/{}/usage", uid(n)))
}

/// One life: recovery, judgement, then work until the kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_that_is_cut_off() {
    let Some(dir) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    let bench = Arc::new(bench(&dir));
    let node = recovered(&bench).await;
    judge(&bench, &node, &dir);
    let journal = fs::OpenOptions::new().create(true).append(true).open(dir.join("journal")).unwrap();
    let journal = Arc::new(journal);
    let callers = (0..CALLERS).map(|caller| {
        let (bench, node, journal) = (Arc::clone(&bench), Arc::clone(&node), Arc::clone(&journal));
        tokio::spawn(async move {
            let mut random = Random(seed ^ (u64::from(caller) << 32));
            let own: Vec<u32> = claims().filter(|n| n % CALLERS == caller).collect();
            for _ in 0..STEPS {
                let n = own[random.below(own.len() as u64) as usize];
                if random.below(5) < 3 {
                    note(&journal, &format!("prepare {n}"));
                    match prepare(&node, &name(n)).await {
                        Ok(_) => {
                            let inode = fs::metadata(ledger(&bench, n)).map_or(0, |m| m.ino());
                            note(&journal, &format!("prepared {n} {inode}"));
                        }
                        Err(error) => {
                            let refusals = ["over_capacity", "straddles"];
                            let reason = error.reason();
                            assert!(refusals.contains(&reason), "claim {n}: {reason}: {error}");
                            note(&journal, &format!("refused {n}"));
                        }
                    }
                } else {
                    note(&journal, &format!("unprepare {n}"));
                    unprepare(&node, &name(n)).await.unwrap();
                    note(&journal, &format!("given-back {n}"));
                }
            }
        })
    });
    for caller in futures::future::join_all(callers).await {
        caller.unwrap();
    }
}

async fn recovered(bench: &Bench) -> Arc<Node> {
    let node = bench.start().await;
    recover_all(&node).await.unwrap();
    reconcile(&node).await.unwrap();
    settle(&node).await;
    node
}

/// Nothing lost, nothing leaked, nothing given twice; files say what the records say.
fn judge(bench: &Bench, node: &Node, dir: &Path) {
    let state = |n: u32| node.store.state(&uid(n).parse().unwrap());
    let prepared: BTreeSet<u32> =
        claims().filter(|n| matches!(state(*n), Some(ClaimState::PrepareCompleted(_)))).collect();
    for n in claims() {
        let half = matches!(state(n), Some(ClaimState::PrepareStarted(_) | ClaimState::UnprepareStarted(_)));
        assert!(!half, "claim {n} is neither prepared nor given back");
    }
    for (n, last) in journal(dir) {
        let is = prepared.contains(&n);
        match last {
            Last::Open => {}
            Last::Prepared(inode) => {
                assert!(is, "claim {n} was prepared, its caller was told so, and it is lost");
                if inode != 0 {
                    let now = fs::metadata(ledger(bench, n)).unwrap().ino();
                    assert_eq!(now, inode, "claim {n}: containers have another ledger than the node");
                }
            }
            Last::Never | Last::Refused | Last::GivenBack => assert!(!is, "claim {n} came back: {last:?}"),
        }
    }
    let devices: BTreeSet<String> = prepared.iter().map(|n| format!("{}-npu-0", uid(*n))).collect();
    assert_eq!(bench.cdi_devices(), devices, "CDI devices against records");
    let shares: BTreeSet<u32> = prepared.iter().copied().filter(|n| claim(*n).1 > 0).collect();
    let with_regions: BTreeSet<String> = shares.iter().map(|n| uid(*n)).collect();
    assert_eq!(bench.regions(), with_regions, "regions against records");
    let agent = node.materials.agent().unwrap();
    for n in &shares {
        let usage = agent.usage(&uid(*n).parse().unwrap()).unwrap();
        assert_eq!(usage.chips.len(), 1);
        assert_eq!(usage.chips[0].quota, Bytes::gib(claim(*n).1), "quota of claim {n}");
    }
    given_once(&prepared);
    let chips: BTreeSet<&str> = shares.iter().map(|n| claim(*n).0).collect();
    let device_regions = fs::read_dir(bench.path("run/devices")).unwrap().count();
    assert_eq!(device_regions, chips.len(), "regions of chips");
    leaves_nothing_temporary(bench);
}

fn given_once(prepared: &BTreeSet<u32>) {
    let mut used: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for n in prepared {
        let (device, memory, cores) = claim(*n);
        let entry = used.entry(device).or_default();
        // A module is a whole: two of it are too much.
        let (memory, cores) = if memory == 0 { (64, 100) } else { (memory, cores) };
        *entry = (entry.0 + memory, entry.1 + cores);
    }
    for (device, (memory, cores)) in &used {
        assert!(*memory <= 64 && *cores <= 100, "{device} is given out twice: {memory}Gi, {cores} %");
        if let Some(module) = device.strip_prefix("module-") {
            let chip = format!("chip-{module}-");
            assert!(!used.keys().any(|d| d.starts_with(&chip)), "{device} and a chip of it: {used:?}");
        }
    }
}

fn leaves_nothing_temporary(bench: &Bench) {
    let mut directories: Vec<PathBuf> = ["cdi", "run", "state"].map(|d| bench.path(d)).to_vec();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(!name.contains(".tmp") && !name.contains(".corrupt"), "left behind: {}", path.display());
            if path.is_dir() {
                directories.push(path);
            }
        }
    }
}

/// Starts a life that is to end at a place or after a while.
fn start_life(dir: &Path, random: &mut Random) -> (Child, Option<Duration>, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "a_life_that_is_cut_off", "--nocapture"])
        .env(DIRECTORY, dir)
        .env(SEED, random.next().to_string())
        .env_remove("VNPU_CRASH_AT")
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.join("stderr")).unwrap());
    if random.below(3) == 0 {
        let after = Duration::from_micros(random.below(120_000));
        return (command.spawn().unwrap(), Some(after), format!("after {after:?}"));
    }
    let place = PLACES[random.below(PLACES.len() as u64) as usize];
    // The first few times are often those of recovery.
    let times = if random.below(3) == 0 { 4 } else { 30 };
    let at = format!("{place}:{}", 1 + random.below(times));
    (command.env("VNPU_CRASH_AT", &at).spawn().unwrap(), None, at)
}

fn end(mut life: Child, after: Option<Duration>, at: &str) -> ExitStatus {
    if let Some(after) = after {
        std::thread::sleep(after);
        let _ = life.kill();
    }
    let begun = Instant::now();
    loop {
        if let Some(status) = life.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > Duration::from_secs(120) {
            let _ = life.kill();
            panic!("a life that was to end {at} hangs");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn kills_at_random_leave_nothing_wrong() {
    if std::env::var_os(DIRECTORY).is_some() {
        return;
    }
    let wanted: u32 = std::env::var(KILLS).map_or(60, |text| text.parse().unwrap());
    let seed: u64 = std::env::var(SEED).map_or_else(
        |_| std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64,
        |text| text.parse().unwrap(),
    );
    println!("{SEED}={seed}");
    let mut random = Random(seed);
    let (mut killed, mut lives) = (0, 0);
    let mut where_killed: BTreeMap<String, u32> = BTreeMap::new();
    while killed < wanted {
        // Kills lose nothing that was written, so a file system in memory proves as much, sooner.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        for _ in 0..GENERATIONS {
            let (life, after, at) = start_life(dir.path(), &mut random);
            let status = end(life, after, &at);
            lives += 1;
            if status.signal() == Some(9) {
                killed += 1;
                let place = at.split(':').next().unwrap();
                let place = if after.is_some() { "at a random moment" } else { place };
                *where_killed.entry(place.to_owned()).or_default() += 1;
            } else {
                // Work that ended before its kill is as good a life as any.
                let said = fs::read_to_string(dir.path().join("stderr")).unwrap_or_default();
                assert!(status.success(), "{SEED}={seed}: a life that was to end {at}: {status}\n{said}");
            }
            if killed == wanted {
                break;
            }
        }
        let bench = bench(dir.path());
        let node = recovered(&bench).await;
        judge(&bench, &node, dir.path());
        for n in claims() {
            unprepare(&node, &name(n)).await.unwrap();
        }
        assert!(bench.cdi_devices().is_empty() && bench.regions().is_empty(), "{SEED}={seed}");
        assert_eq!(fs::read_dir(bench.path("run/devices")).unwrap().count(), 0, "{SEED}={seed}");
    }
    println!("{killed} kills in {lives} lives: 0 leaked, 0 given twice, 0 lost, 0 without CDI file");
    for (place, count) in where_killed {
        println!("{count:>6}  {place}");
    }
}
