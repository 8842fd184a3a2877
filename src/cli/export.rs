//! `liuta export`, `liuta verify`, `liuta signing-key`: clips for others, which can be proved unchanged.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use indicatif::DecimalBytes;
use jiff::{Timestamp, civil, tz::TimeZone};
use tokio::signal::unix::{SignalKind, signal};

use super::progress::Bar;
use super::{DEFAULT_CONFIG, block_on};
use crate::access::{Access, By};
use crate::config;
use crate::evidence::export::{Exported, Request, export as write};
use crate::evidence::key::{KnownKey, SigningKey};
use crate::evidence::manifest::{Clip, Manifest};
use crate::evidence::verify::{self, Report};
use crate::health::Health;
use crate::record::{Archive, Condition};
use crate::store::Store;

#[derive(clap::Args)]
pub struct Export {
    /// Whose recording (may be given again: then PATH is a folder, with one mp4 each)
    #[arg(long, required = true, value_name = "ID")]
    camera: Vec<String>,
    /// 2026-11-25T14:00:00Z, or local time "2026-11-25 14:00", or -2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    from: Timestamp,
    /// The same
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true, default_value = "now")]
    to: Timestamp,
    /// The clip; its manifest and signature are written beside it. A folder for several cameras
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// Replace what is there
    #[arg(long)]
    force: bool,
    /// Stands in the manifest: a case's number, who asked for the clip
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// The box's configuration, which names its data folder
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct Verify {
    /// A clip, the folder of several, or a manifest
    path: PathBuf,
    /// The box's key: a file of `liuta signing-key`, the key itself, or its fingerprint. May be given again: one must fit
    #[arg(long, value_name = "KEY")]
    key: Vec<KnownKey>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct ShowKey {
    /// The box's configuration, which names its data folder
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn export(arguments: Export) -> anyhow::Result<()> {
    let Export { mut camera, from, to, output, force, note, config, json } = arguments;
    let config = config::file::load(&config)?.config;
    let store = Store::open_existing(&config.data)?;
    let archive = Archive::read(&config)?;
    known(&config, &archive, &camera)?;
    let key = SigningKey::of(&store)?;
    let access = Access::new(store, &config, Health::default());
    let by = By::command_line();
    let mut seen = std::collections::BTreeSet::new();
    camera.retain(|id| seen.insert(id.clone()));
    if let Some(audit) = access.audit() {
        for id in &camera {
            let detail = format!("{from} to {to}, to {}", output.display());
            audit
                .export(&by, &format!("camera/{id}"), &detail)
                .context("the audit trail cannot be written, so nothing is exported")?;
        }
    }
    let bar = Bar::new(json);
    let request = Request { cameras: camera, range: from..to, to: output, force, note };
    let done = block_on(async {
        let mut progress = |name: &str, done, total| bar.tell(name, done, Some(total));
        tokio::select! {
            done = write(&archive, &config, &key, &by, request, &mut progress) => Ok(done?),
            told = told_to_stop() => Err(told?.context("stopped; nothing was left")),
        }
    });
    bar.end();
    let done = done?;
    for clip in &done.says.files {
        warn(clip);
    }
    if json {
        say!("{}", serde_json::to_string(&done)?);
    } else {
        tell_exported(&done);
    }
    Ok(())
}

/// An error for a camera that is neither configured nor recorded: a slip of the pen is no empty recording.
pub(super) fn known(config: &config::Config, archive: &Archive, cameras: &[String]) -> anyhow::Result<()> {
    let mut known = archive.cameras();
    known.extend(config.cameras.keys().map(ToString::to_string));
    match cameras.iter().find(|camera| !known.contains(*camera)) {
        None => Ok(()),
        Some(camera) => {
            let known = Vec::from_iter(known).join(", ");
            anyhow::bail!("there is no camera {camera:?}, and no recording of one; there are: {known}")
        }
    }
}

/// Until somebody wants the end of it: the drafts are removed then.
async fn told_to_stop() -> std::io::Result<anyhow::Error> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => anyhow::anyhow!("Ctrl-C"),
        _ = terminate.recv() => anyhow::anyhow!("SIGTERM"),
        _ = hangup.recv() => anyhow::anyhow!("SIGHUP"),
    })
}

fn tell_exported(done: &Exported) {
    for clip in &done.says.files {
        say!(
            "{}: {} pictures, {:.3} to {:.3}, {}",
            done.manifest.with_file_name(&clip.name).display(),
            clip.pictures,
            clip.given.start,
            clip.given.end,
            DecimalBytes(clip.bytes)
        );
        tell_gaps(clip);
    }
    say!("{}: signed by this box, {}", done.manifest.display(), done.says.fingerprint);
    say!("hand over both and {}; `liuta verify` checks them anywhere", done.signature.display());
}

fn tell_gaps(clip: &Clip) {
    for gap in &clip.gaps {
        let cause = gap.cause.map_or("cause unknown", |cause| cause.as_str());
        say!("  missing: {:.3} to {:.3} ({cause})", gap.start, gap.end);
    }
}

