//! One camera's whole way: connect, receive, and hand each picture to the live ring, the recorder and the looks.
//!
//! Read [`Way::session`] first. A [`Camera`] has one way for its main and one for its sub stream. Each is a task on the
//! thread of [`ingest`] that runs session after session: [`source`] is one RTSP session, [`retry`] the time between two,
//! [`guard`] what a hostile camera may cost, and [`trial`] one session of a camera that is not configured yet.
//!
//! What does not belong here: who watches a stream. Looks and readers take what they need from the live ring.

mod alloc;
pub mod guard;
mod ingest;
pub mod retry;
pub mod source;
pub mod trial;

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{self, Transport};
use crate::health::{CameraLabel, CameraStream, Health, Severity};
use crate::live::{Budget, LiveStream};
use crate::media::cmaf::{Packager, Part};
use crate::media::{Feed, Sample};
use crate::record::{GapCause, Recorder, Ring};
pub use ingest::Ingest;
use ingest::{Hurried, Hurry};
use retry::{Backoff, Password};
use source::{Session, SessionError, Target};

/// Bytes of the live ring: half a minute at 8 and at 2 Mbit/s, as long as HLS playlists reach back.
const MAIN_CAP: usize = 32 << 20;
const SUB_CAP: usize = 8 << 20;

/// A running camera: its supervisor's tasks, and the live streams that outlive sessions.
pub struct Camera {
    pub config: Arc<config::Camera>,
    pub main: Arc<LiveStream>,
    pub sub: Option<Arc<LiveStream>>,
    tasks: JoinSet<()>,
    stop: DropGuard,
    /// By UDP the kernel drops what of a large picture is not received at once.
    _hurried: Option<Hurried>,
}

impl Camera {
    /// Starts the supervisors of the main and the sub stream.
    pub fn start(
        config: Arc<config::Camera>,
        ingest: &Ingest,
        ring: &Arc<Ring>,
        budget: &Arc<Budget>,
        health: Health,
    ) -> Camera {
        let recorder = config.record.then(|| ring.recorder(&config.id, Feed::Main));
        let stop = CancellationToken::new();
        let password = Arc::new(Password::default());
        let mut tasks = JoinSet::new();
        let mut start = |feed, url: &url::Url, cap, recorder| {
            let live = LiveStream::within(budget, config.id.clone(), feed, cap);
            let way = Way {
                subject: match feed {
                    Feed::Main => format!("camera/{}", config.id),
                    Feed::Sub => format!("camera/{}/sub", config.id),
                },
                label: CameraLabel::new(&*config.id),
                target: Target::of(&config, url),
                live: live.clone(),
                recorder,
                password: password.clone(),
                health: health.clone(),
                stop: stop.clone(),
                hurry: ingest.hurry.clone(),
                run: 0,
                next_seq: 0,
                next_part: 0,
                worked: false,
            };
            tasks.spawn_on(way.run(), &ingest.handle);
            live
        };
        let main = start(Feed::Main, &config.url, MAIN_CAP, recorder);
        let sub = config.sub_url.as_ref().map(|url| start(Feed::Sub, url, SUB_CAP, None));
        let hurried = (config.transport == Transport::Udp).then(|| ingest.hurry.hold());
        Camera { config, main, sub, tasks, stop: stop.drop_guard(), _hurried: hurried }
    }

    /// Ends the sessions, gives the last part to the recorder and closes the streams; false when it took longer than
    /// `deadline`.
    pub async fn stop(mut self, deadline: Duration) -> bool {
        drop(self.stop);
        let ended =
            tokio::time::timeout(deadline, async { while self.tasks.join_next().await.is_some() {} }).await;
        for live in std::iter::once(&self.main).chain(&self.sub) {
            live.close();
        }
        ended.is_ok()
    }
}

