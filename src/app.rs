//! The composition root: start, reload, ordered stop.
//!
//! Everything long-lived is made here, in the order in which it is needed, and ended in the opposite one. What does not
//! belong here: what any of it does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::access::{Access, Links};
use crate::analysis::{self, Analysis};
use crate::api;
use crate::camera::{Camera, Ingest};
use crate::config::loaded::Loaded;
use crate::config::plan::Plan;
use crate::config::{self, Config, Id};
use crate::dispatch::Dispatch;
use crate::events::{Events, Watched};
use crate::health::{Health, Severity};
use crate::live::{Budget, Directory};
use crate::net::connections::Connections;
use crate::net::listener::Listener;
use crate::net::tls::Tls;
use crate::owner;
use crate::record::Ring;
use crate::relay::channels::Channels;
use crate::relay::rtsp;
use crate::settings::{self, Settings};
use crate::store::Store;
use crate::vision::Vision;

/// What all live rings should hold together; past it each keeps its fair share.
const LIVE_BYTES: usize = 1 << 30;

/// Files and connections at once, many times what the listeners let in (`net::connections`).
const OPEN_FILES: u64 = 65_536;

/// Signals so soon after the first mean the same stop: `timeout` and terminals signal a process and then its group.
const SAME_STOP: Duration = Duration::from_secs(1);

/// From SIGTERM to the end. systemd's own patience (`TimeoutStopSec`) is longer.
const STOP_WITHIN: Duration = Duration::from_secs(9);

/// What `state.db` holds alone, without its write-ahead log, is no older than this.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);

/// The health state of the audit trail's chain.
const TRAIL: &str = "store/audit-trail";

/// How long detections and ended alerts are remembered.
const DETECTIONS_KEPT: Duration = Duration::from_secs(30 * 86_400);
const ALERTS_KEPT: Duration = Duration::from_secs(180 * 86_400);

/// Runs the daemon until it is told to stop.
pub async fn run(file: &Path, loaded: Loaded) -> anyhow::Result<()> {
    for file in loaded.exposed() {
        tracing::warn!(
            "{} holds passwords, and everybody on this box can read it: chmod o-r",
            file.display()
        );
    }
    allow_connections();
    // Before anything that takes long: a signal during recovery must not be the end.
    let mut signals = Signals::install()?;
    let (mut app, mut requests) = App::start(file, loaded).await?;
    app.log_addresses();
    app.tell_ready();
    loop {
        // One after the other: a reload and a change never meet.
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => app.reload().await,
                Signal::Stop => break,
            },
            Some(request) = requests.recv() => app.change(request).await,
            part = app.ended_part() => anyhow::bail!("the {part} ended by itself; the service manager starts anew"),
        }
    }
    tokio::select! {
        () = app.stop() => Ok(()),
        () = signals.second_stop() => anyhow::bail!("told to stop a second time: ended at once"),
    }
}

/// Keeps what the daemon holds from others on the box: no core file and no debugger of the same user sees passwords in
/// its memory, and files that it makes are its own. To be called before anything secret is read.
pub fn keep_private() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit};
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let done = rustix::process::setrlimit(Resource::Core, none)
        .and_then(|()| rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = done {
        tracing::warn!("a crash may write a core file with passwords: {error}");
    }
}

/// Raises the number of files that may be open to what the system allows: shells and containers give a thousand, and the
/// listeners let in more connections than that (systemd's unit says so itself).
fn allow_connections() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
    if limit.current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit })
    {
        tracing::warn!("fewer connections than the listeners take can be open: {error}");
    }
}

struct App {
    file: PathBuf,
    settings: Settings,
    health: Health,
    streams: Arc<Directory>,
    channels: Arc<Channels>,
    events: Arc<Events>,
    budget: Arc<Budget>,
    ingest: Ingest,
    cameras: BTreeMap<Id, Camera>,
    store: Arc<Store>,
    ring: Arc<Ring>,
    access: Access,
    dispatch: Arc<Dispatch>,
    vision: Arc<Vision>,
    analysis: Arc<Analysis>,
    tls: Option<Arc<Tls>>,
    rtsp: rtsp::Server,
    api: JoinHandle<std::io::Result<()>>,
    api_stop: CancellationToken,
    chores: Vec<JoinHandle<()>>,
}

