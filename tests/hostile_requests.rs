//! Ten thousand hostile requests while eight cameras record: none is answered with an error of ours, no picture is lost,
//! and a well-behaved client notices nothing.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::camera::{Camera, Mount, Options};
use common::{Daemon, config_head, free_address, rendered, until};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

const REQUESTS: usize = 10_000;
const AT_ONCE: usize = 96;
/// After so long without an answer none will come.
const SILENCE: Duration = Duration::from_millis(400);
/// More than the server lets one address have, all at once and slowly.
const SLOW: usize = 600;
/// Of 15 pictures a second: longer than all that is hostile takes.
const PICTURES: u32 = 675;
const MINUTE: Duration = Duration::from_secs(60);

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: usize) -> usize {
        (self.roll() % most as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..1 + self.below(most)).map(|_| self.roll() as u8).collect()
    }
}

const TRAVERSALS: [&str; 16] = [
    "/../../../../etc/passwd",
    "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/assets/%2e%2e/%2e%2e/state.db",
    "/assets/..\\..\\state.db",
    "/cam-0/..%2f..%2fstate.db",
    "/cam-0/sub/%2e%2e%2f%2e%2e%2findex.db",
    "/cam-0/%00",
    "/cam-0/seg-1.m4s%00.jpg",
    "/cam-0/seg-%2f%2fetc%2fpasswd.m4s",
    "//etc/passwd",
    "/%2fetc%2fpasswd",
    "/%ff%fe/index.m3u8",
    "/channels/..%2fcam-0/index.m3u8",
    "/list?path=../../etc",
    "/get?path=..%2fstate.db&start=2026-05-01T08:00:00Z&duration=10",
    "/api/v1/alerts/..%2f..%2fstate.db/snapshot.jpg",
];

const QUERIES: [&str; 12] = [
    "/list?path=%00",
    "/list?path=cam-0&start=-9999-01-01T00:00:00Z",
    "/list?path=cam-0&start=9999-12-31T23:59:59Z&end=9999-12-31T23:59:59Z",
    "/get?path=cam-0&start=2026-05-01T08:00:00Z&duration=1e308",
    "/get?path=cam-0&start=2026-05-01T08:00:00Z&duration=-0.0",
    "/get?path=cam-0&start=1000000-01-01T00:00:00Z&duration=1",
    "/api/v1/alerts?limit=18446744073709551616",
    "/api/v1/alerts?cursor=%27%3B+DROP+TABLE+alerts%3B--",
    "/api/v1/alerts?cursor=%f0%9f%92%a9&camera=%00",
    "/api/v1/detections?start=2026-05-02T00:00:00Z&end=2026-05-01T00:00:00Z",
    "/api/v1/alerts?start=2026-13-45T99:99:99Z",
    "/cam-0/index.m3u8?_HLS_msn=99999999999999999999&expires=9&signature=AAAA",
];

