//! Packets by UDP: one pair of sockets for all readers (RFC 2326 section 12.39, RFC 3550 section 11).
//!
//! A reader's packets go to the address that its RTSP connection comes from and nowhere else, so that nobody can have
//! the box send to others. They leave in batches of one system call (UDP segmentation offload), and no faster than a
//! player's socket buffer is emptied: a key picture, or the pictures that a reader begins with, are spread over some
//! milliseconds. What an address does not take is lost, as the network would lose it, and holds nobody up.
//!
//! Taking nothing cannot be noticed here: whether a reader is there is told by its RTCP, which [`Pair::listen`] reads,
//! and by its requests.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};
use rustix::net::sockopt;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::rtcp;
use crate::media::rtp::{Packet, Packets};

/// Bytes that are sent at once: what a player's socket holds at the least (Linux gives 208 KiB by default, of which small
/// packets use up as much again for bookkeeping).
const AT_ONCE: usize = 48 << 10;

/// And from there on this many a second, 100 Mbit/s: faster than any camera, slower than any player.
const PER_SECOND: usize = 12_500_000;

/// A pause is worth waking up for when so many bytes may follow it.
const WORTH_WAKING: usize = 16 << 10;

/// Between two attempts where the box's own send buffer is full.
const FULL: Duration = Duration::from_millis(2);

/// Bytes of one batch: what one IP packet may be long, and a margin for headers.
const BATCH: usize = 60_000;

/// The sockets that RTP leaves from and RTCP passes through.
pub struct Pair {
    rtp: Socket,
    rtcp: Socket,
    /// Who may be heard, by the address of their RTP and of their RTCP.
    readers: Mutex<HashMap<SocketAddr, Arc<AtomicU64>>>,
    began: Instant,
}

struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
    at: SocketAddr,
}

/// Why a reader gets nothing by UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    #[error("UDP is served by another version of IP than this connection's: ask for RTP/AVP/TCP")]
    Family,
    #[error("client_port= is in use by another session of this address")]
    Taken,
}

/// Where one track of one reader goes; the address is free again once it is dropped.
pub struct Destination {
    pair: Arc<Pair>,
    rtp: SocketAddr,
    rtcp: SocketAddr,
    /// The box's address that the reader knows, where the sockets have several.
    from: Option<IpAddr>,
    heard: Arc<AtomicU64>,
}

