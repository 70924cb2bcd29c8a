//! A configuration file in all the ways that files are changed.

use std::os::unix::fs::symlink;

use serde_json::Value;

use super::*;

/// A document that knows one field.
#[derive(Debug, Default, PartialEq, Eq)]
struct Number(u64);

impl Document for Number {
    const NAME: &'static str = "number";

    fn read(text: &str) -> Result<Self, Fault> {
        let refused = |message: &str, reason| Err(Fault::Refused { message: message.to_owned(), reason });
        match yaml(text)?.get("number").and_then(Value::as_u64) {
            Some(number) if number <= 100 => Ok(Self(number)),
            Some(_) => refused("number: at most 100", "config_value"),
            None => refused("number: missing", "config_field"),
        }
    }
}

struct Followed {
    seen: watch::Receiver<Arc<Number>>,
    marks: Marks,
    stop: CancellationToken,
    _task: tokio::task::JoinHandle<()>,
}

fn follow(path: &Path) -> Followed {
    let marks = Marks::default();
    let (follower, seen) = Follower::<Number>::begin(path, marks.clone()).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(follower.run(stop.clone()));
    Followed { seen, marks, stop, _task: task }
}

impl Followed {
    async fn until(&mut self, number: u64) {
        let wait = self.seen.wait_for(|document| document.0 == number);
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("not seen").unwrap();
    }

    async fn until_invalid(&self) {
        for _ in 0..500 {
            if self.marks.valid.get() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not noticed");
    }

    fn readings(&self, reason: &'static str) -> u64 {
        self.marks.readings.get_or_create(&Reason { reason }).get()
    }
}

/// What the kubelet makes of a ConfigMap: files behind two links, the second of which is swapped.
fn publish(dir: &Path, version: &str, text: &str) {
    std::fs::create_dir(dir.join(version)).unwrap();
    std::fs::write(dir.join(version).join("config.yaml"), text).unwrap();
    symlink(version, dir.join("..data_tmp")).unwrap();
    std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

#[tokio::test]
async fn a_config_map_that_changes_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    publish(dir, "..2026_01", "number: 1");
    symlink("..data/config.yaml", dir.join("config.yaml")).unwrap();
    let mut followed = follow(&dir.join("config.yaml"));
    assert_eq!(followed.seen.borrow().0, 1);
    for (number, version) in [(2, "..2026_02"), (3, "..2026_03")] {
        publish(dir, version, &format!("number: {number}"));
        followed.until(number).await;
    }
    assert_eq!(followed.marks.valid.get(), 1);
    followed.stop.cancel();
}

#[tokio::test]
async fn a_wrong_one_is_refused_and_the_old_one_stays_until_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    std::fs::write(&path, "number: 1").unwrap();
    let mut followed = follow(&path);
    for (text, reason) in
        [("number: 101", "config_value"), ("[", "config_syntax"), ("other: 1", "config_field")]
    {
        std::fs::write(&path, text).unwrap();
        followed.until_invalid().await;
        assert_eq!(followed.seen.borrow().0, 1, "{text}");
        assert_eq!(followed.readings(reason), 1, "{text}");
        std::fs::write(&path, "number: 1").unwrap();
        for _ in 0..500 {
            if followed.marks.valid.get() == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(followed.marks.valid.get(), 1, "{text}");
    }
    std::fs::remove_file(&path).unwrap();
    followed.until_invalid().await;
    assert_eq!(followed.readings("config_unreadable"), 1);
    // As editors and configuration tools write: beside it, then in its place.
    std::fs::write(dir.path().join("new"), "number: 7").unwrap();
    std::fs::rename(dir.path().join("new"), &path).unwrap();
    followed.until(7).await;
    assert!(!followed.seen.has_changed().unwrap());
    followed.stop.cancel();
}

#[tokio::test]
async fn a_change_that_says_the_same_wakes_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    std::fs::write(&path, "number: 1").unwrap();
    let mut followed = follow(&path);
    std::fs::write(&path, "# one\nnumber: 1").unwrap();
    for _ in 0..500 {
        if followed.readings("ok") == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(followed.readings("ok"), 1);
    assert!(!followed.seen.has_changed().unwrap());
    std::fs::write(&path, "number: 2").unwrap();
    followed.until(2).await;
    followed.stop.cancel();
}

#[tokio::test]
async fn a_folder_that_is_replaced_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("etc");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("config.yaml");
    std::fs::write(&path, "number: 1").unwrap();
    let mut followed = follow(&path);
    tokio::time::sleep(Duration::from_millis(100)).await;
    std::fs::rename(&folder, dir.path().join("old")).unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(&path, "number: 2").unwrap();
    followed.until(2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    std::fs::write(&path, "number: 3").unwrap();
    followed.until(3).await;
    followed.stop.cancel();
}

#[test]
fn at_the_start_a_wrong_one_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    let begin = || Follower::<Number>::begin(&path, Marks::default()).map(|_| ()).unwrap_err();
    assert_eq!(begin().reason(), "config_unreadable");
    std::fs::write(&path, "number: 101").unwrap();
    assert!(begin().to_string().contains("at most 100"));
    std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert_eq!(begin().reason(), "config_unreadable");
}

#[tokio::test]
async fn where_nothing_depends_on_it_a_wrong_one_at_the_start_is_waited_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    std::fs::write(&path, "number: 101").unwrap();
    let marks = Marks::default();
    let (follower, mut seen) = Follower::<Number>::begin_without(&path, marks.clone());
    let stop = CancellationToken::new();
    let task = tokio::spawn(follower.run(stop.clone()));
    assert_eq!(seen.borrow().0, 0);
    tokio::time::sleep(Duration::from_millis(100)).await;
    std::fs::write(&path, "number: 4").unwrap();
    let wait = seen.wait_for(|document| document.0 == 4);
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("not seen").unwrap();
    let readings = |reason| marks.readings.get_or_create(&Reason { reason }).get();
    assert_eq!((readings("config_value"), readings("ok"), marks.valid.get()), (1, 1, 1));
    stop.cancel();
    task.await.unwrap();
}