impl App {
    async fn start(file: &Path, loaded: Loaded) -> anyhow::Result<(App, mpsc::Receiver<settings::Request>)> {
        let health = Health::default();
        let config = loaded.config.clone();
        owner::make_folders(&config.data, 0o750)
            .map_err(|error| owner::explain(&config.data, error))
            .with_context(|| format!("data = {:?} cannot be made", config.data))?;
        // The ring first: it holds the lock on the data folder.
        let ring = Ring::open(&config.data, config.record.clone(), health.clone())?;
        let store = Store::open(&config.data)?;
        if let Err(error) = analysis::pin_again(&store, &ring) {
            tracing::error!("evidence that an index has lost is not pinned again: {error:#}");
        }
        let tls = if config.serves_tls() { Some(Tls::open(&config, health.clone())?) } else { None };
        let rtsp_listeners = rtsp_listeners(&config, tls.as_ref(), &health).await?;
        let api_listener = api_listener(&config, tls.as_ref(), &health).await?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }

        let access = Access::new(store.clone(), &config, health.clone());
        // Whoever lost the people of a box with recordings must not find it open to the next who comes.
        if !keep_state(&store, &health)
            && let Some(token) = access.open_setup()?
        {
            // The one secret that is ever logged: it is void once there is an administrator, and after a day.
            tracing::warn!(
                "there is no administrator yet: make one at {} with this set-up token: {token}",
                config.site.public_url
            );
        }
        let links = Links::new(store.secret("links")?);
        let dispatch = Dispatch::start(
            &config.dispatch,
            config.site.clone(),
            store.clone(),
            links.clone(),
            health.clone(),
        );
        let (found, looked) = mpsc::channel(64);
        let analysis = Analysis::start(store.clone(), ring.clone(), dispatch.clone(), health.clone(), looked);
        let vision = Vision::start(config.vision.clone(), health.clone(), found);
        let streams = Arc::new(Directory::default());
        let channels = Channels::new(store.clone(), streams.clone());
        let rtsp = rtsp::Server::start(rtsp::Setup {
            listeners: rtsp_listeners,
            udp: config.rtsp.udp.map(rtp_sockets).transpose()?,
            streams: streams.clone(),
            archive: Some(ring.archive().clone()),
            limits: config.rtsp.limits.clone(),
            access: access.clone(),
            health: health.clone(),
        });
        let (settings, requests) = settings::requests(loaded, store.secret("settings")?);
        let api_stop = CancellationToken::new();
        let watched = Watched {
            settings: settings.clone(),
            streams: streams.clone(),
            channels: channels.clone(),
            health: health.clone(),
        };
        let events = Events::start(store.clone(), watched, api_stop.clone())?;
        let shared = api::Shared {
            settings: settings.clone(),
            dispatch: dispatch.clone(),
            streams: streams.clone(),
            channels: channels.clone(),
            viewers: Arc::default(),
            events: events.clone(),
            access: access.clone(),
            links,
            store: store.clone(),
            ring: ring.clone(),
            vision: vision.clone(),
            health: health.clone(),
            trials: Arc::new(Semaphore::new(api::TRIALS)),
        };
        let api = tokio::spawn(api::serve(api_listener, shared, api_stop.clone()));