/// One request that no honest client sends, and the name of its kind.
fn http(dice: &mut Dice, token: &str) -> (&'static str, Vec<u8>) {
    let bearer =
        if dice.below(2) == 0 { format!("Authorization: Bearer {token}\r\n") } else { String::new() };
    let text = |kind, text: String| (kind, text.into_bytes());
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{bearer}\r\n");
    match dice.below(14) {
        0 | 1 => text("traversing", get(dice.pick(&TRAVERSALS))),
        2 => text("odd queries", get(dice.pick(&QUERIES))),
        3 => text("huge line", get(&format!("/{}", "a".repeat(1_000 + dice.below(100_000))))),
        4 => {
            let name = "b".repeat(1 + dice.below(40_000));
            text("huge header", format!("GET / HTTP/1.1\r\nHost: x\r\n{name}: {name}\r\n\r\n"))
        }
        5 => text(
            "many headers",
            format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(90 + dice.below(3_000))),
        ),
        6 => {
            let length = dice.pick(&["99999999999999999999", "-1", "+5", "5, 6", "0x10", "70000", "1 1"]);
            text(
                "lengths",
                format!(
                    "POST /api/v1/session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                     Content-Length: {length}\r\n{bearer}\r\n{{}}"
                ),
            )
        }
        7 => {
            let inner = "GET /api/v1/cameras HTTP/1.1\r\nHost: x\r\n\r\n";
            let both = dice.pick(&[
                "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
                "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
                "Content-Length: 6\r\nContent-Length: 0\r\n",
                "Transfer-Encoding: identity, chunked\r\n",
                "Transfer-Encoding: xchunked\r\n",
                "Transfer-Encoding : chunked\r\n",
                "Transfer-Encoding:\x0bchunked\r\nContent-Length: 0\r\n",
                "Content-Length: 0\r\nX: y\r\n Transfer-Encoding: chunked\r\n",
            ]);
            text(
                "smuggling",
                format!("POST /api/v1/session HTTP/1.1\r\nHost: x\r\n{both}\r\n0\r\n\r\n{inner}"),
            )
        }
        8 => {
            let chunks = dice.pick(&[
                "FFFFFFFFFFFFFFFFF\r\nx\r\n",
                "-1\r\n\r\n",
                "5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
                "5\nhello\n0\n\n",
                "G\r\n",
                "4\r\nhello world, longer than it says\r\n0\r\n\r\n",
            ]);
            let head = "POST /api/v1/session HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n";
            text("chunks", format!("{head}Content-Type: application/json\r\n\r\n{chunks}"))
        }
        9 => {
            let odd = dice.pick(&[
                "GET / HTTP/1.1\nHost: x\n\n",
                "GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\tc\r\n\r\n",
                "GET\t/\tHTTP/1.1\r\nHost: x\r\n\r\n",
                "GET / HTTP/9.9\r\n\r\n",
                "GET / HTTP/0.9\r\n\r\n",
                "GET /\r\n\r\n",
                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: x\r\n\r\n",
                "GET http://169.254.169.254/latest/meta-data HTTP/1.1\r\nHost: x\r\n\r\n",
                "TRACE / HTTP/1.1\r\nHost: x\r\nCookie: liuta_session=a\r\n\r\n",
                "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\nX: \0\r\n\r\n",
                "\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
                "DESCRIBE rtsp://x/cam-0 RTSP/1.0\r\nCSeq: 1\r\n\r\n",
            ]);
            text("malformed", odd.to_owned())
        }
        10 => text(
            "pipelined",
            get(dice.pick(&TRAVERSALS)).replace("close", "keep-alive").repeat(2 + dice.below(60)),
        ),
        11 => {
            let method =
                dice.pick(&["PUT", "DELETE", "PATCH", "BREW", "get", "GETGETGETGETGETGETGETGETGETGET"]);
            let path = dice.pick(&["/", "/api/v1/cameras", "/cam-0/index.m3u8", "/api/v1/alerts/01A"]);
            text(
                "methods",
                format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{bearer}\r\n"),
            )
        }
        12 => {
            let credential =
                dice.pick(&["Bearer", "Bearer \u{ff}", "Basic ::::", "Digest a=,b=\"", "Negotiate x"]);
            let cookie = format!("liuta_session={}", "c".repeat(dice.below(5_000)));
            text(
                "credentials",
                format!(
                    "GET /api/v1/alerts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                     Authorization: {credential}\r\nCookie: {cookie}\r\n\r\n"
                ),
            )
        }
        _ => ("noise", dice.bytes(3_000)),
    }
}

