//! Encryption as real clients see it: curl, OpenSSL and ffmpeg against the real binary, with certificates that are
//! configured, made, renewed and wrong.

mod common;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::camera::{Camera, Mount};
use common::certificate::Authority;
use common::{Daemon, free_address, rendered, run, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MINUTE: Duration = Duration::from_secs(60);

struct Ports {
    http: SocketAddr,
    rtsp: SocketAddr,
    rtsps: SocketAddr,
}

impl Ports {
    fn new() -> Ports {
        Ports { http: free_address(), rtsp: free_address(), rtsps: free_address() }
    }
}

/// `api` stands in `[api]` after its address, whose IP address is `ip`.
fn config(folder: &Path, ports: &Ports, ip: &str, api: &str, sections: &str) -> String {
    format!(
        "data = {data:?}\n[box]\nid = \"edge-1\"\n\
         [api]\nlisten = \"{ip}:{http}\"\n{api}\n\
         [rtsp]\nlisten = \"{rtsp}\"\nrtsps_listen = \"{rtsps}\"\n\
         [auth]\nanonymous = \"viewer\"\n[vision]\nenabled = false\n{sections}",
        data = folder.join("data"),
        http = ports.http.port(),
        rtsp = ports.rtsp,
        rtsps = ports.rtsps,
    )
}

async fn start(folder: &Arc<tempfile::TempDir>, ports: &Ports, text: &str) -> Daemon {
    std::fs::write(folder.path().join("liuta.toml"), text).unwrap();
    Daemon::start_in(folder.clone(), ports.http, ports.rtsp, &[]).await
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// The SHA-256 of the certificate that OpenSSL is shown, and all it says.
fn shown(at: SocketAddr, options: &[&str]) -> (String, String) {
    let hello = output(
        Command::new("openssl").args(["s_client", "-connect", &at.to_string(), "-showcerts"]).args(options),
    );
    let said = String::from_utf8_lossy(&hello.stdout).into_owned() + &String::from_utf8_lossy(&hello.stderr);
    let begin = said.find("-----BEGIN CERTIFICATE-----");
    let end = said.find("-----END CERTIFICATE-----").map(|at| at + 26);
    let Some(pem) = begin.zip(end).and_then(|(begin, end)| said.get(begin..end)) else {
        return (String::new(), said);
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let printed = run(Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(file.path()));
    let fingerprint = printed.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
    (fingerprint, said)
}

/// curl's whole answer, headers first; empty where it did not come to one.
fn curl(arguments: &[&str]) -> String {
    let answer = output(Command::new("curl").args(["-s", "-i", "-m", "20"]).args(arguments));
    String::from_utf8_lossy(&answer.stdout).into_owned()
}

/// Pictures that ffmpeg decodes within `seconds` of the stream.
fn played(arguments: &[&str], seconds: u32) -> usize {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error"]).args(arguments).args(["-t", &seconds.to_string()]);
    let (hashes, said) = common::strict(ffmpeg.args(["-an", "-f", "framemd5", "-"]));
    assert_eq!(said, "", "{arguments:?}");
    hashes.lines().filter(|line| !line.starts_with('#')).count()
}

fn gate() -> (Camera, String) {
    let camera = Camera::start(&[Mount::clip("gate", &rendered("gate-1.mp4"))]);
    let section = format!("[cameras.gate]\nurl = \"{}\"\n", camera.url("gate"));
    (camera, section)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_ones_own_serves_https_and_rtsps_and_is_renewed_while_clients_play() {
    let (_camera, section) = gate();
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let ports = Ports::new();
    let authority = Authority::new();
    let believed = folder.path().join("ca.pem");
    std::fs::write(&believed, &authority.pem).unwrap();
    let issued = authority.issue(folder.path(), "served", 2090);
    let tls = format!("tls = {}", issued.inline());
    let mut daemon =
        start(&folder, &ports, &config(folder.path(), &ports, "127.0.0.1", &tls, &section)).await;
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &["camera=\"gate\""], 60.0).await;

    let healthz = daemon.url("/healthz");
    assert!(healthz.starts_with("https://"));
    let answer = curl(&["--cacert", believed.to_str().unwrap(), &healthz]);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.to_lowercase().contains("strict-transport-security: max-age=31536000"), "{answer}");
    assert_eq!(curl(&[&healthz]), "", "an authority that nobody knows is believed by nobody");
    let plain = curl(&[&healthz.replace("https", "http")]);
    assert!(plain.starts_with("HTTP/1.1 400") && plain.ends_with("write https://...\n"), "{plain}");
    for (version, spoken) in [("-tls1_1", false), ("-tls1_2", true), ("-tls1_3", true)] {
        let (fingerprint, said) = shown(ports.http, &[version, "-alpn", "h2,http/1.1"]);
        assert_eq!(!fingerprint.is_empty(), spoken, "{version}: {said}");
        assert_eq!(said.contains("ALPN protocol: http/1.1"), spoken, "{version}: {said}");
    }
    assert_eq!(shown(ports.http, &[]).0, shown(ports.rtsps, &[]).0, "one certificate for both");

    let rtsps = format!("rtsps://{}/gate", ports.rtsps);
    let pictures = played(&["-rtsp_transport", "tcp", "-i", &rtsps], 3);
    assert!(pictures >= 40, "{pictures} of three seconds at 15 a second");
    let pictures = played(&["-tls_verify", "0", "-i", &daemon.url("/gate/index.m3u8")], 3);
    assert!(pictures >= 40, "{pictures}");
    let cameras = daemon.json("/api/v1/cameras").await;
    assert_eq!(cameras["items"][0]["addresses"]["rtsps"], rtsps);
    assert!(daemon.metric("liuta_certificate_expiry_timestamp_seconds", &[]).await > 3.8e9);

    // A client that plays through all that follows.
    let mut player = Command::new("ffmpeg")
        .args(["-v", "error", "-rtsp_transport", "tcp", "-i", &rtsps, "-t", "25"])
        .args(["-c", "copy", "-f", "null", "-"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    daemon.until_metric(MINUTE, "liuta_relay_readers", &["protocol=\"rtsp\""], 1.0).await;
    let first = shown(ports.http, &[]).0;
    let second = authority.issue(folder.path(), "second", 2090);
    std::fs::copy(&second.cert, &issued.cert).unwrap();
    std::fs::copy(&second.key, &issued.key).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    let renewed = until(MINUTE, "the second certificate", async || {
        Some(shown(ports.http, &[]).0).filter(|now| *now != first)
    })
    .await;
    assert_eq!(shown(ports.rtsps, &[]).0, renewed);

    // Without a signal, and first without its key: the one before stays, and somebody is told.
    let third = authority.issue(folder.path(), "third", 2090);
    std::fs::copy(&third.cert, &issued.cert).unwrap();
    until(MINUTE, "an alarm", async || {
        let states = daemon.health().await["states"].clone();
        states["certificate"]["message"].as_str()?.contains("is not the key").then_some(())
    })
    .await;
    assert_eq!(shown(ports.http, &[]).0, renewed);
    std::fs::copy(&third.key, &issued.key).unwrap();
    until(MINUTE, "the third certificate", async || (shown(ports.http, &[]).0 != renewed).then_some(()))
        .await;
    assert_eq!(daemon.health().await["states"]["certificate"]["severity"], "ok");

    let left = until(MINUTE, "the player's end", async || player.try_wait().unwrap()).await;
    let mut said = String::new();
    std::io::Read::read_to_string(&mut player.stderr.take().unwrap(), &mut said).unwrap();
    assert!(left.success() && said.is_empty(), "{left}: {said}");
    assert!(!daemon.log().contains("panicked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn off_loopback_the_box_makes_its_own_certificate_once() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let ports = Ports::new();
    let text = config(folder.path(), &ports, "0.0.0.0", "", "");
    let mut daemon = start(&folder, &ports, &text).await;
    let made = daemon.data().join("tls/cert.pem");
    let mode = |file: &str| {
        std::fs::metadata(daemon.data().join("tls").join(file)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("key.pem"), mode("")), (0o600, 0o700));
    let (fingerprint, _) = shown(ports.http, &[]);
    assert_eq!(fingerprint.len(), 64);
    assert!(daemon.log().contains(&fingerprint), "people compare it with what a browser shows");
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{}/healthz", ports.http.port());
        let answer = curl(&["--cacert", made.to_str().unwrap(), &url]);
        assert!(answer.starts_with("HTTP/1.1 200"), "{host}: {answer}");
        assert!(!answer.to_lowercase().contains("strict-transport-security"), "{answer}");
    }
    // The session's cookie is one that browsers take from this host alone, and send encrypted.
    let session = format!("https://127.0.0.1:{}/api/v1/session", ports.http.port());
    let body = format!("{{\"token\":\"{}\"}}", daemon.token_of("viewer", &[]));
    let ca = ["--cacert", made.to_str().unwrap()];
    let json = ["-H", "Content-Type: application/json", "-d", &body, &session];
    let signed_in = curl(&[&ca[..], &json].concat());
    let cookie = signed_in.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect(&signed_in);
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
    let value = cookie.strip_prefix("__Host-liuta=").and_then(|rest| rest.split(';').next()).expect(cookie);
    for (name, known) in [("__Host-liuta", true), ("liuta_session", false)] {
        let sent = format!("Cookie: {name}={value}");
        let told = curl(&[&ca[..], &["-H", &sent, &session]].concat());
        assert_eq!(told.contains("\"name\":\"token "), known, "{name}: {told}");
    }
    daemon.terminate().await;
    let daemon = daemon.restart().await;
    assert_eq!(shown(ports.http, &[]).0, fingerprint);
    assert_eq!(shown(ports.rtsps, &[]).0, fingerprint);
    drop(daemon);

    // In plain text only where somebody wrote that, and then not silently.
    let text = config(folder.path(), &ports, "0.0.0.0", "plain_http = true", "");
    let mut daemon = start(&folder, &ports, &text).await;
    assert!(daemon.url("").starts_with("http:"));
    let health = daemon.health().await;
    assert_eq!(health["states"]["api"]["severity"], "degraded");
    assert!(health["states"]["api"]["message"].as_str().unwrap().contains("plain_http"), "{health}");
    assert!(daemon.log().contains("passwords and tokens can be read on the way"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_finish_the_handshake_is_closed_and_costs_nobody_else() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let ports = Ports::new();
    let issued = Authority::new().issue(folder.path(), "served", 2090);
    let tls = format!("tls = {}", issued.inline());
    let mut daemon = start(&folder, &ports, &config(folder.path(), &ports, "127.0.0.1", &tls, "")).await;
    let mut silent = Vec::new();
    for at in [ports.http, ports.rtsps] {
        for begun in [&b""[..], &[22], &[22, 3, 1, 255, 255, 1, 0, 0, 0], &[22, 3, 1, 0, 5, 1]] {
            let mut socket = tokio::net::TcpStream::connect(at).await.unwrap();
            socket.write_all(begun).await.unwrap();
            silent.push(socket);
        }
    }
    assert_eq!(daemon.get("/healthz").await.status(), 200);
    for mut socket in silent {
        let mut rest = Vec::new();
        // A reset is as good an end.
        let closed = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "a client that says nothing was not closed");
    }
    let refused = ["cause=\"handshake\""];
    daemon.until_metric(MINUTE, "liuta_connections_refused_total", &refused, 8.0).await;
    assert!(!daemon.log().contains("panicked"));
}

#[test]
fn check_finds_what_is_wrong_with_certificates_and_addresses_at_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let good = authority.issue(folder.path(), "good", 2090);
    let other = authority.issue(folder.path(), "other", 2090);
    let expired = authority.issue(folder.path(), "expired", 2021);
    let file = folder.path().join("liuta.toml");
    let text = |cert: &Path, key: &Path| format!("[api]\ntls = {{ cert = {cert:?}, key = {key:?} }}\n");
    // Columns of the two paths.
    let (at_cert, at_key) = (|_: &Path| 16, |cert: &Path| 16 + format!("{cert:?}, key = ").len());
    let missing = folder.path().join("missing.pem");
    for (cert, key, column, what) in [
        (&good.cert, &other.key, at_key(&good.cert), "is not the key of the certificate"),
        (&missing, &good.key, at_cert(&missing), "No such file"),
        (&good.key, &good.key, at_cert(&good.key), "holds no certificate"),
        (&good.cert, &good.cert, at_key(&good.cert), "holds no private key"),
        (&expired.cert, &expired.key, at_cert(&expired.cert), "expired at 2021-12-31"),
    ] {
        std::fs::write(&file, text(cert, key)).unwrap();
        let checked = output(Command::new(env!("CARGO_BIN_EXE_liuta")).arg("check").arg(&file));
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert_eq!(checked.status.code(), Some(2), "{what}: {said}");
        assert!(
            said.starts_with(&format!("{}:2:{column}: ", file.display())) && said.contains(what),
            "{said}"
        );
    }
    std::fs::write(&file, text(&good.cert, &good.key)).unwrap();
    assert!(output(Command::new(env!("CARGO_BIN_EXE_liuta")).arg("check").arg(&file)).status.success());

    let addresses = "[network]\ncameras = [\"10.0.0.0/8\", \"nonsense\"]\n\
        [cameras.a]\nurl = \"rtsp://192.0.2.7/1\"\n[cameras.b]\nurl = \"rtsp://10.0.0.7/1\"\n\
        sub_url = \"rtsp://169.254.169.254/2\"\n\
        [dispatch.desk]\ntype = \"webhook\"\nurl = \"http://[fe80::1]/hook\"\n";
    std::fs::write(&file, addresses).unwrap();
    let checked = output(Command::new(env!("CARGO_BIN_EXE_liuta")).arg("check").arg(&file));
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(2));
    for expected in [
        ":2:11: cameras: \"nonsense\" is no network",
        ":4:7: url: 192.0.2.7 is outside the networks",
        ":7:11: sub_url: 169.254.169.254 is a cloud's metadata service",
        ":10:7: url: fe80::1 is a link-local address",
    ] {
        assert!(said.contains(expected), "{expected}\nnot in\n{said}");
    }
    assert_eq!(said.lines().count(), 4, "{said}");
}

/// A daemon's first duty is to record, so an old certificate does not keep it from starting.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_told_and_recording_begins() {
    let (_camera, section) = gate();
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let ports = Ports::new();
    let issued = Authority::new().issue(folder.path(), "old", 2021);
    let tls = format!("tls = {}", issued.inline());
    let mut daemon =
        start(&folder, &ports, &config(folder.path(), &ports, "127.0.0.1", &tls, &section)).await;
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &["camera=\"gate\""], 15.0).await;
    let state = daemon.health().await["states"]["certificate"].clone();
    assert!(state["message"].as_str().unwrap().contains("has expired"), "{state}");
}

/// Nor does a renewal that is half done.
#[tokio::test(flavor = "multi_thread")]
async fn for_a_pair_that_does_not_fit_the_boxs_own_certificate_stands_in() {
    let (_camera, section) = gate();
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let ports = Ports::new();
    let authority = Authority::new();
    let (issued, other) =
        (authority.issue(folder.path(), "served", 2090), authority.issue(folder.path(), "other", 2090));
    let key = std::fs::read(&issued.key).unwrap();
    std::fs::copy(&other.key, &issued.key).unwrap();
    let tls = format!("tls = {}", issued.inline());
    let mut daemon =
        start(&folder, &ports, &config(folder.path(), &ports, "127.0.0.1", &tls, &section)).await;
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &["camera=\"gate\""], 15.0).await;
    let state = daemon.health().await["states"]["certificate"].clone();
    let message = state["message"].as_str().unwrap();
    assert!(message.contains("is not the key") && message.contains("own certificate stands in"), "{state}");
    let own = daemon.data().join("tls/cert.pem");
    let answer = curl(&["--cacert", own.to_str().unwrap(), &daemon.url("/healthz")]);
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("strict-transport"), "{answer}");
    // Its key comes, and is served.
    std::fs::write(&issued.key, key).unwrap();
    let stand_in = shown(ports.http, &[]).0;
    until(MINUTE, "the configured certificate", async || {
        (shown(ports.http, &[]).0 != stand_in).then_some(())
    })
    .await;
    assert_eq!(daemon.health().await["states"]["certificate"]["severity"], "ok");
}

/// Not by another spelling, and not by a name that leads there.
#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_leads_to_the_box_itself_is_not_connected_to() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let section = format!(
        "[vision]\nenabled = false\n[cameras.short]\nurl = \"rtsp://127.1:{port}/x\"\n\
         [cameras.number]\nurl = \"rtsp://2130706433:{port}/x\"\n"
    );
    let mut daemon = Daemon::start(&section).await;
    until(MINUTE, "both refusals", async || {
        let states = daemon.health().await["states"].clone();
        let told = |camera: &str| {
            let message = states[format!("camera/{camera}")]["message"].as_str();
            message
                .is_some_and(|message| message.contains("is not connected to: 127.0.0.1 is this box itself"))
        };
        (told("short") && told("number")).then_some(())
    })
    .await;
    let came = tokio::time::timeout(Duration::from_secs(3), listener.accept()).await;
    assert!(came.is_err(), "it was connected to");
}
