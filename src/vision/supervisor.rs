//! The supervisor: one task that owns the schedule and the worker, and gives each what the other needs.
//!
//! The worker is trusted no further than a camera. One that crashes, hangs, grows or speaks nonsense is killed and
//! started again, at once the first time and later with growing pauses; the camera whose picture it was at is blamed,
//! and suspended when that happens twice, so that one poisoned picture does not blind the others.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::looks::{Limits, Looks, Need, Offer};
use super::process::Process;
use super::wire::{self, Job, PictureWanted, Report};
use super::{Looked, Picture, PictureError, Shared, Watch, model};
use crate::alert::Detection;
use crate::config::Id;
use crate::health::{CameraLabel, Cause, Decoder, Severity};
use crate::live::LiveStream;
use crate::media::{AccessUnit, VIDEO_CLOCK};

/// One look is being done while the next crosses the socket.
const LIMITS: Limits = Limits { jobs: 2, bytes: 8 << 20 };

/// Looks and pictures together.
const IN_FLIGHT: usize = 4;

const TICK: Duration = Duration::from_millis(40);

/// A first start scans GStreamer's plug-ins, and some execution providers compile the model.
const START_PATIENCE: Duration = Duration::from_secs(180);

/// Resident memory beyond which the worker is ended, in bytes.
const MEMORY: u64 = 2 << 30;

/// A worker that lived so long starts again at once.
const STEADY: Duration = Duration::from_secs(60);

const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a camera is left out whose pictures have crashed the worker [`BLAME`] times.
const SUSPENSION: Duration = Duration::from_secs(300);
const BLAME: u32 = 2;

/// Models that are missing are looked for again after so long.
const RESOLVE: Duration = Duration::from_secs(10);

/// Why a contract is missed while a worker runs.
const TOO_MUCH: &str = "the worker is not fast enough for its cameras, or key pictures are too far apart: \
    lengthen look_every, shorten the camera's key frame interval, or use a hardware profile";

/// More detections on one picture than any model gives.
const MAX_DETECTIONS: usize = 1000;

/// A picture that somebody waits for.
pub(super) struct Request {
    pub stream: Arc<LiveStream>,
    pub unit: Arc<AccessUnit>,
    pub max_width: Option<u32>,
    pub reply: oneshot::Sender<Result<Picture, PictureError>>,
}

pub(super) struct Supervisor {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    found: mpsc::Sender<Looked>,
    /// Found and not yet taken; while there is any, no look is handed out.
    backlog: VecDeque<Looked>,
    looks: Looks,
    began: Instant,
    cameras: BTreeMap<Id, Camera>,
    /// Of `shared.watched` as last read.
    generation: u64,
    models: BTreeMap<String, Result<Model, String>>,
    resolved: Instant,
    in_flight: VecDeque<InFlight>,
    next_id: u64,
    blame: HashMap<Id, Blame>,
    decoders: HashMap<String, Decoder>,
    /// Gone cameras whose streams the worker still remembers.
    forget: Vec<String>,
    /// A request taken from the queue before a worker was there.
    early: Option<Request>,
}

struct Camera {
    watch: Watch,
    feeds: [FeedState; 2],
}

/// What is known of one feed's key pictures.
#[derive(Default)]
struct FeedState {
    rap: Option<Arc<AccessUnit>>,
    rap_seen: Duration,
    length: Option<Duration>,
    /// Sequence number of the last picture looked at.
    looked: Option<u64>,
}

struct Model {
    manifest: PathBuf,
    label: Arc<str>,
    classes: BTreeSet<String>,
}

struct InFlight {
    id: u64,
    camera: Id,
    stream: String,
    capture: Timestamp,
    sent: Instant,
    purpose: Purpose,
}

enum Purpose {
    Look { model: String },
    Picture(oneshot::Sender<Result<Picture, PictureError>>),
}

#[derive(Default)]
struct Blame {
    crashes: u32,
    until: Option<Instant>,
}

/// Why a worker is no more.
enum End {
    Stopped,
    /// Another list of models is needed.
    Reload,
    Broken {
        cause: &'static str,
        why: String,
    },
}