fn rtsp(dice: &mut Dice) -> (&'static str, Vec<u8>) {
    let text = |kind, text: String| (kind, text.into_bytes());
    match dice.below(10) {
        0 => {
            let path = dice.pick(&[
                "rtsp://x/../../etc/passwd",
                "rtsp://x/..%2f..%2fstate.db",
                "rtsp://x/cam-0%00",
                "rtsp://169.254.169.254/latest",
                "/\\..\\state.db",
                "*",
                "rtsp://",
                "://///trackID=trackID=99999999999999999999",
            ]);
            let method = dice.pick(&["DESCRIBE", "SETUP", "PLAY", "ANNOUNCE", "RECORD"]);
            text("RTSP paths", format!("{method} {path} RTSP/1.0\r\nCSeq: 1\r\n\r\n"))
        }
        1 => text(
            "RTSP huge",
            format!("DESCRIBE rtsp://x/{} RTSP/1.0\r\n\r\n", "a".repeat(dice.below(60_000))),
        ),
        2 => {
            let headers = "A: b\r\n".repeat(60 + dice.below(2_000));
            text("RTSP headers", format!("OPTIONS * RTSP/1.0\r\nCSeq: {}\r\n{headers}\r\n", "9".repeat(300)))
        }
        3 => {
            let length = dice.pick(&["-1", "99999999999999999999", "65537", "4294967295", "x"]);
            text("RTSP lengths", format!("SET_PARAMETER * RTSP/1.0\r\nContent-Length: {length}\r\n\r\nabc"))
        }
        4 => text("RTSP pipelined", "OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n".repeat(1 + dice.below(400))),
        5 => {
            let transport = dice.pick(&[
                "RTP/AVP/TCP;interleaved=255-256",
                "RTP/AVP/TCP;interleaved=-1--1",
                "RTP/AVP;unicast;client_port=1-2;destination=169.254.169.254",
                "RTP/AVP/TCP;interleaved=0-0,,,;;==",
                "RAW/RAW/UDP",
            ]);
            let request = format!(
                "SETUP rtsp://x/cam-0/trackID=0 RTSP/1.0\r\nCSeq: 2\r\nTransport: {transport}\r\n\r\n"
            );
            let play =
                "PLAY rtsp://x/cam-0 RTSP/1.0\r\nCSeq: 3\r\nRange: npt=nan-inf\r\nSession: ../..\r\n\r\n";
            text("RTSP sessions", request + play)
        }
        6 => {
            let mut frames = b"$\x00\xff\xff".to_vec();
            frames.extend(dice.bytes(500));
            ("RTSP frames", frames)
        }
        7 => {
            let credential =
                dice.pick(&["Basic ====", "Basic dG9rZW4=", "Digest username=\"", "Bearer \u{1}"]);
            let request =
                format!("DESCRIBE rtsp://x/cam-0 RTSP/1.0\r\nCSeq: 1\r\nAuthorization: {credential}\r\n\r\n");
            text("RTSP credentials", request.repeat(1 + dice.below(20)))
        }
        8 => text(
            "RTSP malformed",
            dice.pick(&[
                "GET / HTTP/1.1\r\n\r\n",
                "OPTIONS * RTSP/2.0\r\n\r\n",
                "OPTIONS\r\n\r\n",
                "OPTIONS * RTSP/1.0\r\n: :\r\n\0\r\n\r\n",
                "options * rtsp/1.0\r\n\r\n",
                "\n\n\n\n",
            ])
            .to_owned(),
        ),
        _ => ("RTSP noise", dice.bytes(3_000)),
    }
}

/// What is no handshake, or one that goes wrong.
fn tls(dice: &mut Dice) -> (&'static str, Vec<u8>) {
    let mut hello = vec![22, 3, 1];
    match dice.below(5) {
        0 => hello.extend([0xff, 0xff, 1, 0, 0, 0]),
        1 => hello.extend([0, 0]),
        2 => hello.extend([0, 4, 1, 0xff, 0xff, 0xff]),
        3 => hello.extend(dice.bytes(600)),
        _ => return ("no TLS", dice.bytes(600)),
    }
    ("TLS garbage", hello)
}

/// Where a request goes.
#[derive(Clone, Copy)]
enum Way {
    Http,
    Rtsp,
    /// To the RTSPS port as it is.
    Rtsps,
    /// There inside TLS.
    InTls,
}

struct Targets {
    http: SocketAddr,
    rtsp: SocketAddr,
    rtsps: SocketAddr,
    token: String,
    connector: TlsConnector,
}

/// What came of the requests.
#[derive(Default)]
struct Outcome {
    /// By kind: requests, and the statuses that were answered.
    kinds: Mutex<BTreeMap<&'static str, BTreeMap<String, usize>>>,
    unanswered: AtomicUsize,
}

impl Outcome {
    fn note(&self, kind: &'static str, answer: &[u8]) {
        let text = String::from_utf8_lossy(answer);
        let mut statuses: Vec<_> = ["HTTP/1.1 ", "RTSP/1.0 "]
            .iter()
            .flat_map(|protocol| {
                text.match_indices(protocol).map(|(at, _)| text[at + 9..].chars().take(3).collect::<String>())
            })
            .collect();
        if statuses.is_empty() {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
            statuses.push("closed".to_owned());
        }
        let mut kinds = self.kinds.lock().unwrap();
        for status in statuses {
            *kinds.entry(kind).or_default().entry(status).or_default() += 1;
        }
    }
}

/// Sends it, and reads what comes until the server closes or says nothing for a while.
async fn talk(mut socket: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    // The server may hang up in the middle of what is too long, or stop reading.
    let _ = tokio::time::timeout(Duration::from_secs(2), socket.write_all(request)).await;
    let mut block = [0; 16_384];
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(SILENCE, socket.read(&mut block)).await {
        answer.extend_from_slice(&block[..count]);
        // Enough of a stream that was opened.
        if answer.len() > 1 << 20 {
            break;
        }
    }
    answer
}

