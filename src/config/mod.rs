//! The configuration as the program uses it: resolved, validated, complete, never changed in place.
//!
//! [`file`] reads it as people write it, with what [`overlay`] lays over the file, and [`loaded`] keeps both together;
//! [`plan`] tells the difference of two, [`scene`] reads what cameras watch for and [`zone`] where, [`certificate`] the
//! files of `tls`, and [`reach`] is where cameras and destinations may lie.

pub mod certificate;
pub mod file;
pub mod loaded;
pub mod overlay;
pub mod plan;
pub mod reach;
pub mod reader;
pub mod scene;
pub mod zone;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use certificate::PemFiles;
use reach::Reach;

/// The hardware profiles that the program brings (`hw-profiles/`), in the order in which `auto` tries them.
pub const HW_PROFILES: [&str; 6] = ["nvidia", "jetson", "rockchip", "intel-va", "v4l2", "software"];

/// A camera's or a channel's id: `[a-z0-9][a-z0-9-]{0,62}`, none of [`RESERVED_IDS`].
pub type Id = Arc<str>;

/// First path segments that the HTTP and RTSP servers use themselves.
pub const RESERVED_IDS: [&str; 10] =
    ["api", "channels", "playback", "list", "get", "metrics", "healthz", "console", "assets", "try"];

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Recordings, index, alerts, people.
    pub data: PathBuf,
    pub site: Site,
    pub api: Api,
    pub rtsp: Rtsp,
    /// Whoever reaches the box may watch live, and nothing else (`auth.anonymous = "viewer"`).
    pub anonymous_viewer: bool,
    pub audit: Audit,
    pub record: Record,
    pub vision: Vision,
    pub channels: BTreeMap<Id, Channel>,
    pub dispatch: BTreeMap<String, Arc<Destination>>,
    pub cameras: BTreeMap<Id, Arc<Camera>>,
    /// What will not work as it stands, although it can be read: `liuta check` refuses it, and a daemon, whose first
    /// duty is to record, starts all the same.
    pub warnings: Vec<reader::Problem>,
}

impl Config {
    /// Some listener needs a certificate.
    pub fn serves_tls(&self) -> bool {
        self.api.is_encrypted() || self.rtsp.rtsps_listen.is_some()
    }
}

/// `[box]`: who this box is to the rest of the world.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    pub id: String,
    /// What links in alerts begin with.
    pub public_url: Url,
}

/// `[api]`: HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct Api {
    pub listen: SocketAddr,
    /// `None`: off loopback the box makes a certificate of its own.
    pub tls: Option<PemFiles>,
    /// HTTP off loopback without encryption, as was asked for in so many words.
    pub plain_http: bool,
}

impl Api {
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some() || !(self.listen.ip().is_loopback() || self.plain_http)
    }

    /// What its addresses begin with.
    pub fn scheme(&self) -> &'static str {
        if self.is_encrypted() { "https" } else { "http" }
    }
}

/// `[rtsp]`
#[derive(Clone, Debug, PartialEq)]
pub struct Rtsp {
    pub listen: SocketAddr,
    /// RTSP over TLS, with the certificate of `[api]`.
    pub rtsps_listen: Option<SocketAddr>,
    /// Where RTP leaves from by UDP; RTCP is on the next port. `None`: over the RTSP connection alone.
    pub udp: Option<SocketAddr>,
    pub limits: ReaderLimits,
}

/// How many read by RTSP at once.
#[derive(Clone, Debug, PartialEq)]
pub struct ReaderLimits {
    pub in_all: usize,
    pub per_path: usize,
    /// Of one IPv4 address, or one IPv6 network of 64 bits.
    pub per_address: usize,
    /// Of recordings, in all and by one person.
    pub playbacks: usize,
    pub playbacks_per_person: usize,
}

impl ReaderLimits {
    /// As many as there are connections.
    pub const NONE: ReaderLimits = ReaderLimits {
        in_all: usize::MAX,
        per_path: usize::MAX,
        per_address: usize::MAX,
        playbacks: usize::MAX,
        playbacks_per_person: usize::MAX,
    };
}

