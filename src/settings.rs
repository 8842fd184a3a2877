//! Changes of the configuration while it runs: cameras, zones, channels and destinations, by whoever may configure.
//!
//! A change is a JSON object in the words of `liuta.toml`, so that there is one schema, one validation and one text of
//! each error. It goes the way of the file: laid over, read as a whole, validated, diffed, and applied by whoever holds
//! the other end ([`requests`]), one after the other, reloads included. Read [`Settings::prepare`] first.
//!
//! What does not belong here: how files are laid over each other ([`crate::config::overlay`]), and HTTP.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hmac::Mac;
use serde_json::{Map, Value as Json};
use tokio::sync::{mpsc, oneshot};
use toml::{Table, Value};

use crate::access::audit::{Audit, Event};
use crate::access::{By, keyed};
use crate::config::loaded::Loaded;
use crate::config::overlay::{self, REFERENCES, REMOVED, WriteError};
use crate::config::reader::{Problem, dotted};
use crate::config::{self, Config, file};
use crate::store::StoreError;

/// Objects in objects; zones are the third level.
const DEEPEST: usize = 8;

/// Changes that wait for the one before; more are refused.
const WAITING: usize = 16;

/// What can be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Camera(String),
    Zone { camera: String, zone: String },
    Channel(String),
    Destination(String),
}

impl Object {
    /// That lead to it in the configuration.
    fn keys(&self) -> Vec<&str> {
        match self {
            Object::Camera(id) => vec!["cameras", id],
            Object::Zone { camera, zone } => vec!["cameras", camera, "zones", zone],
            Object::Channel(name) => vec!["channels", name],
            Object::Destination(name) => vec!["dispatch", name],
        }
    }

    fn name(&self) -> &str {
        match self {
            Object::Camera(name) | Object::Channel(name) | Object::Destination(name) => name,
            Object::Zone { zone, .. } => zone,
        }
    }
}

/// As the audit trail names it.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Camera(id) => write!(f, "camera/{id}"),
            Object::Zone { camera, zone } => write!(f, "camera/{camera}/zone/{zone}"),
            Object::Channel(name) => write!(f, "channel/{name}"),
            Object::Destination(name) => write!(f, "destination/{name}"),
        }
    }
}

#[derive(Clone, Debug)]
pub enum Change {
    /// Something of that name must not be there yet.
    Add(Map<String, Json>),
    /// What is named is changed, null removes (RFC 7396).
    Merge(Expected, Map<String, Json>),
    Remove(Expected),
}

/// What a change is based on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whatever there is.
    Any,
    /// What had one of these [`Settings::tag`]s.
    Tags(Vec<String>),
}

/// One thing that is wrong with a change.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Flaw {
    /// Where in the body (RFC 6901), `/zones/slope/points` say; empty where the whole is meant.
    pub pointer: String,
    pub what: String,
}

/// Why a change was not made. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("there is no such thing")]
    Missing,
    #[error("there is one of that name already")]
    Exists,
    #[error("it was changed meanwhile")]
    Stale,
    #[error("{}", told(.0))]
    Flawed(Vec<Flaw>),
    /// Other parts of the configuration would be wrong with it.
    #[error("{0}")]
    Conflict(String),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Audit(#[from] StoreError),
    #[error("too many changes at once, or the box is stopping")]
    Busy,
}

fn told(flaws: &[Flaw]) -> String {
    let line = |flaw: &Flaw| match &*flaw.pointer {
        "" => flaw.what.clone(),
        pointer => format!("{pointer}: {}", flaw.what),
    };
    let lines: Vec<_> = flaws.iter().map(line).collect();
    lines.join("; ")
}

impl Refused {
    fn flaw(pointer: impl Into<String>, what: impl Into<String>) -> Refused {
        Refused::Flawed(vec![Flaw { pointer: pointer.into(), what: what.into() }])
    }
}

