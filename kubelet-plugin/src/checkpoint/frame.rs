//! The bytes of the log: a header with the format's version, then frames of length, CRC32C and payload. Pure:
//! reading says how far the bytes are whole and what kind of damage follows.

/// Format that this program writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"vnpu-log";
pub(super) const HEADER: usize = 16;
const FRAME_HEAD: usize = 8;
/// No payload is longer: a plan of 32 results with two chips each is some 20 KiB.
const LONGEST: usize = 1 << 20;

/// The header of a new log: magic, format, CRC32C of both. All integers are little-endian.
pub(super) fn header() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT.to_le_bytes());
    let crc = crc32c::crc32c(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

/// Appends one frame. The CRC covers the length too, so a length that was hit is not followed.
pub(super) fn append(bytes: &mut Vec<u8>, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    bytes.extend(length);
    bytes.extend(crc32c::crc32c_append(crc32c::crc32c(&length), payload).to_le_bytes());
    bytes.extend_from_slice(payload);
}

/// What reading a log's bytes found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan<'a> {
    /// The header names a newer format.
    Newer(u32),
    /// The payloads that are whole, in order; and what is behind or between them.
    Frames {
        /// Payloads with a right checksum.
        payloads: Vec<&'a [u8]>,
        /// What is wrong, if anything.
        damage: Damage,
    },
}

/// How a log is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// Not at all.
    None,
    /// From this length on there is nothing whole: a write that a crash cut off.
    Tail(usize),
    /// The header, or a frame that is there in its full length, is hit: something rewrote the file.
    Body,
}

/// Reads all of a log.
pub(super) fn scan(bytes: &[u8]) -> Scan<'_> {
    let Some(format) = read_header(bytes) else {
        return Scan::Frames { payloads: salvage(bytes), damage: Damage::Body };
    };
    if format > FORMAT {
        return Scan::Newer(format);
    }
    let mut payloads = Vec::new();
    let mut at = HEADER;
    while at < bytes.len() {
        let Some(payload) = frame_at(bytes, at) else {
            let rest = bytes.get(at..).unwrap_or_default();
            let behind = salvage(rest);
            if behind.is_empty() && !all_there(rest) {
                return Scan::Frames { payloads, damage: Damage::Tail(at) };
            }
            payloads.extend(behind);
            return Scan::Frames { payloads, damage: Damage::Body };
        };
        payloads.push(payload);
        at += FRAME_HEAD + payload.len();
    }
    Scan::Frames { payloads, damage: Damage::None }
}

fn read_header(bytes: &[u8]) -> Option<u32> {
    let header = bytes.get(..HEADER)?;
    let (covered, crc) = header.split_at_checked(12)?;
    let magic = covered.strip_prefix(MAGIC)?;
    (crc32c::crc32c(covered).to_le_bytes() == crc).then(|| word(magic)).flatten()
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn frame_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    let length_bytes = rest.get(..4)?;
    let length = usize::try_from(word(length_bytes)?).ok().filter(|l| (1..=LONGEST).contains(l))?;
    let crc = word(rest.get(4..)?)?;
    let payload = rest.get(FRAME_HEAD..FRAME_HEAD + length)?;
    (crc32c::crc32c_append(crc32c::crc32c(length_bytes), payload) == crc).then_some(payload)
}

/// Whether the frame at the beginning of `rest` was written to its end, by its own word: then it is not a write
/// that was cut off, and somebody may have been told that it is kept.
fn all_there(rest: &[u8]) -> bool {
    let length = word(rest).and_then(|length| usize::try_from(length).ok());
    length.is_some_and(|l| (1..=LONGEST).contains(&l) && rest.len() >= FRAME_HEAD + l)
}

/// Every whole frame that can be found, wherever it begins. Payloads are JSON objects, which spares the
/// checksum at nearly every offset.
fn salvage(bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let object = bytes.get(at + FRAME_HEAD) == Some(&b'{');
        match object.then(|| frame_at(bytes, at)).flatten() {
            Some(payload) => {
                found.push(payload);
                at += FRAME_HEAD + payload.len();
            }
            None => at += 1,
        }
    }
    found
}
