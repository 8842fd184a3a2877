//! Having cameras looked at: the schedule of looks, and the supervisor of the worker process that does them.
//!
//! A look is decoding AND inference over every zone by the scene's model. The schedule lives here, in the main
//! process, which owns the live rings; the worker (`liuta-vision`) gets compressed access units over a Unix socket and
//! is killed and restarted when it crashes, hangs or eats memory.

pub mod looks;
pub mod model;
mod process;
mod supervisor;
pub mod wire;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::supervisor::{Request, Supervisor};
use crate::alert::Detection;
use crate::config::{self, Id};
use crate::health::{CameraLabel, Health, Severity};
use crate::hw;
use crate::live::LiveStream;
use crate::media::{AccessUnit, Feed};

/// What one look found.
#[derive(Clone, Debug)]
pub struct Looked {
    pub camera: Id,
    /// Of the picture that was looked at.
    pub capture: Timestamp,
    /// Every detection at or above the lowest `min_score` of the scene's rules, whatever the zone.
    pub detections: Vec<Detection>,
    /// The clean JPEG of that picture, where there was a candidate detection.
    pub jpeg: Option<Bytes>,
    /// `name@version` of the model.
    pub model: Arc<str>,
}

/// Handle to the supervisor and the schedule.
pub struct Vision {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    pictures: Mutex<HashMap<PictureKey, Arc<tokio::sync::Mutex<Option<Cached>>>>>,
    /// The supervisor's, or why there is none.
    task: Mutex<Result<JoinHandle<()>, PictureError>>,
}

/// What the handle and the supervisor's task both see.
struct Shared {
    settings: config::Vision,
    /// Resolved hardware profiles as the worker takes them.
    profiles: Vec<serde_json::Value>,
    /// The worker's binary.
    program: PathBuf,
    health: Health,
    watched: Mutex<Watched>,
    changed: Notify,
    stop: CancellationToken,
}

#[derive(Default)]
struct Watched {
    /// Rises with every change.
    generation: u64,
    cameras: BTreeMap<Id, Watch>,
}

/// How one camera is watched.
#[derive(Clone)]
struct Watch {
    main: Arc<LiveStream>,
    sub: Option<Arc<LiveStream>>,
    model: String,
    look_every: Duration,
    tiles: u32,
    min_score: f32,
}

/// Camera, feed and width.
type PictureKey = (Id, Feed, Option<u32>);

/// A picture and what it was made from: a camera's next stream counts anew.
struct Cached {
    stream: Weak<LiveStream>,
    seq: u64,
    picture: Picture,
}

/// How long somebody waits for a picture, the worker's start included.
const PICTURE_PATIENCE: Duration = Duration::from_secs(20);

/// Pictures that are decoded to make one: 40 s at 15 a second, about three seconds of a slow core at 1080p. Looks wait
/// meanwhile.
pub const MAX_PICTURES: usize = 600;

/// Streams and widths whose last picture is kept.
const PICTURES: usize = 64;