/// The configuration that runs, and the way to change it. Cheap to clone.
#[derive(Clone)]
pub struct Settings {
    loaded: Arc<ArcSwap<Loaded>>,
    /// Tags tell apart what holds passwords, and tell nothing of them.
    key: [u8; 32],
    requests: mpsc::Sender<Request>,
}

/// A change that somebody waits for.
pub struct Request {
    object: Object,
    change: Change,
    by: By,
    answer: oneshot::Sender<Result<Arc<Loaded>, Refused>>,
}

/// The settings, and the other end: whoever applies what is asked for, in order.
pub fn requests(loaded: Loaded, key: [u8; 32]) -> (Settings, mpsc::Receiver<Request>) {
    let (requests, asked) = mpsc::channel(WAITING);
    (Settings { loaded: Arc::new(ArcSwap::from_pointee(loaded)), key, requests }, asked)
}

impl Settings {
    pub fn loaded(&self) -> Arc<Loaded> {
        self.loaded.load_full()
    }

    pub fn config(&self) -> Arc<Config> {
        self.loaded.load().config.clone()
    }

    /// What runs from now on.
    pub fn adopt(&self, loaded: Arc<Loaded>) {
        self.loaded.store(loaded);
    }

    /// Changes an object, and waits until the change is applied.
    pub async fn change(&self, object: Object, change: Change, by: By) -> Result<Arc<Loaded>, Refused> {
        let (answer, answered) = oneshot::channel();
        let request = Request { object, change, by, answer };
        self.requests.try_send(request).map_err(|_| Refused::Busy)?;
        answered.await.unwrap_or(Err(Refused::Busy))
    }

    /// Carries a request out as far as the disk; `Ok` is to be applied, adopted and answered. Blocks.
    pub fn carry_out(&self, request: &Request, audit: Option<&Audit>) -> Result<Arc<Loaded>, Refused> {
        let before = self.loaded();
        let Request { object, change, by, .. } = request;
        let after = self.prepare(&before, object, change)?;
        if after.tree() == before.tree() {
            return Ok(before);
        }
        if let Some(audit) = audit {
            // What cannot be written down is not done.
            let keys = object.keys();
            audit.note(
                by,
                Event::Change,
                &object.to_string(),
                &detail(before.written(&keys), after.written(&keys)),
            )?;
        }
        after.write(&before)?;
        Ok(Arc::new(after))
    }

    /// The configuration with a change, validated; nothing is written or applied.
    fn prepare(&self, before: &Loaded, object: &Object, change: &Change) -> Result<Loaded, Refused> {
        let keys = object.keys();
        let there = before.written(&keys);
        if let Object::Zone { camera, .. } = object
            && before.written(&["cameras", camera]).is_none()
        {
            return Err(Refused::Missing);
        }
        let said = match (there, change) {
            (None, Change::Add(said)) => {
                well_named(object)?;
                said
            }
            (Some(_), Change::Add(_)) => return Err(Refused::Exists),
            (None, Change::Merge(..) | Change::Remove(_)) => return Err(Refused::Missing),
            (Some(_), Change::Merge(expected, said)) => {
                self.expect(before, object, expected)?;
                said
            }
            (Some(_), Change::Remove(expected)) => {
                self.expect(before, object, expected)?;
                let after = before.with(&keys, None).map_err(|problems| relied_on(&problems.0))?;
                return if after.written(&keys).is_none() { Ok(after) } else { Err(overruled(&keys)) };
            }
        };
        let none = Table::new();
        let table = |value: Option<&Value>| value.and_then(Value::as_table).unwrap_or(&none).clone();
        // What later files say is not taken over into the API's file: it is changed as it is without them, and judged as it
        // counts.
        let (counts, mut flaws) = merged(object, &table(there), said);
        let (wanted, _) = merged(object, &table(before.writable(&keys).as_ref()), said);
        let after = match before.with(&keys, Some(Value::Table(wanted))) {
            Ok(after) if flaws.is_empty() => after,
            Ok(_) => return Err(Refused::Flawed(flaws)),
            Err(problems) => {
                flaws.extend(inside(&keys, &problems.0));
                return Err(if flaws.is_empty() { relied_on(&problems.0) } else { Refused::Flawed(flaws) });
            }
        };
        if !counts_in(&after, object) {
            // Without an address it is taken for what is left of something that is gone.
            return Err(Refused::flaw("", "url: an address is needed"));
        }
        let now = table(after.written(&keys));
        if said.keys().any(|key| now.get(key) != counts.get(key)) {
            return Err(overruled(&keys));
        }
        Ok(after)
    }

