//! Reading TOML so that every problem is found at once, each with its line and column.
//!
//! A [`Reader`] walks one table: each key is taken by name, scalars through serde, and what nobody took is an unknown
//! key. Problems are collected, never thrown, so that one bad camera does not hide the next. What was taken, or stood in
//! as a default, is noted with its origin ([`Setting`]): there is no value that counts and is not told.
//!
//! What does not belong here: which files there are, and what a later one does to an earlier one ([`super::overlay`]).

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{Deserialize, DeserializeOwned};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::overlay::{self, Layer};

/// Of names.
const LONGEST_TEXT: usize = 200;

/// What stands for a secret wherever settings are shown.
pub const SECRET: &str = "‹secret›";

/// One thing that is wrong, and where. Shown as `FILE:LINE:COL: what`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    /// Both from 1; 0 where the file as a whole is meant.
    pub line: usize,
    pub column: usize,
    /// The keys that lead there from the root, `cameras`, `gate-1`, `url` say; as many as are known.
    pub keys: Vec<String>,
    pub what: String,
}

impl Problem {
    /// Of a file as a whole.
    pub fn of_file(file: &Path, what: impl Into<String>) -> Problem {
        Problem { file: file.to_owned(), line: 0, column: 0, keys: Vec::new(), what: what.into() }
    }
}

/// One setting as it counts, and where it came from.
#[derive(Clone, Debug, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct Setting {
    /// Its dotted key, as in the file: `cameras.gate-1.url`.
    pub key: String,
    /// As written; a secret shows as `‹secret›`, an address without what lets somebody in.
    pub value: serde_json::Value,
    /// `liuta.toml:12:7`, `conf.d/90-api.toml:3:7`, or `default`.
    pub from: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        if self.line == 0 {
            return write!(f, "{file}: {}", self.what);
        }
        write!(f, "{file}:{}:{}: {}", self.line, self.column, self.what)
    }
}

/// Everything that is wrong, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The texts of files of which each lies over the ones before it, and what was found in them so far.
pub struct Source {
    layers: Vec<Layer>,
    /// Each layer's text behind as many line breaks as there are bytes before it: a span alone tells its file.
    padded: Vec<String>,
    /// Where each layer and each of its lines begin.
    starts: Vec<(usize, Vec<usize>)>,
    problems: RefCell<Vec<(usize, Problem)>>,
    warnings: RefCell<Vec<Problem>>,
    settings: RefCell<Vec<Setting>>,
}

impl Source {
    pub fn new(file: &Path, text: String) -> Source {
        Source::layered(vec![Layer::new(file, text)])
    }

    /// At least one layer.
    pub fn layered(layers: Vec<Layer>) -> Source {
        let mut before = 0;
        let (mut padded, mut starts) = (Vec::new(), Vec::new());
        for layer in &layers {
            padded.push("\n".repeat(before) + &layer.text);
            let lines = layer.text.match_indices('\n').map(|(at, _)| at + 1);
            starts.push((before, std::iter::once(0).chain(lines).collect()));
            before += layer.text.len() + 1;
        }
        Source {
            layers,
            padded,
            starts,
            problems: RefCell::default(),
            warnings: RefCell::default(),
            settings: RefCell::default(),
        }
    }