impl FeedState {
    fn observe(&mut self, stream: &LiveStream, now: Duration) {
        let Some(rap) = stream.newest_rap() else { return };
        match &self.rap {
            Some(before) if before.seq == rap.seq => return,
            Some(before) if before.run == rap.run => {
                let ticks = (rap.pts_90k - before.pts_90k).clamp(0, i64::from(u32::MAX));
                self.length = Some(Duration::from_millis((ticks * 1000 / VIDEO_CLOCK) as u64));
            }
            _ => self.length = None,
        }
        (self.rap, self.rap_seen) = (Some(rap), now);
    }

    /// How long key pictures are apart, at least.
    fn gop(&self, now: Duration) -> Duration {
        self.length.unwrap_or_default().max(now.saturating_sub(self.rap_seen))
    }
}

impl Supervisor {
    pub fn new(
        shared: Arc<Shared>,
        requests: mpsc::Receiver<Request>,
        found: mpsc::Sender<Looked>,
    ) -> Supervisor {
        Supervisor {
            shared,
            requests,
            found,
            backlog: VecDeque::new(),
            looks: Looks::new(LIMITS),
            began: Instant::now(),
            cameras: BTreeMap::new(),
            generation: 0,
            models: BTreeMap::new(),
            resolved: Instant::now(),
            in_flight: VecDeque::new(),
            next_id: 0,
            blame: HashMap::new(),
            decoders: HashMap::new(),
            forget: Vec::new(),
            early: None,
        }
    }

    /// Runs until it is stopped.
    pub async fn run(mut self) {
        let mut failures = 0;
        while self.wanted().await {
            let began = Instant::now();
            let end = self.one_worker().await;
            self.after_end(&end);
            let (cause, why) = match end {
                End::Stopped => return,
                End::Reload => ("reload", None),
                End::Broken { cause, why } => (cause, Some(why)),
            };
            self.shared.health.metrics.vision_restarts.get_or_create(&Cause::new(cause)).inc();
            let Some(why) = why else { continue };
            failures = if began.elapsed() >= STEADY { 1 } else { failures + 1 };
            let pause = pause(failures);
            let again = format!(
                "{why}; recording goes on, cameras are not watched; next try in {} s",
                pause.as_secs()
            );
            self.say(Severity::Failed, &again);
            if !self.pause(pause, &why).await {
                return;
            }
        }
    }

    /// Waits until there is something to do; false: stopped.
    async fn wanted(&mut self) -> bool {
        loop {
            self.sync();
            if !self.looks.is_empty() || self.early.is_some() {
                return !self.shared.stop.is_cancelled();
            }
            tokio::select! {
                () = self.shared.stop.cancelled() => return false,
                () = self.shared.changed.notified() => {}
                request = self.requests.recv() => self.early = request,
            }
        }
    }

    /// No worker for so long; false: stopped.
    async fn pause(&mut self, pause: Duration, why: &str) -> bool {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            tokio::select! {
                () = self.shared.stop.cancelled() => return false,
                Some(request) = self.requests.recv() => refuse(request.reply, why),
                () = tokio::time::sleep_until(until.min(Instant::now() + TICK)) => {}
            }
            self.sync();
            self.count_missed(why);
        }
        true
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn say(&self, severity: Severity, message: &str) {
        let missing = self.models.values().find_map(|model| model.as_ref().err());
        match missing {
            Some(missing) if severity < Severity::Failed => {
                self.shared.health.set("vision", Severity::Failed, missing);
            }
            _ => self.shared.health.set("vision", severity, message),
        }
    }

