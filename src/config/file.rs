//! The configuration as people write it (`liuta.toml`), read into [`Config`], and everything that is wrong with it.
//!
//! What each key means stands in `config/liuta.toml`; this file is the other half of it and names the same keys in the
//! same order. Scenes are files of their own ([`super::scene`]), zones read themselves ([`super::zone`]).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use ipnet::IpNet;
use jiff::Timestamp;
use url::Url;

use super::certificate::{Flaw, Pair, PemFiles};
use super::loaded::Loaded;
use super::overlay::{self, Layer};
use super::reach::Reach;
use super::reader::{At, Problem, Problems, Reader, Source, duration, kept, nearest, size};
use super::*;

/// Keys of `[cameras.ID]` and `[dispatch.NAME]`.
pub const CAMERA: [&str; 13] = [
    "name",
    "url",
    "sub_url",
    "username",
    "password",
    "transport",
    "record",
    "max_size",
    "groups",
    "scene",
    "grid",
    "position",
    "zones",
];
pub const DESTINATION: [&str; 4] = ["type", "url", "secret", "expire"];

const MOST_ZONES: usize = 64;

/// What a box is called whose configuration does not name it.
const BOX: &str = "liuta";

/// RTSP over TLS, as other media servers have it.
const RTSPS_PORT: u16 = 8322;

const DEFAULT_RTSP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8554);

/// Reads, resolves and validates a configuration file with what `<data>/conf.d` lays over it.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let what = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "there is no such file; config/liuta.toml is one to begin with".to_owned()
            }
            std::io::ErrorKind::PermissionDenied => {
                format!("{error}; the user that liuta runs as must be able to read it")
            }
            std::io::ErrorKind::InvalidData => "is no UTF-8 text".to_owned(),
            _ => error.to_string(),
        };
        Problems(vec![Problem::of_file(path, what)])
    })?;
    let main = Layer::new(path, text);
    let data = data(&mut Source::layered(vec![main.clone()]).root(), folder(path));
    match overlay::read(&data) {
        Ok(over) => parse_layers([vec![main], over].concat()),
        Err(unread) => {
            let mut problems = parse_layers(vec![main]).err().unwrap_or_default();
            problems.0.extend(unread.0);
            Err(problems)
        }
    }
}

/// One file from its text, and nothing over it; `path` names it in problems and is where relative paths start.
pub fn parse(path: &Path, text: String) -> Result<Config, Problems> {
    parse_layers(vec![Layer::new(path, text)]).map(|loaded| Arc::unwrap_or_clone(loaded.config))
}

/// The main file and what lies over it. Relative paths start at the main file, in whichever they are written.
pub fn parse_layers(layers: Vec<Layer>) -> Result<Loaded, Problems> {
    let source = Source::layered(layers.clone());
    let mut scenes = Scenes { folder: folder(&layers[0].path), problems: Vec::new() };
    let config = read(&source, &mut scenes);
    let settings = source.take_settings();
    let mut problems = source.into_problems();
    problems.extend(scenes.problems);
    if problems.is_empty() { Ok(Loaded::new(config, settings, layers)) } else { Err(Problems(problems)) }
}

/// That a file lies in.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn data(file: &mut Reader<'_>, folder: &Path) -> PathBuf {
    folder.join(file.parsed_or("data", "/var/lib/liuta", |text| Ok(PathBuf::from(text))))
}

/// The API has changed what another file has since removed: nothing that should keep the box from recording.
fn is_left_over(table: &Reader<'_>, needed: &str) -> bool {
    let left_over = !table.has(needed) && table.is_of_api();
    if left_over {
        let what = format!(
            "is left of something that no other file names any more, and does not count; remove it, or add {needed}"
        );
        table.warn(table.span.clone(), what);
    }
    left_over
}

/// The scene files beside the configuration, and what is wrong with them.
struct Scenes<'p> {
    folder: &'p Path,
    problems: Vec<Problem>,
}