async fn attack(number: usize, targets: &Targets, outcome: &Outcome) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (number as u64 + 1) << 20 | 1);
    for _ in 0..8 {
        dice.roll();
    }
    let way = [Way::Http, Way::Http, Way::Http, Way::Rtsp, Way::Rtsp, Way::Rtsps, Way::InTls][number % 7];
    let (at, (kind, request)) = match way {
        Way::Http => (
            targets.http,
            if number.is_multiple_of(50) { tls(&mut dice) } else { http(&mut dice, &targets.token) },
        ),
        Way::Rtsp => (targets.rtsp, if number % 50 == 3 { tls(&mut dice) } else { rtsp(&mut dice) }),
        Way::Rtsps => (targets.rtsps, tls(&mut dice)),
        Way::InTls => (targets.rtsps, rtsp(&mut dice)),
    };
    let Ok(socket) = TcpStream::connect(at).await else { return outcome.note(kind, b"") };
    let answer = match way {
        Way::InTls => {
            let name = ServerName::try_from("localhost").unwrap();
            match targets.connector.connect(name, socket).await {
                Ok(socket) => talk(socket, &request).await,
                Err(_) => Vec::new(),
            }
        }
        _ => talk(socket, &request).await,
    };
    outcome.note(kind, &answer);
}

/// Believes everybody.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn connector() -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// A header that never ends, a byte a second; how long the server took it.
async fn slow(at: SocketAddr) -> Duration {
    let began = Instant::now();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 4], 0))).unwrap();
    let Ok(mut socket) = socket.connect(at).await else { return began.elapsed() };
    let (mut reading, mut writing) = socket.split();
    let drip = async {
        for byte in b"GET / HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'a')) {
            if writing.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = drip => {}
        _ = reading.read_to_end(&mut answer) => {}
    }
    began.elapsed()
}