    /// Takes over which cameras are watched.
    fn sync(&mut self) {
        let retry = self.models.values().any(Result::is_err) && self.resolved.elapsed() >= RESOLVE;
        let watched = {
            let watched = self.shared.watched();
            if watched.generation == self.generation && !retry {
                return;
            }
            self.generation = watched.generation;
            watched.cameras.clone()
        };
        let now = self.now();
        let gone: Vec<Id> = self.cameras.keys().filter(|id| !watched.contains_key(*id)).cloned().collect();
        for id in gone {
            self.looks.unwatch(&id);
            self.cameras.remove(&id);
            self.blame.remove(&id);
            for stream in [id.to_string(), format!("{id}/sub")] {
                if let Some(decoder) = self.decoders.remove(&stream) {
                    self.shared.health.metrics.decoder_info.remove(&decoder);
                }
                self.forget.push(stream);
            }
        }
        for (id, watch) in watched {
            self.looks.watch(id.clone(), watch.look_every, now);
            match self.cameras.get_mut(&id) {
                Some(camera) => camera.watch = watch,
                None => {
                    self.cameras.insert(id, Camera { watch, feeds: Default::default() });
                }
            }
        }
        let names: BTreeSet<String> =
            self.cameras.values().map(|camera| camera.watch.model.clone()).collect();
        let folders = &self.shared.settings.models;
        self.models = names.into_iter().map(|name| (name.clone(), resolve(&name, folders))).collect();
        self.resolved = Instant::now();
    }

    fn manifests(&self) -> Vec<PathBuf> {
        self.models.values().flatten().map(|model| model.manifest.clone()).collect()
    }

    /// Starts a worker and gives it work until it ends.
    async fn one_worker(&mut self) -> End {
        let program = &self.shared.program;
        let mut process = match Process::spawn(program) {
            Ok(process) => process,
            Err(error) => {
                let why = format!(
                    "{} cannot be started: {error}; it belongs beside liuta: install the package again",
                    program.display()
                );
                return End::Broken { cause: "exec", why };
            }
        };
        tracing::info!(pid = process.id(), "vision worker started");
        let end = self.serve(&mut process).await;
        let (status, last_words) = process.end(matches!(end, End::Stopped | End::Reload)).await;
        match end {
            End::Broken { cause: "crash", .. } => {
                End::Broken { cause: "crash", why: obituary(&status, &last_words) }
            }
            end => end,
        }
    }