    /// The merged tree as a table; syntax errors become problems.
    pub fn root(&self) -> Reader<'_> {
        Reader { source: self, span: 0..0, keys: Vec::new(), table: self.merged() }
    }

    pub(super) fn merged(&self) -> DeTable<'_> {
        let mut merged = DeTable::default();
        for (at, text) in self.padded.iter().enumerate() {
            let (table, errors) = DeTable::parse_recoverable(text);
            for error in &errors {
                let (span, message) =
                    (error.span().unwrap_or(0..0), error.message().trim().replace('\n', ", "));
                let named = text.get(span.clone()).filter(|_| message == "duplicate key");
                self.report(span, named.map_or(message.clone(), |name| format!("{message} {name:?}")));
            }
            let mut table = table.into_inner();
            if at > 0
                && let Some((key, _)) = table.remove_entry("data")
            {
                self.report(key.span(), "data: only the main file says where the data lies");
            }
            overlay::lay(table, &mut merged, &mut |span, what| self.report(span, what));
        }
        merged
    }

    pub fn report(&self, span: Range<usize>, what: impl Into<String>) {
        self.problems.borrow_mut().push((span.start, self.problem(span, what)));
    }

    fn problem(&self, span: Range<usize>, what: impl Into<String>) -> Problem {
        let (layer, line, column) = self.position(span.start);
        Problem { file: layer.path.clone(), line, column, keys: Vec::new(), what: what.into() }
    }

    /// The layer that a byte of the padded texts lies in, with line and column there.
    fn position(&self, at: usize) -> (&Layer, usize, usize) {
        let index = self.starts.partition_point(|(start, _)| *start <= at).saturating_sub(1);
        let (layer, (start, lines)) = (&self.layers[index], &self.starts[index]);
        let rest = layer.text.floor_char_boundary(at - start);
        let line = lines.partition_point(|begins| *begins <= rest);
        let column = layer.text[lines[line - 1]..rest].chars().count() + 1;
        (layer, line, column)
    }

    /// What was warned of so far.
    pub fn take_warnings(&self) -> Vec<Problem> {
        self.warnings.take()
    }

    /// What was read so far, in the order of the keys.
    pub fn take_settings(&self) -> Vec<Setting> {
        let mut settings = self.settings.take();
        settings.sort_by(|a, b| a.key.cmp(&b.key));
        settings
    }

    /// In the order of the files.
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.take();
        if problems.is_empty() {
            return Vec::new();
        }
        // Only now: mostly there are none. What parsing reports again is known.
        let mut places = Vec::new();
        note_places(&self.merged(), &mut Vec::new(), &mut places);
        for (at, problem) in &mut problems {
            let around = places.iter().filter(|(place, _)| place.contains(at));
            let keys = around.min_by_key(|(place, keys)| (place.len(), Reverse(keys.len())));
            problem.keys = keys.map(|(_, keys)| keys.clone()).unwrap_or_default();
        }
        problems.sort_by_key(|(at, _)| *at);
        problems.into_iter().map(|(_, problem)| problem).collect()
    }
}

fn note_places(table: &DeTable<'_>, keys: &mut Vec<String>, places: &mut Vec<(Range<usize>, Vec<String>)>) {
    for (key, value) in table {
        keys.push(key.get_ref().to_string());
        places.push((key.span(), keys.clone()));
        places.push((value.span(), keys.clone()));
        match value.get_ref() {
            DeValue::Table(table) => note_places(table, keys, places),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    keys.push(index.to_string());
                    places.push((item.span(), keys.clone()));
                    keys.pop();
                }
            }
            _ => {}
        }
        keys.pop();
    }
}

/// Keys as TOML writes them.
pub fn dotted(keys: &[String]) -> String {
    let bare = |key: &str| {
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let written: Vec<_> =
        keys.iter().map(|key| if bare(key) { key.clone() } else { format!("{key:?}") }).collect();
    written.join(".")
}

/// One table whose keys are taken one by one.
pub struct Reader<'s> {
    source: &'s Source,
    /// Of the table's header or braces, for what is missing in it.
    pub span: Range<usize>,
    /// That lead to it from the root.
    keys: Vec<String>,
    table: DeTable<'s>,
}

/// A value with the place that it was written at.
pub struct At<T> {
    pub value: T,
    pub span: Range<usize>,
}

impl<'s> Reader<'s> {
    pub fn report(&self, span: Range<usize>, what: impl Into<String>) {
        self.source.report(span, what);
    }

    /// Wrong, but no reason to refuse the whole: see [`super::Config::warnings`].
    pub fn warn(&self, span: Range<usize>, what: impl Into<String>) {
        self.source.warnings.borrow_mut().push(self.source.problem(span, what));
    }

    fn take(&mut self, key: &str) -> Option<(Range<usize>, Spanned<DeValue<'s>>)> {
        self.table.remove_entry(key).map(|(name, value)| (name.span(), value))
    }

    /// Whether the key is written, rightly or not, and nobody has taken it yet.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether the table was begun by the API, whose file may outlive what it was laid over.
    pub fn is_of_api(&self) -> bool {
        self.source.position(self.span.start).0.is_api()
    }

    /// Where the key is written, if nobody has taken it yet.
    pub fn place_of(&self, key: &str) -> Option<Range<usize>> {
        self.table.get_key_value(key).map(|(name, _)| name.span())
    }

    fn below(&self, key: &str) -> Vec<String> {
        self.keys.iter().map(String::as_str).chain([key]).map(str::to_owned).collect()
    }