/// Plays HLS and asks for health, from an address of its own, until the others are done; how often it was served.
async fn well_behaved(daemon: String, done: Arc<AtomicUsize>) -> (usize, Duration) {
    let client = reqwest::Client::builder()
        .local_address(std::net::IpAddr::from([127, 0, 0, 2]))
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap();
    let (mut served, mut slowest) = (0, Duration::ZERO);
    while done.load(Ordering::Relaxed) < REQUESTS {
        let began = Instant::now();
        let playlist = client.get(format!("{daemon}/cam-1/index.m3u8")).send().await.unwrap();
        assert_eq!(playlist.status(), 200);
        let text = playlist.text().await.unwrap();
        let newest = text.lines().rfind(|line| line.starts_with("seg-")).unwrap();
        let segment = client.get(format!("{daemon}/cam-1/{newest}")).send().await.unwrap();
        assert_eq!(segment.status(), 200);
        assert!(segment.bytes().await.unwrap().len() > 10_000);
        assert_eq!(client.get(format!("{daemon}/healthz")).send().await.unwrap().status(), 200);
        slowest = slowest.max(began.elapsed());
        served += 1;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    (served, slowest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_hostile_requests_cost_no_picture_and_no_other_client() {
    let names: Vec<String> = (0..8).map(|number| format!("cam-{number}")).collect();
    let clips = ["forest-1.mp4", "gate-1.mp4", "mine-1.mp4", "road-1.mp4"].map(rendered);
    let mounts: Vec<Mount> =
        names.iter().zip(clips.iter().cycle()).map(|(name, clip)| Mount::clip(name, clip)).collect();
    let camera = Camera::start_with(Options { pictures: Some(PICTURES), ..Options::default() }, &mounts);

    let folder = Arc::new(tempfile::tempdir().unwrap());
    let (http, rtsp, rtsps) = (free_address(), free_address(), free_address());
    // With rtsps_listen the box makes a certificate; HTTP stays plain on loopback.
    let mut config = config_head(folder.path(), http, rtsp)
        .replace("[auth]", &format!("rtsps_listen = \"{rtsps}\"\n[auth]"))
        + "[vision]\nenabled = false\n";
    for name in &names {
        config += &format!("[cameras.{name}]\nurl = \"{}\"\n", camera.url(name));
    }
    std::fs::write(folder.path().join("liuta.toml"), config).unwrap();
    let mut daemon = Daemon::start_in(folder, http, rtsp, &[]).await;
    for name in &names {
        let label = format!("camera=\"{name}\"");
        daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &[&label], 45.0).await;
    }
    let (token, before) = (daemon.token_of("admin", &[]), daemon.memory());

    let targets = Arc::new(Targets { http, rtsp, rtsps, token, connector: connector() });
    let outcome = Arc::new(Outcome::default());
    let done = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let client = tokio::spawn(well_behaved(daemon.url(""), done.clone()));
    let mut slow_ones = JoinSet::new();
    for _ in 0..SLOW {
        slow_ones.spawn(slow(http));
    }
    let player = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-rtsp_transport", "tcp", "-i", &format!("rtsp://{rtsp}/cam-2"), "-t", "15"])
        .args(["-c", "copy", "-f", "framemd5", "-"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut attackers = JoinSet::new();
    let next = Arc::new(AtomicUsize::new(0));
    for _ in 0..AT_ONCE {
        let (targets, outcome, next, done) = (targets.clone(), outcome.clone(), next.clone(), done.clone());
        attackers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= REQUESTS {
                    break;
                }
                attack(number, &targets, &outcome).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while let Some(ended) = attackers.join_next().await {
        ended.unwrap();
    }
    let took = began.elapsed();
    let over = names.iter().any(|name| camera.has_sent(name));
    assert!(!over, "the requests took {took:?}, and the cameras were done before them");
    let (served, slowest) = client.await.unwrap();
    let kinds = outcome.kinds.lock().unwrap().clone();
    println!(
        "{REQUESTS} requests in {took:?}; a client was served {served} times, at the slowest in {slowest:?}"
    );
    for (kind, statuses) in &kinds {
        println!("{kind:>18}: {statuses:?}");
    }

    // RFC 2326 has numbers from 500 on for what a client must not ask.
    for (kind, statuses) in &kinds {
        for status in statuses.keys().filter(|status| status.starts_with('5')) {
            let asked_for = kind.starts_with("RTSP") && ["501", "505", "551"].contains(&status.as_str());
            assert!(asked_for, "{kind} was answered with {status}");
        }
    }
    assert!(kinds["traversing"].keys().all(|status| status.starts_with('4') || status == "closed"));
    assert!(served >= 20 && slowest < Duration::from_secs(5), "{served} times, {slowest:?}");
    assert!(daemon.memory() < before + (200 << 20), "{} bytes, {before} before", daemon.memory());
    let refused = ["listener=\"http\"", "cause=\"address\""];
    daemon.until_metric(MINUTE, "liuta_connections_refused_total", &refused, 1.0).await;
    assert!(daemon.log().matches("too many connections").count() <= 2, "an address is named once a minute");
    assert!(daemon.log().lines().count() < 100, "who is not let in must not fill the log");
    let played = player.wait_with_output().unwrap();
    let played =
        String::from_utf8_lossy(&played.stdout).lines().filter(|line| !line.starts_with('#')).count();
    assert!(played >= 220, "{played} pictures of 15 s were played");

    until(2 * MINUTE, "the last picture", async || {
        names.iter().all(|name| camera.has_sent(name)).then_some(())
    })
    .await;
    // Well before the silence counts as a failure and the clip is asked for anew.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_, status) = daemon.terminate().await;
    assert!(status.success(), "{status}");
    drop(camera);
    for name in &names {
        assert_eq!(recorded_pictures(&daemon, name), u64::from(PICTURES), "{name}");
    }
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    while let Some(held) = slow_ones.join_next().await {
        let held = held.unwrap();
        assert!(held < Duration::from_secs(35), "a slow client was held for {held:?}");
    }
}

/// Pictures in all of a camera's files.
fn recorded_pictures(daemon: &Daemon, camera: &str) -> u64 {
    let days = std::fs::read_dir(daemon.data().join("recordings").join(camera)).unwrap().flatten();
    let files =
        days.flat_map(|day| std::fs::read_dir(day.path()).unwrap().flatten()).map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "mp4"));
    let counts = files.map(|file| {
        let mut ffprobe = std::process::Command::new("ffprobe");
        ffprobe.args(["-v", "error", "-count_packets", "-select_streams", "v:0"]);
        ffprobe.args(["-show_entries", "stream=nb_read_packets", "-of", "csv=p=0"]);
        common::run(ffprobe.arg(&file)).trim().trim_end_matches(',').parse::<u64>().unwrap()
    });
    counts.sum()
}
