//! The relay as real clients see it: ffmpeg, ffprobe, GStreamer and retina over RTSP, ffmpeg over HLS, and clients
//! that nobody wants.

#[path = "common/rtsp.rs"]
mod rtsp;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use jiff::Timestamp;
use liuta::access::Access;
use liuta::config::ReaderLimits;
use liuta::health::{Health, PathProtocol};
use liuta::live::{Directory, LiveStream, Next};
use liuta::media::cmaf::Packager;
use liuta::media::{AccessUnit, AudioCodec, AudioFrame, AudioParams, Feed, Sample, VideoParams, time};
use liuta::net::connections::Connections;
use liuta::net::listener::Listener;
use liuta::relay::hls;
use liuta::relay::rtsp::udp::Pair;
use liuta::relay::rtsp::{Server, Setup};
use liuta::simulate::{clip::Clip, play};
use rtsp::Client;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Long enough for a busy machine; nothing here takes it on an idle one.
const PATIENCE: Duration = Duration::from_secs(90);

/// Four seconds each, a key picture every one.
struct Clips {
    plain: PathBuf,
    with_sound: PathBuf,
    h265: PathBuf,
}

static CLIPS: LazyLock<Clips> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let render = |name: &str, options: &str| {
        let file = folder.join(name);
        let source = "-f lavfi -i testsrc2=s=320x240:r=25:d=4 -f lavfi -i sine=f=440:r=48000:d=4 -g 25 -pix_fmt yuv420p";
        let words = source.split(' ').chain(options.split(' '));
        let made =
            std::process::Command::new("ffmpeg").args(["-v", "error", "-y"]).args(words).arg(&file).status();
        assert!(made.unwrap().success(), "ffmpeg could not render {name}");
        file
    };
    Clips {
        plain: render("relay-plain.mp4", "-map 0 -c:v libx264 -bf 0 -sc_threshold 0"),
        with_sound: render(
            "relay-sound.mp4",
            "-map 0 -map 1 -c:v libx264 -bf 3 -sc_threshold 0 -c:a aac -ac 2",
        ),
        h265: render(
            "relay-h265.mp4",
            "-map 0 -c:v libx265 -x265-params log-level=error:keyint=25 -tag:v hvc1",
        ),
    }
});

struct Relay {
    address: SocketAddr,
    streams: Arc<Directory>,
    access: Access,
    health: Health,
    server: Server,
    feeding: Vec<JoinHandle<()>>,
}

impl Relay {
    async fn start(credentials: Option<(&str, &str)>) -> Relay {
        Relay::start_with(credentials, ReaderLimits::default()).await
    }

    async fn start_with(credentials: Option<(&str, &str)>, limits: ReaderLimits) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (streams, health) = (Arc::new(Directory::default()), Health::default());
        let credentials = credentials.map(|(user, password)| (user.to_owned(), password.to_owned()));
        let access = Access::simulated(credentials);
        let listener = Listener::new(listener, Connections::new("rtsp", health.clone()));
        let udp = Pair::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let server = Server::start(Setup {
            listeners: vec![listener],
            udp: Some(udp),
            streams: streams.clone(),
            archive: None,
            limits,
            access: access.clone(),
            health: health.clone(),
        });
        Relay { address, streams, access, health, server, feeding: Vec::new() }
    }

    fn camera(&self, path: &str) -> Arc<LiveStream> {
        let stream = LiveStream::new(path.into(), Feed::Main, 16 << 20);
        self.streams.insert(path, stream.clone());
        stream
    }

    fn clip(&mut self, path: &str, file: &Path) -> Arc<LiveStream> {
        let stream = self.camera(path);
        self.feeding.push(tokio::spawn(play(Clip::open(file).unwrap(), stream.clone())));
        stream
    }

    fn url(&self, path: &str) -> String {
        format!("rtsp://{}/{path}", self.address)
    }

    /// A client sees its connection end before the server has counted that.
    async fn until_readers(&self, path: &str, count: i64) {
        let counted = async {
            while self.readers(path) != count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, counted).await.expect("the readers are counted");
    }

    fn readers(&self, path: &str) -> i64 {
        self.health.metrics.relay_readers.get_or_create(&PathProtocol::new(path, "rtsp")).get()
    }

    async fn stop(self) {
        self.feeding.iter().for_each(JoinHandle::abort);
        timeout(PATIENCE, self.server.stop()).await.unwrap();
    }
}

async fn command(name: &str, arguments: &[&str]) -> Output {
    let running = Command::new(name).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    timeout(PATIENCE, running).await.unwrap_or_else(|_| panic!("{name} hangs: {arguments:?}")).unwrap()
}