fn read(source: &Source, scenes: &mut Scenes<'_>) -> Config {
    let mut file = source.root();
    let data = data(&mut file, scenes.folder);
    let api = api(file.table("api"), scenes.folder);
    let site = site(file.table("box"), &api);
    let rtsp = rtsp(file.table("rtsp"), &api);
    let network = network(file.table("network"));
    let anonymous_viewer = auth(file.table("auth"));
    let audit = audit(file.table("audit"));
    let mut record = record(file.table("record"));
    let vision = vision(file.table("vision"), &data, scenes.folder);
    let mut cameras = BTreeMap::new();
    for (id, table) in file.tables("cameras") {
        if is_left_over(&table, "url") {
            continue;
        }
        let id = self::id(&id, &table);
        cameras.insert(id.clone(), Arc::new(camera(id, table, &network.cameras, scenes)));
    }
    let limited = |(id, camera): (&Id, &Arc<Camera>)| Some((id.clone(), camera.max_size?));
    record.cameras = cameras.iter().filter_map(limited).collect();
    let mut channels = BTreeMap::new();
    for (id, table) in file.tables("channels") {
        let id = self::id(&id, &table);
        channels.extend(channel(table, &cameras).map(|channel| (id, channel)));
    }
    let mut dispatch = BTreeMap::new();
    for (name, table) in file.tables("dispatch") {
        if is_left_over(&table, "url") {
            continue;
        }
        dispatch.extend(
            destination(&name, table, &network.destinations, scenes.folder)
                .map(|found| (name, Arc::new(found))),
        );
    }
    file.finish(&[
        "data", "box", "api", "rtsp", "auth", "audit", "network", "record", "vision", "channels", "dispatch",
        "cameras",
    ]);
    let warnings = source.take_warnings();
    Config {
        data,
        site,
        api,
        rtsp,
        anonymous_viewer,
        audit,
        record,
        vision,
        channels,
        dispatch,
        cameras,
        warnings,
    }
}

fn site(mut table: Reader<'_>, api: &Api) -> Site {
    if !table.has("id") {
        table.note_default("id", BOX);
    }
    let id = table.text("id").unwrap_or_else(|| BOX.to_owned());
    let reached_at = reached_at(api);
    if !table.has("public_url") {
        table.note_default("public_url", reached_at.as_str());
    }
    let public_url = table.parsed_and_shown("public_url", public_address, |url, _| bare(url));
    if let Some(At { value, span }) = &public_url
        && api.is_encrypted()
        && value.scheme() == "http"
    {
        table.warn(span.clone(), "public_url: begins with http:, but HTTPS alone is served");
    }
    let public_url = public_url.map_or(reached_at, |at| at.value);
    table.finish(&["id", "public_url"]);
    Site { id, public_url }
}

/// What the paths of links are put behind.
fn public_address(text: &str) -> Result<Url, String> {
    let url = web_url(text)?;
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err("goes into every link: it takes no user name, password, query or fragment".to_owned());
    }
    Ok(url)
}

/// Where the API is reached if nobody says otherwise; where the box listens everywhere, by the address that it has
/// towards the rest of the world.
fn reached_at(api: &Api) -> Url {
    let mut at = api.listen;
    if at.ip().is_unspecified() {
        at.set_ip(towards_the_world().unwrap_or(Ipv4Addr::LOCALHOST.into()));
    }
    Url::parse(&format!("{}://{at}", api.scheme())).expect("an address and a port make a URL")
}

fn api(mut table: Reader<'_>, folder: &Path) -> Api {
    let listen = table.parsed_or("listen", "127.0.0.1:8080", socket_address);
    let tls = table.optional_table("tls").and_then(|table| pem_files(table, folder));
    let plain_http = table.get::<bool>("plain_http");
    if let Some(at) = &plain_http
        && at.value
        && tls.is_some()
    {
        table.report(at.span.clone(), "plain_http: contradicts tls; only one of the two can be");
    }
    table.finish(&["listen", "tls", "plain_http"]);
    Api { listen, tls, plain_http: plain_http.is_some_and(|at| at.value) }
}

