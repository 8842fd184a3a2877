//! `liuta simulate`: clips served as RTSP cameras, in a loop, with continuous time.
//!
//! The cameras are the daemon's own live streams and RTSP server, fed from files at real pace; [`clip`] reads them.
//! What does not belong here: receiving cameras (`camera`), and tests of it, which use somebody else's server.

pub mod clip;
mod transcode;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

pub use transcode::Options;

use crate::access::Access;
use crate::config::ReaderLimits;
use crate::health::Health;
use crate::live::{Directory, LiveStream};
use crate::media::{AccessUnit, AudioFrame, AudioParams, Feed, Sample, VIDEO_CLOCK, time};
use crate::net::connections::Connections;
use crate::net::listener::Listener;
use crate::relay::rtsp::{Server, Setup};
use transcode::Scratch;

/// Bytes of pictures that a simulated camera keeps for readers that are a little late.
const RING: usize = 8 << 20;

/// One simulated camera.
#[derive(Clone, Debug)]
pub struct Clip {
    pub name: String,
    pub file: PathBuf,
}

/// Serves the clips until the process is told to end.
pub async fn run(
    listen: SocketAddr,
    clips: Vec<Clip>,
    credentials: Option<(String, String)>,
    options: Options,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("{listen}: cannot listen there; is another program using the port?"))?;
    let address = listener.local_addr()?;
    let scratch = if options.is_none() { None } else { Some(Scratch::new()?) };
    let streams = Arc::new(Directory::default());
    let mut opened = Vec::new();
    for (number, clip) in clips.iter().enumerate() {
        let path = clip.name.trim_matches('/');
        ensure!(
            !path.is_empty() && streams.get(path).is_none(),
            "{}: a name of its own is needed",
            clip.name
        );
        let mut file = clip.file.clone();
        if let Some(scratch) = &scratch {
            file = scratch.file(number);
            options.apply(&clip.file, &file).await?;
        }
        let read = tokio::task::spawn_blocking(move || clip::Clip::open(&file)).await??;
        let stream = LiveStream::new(path.into(), Feed::Main, RING);
        streams.insert(path, stream.clone());
        println!("rtsp://{address}/{path}  {}", describe(clip, &read));
        opened.push((read, stream));
    }
    let health = Health::default();
    let listener = Listener::new(listener, Connections::new("rtsp", health.clone()));
    let server = Server::start(Setup {
        listeners: vec![listener],
        udp: None,
        streams,
        archive: None,
        limits: ReaderLimits::NONE,
        access: Access::simulated(credentials),
        health,
    });
    let cameras: Vec<_> = opened.into_iter().map(|(clip, stream)| tokio::spawn(play(clip, stream))).collect();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    for camera in cameras {
        camera.abort();
    }
    server.stop().await;
    Ok(())
}

fn describe(clip: &Clip, read: &clip::Clip) -> String {
    let seconds = read.duration_90k as f64 / VIDEO_CLOCK as f64;
    let sound = if read.audio.is_some() { ", AAC" } else { "" };
    let video = &read.video;
    format!(
        "{} ({}x{} {}{sound}, {seconds:.1} s)",
        clip.file.display(),
        video.width,
        video.height,
        video.rfc6381
    )
}

/// What is next in a clip.
enum Due<'a> {
    Picture(&'a clip::Picture),
    Sound(&'a clip::Frame, &'a Arc<AudioParams>),
}

/// A clip's samples in the order in which a camera sends them, with the time from the clip's start of each.
fn schedule(clip: &clip::Clip) -> Vec<(i64, Due<'_>)> {
    let mut due: Vec<_> =
        clip.pictures.iter().map(|picture| (picture.dts_90k, Due::Picture(picture))).collect();
    if let Some(sound) = &clip.audio {
        let rate = i64::from(sound.params.clock_rate);
        let frames = sound.frames.iter();
        due.extend(frames.map(|frame| (frame.pts * VIDEO_CLOCK / rate, Due::Sound(frame, &sound.params))));
    }
    due.sort_by_key(|(at_90k, _)| *at_90k);
    due
}

/// Pushes the clip's samples at their decode times, round after round, for ever. Several cameras are no more in step
/// than real ones are: each begins a part of a picture's time later.
pub async fn play(clip: clip::Clip, stream: Arc<LiveStream>) {
    let picture_90k = clip.pictures.get(1).map_or(0, |second| second.dts_90k.clamp(0, VIDEO_CLOCK));
    let phase_90k = rand::random_range(0..=picture_90k);
    tokio::time::sleep(Duration::from_micros(phase_90k as u64 * 100 / 9)).await;
    let epoch_90k = time::to_90k(Timestamp::now());
    let started = Instant::now();
    stream.announce_audio(clip.audio.as_ref().map(|sound| sound.params.clone()));
    stream.set_online(true);
    let schedule = schedule(&clip);
    let mut seq = 0;
    for round in 0i64.. {
        let start_90k = round * clip.duration_90k;
        for (at_90k, due) in &schedule {
            let elapsed = (start_90k + at_90k) as u64;
            tokio::time::sleep_until(started + Duration::from_nanos(elapsed * 100_000 / 9)).await;
            stream.push(match due {
                Due::Picture(picture) => {
                    seq += 1;
                    Sample::Video(Arc::new(AccessUnit {
                        seq: seq - 1,
                        run: 1,
                        pts_90k: epoch_90k + start_90k + picture.pts_90k,
                        dts_90k: epoch_90k + start_90k + picture.dts_90k,
                        is_rap: picture.is_rap,
                        params: clip.video.clone(),
                        data: picture.data.clone(),
                    }))
                }
                Due::Sound(frame, params) => Sample::Audio(Arc::new(AudioFrame {
                    run: 1,
                    pts: ticks(epoch_90k + start_90k, params.clock_rate.into()) + frame.pts,
                    duration: frame.duration,
                    params: (*params).clone(),
                    data: frame.data.clone(),
                })),
            });
        }
    }
}

fn ticks(at_90k: i64, rate: i64) -> i64 {
    (i128::from(at_90k) * i128::from(rate) / i128::from(VIDEO_CLOCK)) as i64
}