    async fn serve(&mut self, process: &mut Process) -> End {
        let manifests = self.manifests();
        let start = Job::Start {
            profiles: self.shared.profiles.clone(),
            onnxruntime: self.shared.settings.onnxruntime.clone(),
            models: manifests.clone(),
        };
        if process.jobs.send((start, Vec::new())).await.is_err() {
            return crash();
        }
        let found = self.found.clone();
        let (mut ready, mut progress) = (false, Instant::now());
        let mut weighed = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let room = ready && self.in_flight.len() < IN_FLIGHT;
            if room && let Some(request) = self.early.take() {
                self.ask_picture(process, request);
            }
            tokio::select! {
                            () = self.shared.stop.cancelled() => return End::Stopped,
                            report = process.reports.recv() => {
                                let (report, jpeg) = match report {
                                    Some(Ok(report)) => report,
                                    Some(Err(what)) => return nonsense(what),
                                    None => {
                                        // Closed: it is ending. One that only closed its socket is ended.
                                        let _ = tokio::time::timeout(Duration::from_secs(1), process.ended()).await;
                                        return crash();
                                    }
                                };
                                progress = Instant::now();
                                match report {
                                    Report::Unfit { why } => return End::Broken { cause: "unfit", why },
                                    Report::Ready { problems, .. } if !ready => {
                                        ready = true;
                                        match problems.is_empty() {
                                            true => self.say(Severity::Ok, ""),
                                            false => self.say(Severity::Degraded, &cut(&problems.join("; "))),
                                        }
                                    }
                                    Report::Ready { .. } => return nonsense("a second Ready".to_owned()),
                                    report => {
                                        if let Err(what) = self.report(report, jpeg) {
                                            return nonsense(what);
                                        }
                                    }
                                }
                                self.hand_out(process, ready);
                            }
                            Some(request) = self.requests.recv(), if room => self.ask_picture(process, request),
                            permit = found.reserve(), if !self.backlog.is_empty() => match permit {
                                Ok(permit) => {
                                    if let Some(looked) = self.backlog.pop_front() {
                                        permit.send(looked);
                                    }
                                }
                                // Nobody is left who wants to know.
                                Err(_) => return End::Stopped,
                            },
                            _ = ticks.tick() => {
                                self.sync();
                                if self.manifests() != manifests && self.in_flight.is_empty() {
                                    return End::Reload;
                                }
                                for stream in self.forget.drain(..) {
                                    // A full queue: the worker keeps a little more than it needs.
                                    let _ = process.jobs.try_send((Job::Forget { stream }, Vec::new()));
                                }
            self.count_missed(TOO_MUCH);
                                if self.manifests() == manifests {
                                    self.hand_out(process, ready);
                                }
                                if weighed.elapsed() >= Duration::from_secs(1) {
                                    weighed = Instant::now();
                                    if let Some(bytes) = process.resident().filter(|bytes| *bytes > MEMORY) {
                                        let why = format!("the vision worker took {} MiB and was ended", bytes >> 20);
                                        return End::Broken { cause: "memory", why };
                                    }
                                    if ready {
                                        self.say_models();
                                    }
                                }
                                let waiting = self.in_flight.front().map(|job| job.sent.max(progress));
                                let hangs = match (ready, waiting) {
                                    (false, _) => progress.elapsed() > START_PATIENCE,
                                    (true, Some(since)) => since.elapsed() > wire::PATIENCE,
                                    (true, None) => false,
                                };
                                if hangs {
                                    let at = self.in_flight.front().map_or("its start", |job| &job.stream);
                                    let why = format!("the vision worker gave no answer for too long, at {at}, and was ended");
                                    return End::Broken { cause: "hang", why };
                                }
                            }
                        }
        }
    }

    /// A model that went missing or came since the worker was ready.
    fn say_models(&self) {
        if self.models.values().any(Result::is_err) {
            self.say(Severity::Ok, "");
        }
    }

    fn send(&mut self, process: &Process, job: Job, blobs: Vec<Bytes>, waiting: InFlight) -> bool {
        let sent = process.jobs.try_send((job, blobs)).is_ok();
        if sent {
            self.in_flight.push_back(waiting);
        } else if let Purpose::Picture(reply) = waiting.purpose {
            refuse(reply, "it is busy");
        }
        sent
    }

    fn ask_picture(&mut self, process: &Process, request: Request) {
        let Request { stream, unit, max_width, reply } = request;
        if self.suspended(&stream.camera) {
            let why =
                "this camera's pictures have crashed the worker and are left out for a while".to_owned();
            // Nobody waits any more: fine.
            let _ = reply.send(Err(PictureError::Decode(why)));
            return;
        }
        let (job, blobs) =
            self.job(&stream, std::slice::from_ref(&unit), None, 1.0, PictureWanted::Always { max_width });
        let waiting = self.waiting(&stream, &unit, Purpose::Picture(reply));
        self.send(process, job, blobs, waiting);
    }

    fn job(
        &mut self,
        stream: &LiveStream,
        access_units: &[Arc<AccessUnit>],
        model: Option<String>,
        min_score: f32,
        picture: PictureWanted,
    ) -> (Job, Vec<Bytes>) {
        self.next_id += 1;
        let (units, blobs) = wire::look_units(access_units);
        let params = access_units.last().map(|unit| unit.params.clone());
        let (codec, width, height) = params.map_or((crate::media::VideoCodec::H264, 0, 0), |params| {
            (params.codec, params.width, params.height)
        });
        let (id, stream) = (self.next_id, stream_name(stream));
        (Job::Look { id, stream, codec, width, height, units, model, min_score, picture }, blobs)
    }

    fn waiting(&self, stream: &LiveStream, unit: &AccessUnit, purpose: Purpose) -> InFlight {
        InFlight {
            id: self.next_id,
            camera: stream.camera.clone(),
            stream: stream_name(stream),
            capture: unit.capture(),
            sent: Instant::now(),
            purpose,
        }
    }

    fn suspended(&self, camera: &str) -> bool {
        self.blame.get(camera).and_then(|blame| blame.until).is_some_and(|until| Instant::now() < until)
    }

    fn hand_out(&mut self, process: &Process, ready: bool) {
        let now = self.now();
        for (id, camera) in &mut self.cameras {
            let streams = [Some(&camera.watch.main), camera.watch.sub.as_ref()];
            for (feed, stream) in camera.feeds.iter_mut().zip(streams) {
                stream.inspect(|stream| feed.observe(stream, now));
            }
            let feed = camera.preferred(now);
            self.looks.saw_gop(id, camera.feeds[feed].gop(now));
        }
        while ready && self.backlog.is_empty() && self.in_flight.len() < IN_FLIGHT {
            let mut chosen = None;
            let (cameras, models, blame) = (&self.cameras, &self.models, &self.blame);
            let next = self.looks.next(now, |id, need| {
                let Some(camera) = cameras.get(id) else { return Offer::Nothing };
                if !camera.watch.main.is_online() {
                    return Offer::Away;
                }
                let suspended =
                    blame.get(id).and_then(|blame| blame.until).is_some_and(|until| Instant::now() < until);
                if suspended || !matches!(models.get(&camera.watch.model), Some(Ok(_))) {
                    return Offer::Nothing;
                }
                let feed = camera.preferred(now);
                match camera.pictures(feed, need, now) {
                    Some(units) => {
                        let bytes = units.iter().map(|unit| unit.data.len()).sum();
                        chosen = Some((feed, units));
                        Offer::Bytes(bytes)
                    }
                    None => Offer::Nothing,
                }
            });
            let (Some((id, _)), Some((feed, units))) = (next, chosen) else { return };
            let Some((camera, unit)) = self.cameras.get_mut(&id).zip(units.last()) else { return };
            camera.feeds[feed].looked = Some(unit.seq);
            let watch = camera.watch.clone();
            let stream = if feed == 1 { watch.sub.as_ref().unwrap_or(&watch.main) } else { &watch.main };
            let model = watch.model.clone();
            let (job, blobs) =
                self.job(stream, &units, Some(model.clone()), watch.min_score, PictureWanted::Candidate);
            let waiting = self.waiting(stream, unit, Purpose::Look { model });
            if !self.send(process, job, blobs, waiting) {
                self.looks.lost(&id);
                return;
            }
        }
    }

    /// Takes a report on a job; an error is nonsense.
    fn report(&mut self, report: Report, jpeg: Bytes) -> Result<(), String> {
        let id = match &report {
            Report::Looked { id, .. } | Report::Failed { id, .. } => *id,
            Report::Ready { .. } | Report::Unfit { .. } => return Ok(()),
        };
        let at = self.in_flight.iter().position(|job| job.id == id);
        let Some(job) = at.and_then(|at| self.in_flight.remove(at)) else {
            return Err(format!("an answer to job {id}, which nobody waits for"));
        };
        let now = self.now();
        match report {
            Report::Looked { detections, decoder, profile, .. } => {
                if !jpeg.is_empty() && !jpeg.starts_with(&[0xff, 0xd8]) {
                    return Err("a picture that is no JPEG".to_owned());
                }
                self.decoded_by(&job, decoder, profile);
                match job.purpose {
                    Purpose::Picture(reply) => {
                        let picture = match jpeg.is_empty() {
                            true => Err(PictureError::Decode("the worker sent none".to_owned())),
                            false => Ok(Picture { jpeg, capture: job.capture }),
                        };
                        // Nobody waits any more: fine.
                        let _ = reply.send(picture);
                    }
                    Purpose::Look { model } => {
                        let Some(Ok(model)) = self.models.get(&model) else { return Ok(()) };
                        check(&detections, &model.classes)?;
                        let model = model.label.clone();
                        self.blame.remove(&job.camera);
                        let Some(_) = self.cameras.get(&job.camera) else { return Ok(()) };
                        let label = CameraLabel::new(&*job.camera);
                        let metrics = &self.shared.health.metrics;
                        metrics.looks.get_or_create(&label).inc();
                        if let Some(interval) = self.looks.answered(&job.camera, now) {
                            metrics
                                .look_interval_seconds
                                .get_or_create(&label)
                                .observe(interval.as_secs_f64());
                        }
                        self.shared.health.ok(&subject(&job.camera));
                        let jpeg = (!jpeg.is_empty()).then_some(jpeg);
                        let (camera, capture) = (job.camera, job.capture);
                        self.backlog.push_back(Looked { camera, capture, detections, jpeg, model });
                    }
                }
            }
            Report::Failed { why, .. } => match job.purpose {
                Purpose::Picture(reply) => {
                    // Nobody waits any more: fine.
                    let _ = reply.send(Err(PictureError::Decode(cut(&why))));
                }
                Purpose::Look { .. } => {
                    self.looks.lost(&job.camera);
                    tracing::debug!(camera = &*job.camera, "look: {}", cut(&why));
                    if self.cameras.contains_key(&job.camera) {
                        let message = format!("a look failed: {}", cut(&why));
                        self.shared.health.set(&subject(&job.camera), Severity::Degraded, message);
                    }
                }
            },
            Report::Ready { .. } | Report::Unfit { .. } => {}
        }
        Ok(())
    }

    /// Says once which decoder a stream has, loudly where it is slower than the box could be.
    fn decoded_by(&mut self, job: &InFlight, decoder: String, profile: String) {
        let new = Decoder::new(&*job.stream, cut(&decoder), cut(&profile));
        let before = self.decoders.get(&job.stream);
        if before == Some(&new) || (before.is_none() && self.decoders.len() > 4096) {
            return;
        }
        let info = &self.shared.health.metrics.decoder_info;
        if let Some(before) = before {
            info.remove(before);
        }
        info.get_or_create(&new).set(1);
        let (stream, decoder, profile) = (&job.stream, &new.decoder, &new.profile);
        let fell_back = before.is_some_and(|before| before.profile != new.profile)
            || !matches!(&*self.shared.settings.hw_profile, "auto" | "software");
        if profile == "software" && fell_back {
            tracing::warn!(
                stream,
                decoder,
                "decoded in SOFTWARE: the hardware decoder failed; see `liuta probe`"
            );
        } else {
            tracing::info!(stream, decoder, profile, "decoder");
        }
        self.decoders.insert(job.stream.clone(), new);
    }

    fn count_missed(&mut self, why: &str) {
        let now = self.now();
        for id in self.looks.missed(now) {
            let Some(camera) = self.cameras.get(&id) else { continue };
            if !camera.watch.main.is_online() {
                continue;
            }
            self.shared.health.metrics.look_contract_missed.get_or_create(&CameraLabel::new(&*id)).inc();
            let message = if self.suspended(&id) {
                "its pictures have crashed the vision worker and are left out for 5 minutes; update the camera's \
                 firmware or set it to another codec"
                    .to_owned()
            } else if let Some(Err(missing)) = self.models.get(&camera.watch.model) {
                missing.clone()
            } else {
                format!("not looked at once every {:?} as its scene demands: {why}", camera.watch.look_every)
            };
            self.shared.health.set(&subject(&id), Severity::Degraded, message);
        }
    }

    /// Settles what was in flight.
    fn after_end(&mut self, end: &End) {
        let (blames, why) = match end {
            End::Stopped => (false, "liuta stops".to_owned()),
            End::Reload => (false, "it is being restarted".to_owned()),
            End::Broken { cause, why } => {
                (matches!(*cause, "crash" | "hang" | "memory" | "nonsense"), why.clone())
            }
        };
        // Jobs are answered in order: the first one unanswered is what the worker was at.
        let culprit = self.in_flight.front().map(|job| job.camera.clone()).filter(|_| blames);
        if let Some(camera) = &culprit {
            let blame = self.blame.entry(camera.clone()).or_default();
            blame.crashes += 1;
            if blame.crashes >= BLAME {
                // Once more after that suspends again: only a look that succeeds clears the name.
                blame.until = Some(Instant::now() + SUSPENSION);
                tracing::error!(
                    camera = &**camera,
                    "its pictures crash the vision worker: left out for 5 minutes"
                );
            }
        }
        self.looks.lost_all(culprit.as_deref());
        let early = self.early.take().map(|request| request.reply);
        let replies = self.in_flight.drain(..).filter_map(|job| match job.purpose {
            Purpose::Picture(reply) => Some(reply),
            Purpose::Look { .. } => None,
        });
        replies.chain(early).for_each(|reply| refuse(reply, &why));
    }
}

