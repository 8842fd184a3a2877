//! Log lines on stderr: for people with time and colour, for the journal with its priorities and without.

use std::fmt;

use anyhow::Context;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Compact, Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The environment variable that says what is logged.
const FILTER: &str = "LIUTA_LOG";

/// Starts logging; `default` is the level where `LIUTA_LOG` says nothing.
pub fn start(default: &str, colour: bool) -> anyhow::Result<()> {
    let filter = match std::env::var(FILTER) {
        Ok(text) => EnvFilter::try_new(&text).with_context(|| format!("{FILTER}={text}"))?,
        // Dependencies tell their own warnings only. mp4_atom warns of every box that it does not know, rustls of whatever
        // a stranger tries.
        Err(_) => EnvFilter::new(format!("warn,mp4_atom=error,rustls=error,liuta={default}")),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that cannot be written (a log file on a full disk) would be complained of on stderr, by a panic.
        .log_internal_errors(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let format = Format::default().compact().without_time().with_level(false).with_ansi(false);
        lines.event_format(Journal(format)).init();
    } else {
        lines.compact().with_target(false).with_ansi(colour).init();
    }
    Ok(())
}

/// Puts the priority (sd-daemon(3)) before each line.
struct Journal(Format<Compact, ()>);

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}
