//! Somebody guesses, from many addresses, and as fast as they can: the right person gets in, the box's memory stays
//! what it is, and the log names who it was.

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use common::people::{DEAD_CAMERAS, PASSWORD, closed, person};
use common::{Daemon, until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

const MIB: u64 = 1 << 20;

/// What two hashes at once take.
const HASHING: u64 = 2 * 19 * MIB;

/// What else comes and goes: connections, threads, the database's pages.
const MARGIN: u64 = 24 * MIB;

/// One request from an address of our choice: the whole answer.
async fn ask(from: Ipv4Addr, to: SocketAddr, request: &str) -> std::io::Result<String> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((IpAddr::from(from), 0).into())?;
    let mut stream = socket.connect(to).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 4096];
    let read = stream.read(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

/// The status, and how long to wait.
async fn sign_in(from: Ipv4Addr, to: SocketAddr, name: &str, password: &str) -> (u16, Option<Duration>) {
    let body = json!({ "name": name, "password": password }).to_string();
    let request = format!(
        "POST /api/v1/session HTTP/1.1\r\nHost: {to}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = ask(from, to, &request).await.unwrap_or_default().to_ascii_lowercase();
    let wait = answer.split("retry-after: ").nth(1).and_then(|rest| rest.split('\r').next()?.parse().ok());
    (status(&answer), wait.map(Duration::from_secs))
}

/// Guesses until it is dropped, each time from an address that was never seen.
struct Guessers {
    over: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
}

impl Guessers {
    fn start(at_once: usize, to: SocketAddr, name: Option<&'static str>) -> Guessers {
        static ADDRESSES: AtomicU32 = AtomicU32::new(0x7f10_0000);
        let guessers = Guessers { over: Arc::default(), made: Arc::default() };
        for _ in 0..at_once {
            let (over, made) = (guessers.over.clone(), guessers.made.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let address = ADDRESSES.fetch_add(1, Ordering::Relaxed);
                    let own = format!("name-{address}");
                    sign_in(address.into(), to, name.unwrap_or(&own), "wrong password").await;
                    made.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        guessers
    }

    async fn under_way(&self) {
        until(Duration::from_secs(20), "guesses", async || {
            (self.made.load(Ordering::Relaxed) > 60).then_some(())
        })
        .await;
    }
}

impl Drop for Guessers {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

async fn daemon_with(people: &[&str]) -> Daemon {
    let daemon = closed(DEAD_CAMERAS, &[]).await;
    for name in people {
        person(&daemon, name, "viewer", &[]);
    }
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_at_an_account_does_not_keep_its_owner_out() {
    let daemon = daemon_with(&["otto"]).await;
    let guessers = Guessers::start(6, daemon.http, Some("otto"));
    guessers.under_way().await;
    for n in 1..=3 {
        // Each time from where nobody has signed in before, and doing as it is told.
        let (home, began) = (Ipv4Addr::new(127, 9, 9, n), Instant::now());
        loop {
            let (status, wait) = sign_in(home, daemon.http, "otto", PASSWORD).await;
            if status == 200 {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "otto is kept out: {status}, {wait:?}");
            tokio::time::sleep(wait.unwrap_or(Duration::from_secs(1))).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_at_everybody_keeps_nobody_out() {
    let daemon = daemon_with(&["vera"]).await;
    let guessers = Guessers::start(40, daemon.http, None);
    guessers.under_way().await;
    let strange = |n: u8| Ipv4Addr::new(127, 9, 8, n);
    for n in 0..10 {
        let began = Instant::now();
        assert_eq!(sign_in(strange(n), daemon.http, "vera", PASSWORD).await.0, 200, "try {n}");
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    }
    // From where she signed in before she comes first: two places hash already, and one of them is next.
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(sign_in(strange(1), daemon.http, "vera", PASSWORD).await.0, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(guessers.made.load(Ordering::Relaxed) > 100, "the guessers were at it all the while");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_for_hashing_is_bounded_and_given_back() {
    let daemon = daemon_with(&["otto"]).await;
    let home = Ipv4Addr::new(127, 9, 9, 9);
    let before = daemon.memory();
    for _ in 0..100 {
        assert_eq!(sign_in(home, daemon.http, "otto", PASSWORD).await.0, 200);
    }
    let in_sequence = daemon.memory();
    assert!(in_sequence < before + HASHING + MARGIN, "{} → {} MiB", before / MIB, in_sequence / MIB);
    let guessers = Guessers::start(64, daemon.http, None);
    let mut peak = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(6) {
        peak = peak.max(daemon.memory());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(guessers.made.load(Ordering::Relaxed) > 64);
    drop(guessers);
    assert!(peak < before + HASHING + MARGIN, "{} → {} MiB", before / MIB, peak / MIB);
    until(Duration::from_secs(10), "the memory comes back", async || {
        (daemon.memory() < before + MARGIN).then_some(())
    })
    .await;
    println!("{} MiB, {} in sequence, {} at most", before / MIB, in_sequence / MIB, peak / MIB);
}

/// DESCRIBE of a path that is not there: 404 for who may know that.
async fn describe(from: Ipv4Addr, daemon: &Daemon, user: &str, key: &str) -> u16 {
    let to = daemon.rtsp;
    let shown = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{key}"));
    let request =
        format!("DESCRIBE rtsp://{to}/nothing RTSP/1.0\r\nCSeq: 1\r\nAuthorization: Basic {shown}\r\n\r\n");
    status(&ask(from, to, &request).await.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_of_players_are_limited_and_right_ones_are_not() {
    let daemon = closed(DEAD_CAMERAS, &[]).await;
    let key = person(&daemon, "otto", "viewer", &[]);
    let (home, elsewhere) = (Ipv4Addr::new(127, 9, 7, 1), Ipv4Addr::new(127, 9, 7, 2));
    assert_eq!(describe(home, &daemon, "otto", &key).await, 404);
    let began = Instant::now();
    let (mut judged, mut refused) = (0, 0);
    for n in 0..300 {
        match describe(home, &daemon, ["otto", "vera"][n % 2], "lk_wrong").await {
            401 => judged += 1,
            429 => refused += 1,
            other => panic!("{other}"),
        }
        if n % 30 == 29 {
            assert_eq!(describe(home, &daemon, "otto", &key).await, 404, "a player that comes back");
        }
    }
    let most = 10 + began.elapsed().as_millis() as u64 / 100;
    assert!(judged >= 9 && judged <= most && refused > 0, "{judged} of at most {most}, {refused}");
    assert_eq!(describe(elsewhere, &daemon, "otto", &key).await, 404);
    // A recorder with an old key, which tries again each second, and a new player behind the same address.
    assert_eq!(sign_in(home, daemon.http, "otto", PASSWORD).await.0, 200, "people are not concerned");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let new = person(&daemon, "vera", "viewer", &[]);
    assert_eq!(describe(home, &daemon, "otto", "lk_wrong").await, 401);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(describe(home, &daemon, "vera", &new).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_who_failed_and_no_secret() {
    let daemon = daemon_with(&["otto"]).await;
    let from = Ipv4Addr::new(127, 9, 6, 1);
    assert_eq!(sign_in(from, daemon.http, "otto", "wrong password").await.0, 401);
    assert_eq!(sign_in(from, daemon.http, "typed-too\nearly", "wrong password").await.0, 401);
    assert_eq!(describe(from, &daemon, "otto", "lk_wrong").await, 401);
    let told = |line: &str| daemon.log().matches(line).count();
    until(Duration::from_secs(5), "three lines", async || {
        let all = told("sign-in failed from 127.9.6.1 for \"otto\": wrong password") == 1
            && told("sign-in failed from 127.9.6.1 for \"unknown\": wrong password") == 1
            && told("sign-in failed from 127.9.6.1 for \"otto\": RTSP") == 1;
        all.then_some(())
    })
    .await;
    let log = daemon.log();
    assert!(!log.contains("early") && !log.contains("lk_wrong") && !log.contains("password: wrong"));
    for _ in 0..60 {
        describe(from, &daemon, "otto", "lk_wrong").await;
    }
    assert!(told("sign-in failed from 127.9.6.1") <= 20);
}
