use std::cell::{Cell, RefCell};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vnpu_driver::id::ClaimUid;
use vnpu_driver::prepare::PreparePlan;
use vnpu_driver::record::{ClaimState, Event};
use vnpu_driver::share::ClaimShares;

use super::frame::{self, Damage, Scan};
use super::{Session, Store, StoreError};

thread_local! {
    /// Makes every flush of this thread fail, as a dying disk does.
    static FLUSHES_FAIL: Cell<bool> = const { Cell::new(false) };
    /// What comes before every flush of this thread: a slow disk, and somebody who counts.
    static BEFORE_FLUSH: RefCell<Option<Arc<dyn Fn() + Send + Sync>>> = const { RefCell::new(None) };
}

/// Called by the store before each flush, on the thread that flushes.
pub(super) fn before_flush() -> std::io::Result<()> {
    if let Some(work) = BEFORE_FLUSH.with_borrow(Clone::clone) {
        work();
    }
    if FLUSHES_FAIL.get() { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(()) }
}

fn uid(n: u32) -> ClaimUid {
    ClaimUid::new(format!("{n:08x}-1111-4222-8333-444455556666")).unwrap()
}

fn plan(n: u32) -> PreparePlan {
    PreparePlan {
        claim: uid(n),
        namespace: "default".into(),
        name: format!("claim-{n}"),
        results: Vec::new(),
        shares: ClaimShares { claim: uid(n), chips: Vec::new() },
        breach: Default::default(),
    }
}

async fn open(dir: &Path) -> Store {
    Store::open(dir).await.unwrap().0
}

async fn write(store: &Store, event: Event) -> Result<(), StoreError> {
    store.enter().await.unwrap().write(event).await
}

fn completed(store: &Store, n: u32) -> bool {
    matches!(store.state(&uid(n)), Some(ClaimState::PrepareCompleted(_)))
}

fn log(dir: &Path) -> std::path::PathBuf {
    dir.join("checkpoint.log")
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    write(&store, Event::Boot { boot_id: "b".into() }).await.unwrap();
    write(&store, Event::PrepareStarted { plan: plan(1) }).await.unwrap();
    write(&store, Event::PrepareCompleted { plan: plan(2) }).await.unwrap();
    write(&store, Event::Unprepared { claim: uid(3) }).await.unwrap();
    let before = store.look(Clone::clone);
    let again = open(dir.path()).await;
    assert_eq!(again.look(Clone::clone), before);
    assert_eq!(again.look(|s| s.boot_id().map(str::to_owned)).as_deref(), Some("b"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writes_all_last() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let writes = (0..64).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { write(&store, Event::PrepareCompleted { plan: plan(n) }).await.unwrap() })
    });
    futures::future::join_all(writes).await.into_iter().for_each(Result::unwrap);
    let again = open(dir.path()).await;
    assert!((0..64).all(|n| completed(&again, n)));
}

