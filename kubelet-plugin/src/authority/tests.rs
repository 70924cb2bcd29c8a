use proptest::prelude::*;

use super::{PREFACE, Rewriter};

const PATH: &str = "%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fvnpu.dev-reg.sock";
const DASHED: &str = "-2Fvar-2Flib-2Fkubelet-2Fplugins_registry-2Fvnpu.dev-reg.sock";
/// PATH in the code of RFC 7541, made by an independent encoder (golang.org/x/net/http2/hpack).
const HUFFMAN: &str = include_str!("testdata/path.huffman.hex");
const HUFFMAN_DASHED: &str = include_str!("testdata/dashed.huffman.hex");

fn hex(text: &str) -> Vec<u8> {
    let digits = text.trim();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    frame.extend_from_slice(payload);
    frame
}

fn string(bytes: &[u8], huffman: bool) -> Vec<u8> {
    let mark = if huffman { 0x80 } else { 0 };
    assert!(bytes.len() < 127);
    let mut out = vec![mark | u8::try_from(bytes.len()).unwrap()];
    out.extend_from_slice(bytes);
    out
}

fn run(input: &[u8], chunk: usize) -> Vec<u8> {
    let (mut rewriter, mut output) = (Rewriter::default(), Vec::new());
    for part in input.chunks(chunk.max(1)) {
        rewriter.push(part, &mut output);
    }
    rewriter.finish(&mut output);
    output
}

fn stream(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, &[]));
    bytes.extend(frames.concat());
    bytes
}

/// A block as grpc-go sends it: POST, http, a literal path, the authority, another literal.
fn block(first: u8, value: &[u8], huffman: bool) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x44];
    block.extend(string(b"/pluginregistration.Registration/GetInfo", false));
    block.push(first);
    block.extend(string(value, huffman));
    block.extend([0x40]);
    block.extend(string(b"te", false));
    block.extend(string(b"trailers/%", false));
    block
}

#[test]
fn every_literal_form_of_the_authority_is_rewritten_and_nothing_else() {
    for first in [0x41, 0x01, 0x11] {
        for (from, to, huffman) in [
            (PATH.as_bytes().to_vec(), DASHED.as_bytes().to_vec(), false),
            (hex(HUFFMAN), hex(HUFFMAN_DASHED), true),
        ] {
            let input = stream(&[frame(1, 4, &block(first, &from, huffman)), frame(0, 1, b"%/body")]);
            let expected = stream(&[frame(1, 4, &block(first, &to, huffman)), frame(0, 1, b"%/body")]);
            for chunk in [1, 2, 7, 9, 10, 64, input.len()] {
                assert_eq!(run(&input, chunk), expected, "form {first:#x}, huffman {huffman}, chunk {chunk}");
            }
        }
    }
}

#[test]
fn padding_and_priority_are_stepped_over() {
    let from = block(0x41, PATH.as_bytes(), false);
    let to = block(0x41, DASHED.as_bytes(), false);
    let wrap = |block: &[u8]| [&[3, 0, 0, 0, 0, 15], block, b"%/%"].concat();
    assert_eq!(
        run(&stream(&[frame(1, 4 | 8 | 0x20, &wrap(&from))]), 5),
        stream(&[frame(1, 4 | 8 | 0x20, &wrap(&to))])
    );
}

#[test]
fn later_requests_of_a_connection_are_rewritten_too() {
    let one = frame(1, 4, &block(0x41, PATH.as_bytes(), false));
    let out = run(&stream(&[one.clone(), one.clone(), one]), 100);
    assert!(!String::from_utf8_lossy(&out).contains("%2F"));
}

#[test]
fn broken_blocks_pass_as_they_are() {
    for payload in [
        vec![0x41, 0x7f],                         // a length that never ends
        vec![0x41, 0x05, b'%'],                   // a value longer than the block
        vec![0x40, 0x7f, 0xff, 0xff, 0xff, 0xff], // a name length beyond all reason
        vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff], // an index beyond all reason
    ] {
        let input = stream(&[frame(1, 4, &payload)]);
        assert_eq!(run(&input, 3), input);
    }
    let padded_to_death = stream(&[frame(1, 8, &[200, 0x41, 1, b'%'])]);
    assert_eq!(run(&padded_to_death, 3), padded_to_death);
    let too_long = stream(&[frame(1, 4, &[vec![0x41, 0x01, b'%'], vec![0x80; 20_000]].concat())]);
    assert_eq!(run(&too_long, 999), too_long);
}

#[test]
fn an_unfinished_frame_comes_out_at_the_end() {
    let whole = stream(&[frame(1, 4, &block(0x41, PATH.as_bytes(), false))]);
    let cut = &whole[..whole.len() - 3];
    assert_eq!(run(cut, 11), cut);
}

proptest! {
    #[test]
    fn what_is_not_http2_passes_intact(bytes in proptest::collection::vec(any::<u8>(), 0..400), chunk in 1usize..50) {
        prop_assume!(!bytes.starts_with(PREFACE));
        prop_assert_eq!(run(&bytes, chunk), bytes);
    }

    #[test]
    fn frames_of_other_kinds_pass_intact(
        frames in proptest::collection::vec((2u8..=255, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..8),
        chunk in 1usize..50,
    ) {
        let frames: Vec<_> = frames.iter().map(|(kind, flags, payload)| frame(*kind, *flags, payload)).collect();
        let input = stream(&frames);
        prop_assert_eq!(run(&input, chunk), input);
    }

    #[test]
    fn arbitrary_headers_keep_their_length_and_do_not_depend_on_chunks(
        blocks in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..80)), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..80),
        chunk in 1usize..50,
    ) {
        let frames: Vec<_> = blocks.iter().map(|(flags, block)| frame(1, *flags, block)).collect();
        let input = [stream(&frames), tail].concat();
        let whole = run(&input, usize::MAX);
        prop_assert_eq!(whole.len(), input.len());
        prop_assert_eq!(run(&input, chunk), whole);
    }

    #[test]
    fn a_value_without_the_two_characters_passes_intact(value in "[a-zA-Z0-9._~:-]{0,60}", first in prop_oneof![Just(0x41u8), Just(1), Just(0x11)]) {
        let input = stream(&[frame(1, 4, &block(first, value.as_bytes(), false))]);
        prop_assert_eq!(run(&input, 13), input);
    }
}