fn rtsp(mut table: Reader<'_>, api: &Api) -> Rtsp {
    if !table.has("listen") {
        table.note_default("listen", DEFAULT_RTSP.to_string());
    }
    let listen = table.parsed("listen", socket_address);
    let written = table.has("rtsps_listen");
    let rtsps_listen = table.parsed("rtsps_listen", socket_address);
    let mut taken = vec![(api.listen, "[api] listen")];
    for (at, key) in [(&listen, "listen"), (&rtsps_listen, "rtsps_listen")] {
        let Some(at) = at else { continue };
        if let Some((_, other)) = taken.iter().find(|(other, _)| collide(*other, at.value)) {
            table.report(
                at.span.clone(),
                format!("{key}: {} is {other} as well; each needs its own port", at.value),
            );
        }
        taken.push((at.value, "[rtsp] listen"));
    }
    let listen = listen.map_or(DEFAULT_RTSP, |at| at.value);
    let beside = api.is_encrypted().then(|| SocketAddr::new(listen.ip(), RTSPS_PORT));
    if let (Some(beside), false) = (beside, written) {
        table.note_default("rtsps_listen", beside.to_string());
    }
    let udp = table.parsed("udp", rtp_address).map(|at| at.value);
    let usual = ReaderLimits::default();
    let mut most = |key: &str, usual: usize| {
        let most = table.get_or(key, usual);
        if most == 0 {
            table.report(table.span.clone(), format!("{key}: 0 would let nobody in; the least is 1"));
        }
        most
    };
    let limits = ReaderLimits {
        in_all: most("max_readers", usual.in_all),
        per_path: most("max_readers_per_path", usual.per_path),
        per_address: most("max_readers_per_address", usual.per_address),
        playbacks: most("max_playbacks", usual.playbacks),
        playbacks_per_person: most("max_playbacks_per_person", usual.playbacks_per_person),
    };
    table.finish(&[
        "listen",
        "rtsps_listen",
        "udp",
        "max_readers",
        "max_readers_per_path",
        "max_readers_per_address",
        "max_playbacks",
        "max_playbacks_per_person",
    ]);
    Rtsp { listen, rtsps_listen: rtsps_listen.map(|at| at.value).or(beside), udp, limits }
}

/// RTP is on an even port, RTCP on the one after it (RFC 3550 section 11).
fn rtp_address(text: &str) -> Result<SocketAddr, String> {
    let at = socket_address(text)?;
    if at.port() % 2 == 1 {
        return Err(format!("{text:?}: RTP needs an even port, and RTCP takes the next one"));
    }
    Ok(at)
}

/// The address that the default route leaves from, where there is one.
fn towards_the_world() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Of UDP that looks up the route, and sends nothing (the address is of TEST-NET-1, RFC 5737).
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
}

/// Only one of the two can be listened on. Port 0 is any free one.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let everywhere = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (everywhere || a.ip() == b.ip())
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no address and port; write it like \"127.0.0.1:8080\""))
}

/// The files of a certificate. What is wrong with them is a warning alone: the clock may be what is wrong, or a renewal is
/// half done, and a box that listens with its own certificate meanwhile still records.
fn pem_files(mut table: Reader<'_>, folder: &Path) -> Option<PemFiles> {
    let cert = table.get::<PathBuf>("cert");
    let key = table.get::<PathBuf>("key");
    if cert.is_none() || key.is_none() {
        table.report(table.span.clone(), "tls: { cert = \"…\", key = \"…\" } was expected, both PEM files");
    }
    let files = cert.zip(key).map(|(cert, key)| {
        let files = PemFiles { cert: folder.join(cert.value), key: folder.join(key.value) };
        let now = Timestamp::now();
        match Pair::read(&files) {
            Ok(pair) if pair.not_after < now => {
                table.warn(cert.span, format!("cert: the certificate expired at {}", pair.not_after));
            }
            Ok(pair) if pair.not_before > now => {
                table.warn(cert.span, format!("cert: the certificate is valid from {} on", pair.not_before));
            }
            Ok(_) => {}
            Err(Flaw::Cert(what)) => table.warn(cert.span, format!("cert: {what}")),
            Err(Flaw::Key(what)) => table.warn(key.span, format!("key: {what}")),
        }
        files
    });
    table.finish(&["cert", "key"]);
    files
}

/// `[network]`: where cameras and destinations may lie.
struct Network {
    cameras: Reach,
    destinations: Reach,
}

fn network(mut table: Reader<'_>) -> Network {
    let mut reach = |key: &str| {
        let Some(listed) = table.get::<Vec<String>>(key) else { return Reach::default() };
        let parsed = listed.value.iter().filter_map(|text| {
            let address = text.parse::<IpAddr>().map(IpNet::from);
            let network = address.or_else(|_| text.parse()).ok();
            if network.is_none() {
                let what = format!("{key}: {text:?} is no network; write it like \"10.0.0.0/8\"");
                table.report(listed.span.clone(), what);
            }
            network
        });
        Reach::only(parsed.collect::<Vec<_>>())
    };
    let network = Network { cameras: reach("cameras"), destinations: reach("destinations") };
    table.finish(&["cameras", "destinations"]);
    network
}