impl Shared {
    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Vision {
    /// Starts the schedule. What looks find goes to `found`, which is waited for when it is full. The worker is started
    /// (or `health` says why it cannot) when the first camera is watched or the first picture wanted; a box without
    /// either carries no idle process. It is `liuta-vision` beside this program, or what `LIUTA_VISION` names.
    pub fn start(settings: config::Vision, health: Health, found: mpsc::Sender<Looked>) -> Arc<Vision> {
        let profiles = if settings.enabled {
            hw::profiles(&settings.hw_profile, settings.hw_profiles.as_deref())
                .map_err(|error| error.to_string())
        } else {
            Ok(Vec::new())
        };
        let profiles = profiles.and_then(|profiles| {
            let values: Result<Vec<_>, _> = profiles.iter().map(serde_json::to_value).collect();
            values.map_err(|error| error.to_string())
        });
        Vision::assemble(program(), profiles, settings, health, found)
    }

    /// The same with a given worker and given hardware profiles.
    pub fn start_worker(
        program: PathBuf,
        profiles: Vec<serde_json::Value>,
        settings: config::Vision,
        health: Health,
        found: mpsc::Sender<Looked>,
    ) -> Arc<Vision> {
        Vision::assemble(program, Ok(profiles), settings, health, found)
    }

    fn assemble(
        program: PathBuf,
        profiles: Result<Vec<serde_json::Value>, String>,
        settings: config::Vision,
        health: Health,
        found: mpsc::Sender<Looked>,
    ) -> Arc<Vision> {
        let (profiles, refusal) = match profiles {
            Ok(profiles) if settings.enabled => (profiles, None),
            Ok(_) => (Vec::new(), Some(PictureError::Off)),
            Err(why) => {
                let message = format!("{why}; recording goes on, cameras are not watched");
                health.set("vision", Severity::Failed, message);
                (Vec::new(), Some(PictureError::Worker(why)))
            }
        };
        let shared = Arc::new(Shared {
            settings,
            profiles,
            program,
            health,
            watched: Mutex::default(),
            changed: Notify::new(),
            stop: CancellationToken::new(),
        });
        let (requests, queue) = mpsc::channel(16);
        let task = match refusal {
            Some(why) => Err(why),
            None => Ok(tokio::spawn(Supervisor::new(shared.clone(), queue, found).run())),
        };
        Arc::new(Vision { shared, requests, pictures: Mutex::default(), task: Mutex::new(task) })
    }

    /// Looks at a camera from now on, by its scene; replaces an earlier call for the same camera. A camera without a
    /// scene is not watched.
    pub fn watch(&self, camera: Arc<config::Camera>, main: Arc<LiveStream>, sub: Option<Arc<LiveStream>>) {
        let Some(scene) = &camera.scene else { return self.unwatch(&camera.id) };
        let watch = Watch {
            main,
            sub,
            model: scene.model.clone(),
            look_every: scene.look_every,
            tiles: scene.tiles,
            min_score: scene.rules.iter().map(|rule| rule.min_score).fold(1.0, f32::min),
        };
        // From zero on, so that the first miss is an increase.
        let (metrics, label) = (&self.shared.health.metrics, CameraLabel::new(&*camera.id));
        drop(metrics.looks.get_or_create(&label));
        drop(metrics.look_contract_missed.get_or_create(&label));
        let mut watched = self.shared.watched();
        watched.cameras.insert(camera.id.clone(), watch);
        watched.generation += 1;
        drop(watched);
        self.shared.changed.notify_one();
    }

    pub fn unwatch(&self, camera: &str) {
        let mut watched = self.shared.watched();
        if watched.cameras.remove(camera).is_some() {
            watched.generation += 1;
        }
        drop(watched);
        self.lock_pictures().retain(|(id, ..), _| &**id != camera);
        self.shared.health.remove(&format!("vision/{camera}"));
        self.shared.changed.notify_one();
    }

    /// The newest key picture of a stream as a JPEG, decoded by the worker; at most `max_width` pixels wide. Whoever
    /// asks while another waits for the same picture gets that one.
    pub async fn picture(
        &self,
        stream: &Arc<LiveStream>,
        max_width: Option<u32>,
    ) -> Result<Picture, PictureError> {
        if let Err(why) = &*self.lock_task() {
            return Err(why.clone());
        }
        let unit = stream.newest_rap().ok_or(PictureError::NoPicture)?;
        let key = (stream.camera.clone(), stream.feed, max_width);
        let place = {
            let mut pictures = self.lock_pictures();
            if pictures.len() >= PICTURES && !pictures.contains_key(&key) {
                // Those that nobody waits for at this moment are made again when wanted.
                pictures.retain(|_, place| Arc::strong_count(place) > 1);
            }
            pictures.entry(key).or_default().clone()
        };
        let picture = async {
            let mut place = place.lock().await;
            let current =
                |cached: &&Cached| cached.stream.as_ptr() == Arc::as_ptr(stream) && cached.seq >= unit.seq;
            if let Some(cached) = place.as_ref().filter(current) {
                return Ok(cached.picture.clone());
            }
            let seq = unit.seq;
            let name = supervisor::stream_name(stream);
            let picture = self.ask(stream.camera.clone(), name, vec![unit], max_width).await?;
            *place = Some(Cached { stream: Arc::downgrade(stream), seq, picture: picture.clone() });
            Ok(picture)
        };
        in_time(picture).await
    }

    /// The last of these access units of a recording as a JPEG; the first is a random access point. They are another
    /// stream to the worker than the camera's live one, and what they do to it is not the camera's fault of today.
    ///
    /// # Errors
    /// [`PictureError::TooMuch`] beyond what is decoded for one picture.
    pub async fn recorded_picture(
        &self,
        camera: &str,
        units: Vec<Arc<AccessUnit>>,
        max_width: Option<u32>,
    ) -> Result<Picture, PictureError> {
        if let Err(why) = &*self.lock_task() {
            return Err(why.clone());
        }
        let bytes: usize = units.iter().map(|unit| unit.data.len() + 1024).sum();
        if units.len() > MAX_PICTURES || bytes >= wire::MAX_BLOB {
            return Err(PictureError::TooMuch { pictures: units.len() });
        }
        let name = format!("{camera}/recorded");
        in_time(self.ask(Id::from(&*name), name, units, max_width)).await
    }

    async fn ask(
        &self,
        camera: Id,
        stream: String,
        units: Vec<Arc<AccessUnit>>,
        max_width: Option<u32>,
    ) -> Result<Picture, PictureError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { camera, stream, units, max_width, reply };
        self.requests.send(request).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Ends the worker.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        let task = match &mut *self.lock_task() {
            Err(_) => return,
            running => std::mem::replace(running, Err(stopped())),
        };
        if let Ok(mut task) = task
            && tokio::time::timeout(Duration::from_secs(6), &mut task).await.is_err()
        {
            // The worker is killed with its handle.
            task.abort();
            tracing::warn!("vision did not stop in time");
        }
    }