    fn note(&self, key: &str, value: serde_json::Value, at: Range<usize>) {
        let (layer, line, column) = self.source.position(at.start);
        let from = format!("{}:{line}:{column}", layer.name);
        self.source.settings.borrow_mut().push(Setting { key: dotted(&self.below(key)), value, from });
    }

    /// Notes what stands in where nothing is written.
    pub fn note_default(&self, key: &str, value: impl Into<serde_json::Value>) {
        let setting =
            Setting { key: dotted(&self.below(key)), value: value.into(), from: "default".to_owned() };
        self.source.settings.borrow_mut().push(setting);
    }

    /// Text that says something.
    pub fn text(&mut self, key: &str) -> Option<String> {
        let at = self.get::<String>(key)?;
        if at.value.trim().is_empty() {
            self.report(at.span, format!("{key}: is empty; leave it out instead"));
            return None;
        }
        if at.value.chars().count() > LONGEST_TEXT || at.value.chars().any(char::is_control) {
            self.report(at.span, format!("{key}: at most {LONGEST_TEXT} characters, on one line"));
            return None;
        }
        Some(at.value)
    }

    /// What serde reads, not noted.
    fn read<T: DeserializeOwned>(&mut self, key: &str) -> Option<At<T>> {
        let (_, value) = self.take(key)?;
        let span = value.span();
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Some(At { value, span }),
            Err(error) => {
                self.report(error.span().unwrap_or(span), format!("{key}: {}", error.message().trim()));
                None
            }
        }
    }

    /// A scalar or array that serde reads.
    pub fn get<T: DeserializeOwned>(&mut self, key: &str) -> Option<At<T>> {
        let written = self.table.get(key).cloned().map(ValueDeserializer::from);
        let at = self.read(key)?;
        let written = written.and_then(|value| serde_json::Value::deserialize(value).ok());
        self.note(key, written.unwrap_or_default(), at.span.clone());
        Some(at)
    }

    /// The same where a default stands in.
    pub fn get_or<T>(&mut self, key: &str, default: T) -> T
    where
        T: DeserializeOwned + Clone + Into<serde_json::Value>,
    {
        if !self.has(key) {
            self.note_default(key, default.clone());
        }
        self.get(key).map_or(default, |at| at.value)
    }

    /// Text that `parse` understands; its error says what was meant.
    pub fn parsed<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<At<T>> {
        self.parsed_and_shown(key, parse, |_, text| text.to_owned())
    }

    /// The same of text that is shown in other words: an address that may hold a password.
    pub fn parsed_and_shown<T>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T, &str) -> String,
    ) -> Option<At<T>> {
        let text = self.read::<String>(key)?;
        match parse(&text.value) {
            Ok(value) => {
                self.note(key, show(&value, &text.value).into(), text.span.clone());
                Some(At { value, span: text.span })
            }
            Err(error) => {
                self.report(text.span, format!("{key}: {error}"));
                None
            }
        }
    }

    /// The same where a default stands in, which is written as people would write it.
    pub fn parsed_or<T>(&mut self, key: &str, default: &str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        if !self.has(key) {
            self.note_default(key, default);
        }
        let written = self.parsed(key, &parse).map(|at| at.value);
        written.unwrap_or_else(|| parse(default).expect("a default is well written"))
    }

    /// A table; an absent one reads as empty, so that its defaults apply.
    pub fn table(&mut self, key: &str) -> Reader<'s> {
        self.optional_table(key).unwrap_or_else(|| Reader {
            source: self.source,
            span: self.span.clone(),
            keys: self.below(key),
            table: DeTable::default(),
        })
    }

    pub fn optional_table(&mut self, key: &str) -> Option<Reader<'s>> {
        let (span, value) = self.take(key)?;
        self.as_table(key, span, value)
    }

    fn as_table(&self, key: &str, span: Range<usize>, value: Spanned<DeValue<'s>>) -> Option<Reader<'s>> {
        match value.into_inner() {
            DeValue::Table(table) => Some(Reader { source: self.source, span, keys: self.below(key), table }),
            other => {
                self.report(span, format!("{key}: a table was expected, found {}", other.type_str()));
                None
            }
        }
    }

    /// A table of named tables, `[cameras.NAME]`, by name.
    pub fn tables(&mut self, key: &str) -> BTreeMap<String, Reader<'s>> {
        let mut found = BTreeMap::new();
        let Some(mut tables) = self.optional_table(key) else { return found };
        for (name, value) in std::mem::take(&mut tables.table) {
            if let Some(reader) = tables.as_table(name.get_ref(), name.span(), value) {
                found.insert(name.into_inner().into_owned(), reader);
            }
        }
        found
    }

    /// A secret: text, or a table that tells where it is kept.
    pub fn secret_or_table(&mut self, key: &str) -> Option<(Range<usize>, Result<String, Reader<'s>>)> {
        let (span, value) = self.take(key)?;
        match value.into_inner() {
            DeValue::String(text) => {
                self.note(key, SECRET.into(), span.clone());
                Some((span, Ok(text.into_owned())))
            }
            DeValue::Table(table) => {
                let keys = self.below(key);
                Some((span.clone(), Err(Reader { source: self.source, span, keys, table })))
            }
            other => {
                self.report(span, format!("{key}: text or a table was expected, found {}", other.type_str()));
                None
            }
        }
    }

    /// What nobody took is unknown; `known` serves the hint.
    pub fn finish(self, known: &[&str]) {
        for name in self.table.keys() {
            let key: &str = name.get_ref();
            let hint = match nearest(key, known) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("known here: {}", known.join(", ")),
            };
            self.source.report(name.span(), format!("unknown key {key:?}; {hint}"));
        }
    }
}