/// One feed's way from the camera on, over all its sessions.
struct Way {
    /// Of the health state.
    subject: String,
    label: CameraLabel,
    target: Target,
    live: Arc<LiveStream>,
    /// The sub stream has none.
    recorder: Option<Recorder>,
    password: Arc<Password>,
    health: Health,
    stop: CancellationToken,
    hurry: Hurry,
    /// Numbers that rise over sessions.
    run: u64,
    next_seq: u64,
    next_part: u64,
    /// The session has delivered a picture.
    worked: bool,
}

impl Way {
    /// The supervisor: session after session until the camera is stopped.
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            // What a camera sends may bring down its own session, and nothing else.
            let ended = AssertUnwindSafe(self.session()).catch_unwind().await;
            let why = match ended {
                Ok(Ok(())) => break,
                Ok(Err(error)) if error.is_password() => format!("{error} (tried again every 15 minutes)"),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the session failed inside Liuta, please report it; the log has more".to_owned(),
            };
            self.down(GapCause::Camera);
            self.health.set(&self.subject, self.severity(), why);
            let worked = std::mem::take(&mut self.worked);
            let pause = backoff.pause(worked, Instant::now(), rand::random());
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.down(GapCause::Daemon);
        self.health.remove(&self.subject);
    }

    /// One session. Each sample goes into the live ring, where readers and looks find it; each part, made once, to
    /// the recorder and into the live ring, for HLS. Ends well only when the camera is stopped.
    async fn session(&mut self) -> Result<(), SessionError> {
        self.run += 1;
        let stop = self.stop.clone();
        let mut stopped = pin!(stop.cancelled());
        let mut session = tokio::select! {
            biased;
            () = &mut stopped => return Ok(()),
            session = self.password.open(self.live.feed, &self.target, self.run, self.next_seq) => session?,
        };
        self.hurry.settle();
        self.live.announce_audio(session.audio());
        let mut packager = Packager::new(self.run, self.next_part, session.audio());
        let ended = loop {
            let sample = tokio::select! {
                biased;
                () = &mut stopped => break Ok(()),
                sample = session.next() => match sample {
                    Ok(sample) => sample,
                    Err(error) => break Err(error),
                },
            };
            self.came(&session, &sample);
            self.live.push(sample.clone());
            if let Some(part) = packager.push(&sample) {
                self.deliver(part);
            }
        };
        if let Some(part) = packager.finish() {
            self.deliver(part);
        }
        ended
    }

    fn deliver(&mut self, part: Part) {
        self.next_part = part.seq + 1;
        let part = Arc::new(part);
        if let Some(recorder) = &self.recorder {
            recorder.push(part.clone());
        }
        self.live.push_part(part);
        let (stream, held) = (self.live.feed.as_str(), self.live.held() as i64);
        let label = CameraStream::new(&*self.label.camera, stream);
        self.health.metrics.live_ring_bytes.get_or_create(&label).set(held);
    }

    /// A sample came: with the first picture of a session the camera is up.
    fn came(&mut self, session: &Session, sample: &Sample) {
        self.next_seq = session.next_seq();
        let Sample::Video(unit) = sample else { return };
        let metrics = &self.health.metrics;
        if !self.worked {
            self.worked = true;
            self.live.set_online(true);
            self.health.ok(&self.subject);
            if self.live.feed == Feed::Main {
                metrics.camera_sessions.get_or_create(&self.label).inc();
                metrics.camera_up.get_or_create(&self.label).set(1);
            }
        }
        if unit.is_rap
            && self.live.feed == Feed::Main
            && let Some(error) = session.clock_error()
        {
            metrics.camera_clock_error_seconds.get_or_create(&self.label).set(error);
        }
    }

    /// No pictures come, after a session or an attempt at one.
    fn down(&self, cause: GapCause) {
        self.live.set_online(false);
        if let Some(recorder) = &self.recorder {
            recorder.end(cause);
        }
        if self.live.feed == Feed::Main {
            self.health.metrics.camera_up.get_or_create(&self.label).set(0);
        }
    }

    /// Of a feed that is down: the sub stream serves small pictures alone.
    fn severity(&self) -> Severity {
        match self.live.feed {
            Feed::Main => Severity::Failed,
            Feed::Sub => Severity::Degraded,
        }
    }
}
