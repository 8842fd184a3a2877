//! `liuta ring`: the index made anew, recordings judged byte by byte, and disks that were replaced.

use std::path::PathBuf;

use clap::Subcommand;
use indicatif::DecimalBytes;
use jiff::Timestamp;

use super::export::time;
use super::progress::Bar;
use super::{DEFAULT_CONFIG, log_to_stderr};
use crate::analysis;
use crate::config::{self, Config};
use crate::record::{self, Archive, Checked, Scope};
use crate::store::Store;

#[derive(Subcommand)]
pub enum Ring {
    /// Make index.db anew from the recordings, while the daemon does not run
    ///
    /// The old index is kept aside. Causes of gaps come from it where it can be read; evidence is pinned again by the alerts
    /// that state.db knows.
    Rebuild {
        /// The box's configuration, which names its data folder
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read every finished recording and compare it with what was written; exit status 1 where something is wrong
    ///
    /// Tells files that are damaged, missing, or unknown to the index, and changes nothing. The daemon may run meanwhile.
    Verify {
        /// Only of this camera (may be given again)
        #[arg(long, value_name = "ID")]
        camera: Vec<String>,
        /// Only what lies behind it: 2026-11-25T14:00:00Z, local time "2026-11-25 14:00", or -2h
        #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
        from: Option<Timestamp>,
        /// Only what lies before it
        #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
        to: Option<Timestamp>,
        /// The box's configuration, which names its data folder
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget which disk a volume of [record.volumes] was; its recordings stay where they are
    ///
    /// After a disk was replaced on purpose: the next start takes what is found at the volume's path. Or for a volume that
    /// is not configured any more, whose recordings nobody wants back.
    Forget {
        /// Its name
        volume: String,
        /// The box's configuration, which names its data folder
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
}

pub(super) fn run(what: Ring) -> anyhow::Result<()> {
    match what {
        Ring::Rebuild { config, json } => {
            // What cannot be taken in is said as the daemon would say it.
            log_to_stderr("warn")?;
            rebuild(&config::file::load(&config)?.config, json)
        }
        Ring::Verify { camera, from, to, config, json } => {
            let range = (from.is_some() || to.is_some())
                .then(|| from.unwrap_or(Timestamp::UNIX_EPOCH)..to.unwrap_or(Timestamp::MAX));
            verify(&config::file::load(&config)?.config, &Scope { cameras: camera, range }, json)
        }
        Ring::Forget { volume, config } => {
            let data = config::file::load(&config)?.config.data.clone();
            anyhow::ensure!(
                record::forget(&data, &volume)?,
                "no volume {volume:?} is known in {}",
                data.display()
            );
            say!("forgotten; the next start of liuta takes what it finds");
            Ok(())
        }
    }
}

fn rebuild(config: &Config, json: bool) -> anyhow::Result<()> {
    let pins = match Store::open_existing(&config.data).and_then(|store| analysis::pins(&store)) {
        Ok(pins) => pins,
        // Recordings without pins are better than none.
        Err(error) => {
            eprintln!("{error}; what alerts have pinned is kept only where the old index knows it");
            Vec::new()
        }
    };
    let bar = Bar::new(json);
    let mut progress = |done, total| bar.count("files", done, total);
    let rebuilt = record::rebuild(config, &pins, &mut progress);
    bar.end();
    let rebuilt = rebuilt?;
    if json {
        say!("{}", serde_json::json!({ "pins": pins.len(), "rebuilt": rebuilt }));
        return Ok(());
    }
    for volume in &rebuilt.volumes {
        say!("{}: {} files, {}", volume.index.display(), volume.files, DecimalBytes(volume.bytes));
        if let Some(aside) = &volume.aside {
            say!("  the old index lies at {}, yours to delete", aside.display());
        }
    }
    if rebuilt.unexplained_gaps > 0 {
        say!("{} gaps whose cause nobody knows any more", rebuilt.unexplained_gaps);
    }
    say!("evidence of {} alerts is pinned", pins.len());
    Ok(())
}

fn verify(config: &Config, scope: &Scope, json: bool) -> anyhow::Result<()> {
    let archive = Archive::read(config)?;
    super::export::known(config, &archive, &scope.cameras)?;
    // The daemon records meanwhile; schedulers of disks go by this as well.
    let _ = rustix::process::nice(19);
    let bar = Bar::new(json);
    let checked = archive.check(scope, &mut |camera, done, total| bar.tell(camera, done, Some(total)));
    bar.end();
    let checked = checked?;
    let Checked { whole, unproved, bytes, flaws } = &checked;
    if json {
        say!("{}", serde_json::json!({ "ok": flaws.is_empty(), "checked": checked }));
    } else {
        for flaw in flaws {
            say!("{}: {}", flaw.file.display(), flaw.what);
        }
        say!("{whole} files are as they were written, {} were read", DecimalBytes(*bytes));
        if *unproved > 0 {
            say!("{unproved} more can be played, but hold nothing that would prove their bytes");
        }
    }
    anyhow::ensure!(flaws.is_empty(), "{} files are damaged, missing or unknown", flaws.len());
    Ok(())
}
