//! Bytes between one client and us, in both directions at once.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

use super::output::Output;
use crate::net::listener::Socket;

/// What passed between the client and us.
pub enum Moved {
    /// All of the output.
    Out,
    /// Bytes that were added to the input; none where the client has left.
    In { bytes: usize },
}

/// Writes what waits, and reads while `readable`: ends as soon as one of the two is done. Nothing is lost where it is
/// not waited for to the end.
pub async fn exchange(
    socket: &mut Socket,
    output: &mut Output,
    input: &mut BytesMut,
    readable: bool,
) -> io::Result<Moved> {
    poll_fn(|cx| {
        if !output.is_empty()
            && let Poll::Ready(written) = output.poll_write(cx, Pin::new(socket))
        {
            return Poll::Ready(written.map(|()| Moved::Out));
        }
        if readable {
            // On the stack: an idle reader holds no buffer.
            let mut space = [0; 2_048];
            let mut buffer = ReadBuf::new(&mut space);
            if let Poll::Ready(read) = Pin::new(&mut *socket).poll_read(cx, &mut buffer) {
                input.extend_from_slice(buffer.filled());
                return Poll::Ready(read.map(|()| Moved::In { bytes: buffer.filled().len() }));
            }
        }
        Poll::Pending
    })
    .await
}