/// Runs it and holds it to success without a word of complaint.
async fn quietly(name: &str, arguments: &[&str]) -> String {
    let output = command(name, arguments).await;
    // ffmpeg 5.1 takes the init segment anew with every reload of a live playlist, its own HLS muxer's too, and says
    // so; nothing that a server can do stops it.
    let usual = ["Found duplicated MOOV Atom. Skipped it", "Last message repeated"];
    let complaint = String::from_utf8_lossy(&output.stderr);
    let unusual = |line: &&str| !line.trim().is_empty() && !usual.iter().any(|known| line.contains(known));
    let complaint = complaint.lines().filter(unusual).collect::<Vec<_>>().join("\n");
    assert!(
        output.status.success() && complaint.is_empty(),
        "{name} {arguments:?}: {}\n{complaint}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}

async fn ffmpeg(url: &str, transport: &str, seconds: &str) -> String {
    let input = ["-v", "warning", "-nostdin", "-rtsp_transport", transport, "-i", url, "-t", seconds];
    quietly("ffmpeg", &[&input[..], &["-f", "null", "-progress", "-", "-"]].concat()).await
}

fn real_params() -> Arc<VideoParams> {
    Clip::open(&CLIPS.plain).unwrap().video
}

/// A picture that no decoder will see.
fn picture(params: &Arc<VideoParams>, run: u64, seq: u64, pts_90k: i64, bytes: usize) -> Sample {
    let is_rap = seq.is_multiple_of(25);
    let mut data = BytesMut::new();
    data.put_u32(bytes as u32);
    data.put_u8(if is_rap { 0x65 } else { 0x41 });
    data.put_bytes(seq as u8, bytes - 1);
    let (params, data) = (params.clone(), data.freeze());
    Sample::Video(Arc::new(AccessUnit { seq, run, pts_90k, dts_90k: pts_90k, is_rap, params, data }))
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_plays_every_kind_without_a_warning() {
    let mut relay = Relay::start(None).await;
    relay.clip("plain", &CLIPS.plain);
    relay.clip("sound/sub", &CLIPS.with_sound);
    relay.clip("h265", &CLIPS.h265);
    // Over the end of the clip, where it begins again.
    let urls = ["plain", "sound/sub", "h265"].map(|path| relay.url(path));
    let plays = urls.iter().flat_map(|url| ["tcp", "udp"].map(|transport| ffmpeg(url, transport, "7")));
    for progress in futures::future::join_all(plays).await {
        let frames: Vec<u32> =
            progress.lines().filter_map(|line| line.strip_prefix("frame=")?.trim().parse().ok()).collect();
        let frames = *frames.last().unwrap();
        assert!((170..=180).contains(&frames), "{frames} pictures in 7 s at 25 a second");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ffprobe_learns_everything_from_the_description() {
    let mut relay = Relay::start(None).await;
    relay.clip("sound", &CLIPS.with_sound);
    relay.clip("h265", &CLIPS.h265);
    let show = |url| async move {
        let entries = "stream=codec_name,width,height,sample_rate,channels";
        let options = ["-v", "warning", "-rtsp_transport", "tcp", "-show_entries", entries, "-of", "csv=p=0"];
        let url: String = url;
        quietly("ffprobe", &[&options[..], &[&url]].concat()).await
    };
    // A trailing slash and a query are some clients' habit.
    assert_eq!(show(relay.url("sound/?x=y")).await.trim(), "h264,320,240\naac,48000,2");
    assert_eq!(show(relay.url("h265/")).await.trim(), "hevc,320,240");
    relay.stop().await;
}

/// A camera with G.711: the clip's pictures, and silence in frames of 20 ms.
async fn talk(stream: Arc<LiveStream>, codec: AudioCodec) {
    let clip = Clip::open(&CLIPS.plain).unwrap();
    let params = Arc::new(AudioParams { codec, clock_rate: 8_000, channels: 1 });
    let epoch_90k = time::to_90k(Timestamp::now());
    let epoch = epoch_90k / 90 * 8;
    stream.announce_audio(Some(params.clone()));
    stream.set_online(true);
    let mut tick = tokio::time::interval(Duration::from_millis(40));
    for (seq, picture) in (0..).zip(clip.pictures.iter().cycle()) {
        tick.tick().await;
        let pts_90k = epoch_90k + seq as i64 * 3_600;
        let (video, data, is_rap) = (clip.video.clone(), picture.data.clone(), picture.is_rap);
        let unit = AccessUnit { seq, run: 1, pts_90k, dts_90k: pts_90k, is_rap, params: video, data };
        stream.push(Sample::Video(Arc::new(unit)));
        for half in 0..2 {
            let pts = epoch + (seq as i64 * 2 + half) * 160;
            let (params, data) = (params.clone(), Bytes::from_static(&[0xd5; 160]));
            stream.push(Sample::Audio(Arc::new(AudioFrame { run: 1, pts, duration: 160, params, data })));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ffprobe_sees_decode_times_rise_whatever_the_transport() {
    let mut relay = Relay::start(None).await;
    relay.clip("sound", &CLIPS.with_sound);
    relay.clip("h265", &CLIPS.h265);
    for (path, codec) in [("pcma", AudioCodec::Pcma), ("pcmu", AudioCodec::Pcmu)] {
        let stream = relay.camera(path);
        relay.feeding.push(tokio::spawn(talk(stream, codec)));
    }
    let probes = ["sound", "h265", "pcma", "pcmu"].into_iter().flat_map(|path| {
        ["tcp", "udp"].map(|transport| {
            let url = relay.url(path);
            async move {
                let options = "-v warning -read_intervals %+5 -of csv=p=0 -show_entries stream=codec_name:packet=stream_index,dts";
                let options: Vec<&str> = options.split(' ').chain(["-rtsp_transport", transport, &url]).collect();
                let out = quietly("ffprobe", &options).await;
                let mut times = [const { Vec::<i64>::new() }; 2];
                let mut codecs = Vec::new();
                // What ffprobe does not show of a packet's side data is an empty line.
                for line in out.lines().filter(|line| !line.is_empty()) {
                    let fields: Vec<&str> = line.trim_end_matches(',').split(',').collect();
                    match (fields[0].parse::<usize>(), fields.get(1).and_then(|dts| dts.parse().ok())) {
                        (Ok(stream), Some(dts)) => times[stream].push(dts),
                        (Err(_), _) => codecs.push(fields[0].to_owned()),
                        _ => {}
                    }
                }
                for times in &times {
                    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{path} by {transport}: {times:?}");
                }
                assert!(times[0].len() > 100, "{path} by {transport}: {} pictures", times[0].len());
                (path, codecs, times[1].len())
            }
        })
    });
    for (path, codecs, sounds) in futures::future::join_all(probes).await {
        let expected: &[&str] = match path {
            "sound" => &["h264", "aac"],
            "h265" => &["hevc"],
            "pcma" => &["h264", "pcm_alaw"],
            _ => &["h264", "pcm_mulaw"],
        };
        assert_eq!(codecs, expected, "{path}");
        assert_eq!(sounds > 100, expected.len() > 1, "{path}: {sounds} frames of sound");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gstreamer_decodes_pictures_and_sound() {
    let mut relay = Relay::start(None).await;
    relay.clip("sound", &CLIPS.with_sound);
    relay.clip("h265", &CLIPS.h265);
    for (protocol, path, chain) in ["tcp", "udp"].into_iter().flat_map(|protocol| {
        [
            ("sound", "rtph264depay ! h264parse ! avdec_h264"),
            ("sound", "rtpmp4gdepay ! aacparse ! avdec_aac"),
            ("h265", "rtph265depay ! h265parse ! avdec_h265"),
        ]
        .map(|(path, chain)| (protocol, path, chain))
    }) {
        let line = format!(
            "-q rtspsrc location={} protocols={protocol} ! {chain} ! identity eos-after=60 ! fakesink",
            relay.url(path)
        );
        let output = command("gst-launch-1.0", &line.split(' ').collect::<Vec<_>>()).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && !said.contains("WARN") && !said.contains("ERROR"),
            "{line}\n{said}"
        );
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retina_receives_every_byte_of_every_picture() {
    let mut relay = Relay::start(Some(("token", "s3cret"))).await;
    let udp = || retina::client::Transport::Udp(retina::client::UdpTransportOptions::default());
    for (path, file, transport) in [
        ("h264", &CLIPS.with_sound, retina::client::Transport::default()),
        ("h265", &CLIPS.h265, retina::client::Transport::default()),
        ("h264-udp", &CLIPS.with_sound, udp()),
        ("h265-udp", &CLIPS.h265, udp()),
    ] {
        relay.clip(path, file);
        let clip = Clip::open(file).unwrap();
        let options = retina::client::SessionOptions::default()
            .creds(Some(retina::client::Credentials { username: "token".into(), password: "s3cret".into() }));
        let url = relay.url(path).parse().unwrap();
        let received = async {
            let mut session = retina::client::Session::describe(url, options).await.unwrap();
            // The sound too: with several streams retina wants to know where the time of each begins.
            for stream in 0..session.streams().len() {
                let setup = retina::client::SetupOptions::default().transport(transport.clone());
                session.setup(stream, setup.frame_format(retina::codec::FrameFormat::MP4)).await.unwrap();
            }
            let played = session.play(retina::client::PlayOptions::default()).await.unwrap();
            let mut demuxed = played.demuxed().unwrap();
            let mut pictures: Vec<(i64, Bytes)> = Vec::new();
            while pictures.len() < 110 {
                if let retina::codec::CodecItem::VideoFrame(frame) = demuxed.next().await.unwrap().unwrap() {
                    assert_eq!(frame.loss(), 0);
                    pictures.push((frame.timestamp().elapsed(), frame.data().to_vec().into()));
                }
            }
            pictures
        };
        let received = timeout(PATIENCE, received).await.unwrap();
        // SEI and slices as pushed; what precedes them in a key picture is retina's to keep or strip.
        let sent: Vec<_> = clip
            .pictures
            .iter()
            .cycle()
            .skip_while(|p| !received[0].1.ends_with(&p.data))
            .take(110)
            .collect();
        for (at, ((_, got), sent)) in received.iter().zip(&sent).enumerate() {
            assert!(got.ends_with(&sent.data), "picture {at}: {} bytes of {}", got.len(), sent.data.len());
        }
        // Presentation times differ as the clip's do, over its end too.
        for (pair, sent) in received.windows(2).zip(sent.windows(2)) {
            let step = (sent[1].pts_90k - sent[0].pts_90k).rem_euclid(clip.duration_90k);
            assert_eq!((pair[1].0 - pair[0].0).rem_euclid(clip.duration_90k), step);
        }
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_signing_in_every_path_looks_alike() {
    let mut relay = Relay::start(Some(("token", "s3cret"))).await;
    relay.clip("cam", &CLIPS.plain);
    let mut client = Client::connect(relay.address).await;
    assert!(client.ask("OPTIONS *", "").await.contains("Public: OPTIONS, DESCRIBE, SETUP"));
    let mut answers = Vec::new();
    for path in ["cam", "nothing"] {
        for method in ["DESCRIBE", "SETUP"] {
            let transport = "Transport: RTP/AVP/TCP;interleaved=0-1\r\n";
            let answer = client.ask(&format!("{method} {}", relay.url(path)), transport).await;
            assert!(answer.starts_with("RTSP/1.0 401"), "{answer}");
            assert!(answer.contains("WWW-Authenticate: Basic realm=\"liuta\"\r\n"), "{answer}");
            answers.push(answer.lines().filter(|line| !line.starts_with("CSeq")).collect::<String>());
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
    let wrong = "Authorization: Basic dG9rZW46bm9wZQ==\r\n";
    for _ in 0..10 {
        assert!(
            client.ask(&format!("DESCRIBE {}", relay.url("cam")), wrong).await.starts_with("RTSP/1.0 401")
        );
    }
    assert!(client.rest().await.is_empty(), "guessing goes on for ever");
    let right = "authorization: Basic dG9rZW46czNjcmV0\r\n";
    let mut client = Client::connect(relay.address).await;
    let unknown = client.ask(&format!("DESCRIBE {}", relay.url("nothing")), right).await;
    assert!(unknown.starts_with("RTSP/1.0 404"), "{unknown}");
    for transport in ["tcp", "udp"] {
        ffmpeg(&format!("rtsp://token:s3cret@{}/cam", relay.address), transport, "1").await;
    }
    relay.stop().await;
}

/// RFC 7616 as its text has it; ffmpeg and GStreamer know only MD5.
#[tokio::test(flavor = "multi_thread")]
async fn digest_opens_with_sha_256_once_and_on_its_own_connection() {
    use sha2::{Digest, Sha256};
    let mut relay = Relay::start(Some(("admin", "p:w"))).await;
    relay.clip("cam", &CLIPS.plain);
    let url = relay.url("cam");
    let h = |text: String| Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let answer_to = |challenge: &str, uri: &str, count: u32| {
        let nonce = challenge.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap();
        let (ha1, ha2) = (h("admin:liuta:p:w".to_owned()), h(format!("DESCRIBE:{uri}")));
        let response = h(format!("{ha1}:{nonce}:{count:08x}:abc:auth:{ha2}"));
        format!(
            "Authorization: Digest username=\"admin\", realm=\"liuta\", nonce=\"{nonce}\", uri=\"{uri}\", \
             algorithm=SHA-256, qop=auth, nc={count:08x}, cnonce=\"abc\", response=\"{response}\"\r\n"
        )
    };
    let describe = format!("DESCRIBE {url}");
    let mut client = Client::connect(relay.address).await;
    let challenge = client.ask(&describe, "").await;
    let offered = challenge.lines().filter(|line| line.starts_with("WWW-Authenticate"));
    let offered: Vec<&str> = offered.map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(offered, ["Digest", "Digest", "Basic"]);
    for count in [1, 2, 7] {
        let answer = client.ask(&describe, &answer_to(&challenge, &url, count)).await;
        assert!(answer.starts_with("RTSP/1.0 200"), "{answer}");
    }
    let elsewhere = client.ask(&describe, &answer_to(&challenge, &relay.url("other"), 8)).await;
    assert!(elsewhere.starts_with("RTSP/1.0 401") && !elsewhere.contains("stale=true"), "{elsewhere}");
    let again = client.ask(&describe, &answer_to(&challenge, &url, 7)).await;
    assert!(again.starts_with("RTSP/1.0 401") && again.contains("stale=true"), "{again}");
    let fresh = client.ask(&describe, &answer_to(&again, &url, 1)).await;
    assert!(fresh.starts_with("RTSP/1.0 200"), "{fresh}");
    let mut other = Client::connect(relay.address).await;
    let overheard = other.ask(&describe, &answer_to(&again, &url, 2)).await;
    assert!(overheard.starts_with("RTSP/1.0 401") && overheard.contains("stale=true"), "{overheard}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_is_kept() {
    let relay = Relay::start(None).await;
    let url = relay.url("cam");
    let stream = relay.camera("cam");
    let mut client = Client::connect(relay.address).await;
    // A camera that has not sent anything is waited for; this one comes.
    let late = stream.clone();
    let params = real_params();
    let first = picture(&params, 1, 0, 900_000, 5_000);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        late.push(first);
    });
    let answer = client.ask(&format!("DESCRIBE {url}"), "").await;
    assert!(answer.contains("sprop-parameter-sets="), "{answer}");
    assert!(answer.contains(&format!("Content-Base: {url}/\r\n")), "{answer}");
    for unfit in
        ["RTP/AVP;multicast;port=5000-5001", "RTP/AVP;unicast;client_port=53-54", "RAW/RAW/UDP;unicast"]
    {
        let answer = client.ask(&format!("SETUP {url}/trackID=0"), &format!("Transport: {unfit}\r\n")).await;
        assert!(answer.starts_with("RTSP/1.0 461"), "{answer}");
    }
    let tcp = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n";
    assert!(client.ask(&format!("SETUP {url}/trackID=1"), tcp).await.starts_with("RTSP/1.0 404"));
    assert!(client.ask(&format!("PLAY {url}"), "Session: 1\r\n").await.starts_with("RTSP/1.0 454"));
    assert!(client.ask(&format!("ANNOUNCE {url}"), "").await.starts_with("RTSP/1.0 501"));
    assert!(
        client.ask(&format!("PLAY {url}"), "Require: onvif-replay\r\n").await.starts_with("RTSP/1.0 551")
    );

    // Channels of the client's choice.
    let answer = client.play(&url, "10-11").await;
    let (channel, report) = client.frame().await;
    assert_eq!((channel, report[1]), (11, 200), "a sender report comes first");
    let (channel, packet) = client.frame().await;
    assert_eq!(channel, 10);
    let number =
        |at: usize, length: usize| packet[at..at + length].iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
    assert!(answer.contains(&format!("seq={};rtptime={}", number(2, 2), number(4, 4))), "{answer}");
    assert_eq!(&packet[12..], &params.parameter_sets[0][..], "parameter sets precede the key picture");
    assert_eq!(relay.readers("cam"), 1);
    assert!(client.ask(&format!("GET_PARAMETER {url}"), "").await.starts_with("RTSP/1.0 200"));
    assert!(client.ask(&format!("PAUSE {url}"), "").await.starts_with("RTSP/1.0 200"));
    assert_eq!(relay.readers("cam"), 0);
    assert!(client.ask(&format!("PLAY {url}"), "").await.starts_with("RTSP/1.0 200"));
    assert!(client.ask(&format!("TEARDOWN {url}"), "").await.starts_with("RTSP/1.0 200"));
    assert_eq!(relay.readers("cam"), 0);

    // A removed camera says BYE and ends the connection.
    client.play(&url, "0-1").await;
    stream.close();
    let rest = client.rest().await;
    assert_eq!(rest[rest.len() - 7], 203, "{rest:?}");
    relay.stop().await;
}

/// What a reload changes reaches who plays already.
#[tokio::test(flavor = "multi_thread")]
async fn readers_go_with_their_permission_and_with_their_channel() {
    let relay = Relay::start(None).await;
    let params = real_params();
    let on_air = relay.camera("cam");
    let next = relay.camera("next");
    for stream in [&on_air, &next] {
        stream.push(picture(&params, 1, 0, 900_000, 3_000));
    }
    relay.streams.insert("channels/wall-1", on_air.clone());
    let mut of_channel = Client::connect(relay.address).await;
    of_channel.play(&relay.url("channels/wall-1"), "0-1").await;
    let mut of_camera = Client::connect(relay.address).await;
    of_camera.play(&relay.url("cam"), "0-1").await;

    relay.streams.insert("channels/wall-1", next);
    let rest = of_channel.rest().await;
    assert_eq!(rest[rest.len() - 7], 203, "no BYE: {rest:?}");
    relay.until_readers("channels/wall-1", 0).await;
    assert_eq!(relay.readers("cam"), 1);
    let answer = of_camera.ask("GET_PARAMETER *", "").await;
    assert!(answer.starts_with("RTSP/1.0 200"), "{answer}");

    let closed = liuta::config::file::parse(Path::new("t.toml"), String::new()).unwrap();
    relay.access.reconfigure(&closed);
    let rest = of_camera.rest().await;
    assert_eq!(rest[rest.len() - 7], 203, "no BYE: {rest:?}");
    relay.until_readers("cam", 0).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_stay_while_the_camera_is_away_and_their_time_rises() {
    let relay = Relay::start(None).await;
    let (stream, params) = (relay.camera("cam"), real_params());
    stream.set_online(true);
    let start = time::to_90k(Timestamp::now());
    stream.push(picture(&params, 1, 0, start, 3_000));
    let mut client = Client::connect(relay.address).await;
    client.play(&relay.url("cam"), "0-1").await;
    stream.push(picture(&params, 1, 1, start + 3_600, 3_000));
    stream.set_online(false);
    // The box's clock was set back meanwhile.
    tokio::time::sleep(Duration::from_millis(200)).await;
    stream.set_online(true);
    for seq in 25..28 {
        stream.push(picture(&params, 2, seq, start - 90_000 + seq as i64 * 3_600, 3_000));
    }
    let (mut times, mut sequences) = (Vec::new(), Vec::new());
    while times.len() < 5 {
        let (channel, packet) = client.frame().await;
        if channel == 0 {
            let time = u32::from_be_bytes(packet[4..8].try_into().unwrap());
            if times.last() != Some(&time) {
                times.push(time);
            }
            sequences.push(u16::from_be_bytes(packet[2..4].try_into().unwrap()));
        }
    }
    assert!(times.windows(2).all(|pair| (1..90_000).contains(&pair[1].wrapping_sub(pair[0]))), "{times:?}");
    assert!(sequences.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{sequences:?}");
    relay.stop().await;
}

/// Twenty readers that read and one that does not: the ones lose nothing, and the other is closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_reader_costs_the_others_nothing() {
    const PICTURES: u64 = 400;
    let relay = Relay::start(None).await;
    let (stream, params) = (relay.camera("cam"), real_params());
    stream.push(picture(&params, 1, 0, 0, 1_000));
    let url = relay.url("cam");
    let small = TcpSocket::new_v4().unwrap();
    small.set_recv_buffer_size(4_096).unwrap();
    let mut stalled = Client::of(small.connect(relay.address).await.unwrap());
    stalled.play(&url, "0-1").await;
    let mut reading = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(relay.address).await;
        client.play(&url, "0-1").await;
        reading.push(tokio::spawn(async move {
            let (mut pictures, mut expected) = (0, None);
            while pictures < PICTURES {
                let (channel, packet) = client.frame().await;
                if channel == 0 {
                    let sequence = u16::from_be_bytes([packet[2], packet[3]]);
                    assert_eq!(sequence, *expected.get_or_insert(sequence));
                    expected = Some(sequence.wrapping_add(1));
                    pictures += u64::from(packet[1] >> 7);
                }
            }
        }));
    }
    assert_eq!(relay.readers("cam"), 21);
    // 40 ms apart, 32 Mbit/s together over the 21: the kernel's buffers for the stalled one are soon full.
    for seq in 1..PICTURES {
        stream.push(picture(&params, 1, seq, seq as i64 * 3_600, 20_000));
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    for reader in reading {
        timeout(PATIENCE, reader).await.unwrap().unwrap();
    }
    let gone = async {
        while relay.readers("cam") > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the stalled reader is never closed");
    drop(stalled);
    relay.stop().await;
}

/// Sockets for RTP and RTCP.
async fn ports() -> (UdpSocket, UdpSocket, String) {
    let (rtp, rtcp) =
        (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
    let header = format!("Transport: RTP/AVP;unicast;client_port={}-{}\r\n", port(&rtp), port(&rtcp));
    (rtp, rtcp, header)
}

async fn datagram(socket: &UdpSocket) -> Vec<u8> {
    let mut datagram = vec![0; 2_048];
    let length = timeout(PATIENCE, socket.recv(&mut datagram)).await.expect("a datagram").unwrap();
    datagram.truncate(length);
    datagram
}

/// A whole key picture of the size that cameras have, by UDP: the answer tells what comes from where, it is spread so
/// that a socket with an ordinary buffer loses none of it, and nobody else is ever sent anything.
#[tokio::test(flavor = "multi_thread")]
async fn by_udp_packets_come_from_the_ports_and_with_the_ssrc_that_were_told() {
    let relay = Relay::start(None).await;
    let (stream, url) = (relay.camera("cam"), relay.url("cam"));
    let params = real_params();
    stream.push(picture(&params, 1, 0, 900_000, 400_000));
    let mut client = Client::connect(relay.address).await;
    let elsewhere = "Transport: RTP/AVP;unicast;destination=192.0.2.1;client_port=5000-5001\r\n";
    let answer = client.ask(&format!("SETUP {url}/trackID=0"), elsewhere).await;
    assert!(answer.starts_with("RTSP/1.0 461") && answer.contains("destination="), "{answer}");
    let (rtp, rtcp, transport) = ports().await;
    let answer = client.ask(&format!("SETUP {url}/trackID=0"), &transport).await;
    assert!(answer.starts_with("RTSP/1.0 200"), "{answer}");
    let told = |name: &str| answer.split(name).nth(1).unwrap().split([';', '\r']).next().unwrap().to_owned();
    let ssrc = u32::from_str_radix(&told(";ssrc="), 16).unwrap();
    let (server_rtp, server_rtcp) = told(";server_port=")
        .split_once('-')
        .map(|(rtp, rtcp)| (rtp.parse::<u16>().unwrap(), rtcp.parse::<u16>().unwrap()))
        .unwrap();
    // The same ports belong to nobody else meanwhile.
    let mut other = Client::connect(relay.address).await;
    let taken = other.ask(&format!("SETUP {url}/trackID=0"), &transport).await;
    assert!(taken.starts_with("RTSP/1.0 461") && taken.contains("in use"), "{taken}");

    rtp.connect(("127.0.0.1", server_rtp)).await.unwrap();
    rtcp.connect(("127.0.0.1", server_rtcp)).await.unwrap();
    let reading = tokio::spawn(async move {
        let (mut bytes, mut expected) = (0, None);
        loop {
            let packet = datagram(&rtp).await;
            assert_eq!(u32::from_be_bytes(packet[8..12].try_into().unwrap()), ssrc);
            let sequence = u16::from_be_bytes([packet[2], packet[3]]);
            assert_eq!(sequence, *expected.get_or_insert(sequence), "lost");
            expected = Some(sequence.wrapping_add(1));
            bytes += packet.len() - 12;
            if packet[1] & 0x80 != 0 {
                return bytes;
            }
        }
    });
    let answer = client.ask(&format!("PLAY {url}"), "").await;
    assert!(answer.starts_with("RTSP/1.0 200") && answer.contains("seq="), "{answer}");
    let report = datagram(&rtcp).await;
    assert_eq!((report[1], &report[4..8]), (200, &ssrc.to_be_bytes()[..]), "a sender report comes first");
    let bytes = reading.await.unwrap();
    assert!((400_000..420_000).contains(&bytes), "{bytes}");
    // The end is told by RTCP.
    stream.close();
    let bye = datagram(&rtcp).await;
    assert_eq!((bye[1], bye[9]), (201, 203), "{bye:?}");
    relay.stop().await;
}

/// A reader by UDP whose socket is gone (each packet is answered by ICMP) and one that reads nothing, beside one that
/// loses nothing. They show their life by RTCP or by requests; who shows none is closed after a minute.
#[tokio::test(flavor = "multi_thread")]
async fn dead_readers_by_udp_cost_the_others_nothing_and_are_closed() {
    let mut relay = Relay::start(None).await;
    relay.clip("cam", &CLIPS.plain);
    let url = relay.url("cam");
    let mut clients = Vec::new();
    for _ in 0..3 {
        let (rtp, rtcp, transport) = ports().await;
        let mut client = Client::connect(relay.address).await;
        client.ask(&format!("DESCRIBE {url}"), "").await;
        let answer = client.ask(&format!("SETUP {url}/trackID=0"), &transport).await;
        assert!(answer.starts_with("RTSP/1.0 200"), "{answer}");
        let port = answer.split(";server_port=").nth(1).unwrap().split(['-', ';']).nth(1).unwrap();
        let port: u16 = port.parse().unwrap();
        assert!(client.ask(&format!("PLAY {url}"), "").await.starts_with("RTSP/1.0 200"));
        clients.push((client, rtp, rtcp, port));
    }
    let (mut reports, rtp, rtcp, port) = clients.pop().unwrap();
    let (mut dead, dead_rtp, dead_rtcp, _) = clients.pop().unwrap();
    drop((dead_rtp, dead_rtcp));
    let (mut asks, _idle_rtp, _idle_rtcp, _) = clients.pop().unwrap();
    let began = tokio::time::Instant::now();
    let (mut pictures, mut expected) = (0, None);
    let mut second = tokio::time::interval(Duration::from_secs(5));
    let reading = async {
        while began.elapsed() < Duration::from_secs(75) {
            tokio::select! {
                packet = datagram(&rtp) => {
                    let sequence = u16::from_be_bytes([packet[2], packet[3]]);
                    assert_eq!(sequence, *expected.get_or_insert(sequence), "lost");
                    expected = Some(sequence.wrapping_add(1));
                    pictures += u32::from(packet[1] >> 7);
                }
                _ = second.tick() => {
                    let report = [0x80, 201, 0, 1, 0, 0, 0, 7];
                    rtcp.send_to(&report, ("127.0.0.1", port)).await.unwrap();
                }
            }
        }
    };
    let asking = async {
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert!(asks.ask(&format!("GET_PARAMETER {url}"), "").await.starts_with("RTSP/1.0 200"));
        let rest = String::from_utf8(dead.rest().await).unwrap();
        assert!(rest.starts_with("RTSP/1.0 408"), "{rest}");
        began.elapsed()
    };
    let ((), closed) = tokio::join!(reading, asking);
    assert!((Duration::from_secs(58)..Duration::from_secs(72)).contains(&closed), "{closed:?}");
    assert!(pictures > 25 * 70, "{pictures} pictures in 75 s");
    assert_eq!(relay.readers("cam"), 2);
    assert!(reports.ask(&format!("TEARDOWN {url}"), "").await.starts_with("RTSP/1.0 200"));
    relay.stop().await;
}

/// As many as may, and one more of each kind.
#[tokio::test(flavor = "multi_thread")]
async fn readers_are_limited_with_a_status_that_says_so() {
    let limits = ReaderLimits { in_all: 3, per_path: 2, per_address: 100, ..ReaderLimits::default() };
    let relay = Relay::start_with(None, limits).await;
    let params = real_params();
    for path in ["a", "b", "c"] {
        relay.camera(path).push(picture(&params, 1, 0, 900_000, 3_000));
    }
    let mut readers = Vec::new();
    for (path, expected) in [("a", "200"), ("a", "200"), ("a", "503"), ("b", "200"), ("c", "503")] {
        let mut client = Client::connect(relay.address).await;
        let tcp = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n";
        let answer = client.ask(&format!("SETUP {}/trackID=0", relay.url(path)), tcp).await;
        assert!(answer.starts_with(&format!("RTSP/1.0 {expected}")), "{path}: {answer}");
        assert_eq!(
            expected == "503",
            answer.contains("Retry-After: ") && answer.contains("as many as it takes")
        );
        readers.push(client);
    }
    // Whoever leaves makes room.
    readers.remove(0);
    let again = async {
        loop {
            let mut client = Client::connect(relay.address).await;
            let tcp = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n";
            if client
                .ask(&format!("SETUP {}/trackID=0", relay.url("c")), tcp)
                .await
                .starts_with("RTSP/1.0 200")
            {
                return;
            }
        }
    };
    timeout(PATIENCE, again).await.unwrap();
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_end_their_own_connection_only() {
    let mut relay = Relay::start(None).await;
    relay.clip("cam", &CLIPS.plain);
    let mut reader = Client::connect(relay.address).await;
    let endless = format!("DESCRIBE /{} RTSP/1.0\r\n", "a".repeat(1 << 20));
    let headers = format!("OPTIONS * RTSP/1.0\r\n{}", "X-Y: z\r\n".repeat(100_000));
    let body = "SET_PARAMETER /cam RTSP/1.0\r\nContent-Length: 4000000000\r\n\r\n";
    let binary: Vec<u8> =
        (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80).collect();
    for (bytes, status) in [
        (endless.as_bytes(), "431"),
        (headers.as_bytes(), "431"),
        (body.as_bytes(), "413"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        (b"DESCRIBE /cam RTSP/2.0\r\n\r\n", "505"),
        (&binary, "400"),
    ] {
        let mut client = Client::connect(relay.address).await;
        // The server may stop reading before all is written.
        let _ = client.socket.write_all(bytes).await;
        let rest = client.rest().await;
        let said = String::from_utf8_lossy(&rest);
        assert!(said.is_empty() || said.starts_with(&format!("RTSP/1.0 {status}")), "{said}");
        assert!(
            bytes.len() > 10_000 || !said.is_empty(),
            "no answer to {:?}",
            String::from_utf8_lossy(bytes)
        );
    }
    // Half a request, ever: it does not hold its place for long.
    let mut slow = Client::connect(relay.address).await;
    slow.socket.write_all(b"DESCRIBE /cam RT").await.unwrap();
    assert!(String::from_utf8(slow.rest().await).unwrap().starts_with("RTSP/1.0 408"));
    // Interleaved junk and RTCP are swallowed, requests in between are answered.
    let frame = [&b"$\x01\xff\xff"[..], &vec![0x5a; 65_535]].concat();
    reader.socket.write_all(&frame).await.unwrap();
    assert!(reader.ask("OPTIONS rtsp://x/", "").await.starts_with("RTSP/1.0 200"));
    ffmpeg(&relay.url("cam"), "tcp", "1").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_plays_hls_without_a_warning() {
    let mut relay = Relay::start(None).await;
    for (path, file) in [("sound", &CLIPS.with_sound), ("h265", &CLIPS.h265)] {
        let stream = relay.clip(path, file);
        relay.feeding.push(tokio::spawn(package(stream)));
    }
    let streams = relay.streams.clone();
    let app = axum::Router::new().route(
        "/{camera}/{file}",
        axum::routing::get(
            async move |axum::extract::Path((camera, file)): axum::extract::Path<(String, String)>| {
                let kind = |kind| [("content-type", kind)];
                let (stream, numbering) = streams.numbered(&camera).unwrap();
                match hls::answer(&stream, numbering, &file).await {
                    hls::Answer::Playlist(text) => {
                        Ok((kind("application/vnd.apple.mpegurl"), Bytes::from(text)))
                    }
                    hls::Answer::Init(bytes) => Ok((kind("video/mp4"), bytes)),
                    hls::Answer::Segment(slices) => Ok((kind("video/mp4"), slices.concat().into())),
                    hls::Answer::Gone => Err(axum::http::StatusCode::NOT_FOUND),
                    hls::Answer::NotYet(_) => Err(axum::http::StatusCode::SERVICE_UNAVAILABLE),
                }
            },
        ),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    relay.feeding.push(tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }));
    let watch = async |path: &str| {
        let url = format!("http://{address}/{path}/index.m3u8");
        let arguments =
            ["-v", "warning", "-nostdin", "-i", &url, "-t", "6", "-f", "null", "-progress", "-", "-"];
        let progress = quietly("ffmpeg", &arguments).await;
        let frames =
            progress.lines().filter_map(|line| line.strip_prefix("frame=")?.trim().parse::<u32>().ok());
        assert!(frames.max().unwrap() >= 145, "{path}: {progress}");
    };
    tokio::join!(watch("sound"), watch("h265"));
    relay.stop().await;
}

/// What the camera's own loop does with its samples.
async fn package(stream: Arc<LiveStream>) {
    let audio = stream.wait_params().await.audio;
    let mut packager = Packager::new(1, 0, audio);
    let mut cursor = stream.cursor();
    while let Next::Sample(sample, _) = cursor.next().await {
        if let Some(part) = packager.push(&sample) {
            stream.push_part(Arc::new(part));
        }
    }
}

#[test]
fn clips_that_cannot_be_served_say_why() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let made = |name: &str, options: &str| {
        let file = folder.join(name);
        let arguments = format!("-v error -y -i {} {options}", CLIPS.with_sound.display());
        let made = std::process::Command::new("ffmpeg").args(arguments.split(' ')).arg(&file).status();
        assert!(made.unwrap().success());
        file
    };
    let whole = std::fs::read(&CLIPS.plain).unwrap();
    let written = |name: &str, bytes: &[u8]| {
        let file = folder.join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    for (file, why) in [
        (made("fragmented.mp4", "-c copy -movflags frag_keyframe+empty_moov"), "a fragmented MP4"),
        (made("mpeg4.mp4", "-c:v mpeg4"), "its video is neither H.264 nor H.265"),
        (made("sound-only.mp4", "-vn"), "no video track"),
        (written("text.mp4", b"This is not an MP4 file at all."), "in the middle of its"),
        (written("cut.mp4", &whole[..whole.len() / 2]), "the file ends in the middle"),
        (folder.join("absent.mp4"), "cannot be read"),
    ] {
        let Err(error) = Clip::open(&file) else { panic!("{} was taken", file.display()) };
        let said = format!("{error:#}");
        assert!(said.contains(why) && said.contains(&*file.to_string_lossy()), "{said}");
    }
    // Damaged sample tables are errors or clips, never panics.
    for seed in 0..2_000usize {
        let mut damaged = whole.clone();
        let table = damaged.len() - 3_000;
        for step in 0..3 {
            let at = table + (seed * 7_919 + step * 104_729) % 3_000;
            damaged[at] = (seed * 31 + step * 17) as u8;
        }
        let _ = Clip::parse(damaged.into());
    }
}

#[test]
fn times_of_a_clip_with_reordered_pictures_are_in_order() {
    let clip = Clip::open(&CLIPS.with_sound).unwrap();
    assert_eq!((clip.pictures.len(), clip.duration_90k), (100, 360_000));
    assert!(clip.pictures.iter().all(|picture| picture.dts_90k <= picture.pts_90k));
    assert!(clip.pictures.windows(2).all(|pair| pair[0].dts_90k < pair[1].dts_90k));
    assert!(clip.pictures.windows(2).any(|pair| pair[0].pts_90k > pair[1].pts_90k), "no reordering to test");
    assert_eq!(clip.pictures.iter().filter(|picture| picture.is_rap).count(), 4);
    let sound = clip.audio.unwrap();
    let end = sound.frames.last().map(|frame| frame.pts + i64::from(frame.duration)).unwrap();
    assert!((4 * 48_000 - 2_048..=4 * 48_000).contains(&end), "{end}");
}