    fn expect(&self, loaded: &Loaded, object: &Object, expected: &Expected) -> Result<(), Refused> {
        match expected {
            Expected::Any => Ok(()),
            Expected::Tags(tags) if self.tag(loaded, object).is_some_and(|tag| tags.contains(&tag)) => Ok(()),
            Expected::Tags(_) => Err(Refused::Stale),
        }
    }

    /// Tells two states of an object apart, its password included; `None` where there is no such object.
    pub fn tag(&self, loaded: &Loaded, object: &Object) -> Option<String> {
        Some(self.hash(loaded.written(&object.keys())?.to_string()))
    }

    /// Tells two configurations apart.
    pub fn revision(&self, loaded: &Loaded) -> String {
        self.hash(loaded.tree().to_string())
    }

    fn hash(&self, text: String) -> String {
        let mac = keyed(&self.key).chain_update(text).finalize().into_bytes();
        mac[..12].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A camera as it would be, to be tried: what is said alone, or laid over the camera `base`. Blocks.
    pub fn camera_to_try(
        &self,
        base: Option<&str>,
        said: Map<String, Json>,
    ) -> Result<Arc<config::Camera>, Refused> {
        let loaded = self.loaded();
        let unused = || {
            let ids = (1..).map(|n| format!("trial-{n}"));
            let mut free = ids.filter(|id| !loaded.config.cameras.contains_key(id.as_str()));
            free.next().unwrap_or_default()
        };
        let id = base.map_or_else(unused, str::to_owned);
        let change = match base {
            Some(_) => Change::Merge(Expected::Any, said),
            None => Change::Add(said),
        };
        let with = self.prepare(&loaded, &Object::Camera(id.clone()), &change)?;
        with.config.cameras.get(id.as_str()).cloned().ok_or(Refused::Missing)
    }
}

/// For the log: what was changed, and by whom.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, by {}", self.object, self.by.name)
    }
}

impl Request {
    pub fn answer(self, answer: Result<Arc<Loaded>, Refused>) {
        // Whoever asked may have gone; the change stands all the same.
        let _ = self.answer.send(answer);
    }
}

