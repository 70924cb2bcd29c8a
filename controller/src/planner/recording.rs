//! Recordings on disk: what the planner was told and what it decided, line by line, for `vnpu-sim replay`. Nothing waits
//! for the disk, and a full one stops the recording, not the planner.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use vnpu_placement::Sink;

/// Lines that wait for the disk at most; more are lost, and with them the recording.
const WAITING: usize = 65_536;
/// What is recorded is on disk after so long at the latest.
const FLUSH: Duration = Duration::from_secs(1);
/// So many bytes go to the disk at once, and a line more.
const BUFFER: usize = 64 << 10;
/// A recording ends at this size, and the next one begins with a snapshot.
pub const LARGEST: u64 = 256 << 20;
/// So many recordings are kept.
const KEPT: usize = 4;

/// Why nothing can be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be made.
    #[error("cannot record to {path}: {source}; check --record and the room on that disk")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl RecordingError {
    /// Whether another try may succeed.
    pub const fn retryable(&self) -> bool {
        true
    }

    /// Stable word for metrics and logs.
    pub const fn reason(&self) -> &'static str {
        "recording_io"
    }
}

/// One recording: give [`Recording::sink`] to the planner.
#[derive(Debug)]
pub struct Recording {
    sender: SyncSender<String>,
    /// Gone when the writer has ended, at its size or by an error.
    alive: std::sync::Weak<()>,
}

impl Recording {
    /// Begins a new file in `directory`, and removes the oldest ones.
    ///
    /// # Errors
    /// When the directory or the file cannot be made.
    pub fn begin(directory: &Path) -> Result<Self, RecordingError> {
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| RecordingError::Io { path, source }
        };
        fs::create_dir_all(directory).map_err(error(directory))?;
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let path = directory.join(format!("placement-{at}.jsonl"));
        let file = File::create(&path).map_err(error(&path))?;
        thin(directory).map_err(error(directory))?;
        let (sender, receiver) = sync_channel(WAITING);
        let life = std::sync::Arc::new(());
        let alive = std::sync::Arc::downgrade(&life);
        let write = move || {
            if let Err(source) = write(&receiver, file) {
                tracing::error!(path = %path.display(), %source, "the recording ends");
            }
            drop(life);
        };
        let named = std::thread::Builder::new().name("recording".to_owned());
        named.spawn(write).map_err(error(directory))?;
        Ok(Self { sender, alive })
    }

    /// What takes the planner's lines.
    pub fn sink(&self) -> Box<dyn Sink + Send> {
        Box::new(Lines { sender: Some(self.sender.clone()) })
    }

    /// Whether it goes on.
    pub fn is_alive(&self) -> bool {
        self.alive.strong_count() > 0
    }
}

struct Lines {
    sender: Option<SyncSender<String>>,
}

impl Sink for Lines {
    fn line(&mut self, line: &str) {
        let lost = self.sender.as_ref().is_some_and(|sender| sender.try_send(line.to_owned()).is_err());
        if lost {
            // A recording with a gap is of no use.
            self.sender = None;
        }
    }
}

fn write(receiver: &Receiver<String>, mut file: impl io::Write) -> io::Result<()> {
    let mut size = 0;
    let mut lines = String::with_capacity(BUFFER);
    let mut due = None;
    loop {
        let next = match due {
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => receiver.recv_timeout(Instant::saturating_duration_since(&due, Instant::now())),
        };
        if let Ok(line) = &next {
            lines.push_str(line);
            lines.push('\n');
            size += line.len() as u64 + 1;
            due.get_or_insert_with(|| Instant::now() + FLUSH);
        }
        let late = due.is_some_and(|due| due <= Instant::now());
        let last = size >= LARGEST || next == Err(RecvTimeoutError::Disconnected);
        if late || last || lines.len() >= BUFFER {
            // Whole lines only, so that a copy of the file ends with one.
            file.write_all(lines.as_bytes())?;
            lines.clear();
            due = None;
        }
        if last {
            return Ok(());
        }
    }
}

/// Removes all but the newest recordings.
fn thin(directory: &Path) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("placement-") && name.ends_with(".jsonl") {
            found.push(name);
        }
    }
    // Equally long numbers of milliseconds: by name is by age.
    found.sort();
    for old in found.iter().rev().skip(KEPT) {
        fs::remove_file(directory.join(old))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vnpu_placement::{Config, Planner, replay};

    use super::*;

    #[test]
    fn a_recording_can_be_replayed_and_old_ones_go() {
        let directory = tempfile::tempdir().unwrap();
        for old in 0..6 {
            fs::write(directory.path().join(format!("placement-{:013}.jsonl", old)), "").unwrap();
        }
        let recording = Recording::begin(directory.path()).unwrap();
        let mut planner = Planner::new(Config::default());
        planner.record_to(Some(recording.sink()));
        let decided = planner.decide(vnpu_placement::moment::Moment::default());
        planner.record_to(None);
        let alive = recording.alive.clone();
        drop(recording);
        while alive.strong_count() > 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut files: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), KEPT);
        let text = fs::read_to_string(files.last().unwrap()).unwrap();
        assert_eq!(text.lines().count(), 2, "a snapshot and a question");
        assert_eq!(replay(text.lines()).unwrap(), decided);
    }

    /// What was written, each time.
    struct Writes(std::sync::mpsc::Sender<String>);

    impl io::Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(String::from_utf8(bytes.to_vec()).unwrap()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_never_pause_reach_the_disk_whole_and_within_a_second() {
        let (lines, receiver) = sync_channel(WAITING);
        let (written, writes) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || write(&receiver, Writes(written)));
        let began = Instant::now();
        let mut sent = 0;
        // Never a pause as long as `FLUSH`, and never as much as `BUFFER`.
        while began.elapsed() < FLUSH * 3 {
            lines.send(format!("line {sent}")).unwrap();
            sent += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        let early: Vec<String> = writes.try_iter().collect();
        assert!(!early.is_empty(), "{sent} lines were sent in {:?}, and none is on disk", began.elapsed());
        lines.send("x".repeat(BUFFER)).unwrap();
        drop(lines);
        writer.join().unwrap().unwrap();
        let all: Vec<String> = early.into_iter().chain(writes.try_iter()).collect();
        assert!(all.iter().all(|write| write.ends_with('\n')), "a copy made between two writes would be cut");
        let all = all.concat();
        let expected = (0..sent).map(|number| format!("line {number}\n")).collect::<String>();
        assert_eq!(all, format!("{expected}{}\n", "x".repeat(BUFFER)));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error() {
        let error = Recording::begin(Path::new("/proc/nowhere")).unwrap_err();
        assert!(error.to_string().contains("--record"), "{error}");
    }
}
