//! A progress bar of bytes on stderr, where that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

pub(super) struct Bar(ProgressBar);

impl Bar {
    /// `json`: for programs, who are shown nothing.
    pub(super) fn new(json: bool) -> Bar {
        let bar = if json { ProgressBar::hidden() } else { ProgressBar::no_length() };
        // A constant template: it cannot be refused.
        if let Ok(style) =
            ProgressStyle::with_template("{msg:20} {bar:30} {percent:>3}% {bytes}/{total_bytes} {eta}")
        {
            bar.set_style(style);
        }
        Bar(bar)
    }

    /// `name`: what is worked at.
    pub(super) fn tell(&self, name: &str, done: u64, total: Option<u64>) {
        if self.0.message() != name {
            self.0.set_message(name.to_owned());
        }
        if let Some(total) = total {
            // What is written meanwhile comes on top.
            self.0.set_length(total.max(done));
        }
        self.0.set_position(done);
    }

    /// The same with things that are counted, for what is not known in bytes.
    pub(super) fn count(&self, name: &str, done: u64, total: u64) {
        if let Ok(style) = ProgressStyle::with_template("{msg:20} {bar:30} {percent:>3}% {pos}/{len} {eta}")
            && self.0.length().is_none()
        {
            self.0.set_style(style);
        }
        self.tell(name, done, Some(total));
    }

    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}