/// The first flush takes as long as all others need to write what they have to say: one more is enough for them all.
#[tokio::test]
async fn concurrent_writes_share_a_flush() {
    const WRITERS: u32 = 64;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let session = store.enter().await.unwrap();
    let flushes = Arc::new(AtomicU32::new(0));
    let slow: Arc<dyn Fn() + Send + Sync> = Arc::new({
        let (store, flushes) = (store.clone(), Arc::clone(&flushes));
        move || {
            if flushes.fetch_add(1, Ordering::Relaxed) > 0 {
                return;
            }
            let begun = Instant::now();
            // What is written is seen before it is on the disk.
            while store.look(|state| state.plans().count()) < WRITERS as usize {
                assert!(begun.elapsed() < Duration::from_secs(60), "nobody can write during a flush");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    std::thread::scope(|scope| {
        for n in 0..WRITERS {
            let (session, slow) = (session.clone(), Arc::clone(&slow));
            scope.spawn(move || {
                BEFORE_FLUSH.set(Some(slow));
                session.blocking_write(Event::PrepareCompleted { plan: plan(n) }).unwrap();
            });
        }
    });
    let flushes = flushes.load(Ordering::Relaxed);
    assert!((1..=2).contains(&flushes), "{flushes} flushes for {WRITERS} writes");
    drop(session);
    let again = open(dir.path()).await;
    assert!((0..WRITERS).all(|n| completed(&again, n)));
}

#[tokio::test]
async fn a_decision_sees_the_one_before_it_although_neither_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (first, second) = (store.enter().await.unwrap(), store.enter().await.unwrap());
    let take = |session: &Session, n: u32| {
        session.blocking_decide(|state| {
            if state.plans().count() > 0 {
                Err(StoreError::Broken)
            } else {
                Ok((Event::PrepareStarted { plan: plan(n) }, ()))
            }
        })
    };
    assert!(take(&first, 1).is_ok());
    assert!(take(&second, 2).is_err());
    // A crash of the process, not of the machine, leaves it.
    drop((first, second));
    assert!(matches!(open(dir.path()).await.state(&uid(1)), Some(ClaimState::PrepareStarted(_))));
}

#[tokio::test]
async fn a_failed_flush_undoes_all_that_was_not_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    write(&store, Event::PrepareCompleted { plan: plan(1) }).await.unwrap();
    let (failing, beside) = (store.enter().await.unwrap(), store.enter().await.unwrap());
    let started = |n| Ok::<_, StoreError>((Event::PrepareStarted { plan: plan(n) }, ()));
    beside.blocking_decide(|_| started(2)).unwrap();
    FLUSHES_FAIL.set(true);
    let error = failing.blocking_write(Event::PrepareCompleted { plan: plan(3) }).unwrap_err();
    FLUSHES_FAIL.set(false);
    assert!(error.retryable() && error.to_string().contains("cannot flush"), "{error}");
    assert!(completed(&store, 1));
    assert!(store.state(&uid(2)).is_none() && store.state(&uid(3)).is_none());
    // What it decided on is undone: it must not go on as if it still had the chips.
    let error = beside.blocking_write(Event::PrepareCompleted { plan: plan(2) }).unwrap_err();
    assert!(matches!(error, StoreError::SetBack { .. }) && error.retryable(), "{error}");
    drop((failing, beside));
    write(&store, Event::PrepareCompleted { plan: plan(4) }).await.unwrap();
    let again = open(dir.path()).await;
    assert_eq!(again.look(Clone::clone), store.look(Clone::clone));
    assert!(completed(&again, 1) && completed(&again, 4) && again.state(&uid(2)).is_none());
}

#[tokio::test]
async fn a_log_that_cannot_be_read_back_ends_all_work() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let session = store.enter().await.unwrap();
    // What stands in the log's place cannot be read as one.
    fs::remove_file(log(dir.path())).unwrap();
    fs::create_dir(log(dir.path())).unwrap();
    FLUSHES_FAIL.set(true);
    assert!(session.blocking_write(Event::PrepareCompleted { plan: plan(1) }).is_err());
    FLUSHES_FAIL.set(false);
    tokio::time::timeout(Duration::from_secs(5), store.broken()).await.unwrap();
    let error = session.blocking_write(Event::PrepareCompleted { plan: plan(2) }).unwrap_err();
    assert!(matches!(error, StoreError::Broken), "{error}");
    // Nor is anything answered from a memory that may say more than the disk.
    assert!(matches!(store.enter().await.unwrap_err(), StoreError::Broken));
}

#[tokio::test]
async fn a_cut_off_tail_is_dropped_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    write(&store, Event::PrepareCompleted { plan: plan(1) }).await.unwrap();
    let whole = fs::read(log(dir.path())).unwrap();
    write(&store, Event::PrepareCompleted { plan: plan(2) }).await.unwrap();
    drop(store);
    let all = fs::read(log(dir.path())).unwrap();
    for cut in whole.len() + 1..all.len() {
        fs::write(log(dir.path()), &all[..cut]).unwrap();
        let (store, repairs) = Store::open(dir.path()).await.unwrap();
        assert_eq!(repairs.truncated, (cut - whole.len()) as u64, "cut at {cut}");
        assert_eq!(repairs.quarantined, None);
        assert!(completed(&store, 1) && !completed(&store, 2));
        if cut % 40 == 0 {
            write(&store, Event::PrepareCompleted { plan: plan(3) }).await.unwrap();
            assert!(completed(&open(dir.path()).await, 3));
        }
    }
}