/// Names what was changed, and repeats no value.
fn detail(before: Option<&Value>, after: Option<&Value>) -> String {
    match (before.and_then(Value::as_table), after.and_then(Value::as_table)) {
        (Some(before), Some(after)) => {
            let changed = overlay::difference(before, after);
            format!("changed: {}", changed.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
        }
        (_, None) => "removed".to_owned(),
        (None, _) => "added".to_owned(),
    }
}

/// What the reader of the files finds wrong within the object.
fn inside(keys: &[&str], problems: &[Problem]) -> Vec<Flaw> {
    let rest = |problem: &Problem| {
        let mut of = problem.keys.iter().map(String::as_str);
        keys.iter().all(|key| of.next() == Some(key)).then(|| of.map(|key| pointer("", key)).collect())
    };
    let flaw = |problem: &Problem| Some(Flaw { pointer: rest(problem)?, what: problem.what.clone() });
    problems.iter().filter_map(flaw).collect()
}

/// What else would be wrong.
fn relied_on(problems: &[Problem]) -> Refused {
    let line = |problem: &Problem| match &problem.keys[..] {
        [] => problem.what.clone(),
        keys => format!("{}: {}", dotted(keys), problem.what),
    };
    Refused::Conflict(problems.iter().map(line).collect::<Vec<_>>().join("; "))
}

fn counts_in(loaded: &Loaded, object: &Object) -> bool {
    match object {
        Object::Camera(id) => loaded.config.cameras.contains_key(id.as_str()),
        Object::Destination(name) => loaded.config.dispatch.contains_key(name),
        Object::Zone { .. } | Object::Channel(_) => true,
    }
}

fn overruled(keys: &[&str]) -> Refused {
    let keys: Vec<_> = keys.iter().map(|&key| key.to_owned()).collect();
    let what = "a file in conf.d that is laid over the API's says something else of";
    Refused::Conflict(format!("{what} {}; change it there", dotted(&keys)))
}

/// RFC 6901.
fn pointer(to: &str, key: &str) -> String {
    format!("{to}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// Ids are judged by the reader of the file; other names are free there, and here stand in addresses.
fn well_named(object: &Object) -> Result<(), Refused> {
    let name = object.name();
    let well = (1..=63).contains(&name.chars().count())
        && !name.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, '/' | '\\' | '?' | '#'))
        && name != "."
        && name != "..";
    if well {
        return Ok(());
    }
    let what = "1 to 63 characters without spaces, control characters and / \\ ? #";
    Err(Refused::flaw(if matches!(object, Object::Camera(_)) { "/id" } else { "/name" }, what))
}

/// The object with what was said laid over it, and what is wrong with that.
fn merged(object: &Object, there: &Table, said: &Map<String, Json>) -> (Table, Vec<Flaw>) {
    let mut flaws = Vec::new();
    let mut wanted = there.clone();
    // Anything but text would be merged into what says where the stored one is kept.
    let mut said = said.clone();
    for key in ["password", "secret"] {
        if said.get(key).is_some_and(|value| !value.is_string() && !value.is_null()) {
            said.remove(key);
            let what =
                "text was expected, or null for none; only files on the box say where a secret is kept";
            flaws.push(Flaw { pointer: pointer("", key), what: what.to_owned() });
        }
    }
    let leads = |key: &str| matches!(key, "url" | "sub_url" | "username" | "password");
    if !(matches!(object, Object::Camera(_)) && said.keys().any(|key| leads(key))) {
        merge(&said, &mut wanted, "", &mut flaws);
        return (wanted, flaws);
    }
    separate_credentials(&mut wanted);
    let base = wanted.clone();
    let said_url =
        |key: &str| said.get(key).and_then(Json::as_str).and_then(|text| url::Url::parse(text).ok());
    let in_url = said_url("url").is_some_and(|url| url.password().is_some());
    if said_url("sub_url").is_some_and(|url| !url.username().is_empty() || url.password().is_some()) {
        let what = "the user name and password of url count here as well; leave them out";
        flaws.push(Flaw { pointer: "/sub_url".to_owned(), what: what.to_owned() });
    }
    if said_url("url").is_some_and(|url| !url.username().is_empty()) && !said.contains_key("username") {
        // Those in the new address count.
        wanted.remove("username");
    }
    if in_url && !said.contains_key("password") {
        wanted.remove("password");
    }
    merge(&said, &mut wanted, "", &mut flaws);
    separate_credentials(&mut wanted);
    let is_new = in_url || said.get("password").is_some_and(|value| value.is_string() || value.is_null());
    if !is_new {
        keep_password_at_home(&base, &wanted, &mut flaws);
    }
    (wanted, flaws)
}

/// RFC 7396.
fn merge(said: &Map<String, Json>, onto: &mut Table, at: &str, flaws: &mut Vec<Flaw>) {
    for (key, value) in said {
        let at = pointer(at, key);
        let mut flaw = |what: &str| flaws.push(Flaw { pointer: at.clone(), what: what.to_owned() });
        match value {
            Json::Null => {
                onto.remove(key);
            }
            // What these mean in a file, somebody far away must not say: which files of the box are read.
            value if REFERENCES.contains(&key.as_str()) && !value.is_object() => {
                flaw("only the files on the box say where a secret is kept; here it is text");
            }
            Json::Bool(_) if key == REMOVED => {
                flaw("unknown here; to remove something, say null, or DELETE it")
            }
            Json::Object(_) if at.matches('/').count() > DEEPEST => flaw("too deep"),
            Json::Object(inner) => {
                let below = onto.entry(key.clone()).or_insert_with(|| Table::new().into());
                if !below.is_table() {
                    *below = Table::new().into();
                }
                if let Some(below) = below.as_table_mut() {
                    merge(inner, below, &at, flaws);
                }
            }
            value => match plain(value) {
                Some(value) => {
                    onto.insert(key.clone(), value);
                }
                None => flaw("null within a list, or a number that is too large"),
            },
        }
    }
}

/// What is no object, as TOML has it.
fn plain(value: &Json) -> Option<Value> {
    Some(match value {
        Json::Null => return None,
        Json::Bool(value) => (*value).into(),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => integer.into(),
            None => number.as_f64().filter(|value| value.is_finite())?.into(),
        },
        Json::String(text) => text.clone().into(),
        Json::Array(items) => Value::Array(items.iter().map(plain).collect::<Option<_>>()?),
        Json::Object(object) => {
            let pairs = object.iter().map(|(key, value)| Some((key.clone(), plain(value)?)));
            Value::Table(pairs.collect::<Option<_>>()?)
        }
    })
}