fn auth(mut table: Reader<'_>) -> bool {
    let anonymous = table.parsed_or("anonymous", "none", |text| match text {
        "viewer" => Ok(true),
        "none" => Ok(false),
        _ => Err(format!("{text:?}: \"viewer\" (may watch live, nothing else) or \"none\" was expected")),
    });
    table.finish(&["anonymous"]);
    anonymous
}

fn audit(mut table: Reader<'_>) -> Audit {
    let retention = table.parsed_or("retention", "200d", kept);
    table.finish(&["retention"]);
    Audit { retention }
}

fn some_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("nothing could be recorded; leave it out for no limit, or set a camera's record = false"
            .to_owned()),
        size => Ok(size),
    }
}

fn record(mut table: Reader<'_>) -> Record {
    let sync = |text: &str| match duration(text)? {
        sync if sync < Duration::from_millis(100) || sync > Duration::from_secs(60) => {
            Err("from 100ms to 60s".to_owned())
        }
        sync => Ok(sync),
    };
    if !table.has("sync") {
        table.note_default("sync", "by the disk: 1s, 5s where it rotates");
    }
    let record = Record {
        retention: table.parsed_or("retention", "24h", kept),
        max_size: table.parsed("max_size", some_size).map(|at| at.value),
        max_size_per_camera: table.parsed("max_size_per_camera", some_size).map(|at| at.value),
        cameras: BTreeMap::new(),
        min_free: table.parsed_or("min_free", "5GB", size),
        sync: table.parsed("sync", sync).map(|at| at.value),
        evidence_retention: table.parsed_or("evidence_retention", "30d", kept),
        evidence_max_size: table.parsed_or("evidence_max_size", "50GB", size),
        volumes: volumes(table.tables("volumes")),
    };
    table.finish(&[
        "retention",
        "max_size",
        "max_size_per_camera",
        "min_free",
        "sync",
        "evidence_retention",
        "evidence_max_size",
        "volumes",
    ]);
    record
}

fn volumes(tables: BTreeMap<String, Reader<'_>>) -> Vec<Volume> {
    let mut volumes: Vec<Volume> = Vec::new();
    for (name, mut table) in tables {
        let span = table.span.clone();
        id(&name, &table);
        if name == OWN_VOLUME {
            table.report(
                span.clone(),
                format!("{name:?} is taken: so the data folder's own recordings are called"),
            );
        }
        let path = table.get::<PathBuf>("path");
        match &path {
            None => table.report(span, "path: is missing: the folder where this disk is mounted"),
            Some(at) if !at.value.is_absolute() => {
                table.report(
                    at.span.clone(),
                    "path: must begin with /: the folder where this disk is mounted",
                );
            }
            Some(at) => {
                // Of two that lie in each other one would remove the other's files.
                let shared =
                    |other: &&Volume| other.path.starts_with(&at.value) || at.value.starts_with(&other.path);
                if let Some(other) = volumes.iter().find(shared) {
                    let message =
                        format!("path: volume {} lies there; each needs a disk of its own", other.name);
                    table.report(at.span.clone(), message);
                }
            }
        }
        volumes.push(Volume {
            name,
            path: path.map(|at| at.value).unwrap_or_default(),
            max_size: table.parsed("max_size", some_size).map(|at| at.value),
            min_free: table.parsed("min_free", size).map(|at| at.value),
        });
        table.finish(&["path", "max_size", "min_free"]);
    }
    volumes
}