#[tokio::test]
async fn a_damaged_body_is_kept_aside_and_what_is_whole_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    for n in 1..=3 {
        write(&store, Event::PrepareCompleted { plan: plan(n) }).await.unwrap();
    }
    drop(store);
    let mut bytes = fs::read(log(dir.path())).unwrap();
    let second = bytes.windows(7).position(|w| w == b"claim-2").unwrap();
    bytes[second] ^= 0xff;
    fs::write(log(dir.path()), &bytes).unwrap();
    let (store, repairs) = Store::open(dir.path()).await.unwrap();
    assert!(completed(&store, 1) && !completed(&store, 2) && completed(&store, 3));
    let aside = repairs.quarantined.unwrap();
    assert!(aside.file_name().unwrap().to_str().unwrap().starts_with("checkpoint.log.corrupt-"));
    assert_eq!(fs::read(aside).unwrap(), bytes);
    let (again, repairs) = Store::open(dir.path()).await.unwrap();
    assert_eq!(repairs, Default::default(), "repaired once");
    assert!(completed(&again, 3));
}

#[tokio::test]
async fn a_damaged_header_loses_no_record() {
    let dir = tempfile::tempdir().unwrap();
    write(&open(dir.path()).await, Event::PrepareCompleted { plan: plan(1) }).await.unwrap();
    let mut bytes = fs::read(log(dir.path())).unwrap();
    bytes[2] ^= 1;
    fs::write(log(dir.path()), &bytes).unwrap();
    let (store, repairs) = Store::open(dir.path()).await.unwrap();
    assert!(repairs.quarantined.is_some() && completed(&store, 1));
}

#[tokio::test]
async fn a_newer_format_or_record_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut newer = b"vnpu-log".to_vec();
    newer.extend(9u32.to_le_bytes());
    newer.extend(crc32c::crc32c(&newer.clone()).to_le_bytes());
    let mut record = frame::header();
    frame::append(&mut record, br#"{"version":99,"time":1,"event":"Hovered"}"#);
    for bytes in [newer, record] {
        fs::write(log(dir.path()), &bytes).unwrap();
        let error = Store::open(dir.path()).await.unwrap_err();
        assert_eq!(error.reason(), "state_newer");
        assert!(!error.retryable() && error.to_string().contains("nothing was changed"), "{error}");
        assert_eq!(fs::read(log(dir.path())).unwrap(), bytes);
    }
}

#[tokio::test]
async fn a_hit_in_the_last_record_is_damage_and_no_crash() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    write(&store, Event::PrepareCompleted { plan: plan(1) }).await.unwrap();
    write(&store, Event::PrepareCompleted { plan: plan(2) }).await.unwrap();
    drop(store);
    let mut bytes = fs::read(log(dir.path())).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(log(dir.path()), &bytes).unwrap();
    let (store, repairs) = Store::open(dir.path()).await.unwrap();
    assert!(repairs.quarantined.is_some(), "{repairs:?}");
    assert!(completed(&store, 1) && store.state(&uid(2)).is_none());
    drop(store);
    // What a crash leaves is a frame that ends too early.
    fs::write(log(dir.path()), &bytes[..last]).unwrap();
    let (_store, repairs) = Store::open(dir.path()).await.unwrap();
    assert!(repairs.quarantined.is_none() && repairs.truncated > 0, "{repairs:?}");
}

