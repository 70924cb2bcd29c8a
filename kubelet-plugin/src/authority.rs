//! Makes the kubelet's registration dial acceptable to a strict HTTP/2 server. The kubelet dials a socket by its
//! path and grpc-go sends that path, escaped, as `:authority` (`%2Fvar%2Flib...`), which h2 refuses as malformed;
//! here `%` and `/` in it become `-` before h2 sees them. Nothing else of the stream is touched.

mod hpack;
mod stream;

pub use stream::AuthorityStream;

use hpack::rewrite_block;

/// What every HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 0x1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Longest HEADERS frame that is held back to be looked at. h2 as a server allows 16 KiB frames; a longer one is
/// an error that h2 has to answer, so it passes as it is.
const LONGEST_HEADERS: usize = 16 * 1024;

/// The rewriting as a state machine over bytes: what goes in comes out, in order and in the same number, except
/// that a HEADERS frame is held back until it is whole. Anything that is not HTTP/2 passes as it is.
#[derive(Debug)]
pub struct Rewriter {
    state: State,
    held: Vec<u8>,
}

#[derive(Debug)]
enum State {
    /// So many bytes of the preface have been seen.
    Preface(usize),
    /// A frame's header is being collected in `held`.
    Frame,
    /// So many bytes of a frame's payload pass as they are.
    Payload(usize),
    /// A HEADERS frame, header included, is being collected in `held` up to this length.
    Headers(usize),
    /// Not HTTP/2: everything passes.
    Foreign,
}

impl Default for Rewriter {
    fn default() -> Self {
        Self { state: State::Preface(0), held: Vec::new() }
    }
}

impl Rewriter {
    /// Takes `input` in and appends to `output` what may go on.
    pub fn push(&mut self, mut input: &[u8], output: &mut Vec<u8>) {
        while !input.is_empty() {
            input = match self.state {
                State::Preface(seen) => self.preface(seen, input, output),
                State::Frame => self.frame(input, output),
                State::Payload(left) => self.payload(left, input, output),
                State::Headers(length) => self.headers(length, input, output),
                State::Foreign => {
                    output.extend_from_slice(input);
                    &[]
                }
            };
        }
    }

    /// Gives out what is held back, at the end of the stream.
    pub fn finish(&mut self, output: &mut Vec<u8>) {
        output.append(&mut self.held);
        self.state = State::Foreign;
    }

    fn preface<'a>(&mut self, seen: usize, input: &'a [u8], output: &mut Vec<u8>) -> &'a [u8] {
        let expected = PREFACE.get(seen..).unwrap_or_default();
        let (part, rest) = split(input, expected.len());
        output.extend_from_slice(part);
        if !expected.starts_with(part) {
            self.state = State::Foreign;
        } else if part.len() == expected.len() {
            self.state = State::Frame;
        } else {
            self.state = State::Preface(seen + part.len());
        }
        rest
    }

    fn frame<'a>(&mut self, input: &'a [u8], output: &mut Vec<u8>) -> &'a [u8] {
        let (part, rest) = split(input, FRAME_HEADER.saturating_sub(self.held.len()));
        self.held.extend_from_slice(part);
        if let [a, b, c, kind, ..] = *self.held.as_slice()
            && self.held.len() == FRAME_HEADER
        {
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if kind == HEADERS && length <= LONGEST_HEADERS && length > 0 {
                self.state = State::Headers(FRAME_HEADER + length);
            } else {
                output.append(&mut self.held);
                self.state = if length == 0 { State::Frame } else { State::Payload(length) };
            }
        }
        rest
    }

    fn payload<'a>(&mut self, left: usize, input: &'a [u8], output: &mut Vec<u8>) -> &'a [u8] {
        let (part, rest) = split(input, left);
        output.extend_from_slice(part);
        let left = left - part.len();
        self.state = if left == 0 { State::Frame } else { State::Payload(left) };
        rest
    }

    fn headers<'a>(&mut self, length: usize, input: &'a [u8], output: &mut Vec<u8>) -> &'a [u8] {
        let (part, rest) = split(input, length.saturating_sub(self.held.len()));
        self.held.extend_from_slice(part);
        if self.held.len() == length {
            if let Some(block) = header_block(&mut self.held) {
                rewrite_block(block);
            }
            output.append(&mut self.held);
            self.state = State::Frame;
        }
        rest
    }
}

/// The header block fragment of a whole HEADERS frame: without frame header, padding and priority (RFC 9113 §6.2).
fn header_block(frame: &mut [u8]) -> Option<&mut [u8]> {
    let flags = *frame.get(4)?;
    let mut payload = frame.get_mut(FRAME_HEADER..)?;
    if flags & PADDED != 0 {
        let (padding, rest) = payload.split_first_mut()?;
        let kept = rest.len().checked_sub(usize::from(*padding))?;
        payload = rest.get_mut(..kept)?;
    }
    if flags & PRIORITY != 0 {
        payload = payload.get_mut(5..)?;
    }
    Some(payload)
}

/// `at` bytes, or all there are, and the rest.
fn split(input: &[u8], at: usize) -> (&[u8], &[u8]) {
    input.split_at_checked(at).unwrap_or((input, &[]))
}

#[cfg(test)]
mod tests;
