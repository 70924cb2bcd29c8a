//! Frames on the socket: a little-endian `u32` length and that many bytes of JSON.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// No message of this protocol comes near it; more is a stranger on the socket.
const LONGEST_FRAME: u32 = 16 << 20;

/// Reads one frame. `UnexpectedEof` means that the peer is gone.
pub fn read_frame<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0u8; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > LONGEST_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("frame of {length} bytes")));
    }
    let mut body = vec![0u8; length as usize];
    from.read_exact(&mut body)?;
    serde_json::from_slice(&body).map_err(io::Error::from)
}

/// Writes one frame in one `write`, so that a killed writer leaves at most one torn frame.
pub fn write_frame<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    to.write_all(&frame)
}
