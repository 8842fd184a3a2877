//! What RTSP clients send: the same is read however the network cuts it.
//!
//! Input: how long the pieces are, then the bytes of a connection.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use liuta::relay::rtsp::request::{Incoming, Target, take};

/// The URIs of what was read (`$` for a frame), and whether the connection was closed.
fn read<'i>(pieces: impl Iterator<Item = &'i [u8]>) -> (Vec<String>, bool) {
    let (mut input, mut met) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match take(&mut input) {
                Ok(Some(Incoming::Request(request))) => {
                    Target::of(&request.uri);
                    request.header("session");
                    met.push(format!("{} {}", request.method, request.uri));
                }
                Ok(Some(Incoming::Frame)) => met.push("$".to_owned()),
                Ok(None) => break,
                Err(_) => return (met, true),
            }
        }
    }
    (met, false)
}

fuzz_target!(|input: &[u8]| {
    let Some((&length, bytes)) = input.split_first() else { return };
    let whole = read(std::iter::once(bytes));
    let pieces = read(bytes.chunks(usize::from(length).max(1)));
    assert_eq!(whole, pieces);
});