        let mut chores = vec![
            tokio::spawn(forget_old(store.clone(), settings.clone(), health.clone())),
            tokio::spawn(keep_state_often(store.clone(), health.clone())),
            tokio::spawn(feed_watchdog(ring.clone(), store.clone())),
        ];
        chores.extend(tls.clone().map(|tls| tokio::spawn(tls.keep_fresh())));
        let budget = Budget::new(LIVE_BYTES);
        let ingest = Ingest::start(budget.clone()).context("no thread that receives cameras")?;
        let mut app = App {
            file: file.to_owned(),
            settings,
            health,
            streams,
            channels,
            events,
            budget,
            ingest,
            cameras: BTreeMap::new(),
            store,
            ring,
            access,
            dispatch,
            vision,
            analysis,
            tls,
            rtsp,
            api,
            api_stop,
            chores,
        };
        for camera in config.cameras.values() {
            app.start_camera(camera.clone());
        }
        app.set_channels(&config).await;
        Ok((app, requests))
    }

    /// Waits until something ends that must not while the daemon runs, and names it. What cannot work but is still
    /// there says so in its health state; what has panicked is noticed here alone.
    async fn ended_part(&self) -> &'static str {
        let mut look = tokio::time::interval(Duration::from_secs(2));
        loop {
            look.tick().await;
            let parts = [
                ("HTTP server", self.api.is_finished()),
                ("RTSP server", !self.rtsp.is_running()),
                ("analysis", !self.analysis.is_running()),
                ("live events", !self.events.is_running()),
            ];
            if let Some((part, _)) = parts.into_iter().find(|(_, ended)| *ended) {
                return part;
            }
        }
    }

    fn log_addresses(&self) {
        let config = self.settings.config();
        tracing::info!(
            cameras = self.cameras.len(),
            "ready: rtsp://{}/CAMERA, {}://{}/",
            config.rtsp.listen,
            config.api.scheme(),
            config.api.listen
        );
    }

    fn tell_ready(&self) {
        let status = format!("{} cameras", self.cameras.len());
        notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(&status)]);
    }

    fn start_camera(&mut self, config: Arc<config::Camera>) {
        let camera =
            Camera::start(config.clone(), &self.ingest, &self.ring, &self.budget, self.health.clone());
        self.streams.insert(&*config.id, camera.main.clone());
        if let Some(sub) = &camera.sub {
            self.streams.insert(format!("{}/sub", config.id), sub.clone());
        }
        self.watch(config.clone(), &camera);
        self.cameras.insert(config.id.clone(), camera);
    }

    /// Has the camera looked at, where its configuration names a scene.
    fn watch(&self, config: Arc<config::Camera>, camera: &Camera) {
        if config.scene.is_some() {
            self.analysis.watch(config.clone());
            self.vision.watch(config, camera.main.clone(), camera.sub.clone());
        } else {
            self.unwatch(&config.id);
        }
    }

    fn unwatch(&self, id: &str) {
        self.vision.unwatch(id);
        self.analysis.unwatch(id);
    }

    /// Brings the channels on air, once the cameras run.
    async fn set_channels(&self, config: &Config) {
        let (channels, configured) = (self.channels.clone(), config.channels.clone());
        if let Err(error) = tokio::task::spawn_blocking(move || channels.configure(&configured)).await {
            tracing::error!("channels: {error}");
        }
    }

    /// Reads the configuration again and applies what differs; any error keeps what runs.
    async fn reload(&mut self) {
        notify(&[sd_notify::NotifyState::Reloading]);
        let file = self.file.clone();
        match tokio::task::spawn_blocking(move || config::file::load(&file)).await {
            Ok(Ok(new)) => {
                self.apply(Arc::new(new)).await;
                self.health.ok("config");
                tracing::info!("configuration reloaded");
            }
            Ok(Err(problems)) => {
                let message = format!("reload refused, the former configuration stays: {problems}");
                // Each is told, not the first alone.
                self.health.remove("config");
                self.health.set("config", Severity::Degraded, message);
            }
            Err(error) => tracing::error!("reload: {error}"),
        }
        // The service manager waits for it, whatever came out.
        self.tell_ready();
    }

    /// Carries out a change that somebody asked for through the API; a refused one leaves everything as it is.
    async fn change(&mut self, request: settings::Request) {
        let (settings, access) = (self.settings.clone(), self.access.clone());
        let carried_out = tokio::task::spawn_blocking(move || {
            let done = settings.carry_out(&request, access.audit());
            (request, done)
        });
        match carried_out.await {
            Ok((request, Ok(new))) => {
                self.apply(new.clone()).await;
                tracing::info!("configuration changed: {request}");
                request.answer(Ok(new));
            }
            Ok((request, Err(refused))) => request.answer(Err(refused)),
            // Whoever asked sees that nobody answers any more.
            Err(error) => tracing::error!("a change: {error}"),
        }
    }

    async fn apply(&mut self, loaded: Arc<Loaded>) {
        let (old, new) = (self.settings.config(), loaded.config.clone());
        let plan = Plan::between(&old, &new);
        for section in &plan.restart_needed {
            tracing::warn!("[{section}] has changed; that takes effect with the next start");
        }
        let mut stopping = Vec::new();
        for id in &plan.stop {
            self.streams.remove(id);
            self.streams.remove(&format!("{id}/sub"));
            self.unwatch(id);
            stopping.extend(self.cameras.remove(id).map(|camera| camera.stop(Duration::from_secs(5))));
        }
        futures::future::join_all(stopping).await;
        for id in plan.stop.iter().filter(|id| !new.cameras.contains_key(*id)) {
            self.health.forget_camera(id);
        }
        for camera in plan.start {
            self.start_camera(camera);
        }
        for retuned in plan.retune {
            if let Some(mut camera) = self.cameras.remove(&retuned.id) {
                camera.config = retuned.clone();
                self.watch(retuned.clone(), &camera);
                self.cameras.insert(retuned.id.clone(), camera);
            }
        }
        self.set_channels(&new).await;
        self.access.reconfigure(&new);
        if let Some(tls) = self.tls.as_ref().filter(|_| new.serves_tls()) {
            tls.reconfigure(&new);
        }
        for warning in &new.warnings {
            tracing::warn!("{warning}");
        }
        self.ring.reconfigure(new.record.clone());
        self.dispatch.reconfigure(&new.dispatch, new.site.clone());
        self.settings.adopt(loaded);
    }

    /// Sources first, then what they feed, each step within the common deadline; stragglers are named.
    async fn stop(self) {
        notify(&[sd_notify::NotifyState::Stopping]);
        let deadline = Instant::now() + STOP_WITHIN;
        let left = |share: f32| deadline.saturating_duration_since(Instant::now()).mul_f32(share);
        self.api_stop.cancel();
        for chore in &self.chores {
            chore.abort();
        }
        let share = left(0.4);
        let cameras = self.cameras.into_values().map(|camera| async move {
            let id = camera.config.id.clone();
            if !camera.stop(share).await {
                tracing::warn!("camera {id} did not stop in time");
            }
        });
        futures::future::join_all(cameras).await;
        let (ring, share) = (self.ring, left(0.6));
        match tokio::task::spawn_blocking(move || ring.close(share)).await {
            Ok(true) => {}
            _ => tracing::warn!("the recorder did not finish in time; recovery at the next start will"),
        }
        // Its own patience is longer; what it leaves is killed with its handle.
        if timeout_at(deadline - Duration::from_secs(2), self.vision.stop()).await.is_err() {
            tracing::warn!("vision did not stop in time");
        }
        if !self.analysis.stop(left(0.5)).await {
            tracing::warn!("the analysis did not finish in time");
        }
        let ends = async {
            self.dispatch.stop().await;
            self.rtsp.stop().await;
            match self.api.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("api: {error}"),
                Err(error) => tracing::warn!("api: {error}"),
            }
        };
        if timeout_at(deadline, ends).await.is_err() {
            tracing::warn!("readers or requests did not end in time");
        }
        drop(self.store);
        tracing::info!("stopped");
    }
}

