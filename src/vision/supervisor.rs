//! The supervisor: one task that owns the schedule and the worker, and gives each what the other needs.
//!
//! The worker is trusted no further than a camera. One that crashes, hangs, grows or speaks nonsense is killed and
//! started again, at once the first time and later with growing pauses; the camera whose picture it was at is blamed,
//! and suspended when that happens twice, so that one poisoned picture does not blind the others.

mod blame;
mod feed;
mod jobs;
mod models;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use self::blame::Blame;
use self::feed::Camera;
pub(super) use self::jobs::stream_name;
use self::jobs::{InFlight, Purpose};
use self::models::Model;
use super::looks::{Limits, Looks};
use super::process::Process;
use super::wire::{self, Job, Report};
use super::{Looked, Picture, PictureError, Shared};
use crate::config::Id;
use crate::health::{CameraLabel, Cause, Decoder, Severity};
use crate::media::AccessUnit;

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

/// Models that are missing are looked for again after so long.
const RESOLVE: Duration = Duration::from_secs(10);

/// A worker that could not load a model is replaced after so long: somebody may have put right what was missing.
const RELOAD: Duration = Duration::from_secs(60);

/// Why a contract is missed while a worker runs.
const TOO_MUCH: &str = "the worker is not fast enough for its cameras, or key pictures are too far apart: \
    lengthen look_every, shorten the camera's key frame interval, or use a hardware profile";

/// A picture that somebody waits for.
pub(super) struct Request {
    /// Who is blamed where it brings the worker down.
    pub camera: Id,
    /// What the worker calls the stream.
    pub stream: String,
    /// From a random access point on; the last one is wanted.
    pub units: Vec<Arc<AccessUnit>>,
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
    blame: Blame,
    /// Of the watched cameras, by stream, `forest-1/sub`.
    decoders: HashMap<String, Decoder>,
    /// Labels of the models that the worker could not load.
    unloaded: BTreeSet<Arc<str>>,
    /// Gone cameras whose streams the worker still remembers.
    forget: Vec<String>,
    /// A request taken from the queue before a worker was there.
    early: Option<Request>,
}