/// Moves the user name and password in a camera's addresses to keys of their own, where they can be changed and are
/// never shown.
fn separate_credentials(camera: &mut Table) {
    for key in ["url", "sub_url"] {
        let Some(url) = camera.get(key).and_then(Value::as_str).and_then(|text| url::Url::parse(text).ok())
        else {
            continue;
        };
        let (bare, Some(found)) = file::credentials_apart(url) else { continue };
        camera.insert(key.to_owned(), bare.to_string().into());
        if key == "url" && !camera.contains_key("username") {
            camera.insert("username".to_owned(), found.username.into());
            if !found.password.expose().is_empty() && !camera.contains_key("password") {
                camera.insert("password".to_owned(), found.password.expose().into());
            }
        }
    }
}

/// A password that is kept goes to no other camera than it was given for: whoever may change an address must not be able
/// to have it sent to themselves.
fn keep_password_at_home(base: &Table, wanted: &Table, flaws: &mut Vec<Flaw>) {
    if !base.contains_key("password") {
        return;
    }
    let homes: BTreeSet<_> = endpoints(base).map(|(_, at)| at).collect();
    if let Some((key, _)) = endpoints(wanted).find(|(_, at)| !homes.contains(at)) {
        let what = "leads to another host or port than the stored password was given for: say the password again, \
                    or null for none";
        flaws.push(Flaw { pointer: pointer("", key), what: what.to_owned() });
    }
}