impl Camera {
    /// The main feed, unless its key pictures come too seldom for the contract and the sub feed's do not.
    fn preferred(&self, now: Duration) -> usize {
        let [main, sub] = [self.feeds[0].gop(now), self.feeds[1].gop(now)];
        let has_sub =
            self.watch.sub.as_ref().is_some_and(|sub| sub.is_online()) && self.feeds[1].rap.is_some();
        usize::from(has_sub && main > self.watch.look_every + self.watch.look_every / 20 && sub < main)
    }

    /// What a look would be at, where there is something new.
    fn pictures(&self, feed: usize, need: Need, now: Duration) -> Option<Vec<Arc<AccessUnit>>> {
        let state = self.feeds.get(feed)?;
        let rap = state.rap.clone()?;
        let unseen = |unit: &AccessUnit| state.looked.is_none_or(|looked| unit.seq > looked);
        if unseen(&rap) && now.saturating_sub(state.rap_seen) <= self.watch.look_every {
            return Some(vec![rap]);
        }
        if need == Need::NewKeyPicture {
            return None;
        }
        let stream = if feed == 1 { self.watch.sub.as_ref()? } else { &self.watch.main };
        let mut units = vec![rap];
        units.extend(stream.since(units[0].seq)?);
        let bytes: usize = units.iter().map(|unit| unit.data.len() + 1024).sum();
        let run = units[0].run;
        (unseen(units.last()?) && bytes < wire::MAX_BLOB && units.iter().all(|unit| unit.run == run))
            .then_some(units)
    }
}