/// A worker while it runs.
struct Run<'p> {
    process: &'p mut Process,
    /// Of the models that it loads.
    manifests: Vec<PathBuf>,
    /// It said so.
    ready: bool,
    /// When models that it could not load are tried again, by a new worker.
    retry: Option<Instant>,
    /// When it said anything.
    progress: Instant,
    /// When its memory was last asked for.
    weighed: Instant,
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
            blame: Blame::default(),
            decoders: HashMap::new(),
            unloaded: BTreeSet::new(),
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
            self.blame.clear(&id);
            // An answer that came before this may have spoken of it again.
            self.shared.health.remove(&subject(&id));
            for stream in [id.to_string(), format!("{id}/sub")] {
                self.forget_decoder(&stream);
                self.forget.push(stream);
            }
        }
        for (id, watch) in watched {
            self.looks.watch(id.clone(), watch.look_every, now);
            if watch.sub.is_none() {
                self.forget_decoder(&format!("{id}/sub"));
            }
            match self.cameras.get_mut(&id) {
                Some(camera) => camera.rewatch(watch),
                None => {
                    self.cameras.insert(id, Camera::new(watch));
                }
            }
        }
        let names: BTreeSet<String> =
            self.cameras.values().map(|camera| camera.watch.model.clone()).collect();
        let folders = &self.shared.settings.models;
        self.models = names.into_iter().map(|name| (name.clone(), Model::resolve(&name, folders))).collect();
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
            named: self.shared.settings.hw_profile != "auto",
            onnxruntime: self.shared.settings.onnxruntime.clone(),
            models: manifests.clone(),
        };
        if process.jobs.send((start, Vec::new())).await.is_err() {
            return crash();
        }
        let found = self.found.clone();
        let began = Instant::now();
        let mut run = Run { process, manifests, ready: false, retry: None, progress: began, weighed: began };
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let room = run.ready && self.in_flight.len() < IN_FLIGHT;
            if room && let Some(request) = self.early.take() {
                self.ask_picture(run.process, request);
            }
            let end = tokio::select! {
                () = self.shared.stop.cancelled() => Some(End::Stopped),
                report = run.process.reports.recv() => self.take_report(&mut run, report).await,
                Some(request) = self.requests.recv(), if room => {
                    self.ask_picture(run.process, request);
                    None
                }
                permit = found.reserve(), if !self.backlog.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(looked) = self.backlog.pop_front() {
                            permit.send(looked);
                        }
                        None
                    }
                    // Nobody is left who wants to know.
                    Err(_) => Some(End::Stopped),
                },
                _ = ticks.tick() => self.tick(&mut run),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Takes what the worker says; `None`: it closed.
    async fn take_report(
        &mut self,
        run: &mut Run<'_>,
        report: Option<Result<(Report, Bytes), String>>,
    ) -> Option<End> {
        let (report, jpeg) = match report {
            Some(Ok(report)) => report,
            Some(Err(what)) => return Some(nonsense(what)),
            None => {
                // It is ending. One that only closed its socket is ended.
                let _ = tokio::time::timeout(Duration::from_secs(1), run.process.ended()).await;
                return Some(crash());
            }
        };
        run.progress = Instant::now();
        match report {
            Report::Unfit { why } => return Some(End::Broken { cause: "unfit", why }),
            Report::Ready { models, problems, sandbox } if !run.ready => {
                run.ready = true;
                self.shared.health.metrics.set_vision_sandbox(sandbox.landlock, sandbox.seccomp);
                let labels = self.models.values().flatten().map(|model| model.label.clone());
                self.unloaded =
                    labels.filter(|label| !models.iter().any(|loaded| **loaded == **label)).collect();
                run.retry = (!self.unloaded.is_empty()).then(|| Instant::now() + RELOAD);
                let severity = match (self.unloaded.is_empty(), problems.is_empty()) {
                    (true, true) => Severity::Ok,
                    (true, false) => Severity::Degraded,
                    (false, _) => Severity::Failed,
                };
                self.say(severity, &cut(&problems.join("; ")));
            }
            Report::Ready { .. } => return Some(nonsense("a second Ready".to_owned())),
            report => {
                if let Err(what) = self.take_answer(report, jpeg) {
                    return Some(nonsense(what));
                }
            }
        }
        self.hand_out(run.process, run.ready);
        None
    }

    /// What is due by time alone.
    fn tick(&mut self, run: &mut Run<'_>) -> Option<End> {
        self.sync();
        let current = self.manifests() == run.manifests;
        let retry = run.retry.is_some_and(|at| Instant::now() >= at);
        if (!current || retry) && self.in_flight.is_empty() {
            return Some(End::Reload);
        }
        for stream in self.forget.drain(..) {
            // A full queue: the worker keeps a little more than it needs.
            let _ = run.process.jobs.try_send((Job::Forget { stream }, Vec::new()));
        }
        self.count_missed(TOO_MUCH);
        if current && !retry {
            self.hand_out(run.process, run.ready);
        }
        if run.weighed.elapsed() >= Duration::from_secs(1) {
            run.weighed = Instant::now();
            if let Some(bytes) = run.process.resident().filter(|bytes| *bytes > MEMORY) {
                let why = format!("the vision worker took {} MiB and was ended", bytes >> 20);
                return Some(End::Broken { cause: "memory", why });
            }
            if run.ready {
                self.say_models();
            }
        }
        let waiting = self.in_flight.front().map(|job| job.sent.max(run.progress));
        let hangs = match (run.ready, waiting) {
            (false, _) => run.progress.elapsed() > START_PATIENCE,
            (true, Some(since)) => since.elapsed() > wire::PATIENCE,
            (true, None) => false,
        };
        hangs.then(|| {
            let at = self.in_flight.front().map_or("its start", |job| &job.stream);
            let why = format!("the vision worker gave no answer for too long, at {at}, and was ended");
            End::Broken { cause: "hang", why }
        })
    }

    /// A model that went missing or came since the worker was ready.
    fn say_models(&self) {
        if self.models.values().any(Result::is_err) {
            self.say(Severity::Ok, "");
        }
    }

    fn count_missed(&mut self, why: &str) {
        let now = self.now();
        for id in self.looks.missed(now) {
            let Some(camera) = self.cameras.get_mut(&id) else { continue };
            if !camera.watch.main.is_online() {
                continue;
            }
            camera.missed = Some(now);
            let camera = &*camera;
            self.shared.health.metrics.look_contract_missed.get_or_create(&CameraLabel::new(&*id)).inc();
            let message = if self.blame.suspended(&id) {
                "its pictures have crashed the vision worker and are left out for 5 minutes; update the camera's \
                 firmware or set it to another codec"
                    .to_owned()
            } else if let Some(Err(missing)) = self.models.get(&camera.watch.model) {
                missing.clone()
            } else if let Some(Ok(model)) = self.models.get(&camera.watch.model)
                && self.unloaded.contains(&model.label)
            {
                format!("not looked at: its model {} does not load, `vision` says why", model.label)
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
            self.blame.crashed(camera);
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

/// Text of the worker, bounded.
fn cut(text: &str) -> String {
    text.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