fn endpoints(camera: &Table) -> impl Iterator<Item = (&'static str, (String, Option<u16>))> + '_ {
    ["url", "sub_url"].into_iter().filter_map(|key| {
        let url = url::Url::parse(camera.get(key)?.as_str()?).ok()?;
        let port = url.port().or((url.scheme() == "rtsp").then_some(554));
        Some((key, (format!("{}://{}", url.scheme(), url.host_str()?.to_lowercase()), port)))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::config::overlay::Layer;

    const MAIN: &str = "[cameras.gate]\nurl = \"rtsp://u:canary-7@192.0.2.1/a\"\n[cameras.gate.zones.east]\n\
        points = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]\n[cameras.road]\nurl = \"rtsp://192.0.2.2/a\"\n\
        [channels.wall]\ncamera = \"road\"\n";

    fn settings() -> Settings {
        let loaded = file::parse_layers(vec![Layer::new(Path::new("t.toml"), MAIN.to_owned())]).unwrap();
        requests(loaded, [7; 32]).0
    }

    fn gate() -> Object {
        Object::Camera("gate".to_owned())
    }

    fn change(said: Json) -> Result<Loaded, Refused> {
        let settings = settings();
        let said = said.as_object().unwrap().clone();
        settings.prepare(&settings.loaded(), &gate(), &Change::Merge(Expected::Any, said))
    }

    /// JSON in which keys of the configuration and words with a meaning are frequent.
    fn said() -> impl Strategy<Value = Json> {
        let text = prop_oneof![
            Just("rtsp://192.0.2.1/b".to_owned()),
            Just("rtsp://192.0.2.9/b".to_owned()),
            Just("rtsp://a:b@192.0.2.1/c".to_owned()),
            Just("forest-fire".to_owned()),
            Just("tcp".to_owned()),
            "\\PC{0,8}",
        ];
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<f64>().prop_map(Json::from),
            text.prop_map(Json::from),
        ];
        let keys = file::CAMERA.into_iter().chain(["removed", "file", "env", "east", "points", "kinds", "x"]);
        let keys = prop::sample::select(keys.collect::<Vec<_>>());
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::btree_map(keys.clone(), inner, 0..4)
                    .prop_map(|map| map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_is_said_changes_the_one_object_or_nothing(said in said()) {
            prop_assume!(said.is_object());
            let settings = settings();
            let before = settings.loaded();
            match change(said.clone()) {
                Ok(after) => {
                    for keys in [&["cameras", "road"][..], &["channels", "wall"]] {
                        prop_assert_eq!(after.written(keys), before.written(keys));
                    }
                    let gate = &after.config.cameras["gate"];
                    // The password that nobody said goes nowhere but home.
                    let kept = gate.credentials.as_ref().is_some_and(|c| c.password.expose() == "canary-7");
                    let urls = [Some(&gate.url), gate.sub_url.as_ref()];
                    let home = urls.into_iter().flatten().all(|url| url.host_str() == Some("192.0.2.1"));
                    prop_assert!(!kept || home, "{}", said);
                }
                Err(refused) => prop_assert!(!refused.to_string().contains("canary-7"), "{}", refused),
            }
        }

        #[test]
        fn what_is_said_twice_is_said_once(said in said()) {
            prop_assume!(said.is_object());
            let said = said.as_object().unwrap();
            let (mut once, mut flaws) = (Table::new(), Vec::new());
            merge(said, &mut once, "", &mut flaws);
            let mut twice = once.clone();
            merge(said, &mut twice, "", &mut flaws);
            prop_assert!(once == twice || !flaws.is_empty());
        }
    }

    #[test]
    fn a_password_in_a_file_goes_nowhere_either() {
        let text =
            "[cameras.gate]\nurl = \"rtsp://192.0.2.1/a\"\nusername = \"u\"\npassword = { env = \"PATH\" }\n";
        let loaded = file::parse_layers(vec![Layer::new(Path::new("t.toml"), text.to_owned())]).unwrap();
        let settings = requests(loaded, [7; 32]).0;
        for password in [json!({}), json!({ "a": null }), json!([]), json!(1), json!({ "env": "HOME" })] {
            let said = json!({ "url": "rtsp://192.0.2.9/a", "password": password });
            let said = said.as_object().unwrap();
            let change = Change::Merge(Expected::Any, said.clone());
            assert!(matches!(
                settings.prepare(&settings.loaded(), &gate(), &change),
                Err(Refused::Flawed(_))
            ));
            assert!(settings.camera_to_try(Some("gate"), said.clone()).is_err());
        }
    }

    #[test]
    fn a_tag_tells_states_apart_and_shows_nothing_of_them() {
        let settings = settings();
        let before = settings.loaded();
        let tag = settings.tag(&before, &gate()).unwrap();
        let after = change(json!({ "password": "other" })).unwrap();
        assert_ne!(settings.tag(&after, &gate()), Some(tag.clone()));
        assert_eq!(settings.tag(&change(json!({})).unwrap(), &gate()), Some(tag.clone()));
        let road = Object::Camera("road".to_owned());
        assert_eq!(settings.tag(&after, &road), settings.tag(&before, &road));
        let other_box = requests(
            file::parse_layers(vec![Layer::new(Path::new("t.toml"), MAIN.to_owned())]).unwrap(),
            [8; 32],
        );
        assert_ne!(other_box.0.tag(&before, &gate()), Some(tag));
    }
}