fn crash() -> End {
    End::Broken { cause: "crash", why: String::new() }
}

fn nonsense(what: String) -> End {
    End::Broken {
        cause: "nonsense",
        why: format!("the vision worker spoke nonsense and was ended: {}", cut(&what)),
    }
}

fn refuse(reply: oneshot::Sender<Result<Picture, PictureError>>, why: &str) {
    // Nobody waits any more: fine.
    let _ = reply.send(Err(PictureError::Worker(why.to_owned())));
}

/// None before the second try, then 1, 2, 4 … seconds.
fn pause(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        more => Duration::from_secs(1 << (more - 2).min(5)).min(LONGEST_PAUSE),
    }
}

/// How the worker ended, with what to do where its last words tell.
fn obituary(status: &str, last_words: &str) -> String {
    if last_words.contains("error while loading shared libraries") {
        let library = last_words.split(": ").find(|part| part.contains(".so")).unwrap_or("a library");
        return format!(
            "GStreamer is missing ({library}): apt-get install libgstreamer-plugins-base1.0-0 \
             gstreamer1.0-plugins-base gstreamer1.0-plugins-bad gstreamer1.0-libav"
        );
    }
    let said = if last_words.is_empty() { String::new() } else { format!(", having said: {last_words}") };
    format!("the vision worker ended ({status}){said}")
}