fn vision(mut table: Reader<'_>, data: &Path, folder: &Path) -> Vision {
    // What is missing is warned of alone: cameras are recorded and relayed without it, and it may come yet.
    let missing = |table: &Reader<'_>, key: &str, at: &At<PathBuf>| {
        let path = folder.join(&at.value);
        if !path.exists() {
            table.warn(at.span.clone(), format!("{key}: there is no {}", path.display()));
        }
        path
    };
    let mut models = Vec::new();
    if let Some(At { value, span }) = table.get::<Vec<PathBuf>>("models") {
        models.extend(
            value.into_iter().map(|value| missing(&table, "models", &At { value, span: span.clone() })),
        );
    }
    models.push(data.join("models"));
    models.extend(shared_folders("models"));
    let hw_profiles = table.get::<PathBuf>("hw_profiles").map(|at| missing(&table, "hw_profiles", &at));
    if !table.has("hw_profile") {
        table.note_default("hw_profile", "auto");
    }
    let hw_profile = table.get::<String>("hw_profile");
    if let Some(At { value: name, span }) = &hw_profile {
        let own = hw_profiles.as_ref().is_some_and(|folder| folder.join(format!("{name}.toml")).exists());
        if name != "auto" && !own && !HW_PROFILES.contains(&name.as_str()) {
            let hint = match nearest(name, &HW_PROFILES) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("known: auto, {}", HW_PROFILES.join(", ")),
            };
            table.warn(span.clone(), format!("hw_profile: there is no {name:?}; {hint}"));
        }
    }
    let vision = Vision {
        enabled: table.get_or("enabled", true),
        hw_profile: hw_profile.map_or_else(|| "auto".to_owned(), |at| at.value),
        models,
        hw_profiles,
        onnxruntime: table.get::<PathBuf>("onnxruntime").map(|at| missing(&table, "onnxruntime", &at)),
    };
    table.finish(&["enabled", "hw_profile", "models", "hw_profiles", "onnxruntime"]);
    vision
}

/// Where the program's own data files lie: as installed, or in the source tree that the binary was built in.
pub fn shared_folders(name: &str) -> Vec<PathBuf> {
    let mut folders = vec![Path::new("/usr/share/liuta").join(name)];
    let built_in =
        std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.parent()?.join(name)));
    folders.extend(built_in.filter(|folder| folder.is_dir()));
    folders
}

fn id(name: &str, table: &Reader<'_>) -> Id {
    let well_formed = (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if !well_formed {
        let what = format!(
            "{name:?} is no id: 1 to 63 of a–z, 0–9 and -, not beginning with -; a name goes into `name`"
        );
        table.report(table.span.clone(), what);
    } else if RESERVED_IDS.contains(&name) {
        table.report(table.span.clone(), format!("{name:?} is taken: it is one of liuta's own addresses"));
    }
    Id::from(name)
}

fn channel(mut table: Reader<'_>, cameras: &BTreeMap<Id, Arc<Camera>>) -> Option<Channel> {
    let camera = table.get::<String>("camera");
    match &camera {
        None => table.report(table.span.clone(), "camera: a channel needs the id of the camera on air"),
        Some(at) if !cameras.contains_key(at.value.as_str()) => {
            let known: Vec<&str> = cameras.keys().map(AsRef::as_ref).collect();
            let hint = match nearest(&at.value, &known) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("configured are: {}", known.join(", ")),
            };
            table.report(at.span.clone(), format!("there is no camera {:?}; {hint}", at.value));
        }
        Some(_) => {}
    }
    table.finish(&["camera"]);
    Some(Channel { camera: camera?.value.into() })
}

fn destination(name: &str, mut table: Reader<'_>, reach: &Reach, folder: &Path) -> Option<Destination> {
    let kind = table.get::<String>("type");
    match &kind {
        Some(at) if at.value == "webhook" => {}
        Some(at) => table.report(at.span.clone(), format!("type: {:?} is unknown; known: webhook", at.value)),
        None => table.report(table.span.clone(), "type: a destination needs one; known: webhook"),
    }
    if !table.has("url") {
        table.report(table.span.clone(), "url: a webhook needs the address that alerts are posted to");
    }
    // What of it lets somebody in may stand anywhere behind the path's beginning.
    let url = table.parsed_and_shown("url", web_url, |url, _| shown_webhook(url));
    if let Some(at) = &url {
        within_reach(&table, "url", at, reach);
    }
    let secret = secret(&mut table, "secret", folder);
    if let Some(At { value: secret, span }) = &secret
        && webhook_key(secret.expose()).is_none()
    {
        let what = "secret: \"whsec_\" and the base64 of 24 to 64 random bytes (Standard Webhooks) was expected; \
                    make one: echo whsec_$(openssl rand -base64 32)";
        table.report(span.clone(), what);
    }
    let expire = table.parsed_or("expire", "7d", kept);
    table.finish(&DESTINATION);
    let kind = DestinationKind::Webhook { url: url?.value, secret: secret.map(|at| at.value) };
    Some(Destination { name: name.to_owned(), kind, reach: reach.clone(), expire })
}

