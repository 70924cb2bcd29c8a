//! A child that is forked while another thread of its parent fills something: it drops what it inherited.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[allow(dead_code, unreachable_pub)]
#[path = "../src/once.rs"]
mod once;

use std::mem::ManuallyDrop;
use std::sync::mpsc::channel;

use once::Once;

/// Forks, and drops in the child; its exit code.
fn drop_in_child(filled: &Once<Vec<u8>>) -> i32 {
    // A panic in the child must not print: another thread may have been at that.
    std::panic::set_hook(Box::new(|_| ()));
    // SAFETY: the child calls nothing that another thread may have been in, and ends at once.
    unsafe {
        match libc::fork() {
            0 => {
                let inherited = ManuallyDrop::new(std::ptr::read(filled));
                let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    drop(ManuallyDrop::into_inner(inherited));
                }));
                libc::_exit(i32::from(dropped.is_err()))
            }
            child => {
                let mut status = 0;
                assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
                assert!(libc::WIFEXITED(status), "{status}");
                libc::WEXITSTATUS(status)
            }
        }
    }
}

#[test]
fn what_is_being_filled_when_a_child_is_forked_is_left_alone_there() {
    let filled = Once::new();
    let (begun, has_begun) = channel();
    let (go_on, may_go_on) = channel::<()>();
    std::thread::scope(|scope| {
        let filled = &filled;
        scope.spawn(move || {
            filled.get_or_init(|| {
                begun.send(()).unwrap();
                may_go_on.recv().unwrap();
                vec![1, 2, 3]
            });
        });
        has_begun.recv().unwrap();
        assert_eq!(drop_in_child(filled), 0);
        go_on.send(()).unwrap();
    });
    assert_eq!(filled.get().unwrap(), &[1, 2, 3]);
    assert_eq!(drop_in_child(&filled), 0, "and what is filled is dropped");
}
