//! Just enough HPACK (RFC 7541) to find the `:authority` literal in a header block and change characters in
//! place. No header table is kept: whatever cannot be followed ends the search and leaves the block as it is.

/// Static table index of `:authority` (RFC 7541 appendix A).
const AUTHORITY: usize = 1;
/// Codes by length (RFC 7541 appendix B, a canonical code): (bits, first code, number of codes).
const CODES: [(u32, u32, u32); 21] = [
    (5, 0x0, 10),
    (6, 0x14, 26),
    (7, 0x5c, 32),
    (8, 0xf8, 6),
    (10, 0x3f8, 5),
    (11, 0x7fa, 3),
    (12, 0xffa, 2),
    (13, 0x1ff8, 6),
    (14, 0x3ffc, 2),
    (15, 0x7ffc, 3),
    (19, 0x7fff0, 3),
    (20, 0xfffe6, 8),
    (21, 0x1f_ffdc, 13),
    (22, 0x3f_ffd2, 26),
    (23, 0x7f_ffd8, 29),
    (24, 0xff_ffea, 12),
    (25, 0x1ff_ffec, 4),
    (26, 0x3ff_ffe0, 15),
    (27, 0x7ff_ffde, 19),
    (28, 0xfff_ffe2, 29),
    (30, 0x3fff_fffc, 4),
];
/// The codes of `%`, `/` and `-`: all of six bits, so a replacement moves nothing.
const PERCENT_CODE: u32 = 0x15;
const SLASH_CODE: u32 = 0x18;
const DASH_CODE: u32 = 0x16;

/// Replaces `%` and `/` by `-` in every literal value of `:authority` in `block`.
pub(super) fn rewrite_block(block: &mut [u8]) {
    let mut at = 0;
    while at < block.len() {
        match field(block, at) {
            Some(Field { next, authority }) => {
                if let Some(Text { start, end, huffman }) = authority
                    && let Some(value) = block.get_mut(start..end)
                {
                    if huffman { rewrite_huffman(value) } else { rewrite_plain(value) }
                }
                at = next;
            }
            // A surprise: h2 will say what is wrong with it.
            None => return,
        }
    }
}

/// One representation: where the next begins, and where the value is if this is a literal `:authority`.
struct Field {
    next: usize,
    authority: Option<Text>,
}

struct Text {
    start: usize,
    end: usize,
    huffman: bool,
}

fn field(block: &[u8], at: usize) -> Option<Field> {
    let first = *block.get(at)?;
    // RFC 7541 §6: indexed field, literal with incremental indexing, size update, literal without indexing or
    // never indexed. The number of bits is that of the integer's prefix.
    let (bits, literal) = match first {
        0x80.. => (7, false),
        0x40..=0x7f => (6, true),
        0x20..=0x3f => (5, false),
        0x00..=0x1f => (4, true),
    };
    let (name, next) = integer(block, at, bits)?;
    if !literal {
        return Some(Field { next, authority: None });
    }
    let value_at = if name == 0 { text(block, next)?.end } else { next };
    let value = text(block, value_at)?;
    Some(Field { next: value.end, authority: (name == AUTHORITY).then_some(value) })
}

fn text(block: &[u8], at: usize) -> Option<Text> {
    let huffman = block.get(at)? & 0x80 != 0;
    let (length, start) = integer(block, at, 7)?;
    let end = start.checked_add(length)?;
    (end <= block.len()).then_some(Text { start, end, huffman })
}

/// An integer with a prefix of `bits` bits at `at` (RFC 7541 §5.1), and the place after it.
fn integer(block: &[u8], at: usize, bits: u32) -> Option<(usize, usize)> {
    let mask = (1usize << bits) - 1;
    let prefix = usize::from(*block.get(at)?) & mask;
    let mut next = at + 1;
    if prefix < mask {
        return Some((prefix, next));
    }
    let mut value = prefix;
    // Four more bytes reach 2^28: more than any block that is looked at.
    for shift in [0, 7, 14, 21] {
        let byte = *block.get(next)?;
        next += 1;
        value = value.checked_add(usize::from(byte & 0x7f) << shift)?;
        if byte & 0x80 == 0 {
            return Some((value, next));
        }
    }
    None
}

fn rewrite_plain(value: &mut [u8]) {
    for byte in value {
        if matches!(byte, b'%' | b'/') {
            *byte = b'-';
        }
    }
}

fn rewrite_huffman(value: &mut [u8]) {
    let total = value.len() * 8;
    let (mut start, mut code, mut length) = (0, 0u32, 0u32);
    for at in 0..total {
        code = code << 1 | u32::from(bit(value, at));
        length += 1;
        let known =
            CODES.iter().any(|&(bits, first, count)| bits == length && code >= first && code - first < count);
        if known {
            if length == 6 && matches!(code, PERCENT_CODE | SLASH_CODE) {
                put(value, start, DASH_CODE, 6);
            }
            (start, code, length) = (at + 1, 0, 0);
        } else if length == 30 {
            return;
        }
    }
}

fn bit(value: &[u8], at: usize) -> bool {
    value.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1)
}

fn put(value: &mut [u8], start: usize, code: u32, bits: usize) {
    for offset in 0..bits {
        let at = start + offset;
        if let Some(byte) = value.get_mut(at / 8) {
            let mask = 1u8 << (7 - at % 8);
            if code >> (bits - 1 - offset) & 1 == 1 {
                *byte |= mask;
            } else {
                *byte &= !mask;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CODES;

    #[test]
    fn the_code_is_complete_and_canonical() {
        assert_eq!(CODES.iter().map(|c| c.2).sum::<u32>(), 257, "256 symbols and the end");
        let kraft: u64 = CODES.iter().map(|&(bits, _, count)| u64::from(count) << (30 - bits)).sum();
        assert_eq!(kraft, 1 << 30, "no code is left over and none is used twice");
        let mut next = 0u64;
        let mut previous = 0;
        for (bits, first, count) in CODES {
            next <<= bits - previous;
            assert_eq!(u64::from(first), next, "codes of {bits} bits follow on the shorter ones");
            next += u64::from(count);
            previous = bits;
        }
    }
}
