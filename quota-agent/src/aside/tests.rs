use std::time::Instant;

use super::*;

/// A file that never answers until somebody writes.
pub(crate) fn silent(path: &Path) {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: a zero-terminated path.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

/// Lets its reader go.
pub(crate) fn answer(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_file_that_does_not_answer_is_waited_for_once() {
    let dir = tempfile::tempdir().unwrap();
    let (stuck, other) = (dir.path().join("stuck"), dir.path().join("other"));
    std::fs::write(&other, "here").unwrap();
    silent(&stuck);
    let aside = Aside::with_patience(Duration::from_millis(200));
    assert_eq!(aside.read(&other).unwrap(), b"here");
    assert_eq!(aside.read(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    let begun = Instant::now();
    assert_eq!(aside.read(&stuck).unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(begun.elapsed() >= Duration::from_millis(200));
    for path in [&stuck, &other] {
        let begun = Instant::now();
        assert_eq!(aside.read(path).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_millis(200), "at once");
    }
    answer(&stuck, "late");
    let begun = Instant::now();
    while aside.read(&other).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "what was owed has come");
    }
}