/// The signing key inside a Standard Webhooks secret.
pub fn webhook_key(secret: &str) -> Option<Vec<u8>> {
    let encoded = secret.strip_prefix("whsec_")?;
    let key = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    (24..=64).contains(&key.len()).then_some(key)
}

fn camera(id: Id, mut table: Reader<'_>, reach: &Reach, scenes: &mut Scenes<'_>) -> Camera {
    let span = table.span.clone();
    if !table.has("name") {
        table.note_default("name", &*id);
    }
    let name = table.text("name").unwrap_or_else(|| id.to_string());
    if !table.has("url") {
        table.report(
            span.clone(),
            "url: a camera needs its RTSP address, such as \"rtsp://192.0.2.7/stream1\"",
        );
    }
    let (url, in_url) = camera_url(&mut table, "url", reach).unzip();
    let (sub_url, _) = camera_url(&mut table, "sub_url", reach).unzip();
    let username = table.get::<String>("username").map(|at| at.value);
    let password = secret(&mut table, "password", scenes.folder).map(|at| at.value);
    let credentials = match (username, password) {
        (Some(username), password) => {
            if in_url.flatten().is_some() {
                table.report(span.clone(), "username: url holds one as well; keep one of the two");
            }
            Some(Credentials { username, password: password.unwrap_or(Secret::new("")) })
        }
        (None, Some(_)) => {
            table.report(span.clone(), "password without username");
            None
        }
        (None, None) => in_url.flatten(),
    };
    if !table.has("transport") {
        table.note_default("transport", "tcp");
    }
    let transport = table.get::<Transport>("transport").map_or(Transport::Tcp, |at| at.value);
    let record = table.get_or("record", true);
    let max_size = table.parsed("max_size", some_size).map(|at| at.value);
    let groups = groups(&mut table);
    let watched = table.has("scene");
    let scene = scene(&mut table, scenes);
    if let Some(zones) = table.place_of("zones").filter(|_| !watched) {
        table.warn(zones, "zones: do nothing without a scene, which says what is watched for");
    }
    let grid = table.text("grid");
    let position = table.get::<[f64; 2]>("position");
    if let Some(at) = &position
        && !(at.value[0].abs() <= 180.0 && at.value[1].abs() <= 90.0)
    {
        table.report(at.span.clone(), "position: [longitude, latitude] in degrees, WGS-84, in that order");
    }
    let zones_at = table.place_of("zones");
    let zones = table.tables("zones");
    if let Some(at) = zones_at.filter(|_| zones.len() > MOST_ZONES) {
        table.report(at, format!("zones: at most {MOST_ZONES} a camera"));
    }
    let zones = zones.into_iter().map(|(name, table)| zone::read(name, table, scene.as_deref())).collect();
    table.finish(&CAMERA);
    Camera {
        id,
        name,
        url: url.unwrap_or_else(|| Url::parse("rtsp://invalid").expect("a constant")),
        sub_url,
        credentials,
        transport,
        reach: reach.clone(),
        record,
        max_size,
        groups,
        scene,
        grid,
        position: position.map(|at| at.value),
        zones,
    }
}

fn groups(table: &mut Reader<'_>) -> Vec<String> {
    let Some(at) = table.get::<Vec<String>>("groups") else { return Vec::new() };
    let well_formed = |name: &String| {
        (1..=63).contains(&name.chars().count())
            && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    if let Some(name) = at.value.iter().find(|name| !well_formed(name)) {
        table.report(at.span, format!("groups: {name:?} is no name: 1 to 63 letters, digits, -, _ and ."));
    }
    at.value
}

fn scene(table: &mut Reader<'_>, scenes: &mut Scenes<'_>) -> Option<Arc<Scene>> {
    let at = table.get::<String>("scene")?;
    if !at.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
        table.report(at.span, "scene: a name of letters, digits, - and _");
        return None;
    }
    match scene::load(&at.value, scenes.folder) {
        Ok(Some(scene)) => Some(scene),
        Ok(None) => {
            let known = scene::BUILT_IN.map(|(name, _)| name);
            let hint = match nearest(&at.value, &known) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("built in are {}, others lie in scenes/ beside this file", known.join(", ")),
            };
            table.report(at.span, format!("there is no scene {:?}; {hint}", at.value));
            None
        }
        Err(problems) => {
            let new =
                problems.into_iter().filter(|problem| !scenes.problems.contains(problem)).collect::<Vec<_>>();
            scenes.problems.extend(new);
            None
        }
    }
}

