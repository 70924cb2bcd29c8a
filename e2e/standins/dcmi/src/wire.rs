//! From a call to the driver and back to the vendor's return codes.

use std::cell::RefCell;
use std::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicBool, Ordering};

use standin_protocol::{Client, DieView, Reply, Request, Selector};

pub const OK: c_int = 0;
pub const INVALID_PARAMETER: c_int = -8001;
pub const INNER_ERROR: c_int = -8005;
pub const NOT_READY: c_int = -8012;
pub const NOT_SUPPORTED: c_int = -8255;

static INITIALIZED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static CLIENT: RefCell<Client> = const { RefCell::new(Client::new()) };
}

pub fn set_initialized() {
    INITIALIZED.store(true, Ordering::SeqCst);
}

/// Asks the driver in the name of a C function.
pub fn ask(function: &str, selector: Selector) -> Result<Reply, c_int> {
    if function != "dcmi_init" && !INITIALIZED.load(Ordering::SeqCst) {
        return Err(NOT_READY);
    }
    let request = Request::Manage { function: function.to_owned(), selector };
    match CLIENT.with_borrow_mut(|client| client.call(&request)) {
        Ok(Reply::Code(code)) => Err(code),
        Ok(reply) => Ok(reply),
        Err(_) => Err(INNER_ERROR),
    }
}

/// Waits until the machine is described otherwise than at number `seen`, for a second at most; the number now.
pub fn changed(seen: u64) -> Result<u64, c_int> {
    match CLIENT.with_borrow_mut(|client| client.call(&Request::Changed { seen, millis: 1000 })) {
        Ok(Reply::Generation(generation)) => Ok(generation),
        _ => Err(INNER_ERROR),
    }
}

/// Asks about one die.
pub fn die(function: &str, selector: Selector) -> Result<DieView, c_int> {
    match ask(function, selector)? {
        Reply::Die(view) => Ok(*view),
        _ => Err(INNER_ERROR),
    }
}

pub fn code(result: Result<(), c_int>) -> c_int {
    result.err().unwrap_or(OK)
}

/// Writes through an out-pointer of the caller.
///
/// # Safety
/// `to` is null or valid for a write of `T`.
pub unsafe fn put<T>(to: *mut T, value: T) -> Result<(), c_int> {
    if to.is_null() {
        return Err(INVALID_PARAMETER);
    }
    // SAFETY: not null, and the caller promises the rest.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes a NUL-terminated text, cut to the room.
///
/// # Safety
/// `to` is null or has `room` bytes.
pub unsafe fn put_text(to: *mut c_char, room: usize, text: &str) -> Result<(), c_int> {
    if to.is_null() || room == 0 {
        return Err(INVALID_PARAMETER);
    }
    let bytes = text.as_bytes();
    let length = bytes.len().min(room - 1);
    // SAFETY: `length + 1 <= room`.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), length);
        to.add(length).write(0);
    }
    Ok(())
}

/// A fixed field with the text, NUL-padded and cut.
pub fn field<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().take(N - 1).zip(text.bytes()) {
        *to = from;
    }
    field
}