/// HTTP, or HTTPS alone.
async fn api_listener(config: &Config, tls: Option<&Arc<Tls>>, health: &Health) -> anyhow::Result<Listener> {
    let at = config.api.listen;
    let listener = Listener::new(bind("api", "listen", at).await?, Connections::new("http", health.clone()));
    match tls.filter(|_| config.api.is_encrypted()) {
        Some(tls) => Ok(listener.over(tls, &[b"http/1.1"], api::USE_HTTPS)),
        None => {
            if !at.ip().is_loopback() {
                let message = format!(
                    "[api] plain_http: {at} is not encrypted, passwords and tokens can be read on the way; take \
                     plain_http out, or listen on loopback behind a proxy that encrypts"
                );
                health.set("api", Severity::Degraded, message);
            }
            Ok(listener)
        }
    }
}

/// RTSP, which cameras' and decoders' world speaks in plain text, and RTSPS beside it.
async fn rtsp_listeners(
    config: &Config,
    tls: Option<&Arc<Tls>>,
    health: &Health,
) -> anyhow::Result<Vec<Listener>> {
    let connections = Connections::new("rtsp", health.clone());
    let at = config.rtsp.listen;
    if !at.ip().is_loopback() {
        tracing::warn!(
            "[rtsp] listen = \"{at}\" is not encrypted: what is sent there can be read on the way; rtsps is the \
             other way in"
        );
    }
    let mut listeners = vec![Listener::new(bind("rtsp", "listen", at).await?, connections.clone())];
    if let Some((at, tls)) = config.rtsp.rtsps_listen.zip(tls) {
        let tcp = bind("rtsp", "rtsps_listen", at).await?;
        listeners.push(Listener::new(tcp, connections).over(tls, &[], rtsp::USE_RTSPS));
    }
    Ok(listeners)
}

