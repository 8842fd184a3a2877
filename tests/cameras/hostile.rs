//! Hostile cameras: servers that send what no camera should, each flat out and for at most [`LIFE`] a connection.
//! And one that is merely locked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

pub const LIFE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// One header line without end.
    EndlessHeader,
    /// Header lines without end.
    EndlessHeaders,
    /// `Content-Length` of 4 GB, and the bytes.
    EndlessBody,
    /// Bytes of no protocol from the first on.
    Garbage,
    /// Connects and is silent.
    NeverAnswers,
    /// A valid answer, five bytes a second.
    SlowLoris,
    /// A description of random lines.
    MalformedSdp,
    /// A description that is valid, and promises absurd pictures.
    AbsurdSdp,
    /// Interleaved data on random channels with random contents.
    MalformedRtp,
    /// Valid RTP with random payloads.
    MalformedNal,
    /// A parameter set that tells a picture of 1048576 pixels a side, in a valid stream.
    AbsurdSize,
    /// A picture of the largest fragments there are that never ends.
    EndlessPicture,
    /// A picture of aggregated empty NAL units that never ends.
    EndlessNals,
    /// RTCP and nothing else.
    OnlyRtcp,
    /// Access units without a picture.
    OnlySei,
    /// Plays, then is silent.
    PlaysNothing,
}

impl Attack {
    pub const ALL: [Attack; 16] = [
        Attack::EndlessHeader,
        Attack::EndlessHeaders,
        Attack::EndlessBody,
        Attack::Garbage,
        Attack::NeverAnswers,
        Attack::SlowLoris,
        Attack::MalformedSdp,
        Attack::AbsurdSdp,
        Attack::MalformedRtp,
        Attack::MalformedNal,
        Attack::AbsurdSize,
        Attack::EndlessPicture,
        Attack::EndlessNals,
        Attack::OnlyRtcp,
        Attack::OnlySei,
        Attack::PlaysNothing,
    ];
}

/// Listens, and serves every connection with the attack until the runtime ends.
pub async fn serve(attack: Attack) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move { tokio::time::timeout(LIFE, attack.run(socket)).await });
        }
    });
    address
}