/// What somebody must know before they hand the clip on.
fn warn(clip: &Clip) {
    for source in &clip.segments {
        match &source.condition {
            Condition::Damaged { why } => eprintln!(
                "WARNING: {}: the recording {} is damaged: {why}; it was exported as it is, and the manifest says so",
                clip.camera, source.path
            ),
            Condition::Missing => eprintln!(
                "WARNING: {}: the recording {} has gone while it was exported, and the manifest says so",
                clip.camera, source.path
            ),
            Condition::Whole { .. } | Condition::Unproved => {}
        }
    }
}

pub(super) fn verify(arguments: Verify) -> anyhow::Result<()> {
    let Verify { path, key, json } = arguments;
    let manifests = verify::manifests(&path).with_context(|| path.display().to_string())?;
    let bar = Bar::new(json);
    let reports: Vec<Report> = manifests
        .iter()
        .map(|manifest| {
            let name = manifest.file_name().unwrap_or_default().to_string_lossy().into_owned();
            verify::verify(manifest, &key, &mut |done, total| bar.tell(&name, done, Some(total)))
        })
        .collect();
    bar.end();
    let ok = reports.iter().all(|report| report.ok);
    if json {
        say!("{}", serde_json::json!({ "ok": ok, "manifests": reports }));
    } else {
        reports.iter().for_each(tell_report);
    }
    anyhow::ensure!(ok, "not everything is as it was signed");
    Ok(())
}

fn tell_report(report: &Report) {
    say!("{}", report.manifest.display());
    for flaw in &report.flaws {
        say!("  WRONG  {}: {}", flaw.file, flaw.what);
    }
    for remark in &report.remarks {
        say!("  NOTE   {remark}");
    }
    let Some(manifest) = &report.says else { return };
    if !report.ok {
        say!("  What the manifest says is not to be relied on.");
        return;
    }
    tell_manifest(manifest);
    match report.key_is_known {
        Some(_) => say!("  Unchanged since the box with your key signed it: {}", manifest.fingerprint),
        None => say!(
            "  Unchanged since it was signed by the key {}.\n  Whose key that is is not proved: compare it with \
             what `liuta signing-key` prints on the box, or give it by --key.",
            manifest.fingerprint
        ),
    }
}

fn tell_manifest(manifest: &Manifest) {
    let Manifest { site, exported_at, exported_by, note, .. } = manifest;
    let note = note.as_ref().map(|note| format!(", {note:?}")).unwrap_or_default();
    say!("  box {site:?}, exported {exported_at:.0} by {exported_by:?}{note}");
    for clip in &manifest.files {
        let name = clip.place.name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
        say!(
            "  {}: camera {}{name}, {:.3} to {:.3}, {} pictures",
            clip.name,
            clip.camera,
            clip.given.start,
            clip.given.end,
            clip.pictures
        );
        if let Some(error) = clip.camera_clock_error_seconds {
            say!("  the clock in the camera's picture may be {error:+.1} s off the box's");
        }
        tell_gaps(clip);
    }
}

pub(super) fn show_key(arguments: ShowKey) -> anyhow::Result<()> {
    let config = config::file::load(&arguments.config)?.config;
    let key = SigningKey::of(&*Store::open(&config.data)?)?.public();
    if arguments.json {
        let (site, fingerprint, pem) = (&config.site.id, key.fingerprint(), key.pem());
        let told = serde_json::json!({
            "box": site, "algorithm": "Ed25519", "fingerprint": fingerprint, "pem": pem,
        });
        say!("{told}");
    } else {
        // What stands before a key in a PEM file is for people; every reader skips it.
        say!("box {}, Ed25519, SHA-256 {}\n{}", config.site.id, key.fingerprint(), key.pem().trim_end());
    }
    Ok(())
}

/// An RFC 3339 time, a local one, or so long ago.
pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    if text == "now" {
        return Ok(Timestamp::now());
    }
    if let Some(ago) = text.strip_prefix('-') {
        let ago: Duration = config::reader::duration(ago)?;
        return Timestamp::now().checked_sub(ago).map_err(|error| error.to_string());
    }
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let local: Result<civil::DateTime, _> = text.parse();
    local.and_then(|local| TimeZone::system().to_timestamp(local)).map_err(|_| {
        "write it like 2026-11-25T14:00:00Z, \"2026-11-25 14:00\" (local time), -2h or now".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let at: Timestamp = "2026-11-25T06:00:00Z".parse().unwrap();
        assert_eq!(time("2026-11-25T14:00:00+08:00"), Ok(at));
        assert_eq!(time("2026-11-25T06:00Z"), Ok(at));
        let local = TimeZone::system().to_timestamp(civil::date(2026, 11, 25).at(14, 0, 0, 0)).unwrap();
        for text in ["2026-11-25 14:00", "2026-11-25T14:00", "2026-11-25 14:00:00"] {
            assert_eq!(time(text), Ok(local), "{text}");
        }
        let ago = Timestamp::now().duration_since(time("-2h").unwrap()).as_secs();
        assert!((7199..7205).contains(&ago));
        for wrong in ["", "-", "-2", "-2 fortnights", "yesterday", "25.11.2026 14:00", "2026-13-01 00:00"] {
            time(wrong).unwrap_err();
        }
        assert!(time("-99999999999999d").is_err());
    }
}