fn rtp_sockets(at: SocketAddr) -> anyhow::Result<Arc<rtsp::udp::Pair>> {
    rtsp::udp::Pair::bind(at).with_context(|| {
        format!(
            "[rtsp] udp = \"{at}\": cannot listen there and at the next port (is another program using one?)"
        )
    })
}

async fn bind(section: &str, key: &str, at: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(at).await.with_context(|| {
        format!("[{section}] {key} = \"{at}\": cannot listen there (is another program, or a second liuta, using it?)")
    })
}

/// Keeps `state.db` from growing for ever.
async fn forget_old(store: Arc<Store>, settings: Settings, health: Health) {
    let mut hourly = tokio::time::interval(Duration::from_secs(3600));
    loop {
        hourly.tick().await;
        let store = store.clone();
        let audited = jiff::Timestamp::now().checked_sub(settings.config().audit.retention);
        let done = tokio::task::spawn_blocking(move || {
            let forgotten = store.forget(DETECTIONS_KEPT, ALERTS_KEPT);
            let forgotten = forgotten.and_then(|()| audited.map_or(Ok(()), |until| store.prune_audit(until)));
            forgotten.and_then(|()| store.verify_audit())
        })
        .await;
        match done {
            Ok(Ok(trail)) => match trail.broken {
                None => health.ok(TRAIL),
                Some(broken) => {
                    let message = format!(
                        "the audit trail is broken at row {}: {}; see `liuta audit verify`, and compare with a backup",
                        broken.seq, broken.why
                    );
                    health.set(TRAIL, Severity::Degraded, message);
                }
            },
            Ok(Err(error)) => tracing::warn!("what is old is not forgotten: {error}"),
            Err(error) => tracing::error!("what is old is not forgotten: {error}"),
        }
    }
}

async fn keep_state_often(store: Arc<Store>, health: Health) {
    // The start has done it once.
    let mut due = tokio::time::interval_at(Instant::now() + CHECKPOINT_EVERY, CHECKPOINT_EVERY);
    loop {
        due.tick().await;
        let (store, health) = (store.clone(), health.clone());
        let kept = tokio::task::spawn_blocking(move || keep_state(&store, &health)).await;
        if let Err(error) = kept {
            tracing::error!("state.db is not looked after: {error}");
        }
    }
}

/// Keeps `state.db` whole by itself, and notices where it is not the one that was here before: then true.
fn keep_state(store: &Store, health: &Health) -> bool {
    match store.checkpoint() {
        Ok(()) => health.ok("store/checkpoint"),
        Err(error) => {
            let message = format!("what was written lately lies in state.db-wal alone: {error}");
            health.set("store/checkpoint", Severity::Degraded, message);
        }
    }
    match store.has_lost_its_people() {
        Ok(false) => {
            health.ok("store");
            false
        }
        Ok(true) => {
            let message = "state.db has no administrator, and there was one: the file or its state.db-wal was lost or \
                           replaced, and with it people, tokens, alerts and the audit trail. Stop liuta and put a \
                           backup in its place; or begin anew: `liuta user add NAME --role admin`, or delete \
                           set-up-done beside it and start again for a set-up token";
            // No restart would help, so that the box has not failed as a whole.
            health.set("store", Severity::Degraded, message);
            true
        }
        Err(error) => {
            tracing::warn!("whether state.db is whole cannot be told: {error}");
            false
        }
    }
}

/// Tells the service manager that there is progress: this runtime turns, the ring writes, the store answers.
async fn feed_watchdog(ring: Arc<Ring>, store: Arc<Store>) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let mut beat = tokio::time::interval(patience / 3);
    loop {
        beat.tick().await;
        let store = store.clone();
        let asked = tokio::task::spawn_blocking(move || store.open_alerts().is_ok());
        // A store that refuses is a health state, and no restart mends it; one that hangs may be mended.
        let answers = tokio::time::timeout(patience / 2, asked).await.is_ok();
        if ring.is_responsive() && answers {
            notify(&[sd_notify::NotifyState::Watchdog]);
        } else {
            tracing::error!("recorder or store make no progress; the watchdog is not fed");
        }
    }
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("service manager: {error}");
    }
}

enum Signal {
    Reload,
    Stop,
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn install() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hangup.recv() => Signal::Reload,
        }
    }

    async fn second_stop(&mut self) {
        let first = Instant::now();
        while !matches!(self.next().await, Signal::Stop) || first.elapsed() < SAME_STOP {}
    }
}