impl Default for ReaderLimits {
    fn default() -> ReaderLimits {
        ReaderLimits {
            in_all: 1_000,
            per_path: 500,
            per_address: 300,
            playbacks: 16,
            playbacks_per_person: 4,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// How long it stays known who did what.
    pub retention: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub retention: Duration,
    /// Upper bound of all recordings together; `None`: only free space limits.
    pub max_size: Option<u64>,
    /// Upper bound of a camera's recordings, for those that [`Record::cameras`] does not name.
    pub max_size_per_camera: Option<u64>,
    /// Upper bounds of single cameras' recordings.
    pub cameras: BTreeMap<Id, u64>,
    /// Bytes that stay free on each volume.
    pub min_free: u64,
    /// Longest time between a write and its being safe on the medium; `None`: as the kind of disk says.
    pub sync: Option<Duration>,
    /// How long evidence of an alert is kept beyond the ring.
    pub evidence_retention: Duration,
    /// Upper bound of what is kept as evidence on each volume; the oldest goes first.
    pub evidence_max_size: u64,
    /// Where to record; empty: in the data folder alone.
    pub volumes: Vec<Volume>,
}

impl Default for Record {
    fn default() -> Record {
        Record {
            retention: Duration::from_secs(86_400),
            max_size: None,
            max_size_per_camera: None,
            cameras: BTreeMap::new(),
            min_free: 5_000_000_000,
            sync: None,
            evidence_retention: Duration::from_secs(30 * 86_400),
            evidence_max_size: 50_000_000_000,
            volumes: Vec::new(),
        }
    }
}

/// What the data folder is called as a volume.
pub const OWN_VOLUME: &str = "ring";

/// A disk to record on.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    pub name: String,
    pub path: PathBuf,
    /// Upper bound of the recordings on it, beside that of all together.
    pub max_size: Option<u64>,
    /// In place of [`Record::min_free`].
    pub min_free: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Vision {
    pub enabled: bool,
    /// "auto" or a name in `hw-profiles/`.
    pub hw_profile: String,
    /// Folders that are searched for `*.toml` model manifests, first hit wins.
    pub models: Vec<PathBuf>,
    /// Folder of `hw-profiles/*.toml` overriding the built-in ones.
    pub hw_profiles: Option<PathBuf>,
    /// ONNX Runtime's shared library; `None`: looked for beside the binary, in `/usr/lib/liuta` and on the loader's path.
    pub onnxruntime: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    pub camera: Id,
}

/// Where alerts go.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    pub name: String,
    pub kind: DestinationKind,
    pub reach: Reach,
    /// After this an undelivered alert is given up, visibly.
    pub expire: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum DestinationKind {
    Webhook { url: Url, secret: Option<Secret> },
}

/// Text that no log, API or `Debug` shows.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one place that sends or compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("‹secret›")
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Camera {
    pub id: Id,
    /// What people call it; the id where the file names none.
    pub name: String,
    /// Without credentials.
    pub url: Url,
    pub sub_url: Option<Url>,
    pub credentials: Option<Credentials>,
    pub transport: Transport,
    /// Where its addresses may lead.
    pub reach: Reach,
    pub record: bool,
    /// Upper bound of its recordings.
    pub max_size: Option<u64>,
    /// Names under which people and tokens may be let at this camera and others together (`group:NAME`).
    pub groups: Vec<String>,
    pub scene: Option<Arc<Scene>>,
    /// 网格 code, opaque.
    pub grid: Option<String>,
    /// WGS-84 longitude, latitude.
    pub position: Option<[f64; 2]>,
    /// Empty: the whole picture is one zone for every kind of the scene.
    pub zones: Vec<Zone>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Credentials {
    pub username: String,
    pub password: Secret,
}

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    #[default]
    Tcp,
    Udp,
}

/// A polygon in normalised coordinates (0..1 of the picture, origin top left) and the alert kinds it is watched for.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    pub name: String,
    pub points: Vec<[f32; 2]>,
    /// Empty: every kind of the scene.
    pub kinds: Vec<Kind>,
}

/// What an alert is about; the names are the contract's.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Deserialize,
    serde::Serialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Fire,
    Smoke,
    Crowd,
    Intrusion,
    Vehicle,
    StoppedVehicle,
    WrongWay,
    Congestion,
    Lights,
    Mining,
    Tamper,
    Air,
    Camera,
    Box,
}

impl Kind {
    /// The contract's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Fire => "fire",
            Kind::Smoke => "smoke",
            Kind::Crowd => "crowd",
            Kind::Intrusion => "intrusion",
            Kind::Vehicle => "vehicle",
            Kind::StoppedVehicle => "stopped-vehicle",
            Kind::WrongWay => "wrong-way",
            Kind::Congestion => "congestion",
            Kind::Lights => "lights",
            Kind::Mining => "mining",
            Kind::Tamper => "tamper",
            Kind::Air => "air",
            Kind::Camera => "camera",
            Kind::Box => "box",
        }
    }
}

/// What a camera watches: `config/scenes/NAME.toml`, or an embedded default of that name.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    pub name: String,
    /// A model's manifest name.
    pub model: String,
    /// The look contract: the longest time between two looks.
    pub look_every: Duration,
    /// The picture is looked at whole, and from 2 on also in so many by so many overlapping tiles.
    pub tiles: u32,
    /// Recording kept as evidence before an alert's start and after its end.
    pub pre_capture: Duration,
    pub post_capture: Duration,
    pub rules: Vec<Rule>,
}

/// When detections become an alert of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub kind: Kind,
    /// Detection class that counts: `fire`, `smoke`, `person`, `vehicle`.
    pub class: String,
    /// Detections below this are ignored.
    pub min_score: f32,
    /// A look counts as a hit when its best detection reaches this.
    pub threshold: f32,
    /// Confirmed when `confirm[0]` of the last `confirm[1]` looks are hits.
    pub confirm: [u32; 2],
    /// How many objects at once make a hit (1 but for crowds).
    pub min_count: u32,
    /// Over after this long without a hit.
    pub end_after: Duration,
    /// After its end no new alert of this kind in the same zone of the camera for so long; other zones have their own.
    pub cooldown: Duration,
    /// 1 is the most severe, 4 the least.
    pub level: u8,
}