/// The candidate that is closest to `word`, when close enough to be meant.
pub fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let scored = candidates.iter().map(|candidate| (strsim::levenshtein(word, candidate), *candidate));
    scored.filter(|(distance, candidate)| *distance * 3 <= candidate.len().max(3)).min().map(|(_, near)| near)
}

/// `500ms`, `10s`, `5m`, `24h`, `30d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected =
        || format!("{text:?} is no duration; write a whole number and a unit: 500ms, 10s, 5m, 24h, 30d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
    let number: u64 = text[..digits].parse().map_err(|_| expected())?;
    let milliseconds = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(expected()),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(expected)
}

/// A duration as [`duration`] reads it, in the largest unit that is whole.
pub fn as_text(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let whole = units.iter().find(|(_, size)| milliseconds >= *size && milliseconds.is_multiple_of(*size));
    whole.map_or_else(|| "0s".to_owned(), |(unit, size)| format!("{}{unit}", milliseconds / size))
}

/// A duration of at most a day: how long something in a picture takes, not how long something is kept.
pub fn within_a_day(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        long if long > Duration::from_secs(86_400) => Err(format!("{text:?} is more than a day")),
        short => Ok(short),
    }
}

/// How long something is kept; ten years are for ever.
pub fn kept(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!("{text:?} would keep nothing")),
        long if long > Duration::from_secs(3660 * 86_400) => Err(format!("{text:?} is more than ten years")),
        age => Ok(age),
    }
}

/// An exbibyte.
const MOST_BYTES: f64 = (1u64 << 60) as f64;

/// `500GB`, `1.5TB`, `200MiB`: powers of ten, or of two with an `i`.
pub fn size(text: &str) -> Result<u64, String> {
    let expected = || format!("{text:?} is no size; write a number and a unit: 500MB, 20GB, 1.5TB, 64MiB");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(expected)?;
    let number: f64 = text[..digits].parse().map_err(|_| expected())?;
    let unit: f64 = match text[digits..].trim() {
        "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => 1024f64.powi(2),
        "GiB" => 1024f64.powi(3),
        "TiB" => 1024f64.powi(4),
        _ => return Err(expected()),
    };
    let bytes = number * unit;
    if bytes > MOST_BYTES {
        return Err(format!("{text:?} is more than any disk holds"));
    }
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_a_unit() {
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["500ms", "90s", "36h", "7d"] {
            assert_eq!(as_text(duration(text).unwrap()), text);
        }
        assert!(duration("24").is_err());
        assert!(duration("").is_err());
        assert!(duration("99999999999999999999d").is_err());
        assert_eq!(size("1.5GB"), Ok(1_500_000_000));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert!(size("12").is_err());
        assert!(size("99999999999999999TB").is_err());
        assert!(kept("0s").is_err());
    }

    #[test]
    fn the_nearest_key_is_offered_only_when_near() {
        assert_eq!(nearest("retension", &["retention", "max_size"]), Some("retention"));
        assert_eq!(nearest("colour", &["retention", "max_size"]), None);
    }
}