/// A camera that takes no password, counting how often one was tried.
pub async fn serve_refusing(tries: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (read, mut write) = socket.into_split();
            let (mut requests, tries) = (BufReader::new(read), tries.clone());
            tokio::spawn(async move {
                while let Ok(request) = request(&mut requests).await {
                    tries.fetch_add(usize::from(request.authorized), Ordering::Relaxed);
                    let answer = format!(
                        "RTSP/1.0 401 Unauthorized\r\nCSeq: {}\r\n\
                         WWW-Authenticate: Digest realm=\"x\", nonce=\"1\"\r\n\r\n",
                        request.cseq
                    );
                    let _ = write.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    address
}

const SPS: &str = "Z2QAKKzZQHgCJ+XARAAAAwAEAAADAMg8YMZY";
const PPS: &str = "aOvjyyLA";
/// An SPS of 1048576 pixels a side: 65536 macroblocks.
const ABSURD_SPS: [u8; 16] =
    [0x67, 0x42, 0xc0, 0x1e, 0xda, 0x00, 0x00, 0x40, 0x00, 0x40, 0x00, 0x10, 0x00, 0x19, 0x80, 0x80];

impl Attack {
    async fn run(self, socket: TcpStream) -> std::io::Result<()> {
        let (read, mut write) = socket.into_split();
        let mut requests = BufReader::new(read);
        match self {
            Attack::NeverAnswers => std::future::pending().await,
            Attack::Garbage => loop {
                write.write_all(&noise(1 << 16)).await?;
            },
            _ => {}
        }
        let cseq = request(&mut requests).await?.cseq;
        let head = format!("RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\n");
        match self {
            Attack::EndlessHeader => {
                write.write_all(format!("{head}X: ").as_bytes()).await?;
                endless(&mut write, b"x").await
            }
            Attack::EndlessHeaders => {
                write.write_all(head.as_bytes()).await?;
                endless(&mut write, b"A: b\r\n").await
            }
            Attack::EndlessBody => {
                let head =
                    format!("{head}Content-Type: application/sdp\r\nContent-Length: 4000000000\r\n\r\n");
                write.write_all(head.as_bytes()).await?;
                endless(&mut write, b"a=x\r\n").await
            }
            Attack::SlowLoris => {
                for byte in describe(cseq, &sdp("")).bytes() {
                    write.write_all(&[byte]).await?;
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Ok(())
            }
            Attack::MalformedSdp => {
                let lines: String = (0..200).map(|_| format!("{}\r\n", hex(&noise(20)))).collect();
                write.write_all(describe(cseq, &format!("v=0\r\nm=video\r\n{lines}")).as_bytes()).await?;
                std::future::pending().await
            }
            _ => {
                let extra = match self {
                    Attack::AbsurdSdp => {
                        format!("a=framerate:1e300\r\na=fmtp:96 {}\r\n", "x=y;".repeat(50_000))
                    }
                    _ => String::new(),
                };
                write.write_all(describe(cseq, &sdp(&extra)).as_bytes()).await?;
                let cseq = request(&mut requests).await?.cseq;
                let answer = format!(
                    "RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\nSession: 1\r\n\
                     Transport: RTP/AVP/TCP;unicast;interleaved=0-1;ssrc=00000001\r\n\r\n"
                );
                write.write_all(answer.as_bytes()).await?;
                let cseq = request(&mut requests).await?.cseq;
                let answer = format!("RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\nSession: 1\r\n\r\n");
                write.write_all(answer.as_bytes()).await?;
                self.play(&mut write).await
            }
        }
    }

    async fn play(self, write: &mut OwnedWriteHalf) -> std::io::Result<()> {
        let mut sequence = 0u16;
        loop {
            let block = match self {
                Attack::MalformedRtp => {
                    interleaved(rand::random(), &noise(usize::from(rand::random::<u16>())))
                }
                Attack::MalformedNal | Attack::AbsurdSdp => {
                    let mut payload = noise(1 + usize::from(rand::random::<u8>()));
                    // Every type of RFC 6184: single, STAP-A, STAP-B, MTAP, FU-A, FU-B.
                    payload[0] = [0x65, 0x78, 0x79, 0x7a, 0x7c, 0x7d][usize::from(rand::random::<u8>()) % 6];
                    rtp(&mut sequence, rand::random(), rand::random(), &payload)
                }
                Attack::AbsurdSize => {
                    let mut picture = rtp(&mut sequence, 9000, false, &ABSURD_SPS);
                    picture.extend(rtp(&mut sequence, 9000, false, &[0x68, 0xce, 0x38, 0x80]));
                    picture.extend(rtp(&mut sequence, 9000, true, &[0x65, 0x88, 0x84, 0x00]));
                    picture
                }
                Attack::EndlessPicture => {
                    let mut payload = vec![1u8; 65_000];
                    payload[0] = 0x7c;
                    payload[1] = if sequence == 0 { 0x85 } else { 0x05 };
                    rtp(&mut sequence, 9000, false, &payload)
                }
                Attack::EndlessNals => {
                    rtp(&mut sequence, 9000, false, &[&[0x78][..], &[0, 1, 6].repeat(400)].concat())
                }
                Attack::OnlyRtcp => {
                    let mut report = vec![0x80, 200, 0, 6];
                    report.extend([0; 24]);
                    interleaved(1, &report)
                }
                Attack::OnlySei => {
                    let time = u32::from(sequence) * 3_600;
                    rtp(&mut sequence, time, true, &[6, 5, 1, 0x55, 0x80])
                }
                _ => std::future::pending().await,
            };
            write.write_all(&block).await?;
        }
    }
}

struct Request {
    cseq: String,
    authorized: bool,
}

async fn request(requests: &mut BufReader<OwnedReadHalf>) -> std::io::Result<Request> {
    let mut request = Request { cseq: String::new(), authorized: false };
    loop {
        let mut line = String::new();
        if requests.take(4096).read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        request.authorized |= line.starts_with("Authorization: ");
        if let Some(value) = line.trim().strip_prefix("CSeq: ") {
            request.cseq = value.to_owned();
        }
        if line == "\r\n" {
            return Ok(request);
        }
    }
}

fn sdp(extra: &str) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
         a=fmtp:96 packetization-mode=1;sprop-parameter-sets={SPS},{PPS}\r\n{extra}a=control:track\r\n"
    )
}

fn describe(cseq: String, sdp: &str) -> String {
    let length = sdp.len();
    format!(
        "RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\nContent-Type: application/sdp\r\nContent-Length: {length}\r\n\r\n{sdp}"
    )
}

async fn endless(write: &mut OwnedWriteHalf, what: &[u8]) -> std::io::Result<()> {
    let block = what.repeat((1 << 16) / what.len());
    loop {
        write.write_all(&block).await?;
    }
}

fn interleaved(channel: u8, data: &[u8]) -> Vec<u8> {
    let [high, low] = (data.len() as u16).to_be_bytes();
    [&[b'$', channel, high, low][..], data].concat()
}

fn rtp(sequence: &mut u16, time: u32, marker: bool, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, 96 | u8::from(marker) << 7];
    packet.extend(sequence.to_be_bytes());
    packet.extend(time.to_be_bytes());
    packet.extend(1u32.to_be_bytes());
    packet.extend(payload);
    *sequence = sequence.wrapping_add(1);
    interleaved(0, &packet)
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|_| rand::random()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