#[tokio::test]
async fn a_long_log_is_compacted_and_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut big = plan(1);
    big.name = "n".repeat(200_000);
    for _ in 0..8 {
        write(&store, Event::PrepareCompleted { plan: big.clone() }).await.unwrap();
        write(&store, Event::Unprepared { claim: uid(1) }).await.unwrap();
    }
    write(&store, Event::PrepareCompleted { plan: plan(2) }).await.unwrap();
    assert!(fs::metadata(log(dir.path())).unwrap().len() < 1 << 20);
    let state = store.look(Clone::clone);
    let again = open(dir.path()).await.look(Clone::clone);
    assert_eq!(again, state);
    assert!(!dir.path().join("checkpoint.log.tmp").exists());
}

#[tokio::test]
async fn a_log_that_was_removed_is_written_anew_from_memory() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    write(&store, Event::PrepareCompleted { plan: plan(1) }).await.unwrap();
    fs::remove_file(log(dir.path())).unwrap();
    write(&store, Event::PrepareCompleted { plan: plan(2) }).await.unwrap();
    let again = open(dir.path()).await;
    assert!(completed(&again, 1) && completed(&again, 2));
}

#[tokio::test]
async fn nobody_else_can_read_the_log_or_hold_the_operations_up() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |name| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    // As an older version left it.
    fs::write(dir.path().join("operations.lock"), "").unwrap();
    fs::set_permissions(dir.path().join("operations.lock"), fs::Permissions::from_mode(0o666)).unwrap();
    let _presence = super::Presence::take(dir.path()).await.unwrap();
    write(&open(dir.path()).await, Event::PrepareCompleted { plan: plan(1) }).await.unwrap();
    assert_eq!(mode("operations.lock"), 0o600);
    assert_eq!(mode("checkpoint.log"), 0o600);
    // `vnpu run` of any user looks whether a plugin is there.
    assert_eq!(mode("lock"), 0o644);
}

#[tokio::test]
async fn two_instances_take_turns_and_see_each_others_work() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(dir.path()).await, open(dir.path()).await);
    write(&one, Event::PrepareCompleted { plan: plan(1) }).await.unwrap();
    let session = two.enter().await.unwrap();
    assert!(session.reloaded());
    assert!(completed(&two, 1));
    let waiting = tokio::spawn({
        let one = one.clone();
        async move { one.enter().await.map(|s| s.reloaded()) }
    });
    session.write(Event::PrepareCompleted { plan: plan(2) }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waiting.is_finished(), "both at work at once");
    drop(session);
    assert!(waiting.await.unwrap().unwrap());
    assert!(completed(&one, 2));
}

#[tokio::test]
async fn a_waiter_that_gave_up_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(dir.path()).await, open(dir.path()).await);
    let session = one.enter().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(20), two.enter()).await.is_err());
    drop(session);
    drop(two.enter().await.unwrap());
    drop(one.enter().await.unwrap());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_never_invent_records(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Scan::Frames { payloads, damage } = frame::scan(&bytes) {
            prop_assert!(payloads.is_empty());
            prop_assert_eq!(damage, Damage::Body);
        }
    }

    #[test]
    fn any_single_changed_byte_is_noticed(
        payloads in proptest::collection::vec("\\{[a-z]{1,20}\\}", 1..5),
        at in any::<prop::sample::Index>(),
        flip in 1u8..=255,
    ) {
        let mut bytes = frame::header();
        for payload in &payloads {
            frame::append(&mut bytes, payload.as_bytes());
        }
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        match frame::scan(&bytes) {
            Scan::Newer(_) => prop_assert!(false, "the header's checksum covers the format"),
            Scan::Frames { payloads: found, damage } => {
                prop_assert_ne!(damage, Damage::None);
                for payload in found {
                    prop_assert!(payloads.iter().any(|p| p.as_bytes() == payload), "only what was written");
                }
            }
        }
    }
}
