//! Reading TOML so that every problem is found at once, each with its line and column.
//!
//! A [`Reader`] walks one table: each key is taken by name, scalars through serde, and what nobody took is an unknown
//! key. Problems are collected, never thrown, so that one bad camera does not hide the next.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// One thing that is wrong, and where. Shown as `FILE:LINE:COL: what`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    /// Both from 1; 0 where the file as a whole is meant.
    pub line: usize,
    pub column: usize,
    pub what: String,
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

/// A file's text and what was found wrong with it so far.
pub struct Source {
    file: PathBuf,
    text: String,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl Source {
    pub fn new(file: &Path, text: String) -> Source {
        Source { file: file.to_owned(), text, problems: RefCell::default(), warnings: RefCell::default() }
    }

    /// The whole file as a table; syntax errors become problems.
    pub fn root(&self) -> Reader<'_> {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        for error in &errors {
            let (span, message) = (error.span().unwrap_or(0..0), error.message().trim().replace('\n', ", "));
            let named = self.text.get(span.clone()).filter(|_| message == "duplicate key");
            self.report(span, named.map_or(message.clone(), |name| format!("{message} {name:?}")));
        }
        Reader { source: self, span: 0..0, table: table.into_inner() }
    }

    pub fn report(&self, span: Range<usize>, what: impl Into<String>) {
        self.problems.borrow_mut().push(self.problem(span, what));
    }

    fn problem(&self, span: Range<usize>, what: impl Into<String>) -> Problem {
        let before = &self.text[..self.text.floor_char_boundary(span.start)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
        Problem { file: self.file.clone(), line, column, what: what.into() }
    }

    /// What was warned of so far.
    pub fn take_warnings(&self) -> Vec<Problem> {
        self.warnings.take()
    }

    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems
    }
}

/// One table whose keys are taken one by one.
pub struct Reader<'s> {
    source: &'s Source,
    /// Of the table's header or braces, for what is missing in it.
    pub span: Range<usize>,
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

    /// Where the key is written, if nobody has taken it yet.
    pub fn place_of(&self, key: &str) -> Option<Range<usize>> {
        self.table.get_key_value(key).map(|(name, _)| name.span())
    }

    /// Text that says something.
    pub fn text(&mut self, key: &str) -> Option<String> {
        let at = self.get::<String>(key)?;
        if at.value.trim().is_empty() {
            self.report(at.span, format!("{key}: is empty; leave it out instead"));
            return None;
        }
        Some(at.value)
    }

    /// A scalar or array that serde reads.
    pub fn get<T: DeserializeOwned>(&mut self, key: &str) -> Option<At<T>> {
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

    /// The same where a default stands in.
    pub fn get_or<T: DeserializeOwned>(&mut self, key: &str, default: T) -> T {
        self.get(key).map_or(default, |at| at.value)
    }

    /// Text that `parse` understands; its error says what was meant.
    pub fn parsed<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<At<T>> {
        let text = self.get::<String>(key)?;
        match parse(&text.value) {
            Ok(value) => Some(At { value, span: text.span }),
            Err(error) => {
                self.report(text.span, format!("{key}: {error}"));
                None
            }
        }
    }

    pub fn parsed_or<T>(&mut self, key: &str, default: T, parse: impl Fn(&str) -> Result<T, String>) -> T {
        self.parsed(key, parse).map_or(default, |at| at.value)
    }

    /// A table; an absent one reads as empty, so that its defaults apply.
    pub fn table(&mut self, key: &str) -> Reader<'s> {
        self.optional_table(key).unwrap_or_else(|| Reader {
            source: self.source,
            span: self.span.clone(),
            table: DeTable::default(),
        })
    }

    pub fn optional_table(&mut self, key: &str) -> Option<Reader<'s>> {
        let (span, value) = self.take(key)?;
        self.as_table(key, span, value)
    }

    fn as_table(&self, key: &str, span: Range<usize>, value: Spanned<DeValue<'s>>) -> Option<Reader<'s>> {
        match value.into_inner() {
            DeValue::Table(table) => Some(Reader { source: self.source, span, table }),
            other => {
                self.report(span, format!("{key}: a table was expected, found {}", other.type_str()));
                None
            }
        }
    }

    /// A table of named tables, `[cameras.NAME]`, by name.
    pub fn tables(&mut self, key: &str) -> BTreeMap<String, Reader<'s>> {
        let mut found = BTreeMap::new();
        let Some(tables) = self.optional_table(key) else { return found };
        for (name, value) in tables.table {
            if let Some(reader) = self.as_table(name.get_ref(), name.span(), value) {
                found.insert(name.into_inner().into_owned(), reader);
            }
        }
        found
    }

    /// A string, or a table (for secrets that are written either way).
    pub fn string_or_table(&mut self, key: &str) -> Option<(Range<usize>, Result<String, Reader<'s>>)> {
        let (span, value) = self.take(key)?;
        match value.into_inner() {
            DeValue::String(text) => Some((span, Ok(text.into_owned()))),
            DeValue::Table(table) => Some((span.clone(), Err(Reader { source: self.source, span, table }))),
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