    fn lock_task(&self) -> MutexGuard<'_, Result<JoinHandle<()>, PictureError>> {
        self.task.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn lock_pictures(&self) -> MutexGuard<'_, HashMap<PictureKey, Arc<tokio::sync::Mutex<Option<Cached>>>>> {
        self.pictures.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

async fn in_time(
    picture: impl Future<Output = Result<Picture, PictureError>>,
) -> Result<Picture, PictureError> {
    tokio::time::timeout(PICTURE_PATIENCE, picture).await.unwrap_or_else(|_| {
        Err(PictureError::Worker(format!("no answer within {} s", PICTURE_PATIENCE.as_secs())))
    })
}

fn program() -> PathBuf {
    std::env::var_os("LIUTA_VISION").map_or_else(hw::worker, PathBuf::from)
}

fn stopped() -> PictureError {
    PictureError::Worker("liuta stops".to_owned())
}

/// A decoded picture.
#[derive(Clone, Debug)]
pub struct Picture {
    pub jpeg: Bytes,
    pub capture: Timestamp,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum PictureError {
    #[error("vision is off: set [vision] enabled = true")]
    Off,
    #[error("the camera has sent no picture yet")]
    NoPicture,
    #[error("the vision worker is not running: {0}")]
    Worker(String),
    #[error("the picture could not be decoded: {0}")]
    Decode(String),
    /// Of a recording.
    #[error(
        "the picture is {pictures} pictures behind its key picture, more than are decoded for one: shorten the camera's \
         key frame interval"
    )]
    TooMuch { pictures: usize },
}

#[cfg(test)]
mod tests;