fn subject(camera: &str) -> String {
    format!("vision/{camera}")
}

fn stream_name(stream: &LiveStream) -> String {
    match stream.feed {
        crate::media::Feed::Main => stream.camera.to_string(),
        crate::media::Feed::Sub => format!("{}/sub", stream.camera),
    }
}

/// Text of the worker, bounded.
fn cut(text: &str) -> String {
    text.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn resolve(name: &str, folders: &[PathBuf]) -> Result<Model, String> {
    let Some((manifest, path)) = model::find(name, folders) else {
        let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        return Err(format!(
            "there is no model {name} in {}; `liuta models list` shows all",
            folders.join(", ")
        ));
    };
    let file = model::file_of(&manifest, &path);
    if !file.is_file() {
        return Err(format!("model file missing: {}; run `liuta models pull`", file.display()));
    }
    let classes = manifest.classes().into_iter().map(str::to_owned).collect();
    Ok(Model { label: Arc::from(manifest.label()), manifest: path, classes })
}

fn check(detections: &[Detection], classes: &BTreeSet<String>) -> Result<(), String> {
    if detections.len() > MAX_DETECTIONS {
        return Err(format!("{} detections on one picture", detections.len()));
    }
    for Detection { class, score, bbox: [x0, y0, x1, y1] } in detections {
        let inside = [score, x0, y0, x1, y1].into_iter().all(|number| (0.0..=1.0).contains(number));
        if !inside || x0 > x1 || y0 > y1 {
            return Err(format!("a detection outside the picture: {score} at {x0} {y0} {x1} {y1}"));
        }
        if !classes.contains(class) {
            return Err(format!("a detection of {class:?}, which the model does not give"));
        }
    }
    Ok(())
}
