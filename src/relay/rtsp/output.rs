//! What waits to be written to one client: at most one sample's packets, and a few short messages.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::media::rtp::{FRAMING, Packets};

/// Slices that Linux takes at once (`UIO_MAXIOV`).
const MAX_SLICES: usize = 1_024;

/// Bytes of unread responses beyond which no further request is read.
const MAX_MESSAGES: usize = 64 << 10;

pub struct Output {
    queue: VecDeque<Item>,
    /// Bytes of messages in `queue`.
    messages: usize,
    /// The socket has taken bytes that it may still hold, as TLS does.
    held: bool,
    /// When the client last took something, or was last owed nothing.
    pub progress: Instant,
}

enum Item {
    Message { bytes: Bytes, written: usize },
    Media { packets: Arc<Packets>, channel: Channel, at: usize, written: usize },
}

/// How packets are framed.
#[derive(Clone, Copy)]
enum Channel {
    /// As they were made.
    Usual,
    /// The client chose another channel: the framing is this session's own, made anew for each packet.
    Other(u8),
}

impl Output {
    pub fn new() -> Output {
        Output { queue: VecDeque::new(), messages: 0, held: false, progress: Instant::now() }
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && !self.held
    }

    pub fn takes_messages(&self) -> bool {
        self.messages < MAX_MESSAGES
    }

    /// A response or an RTCP packet.
    pub fn message(&mut self, bytes: Bytes) {
        self.owe();
        self.messages += bytes.len();
        self.queue.push_back(Item::Message { bytes, written: 0 });
    }

    /// The packets of one sample on `channel`, of which `usual` is the one that they were made for.
    pub fn media(&mut self, packets: Arc<Packets>, channel: u8, usual: u8) {
        if packets.packets.is_empty() {
            return;
        }
        self.owe();
        let channel = if channel == usual { Channel::Usual } else { Channel::Other(channel) };
        self.queue.push_back(Item::Media { packets, channel, at: 0, written: 0 });
    }

    fn owe(&mut self) {
        if self.queue.is_empty() {
            self.progress = Instant::now();
        }
    }

    /// Writes everything, with one system call where it fits; ready once the socket holds nothing back.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        mut socket: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            let framings = self.framings();
            let slices = self.slices(&framings);
            match ready!(socket.as_mut().poll_write_vectored(cx, &slices)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    drop(slices);
                    self.held = true;
                    self.advance(written);
                    if !self.queue.is_empty() {
                        self.progress = Instant::now();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        ready!(socket.poll_flush(cx))?;
        self.held = false;
        Poll::Ready(Ok(()))
    }

    /// Framings of the packets that go on channels of the client's choice, in order.
    fn framings(&self) -> Vec<[u8; FRAMING]> {
        let mut framings = Vec::new();
        for item in &self.queue {
            if let Item::Media { packets, channel: Channel::Other(channel), at, .. } = item {
                framings.extend(packets.packets[*at..].iter().map(|packet| {
                    let framed = packet.framed();
                    [framed[0], *channel, framed[2], framed[3]]
                }));
            }
        }
        framings
    }

    /// About as many slices as there are, so that they are allocated for once.
    fn pieces(&self) -> usize {
        let of = |item: &Item| match item {
            Item::Message { .. } => 1,
            Item::Media { packets, channel: Channel::Usual, at, .. } => 2 * (packets.packets.len() - at),
            Item::Media { packets, channel: Channel::Other(_), at, .. } => 3 * (packets.packets.len() - at),
        };
        self.queue.iter().map(of).sum::<usize>().min(MAX_SLICES)
    }

    fn slices<'a>(&'a self, framings: &'a [[u8; FRAMING]]) -> Vec<IoSlice<'a>> {
        let mut own = framings.iter();
        let mut slices = Slices { slices: Vec::with_capacity(self.pieces()), skip: 0 };
        for item in &self.queue {
            match item {
                Item::Message { bytes, written } => {
                    slices.skip = *written;
                    slices.push(bytes);
                }
                Item::Media { packets, channel, at, written } => {
                    slices.skip = *written;
                    for packet in &packets.packets[*at..] {
                        match channel {
                            Channel::Usual => slices.push(packet.framed()),
                            Channel::Other(_) => {
                                slices.push(own.next().map_or(&[], |framing| framing));
                                slices.push(packet.header());
                            }
                        }
                        slices.push(&packet.payload);
                        if slices.slices.len() >= MAX_SLICES - 3 {
                            return slices.slices;
                        }
                    }
                }
            }
            if slices.slices.len() >= MAX_SLICES - 3 {
                break;
            }
        }
        slices.slices
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(item) = self.queue.front_mut() {
            match item {
                Item::Message { bytes, written } => {
                    let rest = bytes.len() - *written;
                    if count < rest {
                        *written += count;
                        return;
                    }
                    count -= rest;
                    self.messages -= bytes.len();
                }
                Item::Media { packets, at, written, .. } => {
                    while let Some(packet) = packets.packets.get(*at) {
                        let rest = FRAMING + packet.len() - *written;
                        if count < rest {
                            *written += count;
                            return;
                        }
                        count -= rest;
                        *at += 1;
                        *written = 0;
                    }
                }
            }
            self.queue.pop_front();
        }
    }
}

/// Slices of what is left after `skip` bytes of the first ones.
struct Slices<'a> {
    slices: Vec<IoSlice<'a>>,
    skip: usize,
}

impl<'a> Slices<'a> {
    fn push(&mut self, bytes: &'a [u8]) {
        if self.skip >= bytes.len() {
            self.skip -= bytes.len();
            return;
        }
        self.slices.push(IoSlice::new(&bytes[self.skip..]));
        self.skip = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::rtp::Packetiser;
    use crate::media::{AudioCodec, AudioFrame, AudioParams, Sample};

    proptest! {
        #[test]
        fn writes_cut_anywhere_lose_and_repeat_nothing(
            cuts in proptest::collection::vec(1usize..3000, 1..40), channel in prop_oneof![Just(2u8), Just(9u8)],
        ) {
            let params = Arc::new(AudioParams { codec: AudioCodec::Pcma, clock_rate: 8_000, channels: 1 });
            let frame = AudioFrame { run: 1, pts: 0, duration: 0, params, data: Bytes::from(vec![7; 40_000]) };
            let packets = Arc::new(Packetiser::new(1).packetise(&Sample::Audio(Arc::new(frame))));
            let mut output = Output::new();
            output.message(Bytes::from_static(b"before"));
            output.media(packets.clone(), channel, 2);
            output.message(Bytes::from_static(b"after"));
            let mut expected = b"before".to_vec();
            for packet in &packets.packets {
                let mut framed = packet.framed().to_vec();
                framed[1] = channel;
                expected.extend(framed);
                expected.extend_from_slice(&packet.payload);
            }
            expected.extend_from_slice(b"after");
            let (mut written, mut cuts) = (Vec::new(), cuts.into_iter().cycle());
            while !output.is_empty() {
                let framings = output.framings();
                let all: Vec<u8> = output.slices(&framings).iter().flat_map(|slice| slice.to_vec()).collect();
                let taken = cuts.next().unwrap().min(all.len());
                written.extend_from_slice(&all[..taken]);
                output.advance(taken);
            }
            prop_assert_eq!(written, expected);
            prop_assert_eq!(output.messages, 0);
        }
    }
}