impl Pair {
    /// Listens at this address and, for RTCP, at the port after it. Port 0: any free even one.
    pub fn bind(at: SocketAddr) -> io::Result<Arc<Pair>> {
        const ATTEMPTS: usize = 100;
        let next = |at: SocketAddr| {
            let port = at.port().checked_add(1).ok_or(io::ErrorKind::InvalidInput)?;
            io::Result::Ok(SocketAddr::new(at.ip(), port))
        };
        for attempt in 1.. {
            let rtp = Socket::bind(at)?;
            let free = at.port() == 0 && attempt < ATTEMPTS;
            if free && !rtp.at.port().is_multiple_of(2) {
                continue;
            }
            match next(rtp.at).and_then(Socket::bind) {
                Ok(rtcp) => {
                    let (readers, began) = (Mutex::default(), Instant::now());
                    return Ok(Arc::new(Pair { rtp, rtcp, readers, began }));
                }
                Err(_) if free => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Ports of RTP and of RTCP.
    pub fn ports(&self) -> (u16, u16) {
        (self.rtp.at.port(), self.rtcp.at.port())
    }

    /// Notes who is heard, for ever.
    pub async fn listen(&self) {
        futures::future::join(self.hear(&self.rtp), self.hear(&self.rtcp)).await;
    }

    async fn hear(&self, socket: &Socket) {
        let mut datagram = vec![0; 4_096];
        loop {
            match socket.socket.recv_from(&mut datagram).await {
                Ok((length, from)) => {
                    let datagram = datagram.get(..length).unwrap_or_default();
                    // On RTP's port clients only knock, to open their firewall.
                    if rtcp::is_alive(datagram) {
                        self.note(from);
                    }
                }
                // Of one client's ICMP, say: the socket itself is sound.
                Err(error) => {
                    tracing::debug!("RTSP by UDP: {error}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    fn note(&self, from: SocketAddr) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if let Some(heard) = self.readers().get(&from) {
            heard.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Milliseconds of this pair's life.
    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn readers(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<AtomicU64>>> {
        self.readers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A reader at `peer`, which has reached the box at `local`.
    pub fn destination(
        self: &Arc<Self>,
        peer: IpAddr,
        local: IpAddr,
        (rtp, rtcp): (u16, u16),
    ) -> Result<Arc<Destination>, Unreachable> {
        let at = self.rtp.at.ip();
        let reachable = match (at, peer) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => true,
            (IpAddr::V6(at), IpAddr::V4(_)) => at == Ipv6Addr::UNSPECIFIED,
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        };
        if !reachable {
            return Err(Unreachable::Family);
        }
        let (rtp, rtcp) = (SocketAddr::new(peer, rtp), SocketAddr::new(peer, rtcp));
        let mut readers = self.readers();
        if readers.contains_key(&rtp) || readers.contains_key(&rtcp) {
            return Err(Unreachable::Taken);
        }
        let heard = Arc::new(AtomicU64::new(self.now()));
        readers.insert(rtp, heard.clone());
        readers.insert(rtcp, heard.clone());
        drop(readers);
        let from = at.is_unspecified().then_some(local);
        Ok(Arc::new(Destination { pair: self.clone(), rtp, rtcp, from, heard }))
    }
}

impl Socket {
    fn bind(at: SocketAddr) -> io::Result<Socket> {
        let socket = std::net::UdpSocket::bind(at)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // A network that carries less than Ethernet does must have the packets in pieces, and not lose them.
        let whole = match at {
            SocketAddr::V4(_) => sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::DONT),
            SocketAddr::V6(_) => sockopt::set_ipv6_mtu_discover(&socket, sockopt::Ipv6PathMtuDiscovery::DONT),
        };
        if let Err(error) = whole.and_then(|()| sockopt::set_socket_send_buffer_size(&socket, 1 << 20)) {
            tracing::debug!("RTSP by UDP: socket options: {error}");
        }
        let at = socket.local_addr()?;
        Ok(Socket { socket: UdpSocket::from_std(socket)?, state, at })
    }

    /// Datagrams of `size` bytes each, the last one perhaps shorter.
    fn send(&self, to: SocketAddr, from: Option<IpAddr>, contents: &[u8], size: usize) -> io::Result<()> {
        let destination = match (self.at.ip(), to.ip()) {
            (IpAddr::V6(_), IpAddr::V4(v4)) => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        let segment_size = (size < contents.len()).then_some(size);
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: from };
        let send = || self.state.try_send(UdpSockRef::from(&self.socket), &transmit);
        self.socket.try_io(Interest::WRITABLE, send)
    }
}

impl Destination {
    /// Ports that its packets come from.
    pub fn server_ports(&self) -> (u16, u16) {
        self.pair.ports()
    }

    /// The ports that the client named.
    pub fn client_ports(&self) -> (u16, u16) {
        (self.rtp.port(), self.rtcp.port())
    }

    /// How long there was no RTCP from it.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.pair.now().saturating_sub(self.heard.load(Ordering::Relaxed)))
    }

    /// Sends an RTCP packet, if it can go now.
    pub fn report(&self, packet: &[u8]) {
        if let Err(error) = self.pair.rtcp.send(self.rtcp, self.from, packet, packet.len()) {
            tracing::debug!("RTCP to {}: {error}", self.rtcp);
        }
    }

    /// Sends as many of the packets as make one batch of at most `most` bytes, but one: how many are done with.
    fn send(&self, packets: &[Packet], most: usize) -> io::Result<usize> {
        thread_local! {
            static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        BYTES.with_borrow_mut(|bytes| {
            let segments = self.pair.rtp.state.max_gso_segments();
            let (count, size) = gather(packets, segments, most.min(BATCH), bytes);
            match self.pair.rtp.send(self.rtp, self.from, bytes, size) {
                Ok(()) => Ok(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
                // A network card that cannot take batches is found out by trying; then single packets go.
                Err(_) if count > 1 && self.pair.rtp.state.max_gso_segments() < segments => Ok(0),
                Err(error) => {
                    tracing::debug!("RTP to {}: {error}", self.rtp);
                    Ok(count)
                }
            }
        })
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        let mut readers = self.pair.readers();
        readers.remove(&self.rtp);
        readers.remove(&self.rtcp);
    }
}

/// Writes the first packets one behind the other: as many as are equally long, one shorter one behind them, at most
/// `segments` and at most `most` bytes, but one. How many these are, and how long each.
fn gather(packets: &[Packet], segments: usize, most: usize, bytes: &mut Vec<u8>) -> (usize, usize) {
    bytes.clear();
    let size = packets.first().map_or(0, Packet::len);
    let mut count = 0;
    for packet in packets.iter().take(segments.max(1)) {
        let length = packet.len();
        if count > 0 && (length > size || bytes.len() + length > most) {
            break;
        }
        bytes.extend_from_slice(packet.header());
        bytes.extend_from_slice(&packet.payload);
        count += 1;
        if length < size {
            break;
        }
    }
    (count, size)
}

/// What one session owes its reader by UDP: at most one sample's packets.
pub struct Sender {
    waiting: Option<(Arc<Destination>, Arc<Packets>, usize)>,
    /// Bytes that may be sent now, as of `since`.
    allowance: usize,
    since: Instant,
}

impl Default for Sender {
    fn default() -> Sender {
        Sender { waiting: None, allowance: AT_ONCE, since: Instant::now() }
    }
}

impl Sender {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_none()
    }

    /// Sends the packets as far as that may be at once; [`drain`](Self::drain) sends the rest.
    pub fn send(&mut self, to: &Arc<Destination>, packets: Arc<Packets>) {
        self.waiting = Some((to.clone(), packets, 0));
        self.advance();
    }

    /// Nothing of what waits is sent any more.
    pub fn clear(&mut self) {
        self.waiting = None;
    }

    /// Sends what waits, at its pace. Cancel safe.
    pub async fn drain(&mut self) {
        while let Some(pause) = self.advance() {
            tokio::time::sleep(pause).await;
        }
    }

    /// How long to wait before it may go on; nothing where all is sent.
    fn advance(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let earned = now.duration_since(self.since).as_micros() as usize * PER_SECOND / 1_000_000;
        (self.allowance, self.since) = (self.allowance.saturating_add(earned).min(AT_ONCE), now);
        while let Some((to, packets, at)) = &mut self.waiting {
            let rest = packets.packets.get(*at..).unwrap_or_default();
            let Some(first) = rest.first() else {
                self.waiting = None;
                break;
            };
            if self.allowance < first.len() {
                let missing = WORTH_WAKING.saturating_sub(self.allowance);
                return Some(Duration::from_micros((missing * 1_000_000 / PER_SECOND) as u64));
            }
            match to.send(rest, self.allowance) {
                Ok(count) => {
                    let sent: usize = rest.iter().take(count).map(Packet::len).sum();
                    self.allowance = self.allowance.saturating_sub(sent);
                    *at += count;
                }
                Err(_) => return Some(FULL),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::media::rtp::Packetiser;
    use crate::media::{AudioCodec, AudioFrame, AudioParams, Sample};

    fn packets(bytes: usize) -> Arc<Packets> {
        let params = Arc::new(AudioParams { codec: AudioCodec::Pcma, clock_rate: 8_000, channels: 1 });
        let data = Bytes::from(vec![7; bytes]);
        let frame = AudioFrame { run: 1, pts: 0, duration: 0, params, data };
        Arc::new(Packetiser::new(1).packetise(&Sample::Audio(Arc::new(frame))))
    }

    #[test]
    fn batches_are_of_equal_packets_and_lose_none() {
        let all = packets(150_000).packets.clone();
        for (segments, most) in [(64, BATCH), (1, BATCH), (64, 1), (8, 5_000)] {
            let (mut at, mut bytes, mut sent) = (0, Vec::new(), 0);
            while at < all.len() {
                let (count, size) = gather(&all[at..], segments, most, &mut bytes);
                assert!((1..=segments).contains(&count) && (count == 1 || bytes.len() <= most));
                assert_eq!(bytes.chunks(size).count(), count);
                for (chunk, packet) in bytes.chunks(size).zip(&all[at..]) {
                    assert_eq!(chunk, [packet.header(), &packet.payload].concat());
                }
                at += count;
                sent += bytes.len();
            }
            assert_eq!(sent, all.iter().map(Packet::len).sum::<usize>());
        }
    }

    #[tokio::test]
    async fn a_burst_is_spread_and_arrives_whole() {
        const BYTES: usize = 1 << 20;
        let pair = Pair::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (rtp, rtcp) = pair.ports();
        assert!(rtp % 2 == 0 && rtcp == rtp + 1);
        // A player with what Linux gives everybody.
        let player = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = player.local_addr().unwrap();
        let to = pair.destination(at.ip(), at.ip(), (at.port(), 9)).unwrap();
        let packets = packets(BYTES);
        let expected = packets.packets.len();
        let receiving = tokio::spawn(async move {
            let mut buffer = [0; 2_048];
            for at in 0..expected {
                let (length, from) = player.recv_from(&mut buffer).await.unwrap();
                assert_eq!((from.port(), length > 12), (rtp, true), "packet {at}");
            }
        });
        let (began, mut sender) = (Instant::now(), Sender::default());
        sender.send(&to, packets);
        assert!(!sender.is_empty(), "a megabyte at once");
        sender.drain().await;
        assert!(sender.is_empty() && began.elapsed() >= Duration::from_millis(60), "{:?}", began.elapsed());
        tokio::time::timeout(Duration::from_secs(20), receiving).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_address_belongs_to_one_session_and_is_heard_by_rtcp_alone() {
        let pair = Pair::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = client.local_addr().unwrap();
        let to = pair.destination(at.ip(), at.ip(), (9, at.port())).unwrap();
        let again = pair.destination(at.ip(), at.ip(), (9, 10)).err();
        assert_eq!(again, Some(Unreachable::Taken));
        let six = pair.destination(Ipv6Addr::LOCALHOST.into(), at.ip(), (9, 10)).err();
        assert_eq!(six, Some(Unreachable::Family));
        let listening = tokio::spawn({
            let pair = pair.clone();
            async move { pair.listen().await }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let rtcp = ("127.0.0.1", pair.ports().1);
        client.send_to(b"no RTCP", rtcp).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(to.silence() >= Duration::from_millis(300));
        let report = [0x80, 201, 0, 1, 0, 0, 0, 7];
        while to.silence() >= Duration::from_millis(300) {
            client.send_to(&report, rtcp).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        listening.abort();
        let _ = listening.await;
        drop(to);
        assert!(pair.readers().is_empty());
    }
}