/// An RTSP address without its credentials, and the credentials that stood in it.
fn camera_url(table: &mut Reader<'_>, key: &str, reach: &Reach) -> Option<(Url, Option<Credentials>)> {
    let read = |text: &str| {
        // Never repeats the text: it may hold a password.
        let url = Url::parse(text).map_err(|error| format!("no address: {error}"))?;
        match url.scheme() {
            "rtsp" if url.host().is_some() => Ok(url),
            "rtsp" => Err("the address names no host".to_owned()),
            "rtsps" => Err("rtsps is not supported for cameras; use rtsp".to_owned()),
            other => Err(format!("{other}: is no RTSP address; it begins with rtsp://")),
        }
    };
    let at = table.parsed_and_shown(key, read, |url, _| shown(url))?;
    within_reach(table, key, &at, reach);
    Some(credentials_apart(at.value))
}

/// An address without the user name and password in it, and those.
pub fn credentials_apart(url: Url) -> (Url, Option<Credentials>) {
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let credentials = (!url.username().is_empty()).then(|| Credentials {
        username: decode(url.username()),
        password: Secret::new(decode(url.password().unwrap_or_default())),
    });
    (without_credentials(url), credentials)
}

fn without_credentials(mut url: Url) -> Url {
    // Cannot fail for an address with a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

/// An address without the user name and password in it.
fn bare(url: &Url) -> String {
    without_credentials(url.clone()).into()
}

/// An address without what may let somebody in: some cameras take a password in the query.
pub fn shown(url: &Url) -> String {
    let mut url = without_credentials(url.clone());
    if url.query().is_some() {
        url.set_query(Some("…"));
    }
    url.set_fragment(None);
    url.as_str().replace("%E2%80%A6", "…")
}

/// The same of a webhook: chat services take their token in the path as well.
pub fn shown_webhook(url: &Url) -> String {
    let is_bare = url.path() == "/" && url.query().is_none();
    format!("{}/{}", url.origin().ascii_serialization(), if is_bare { "" } else { "…" })
}

/// Names are judged when they are resolved; an address can be judged here.
fn within_reach(table: &Reader<'_>, key: &str, url: &At<Url>, reach: &Reach) {
    if let Err(barred) = reach.check_literal(url.value.host_str().unwrap_or_default()) {
        table.report(url.span.clone(), format!("{key}: {barred}"));
    }
}

fn web_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("no address: {error}"))?;
    match url.scheme() {
        "http" | "https" if url.host().is_some() => Ok(url),
        _ => Err("an address that begins with http:// or https:// was expected".to_owned()),
    }
}

/// A secret: plain text, `{ file = "…" }`, `{ env = "…" }` or `{ credential = "…" }` (systemd's LoadCredential).
fn secret(table: &mut Reader<'_>, key: &str, folder: &Path) -> Option<At<Secret>> {
    let (span, written) = table.secret_or_table(key)?;
    let mut from = match written {
        Ok(text) => return Some(At { value: Secret::new(text), span }),
        Err(from) => from,
    };
    if ["file", "env", "credential"].iter().filter(|key| from.has(key)).count() > 1 {
        table.report(span, format!("{key}: only one of file, env and credential can be"));
        return None;
    }
    let read = |path: PathBuf| match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(format!("{key}: {}: {error}", path.display())),
    };
    let found = if let Some(at) = from.get::<PathBuf>("file") {
        read(folder.join(at.value))
    } else if let Some(at) = from.get::<String>("env") {
        std::env::var(&at.value)
            .map_err(|_| format!("{key}: the environment variable {} is not set", at.value))
    } else if let Some(at) = from.get::<String>("credential") {
        match std::env::var_os("CREDENTIALS_DIRECTORY") {
            Some(directory) => read(Path::new(&directory).join(at.value)),
            None => Err(format!(
                "{key}: credentials come from systemd (LoadCredential=), which did not start this"
            )),
        }
    } else {
        Err(format!(
            "{key}: text, {{ file = \"…\" }}, {{ env = \"…\" }} or {{ credential = \"…\" }} was expected"
        ))
    };
    from.finish(&["file", "env", "credential"]);
    match found {
        Ok(text) => Some(At { value: Secret::new(text), span }),
        Err(what) => {
            table.report(span, what);
            None
        }
    }
}

#[cfg(test)]
mod tests;
