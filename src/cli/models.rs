//! `liuta models`: what is there, whether it is whole, and fetching what is missing.

use comfy_table::{Table, presets};

use super::progress::Bar;
use super::{ModelFolders, Models, block_on, config_or_default};
use crate::config::reader::Problem;
use crate::vision::model::{self, FileState, Listed, PullOutcome, Pulled};

pub(super) fn run(what: Models) -> anyhow::Result<()> {
    match what {
        Models::List { at } => {
            let config = config_or_default(at.config.clone())?;
            let (models, problems) = model::list(&config.vision.models);
            show(&at, &models, &problems)
        }
        Models::Verify { at } => {
            let config = config_or_default(at.config.clone())?;
            let bar = Bar::new(at.json);
            let (models, problems) =
                model::verify(&config.vision.models, &mut |name, done, total| bar.tell(name, done, total));
            bar.end();
            show(&at, &models, &problems)?;
            let wrong = models.iter().any(|model| matches!(model.state, FileState::Wrong(_)));
            anyhow::ensure!(!wrong, "not every model is whole: `liuta models pull` fetches it again");
            Ok(())
        }
        Models::Pull { at, mirror } => {
            let config = config_or_default(at.config.clone())?;
            let into = config.data.join("models");
            let bar = Bar::new(at.json);
            let (pulled, problems) = block_on(async {
                let mut progress = |name: &str, done, total| bar.tell(name, done, total);
                Ok(model::pull(mirror.as_deref(), &config.vision.models, &into, &mut progress).await)
            })?;
            bar.end();
            tell_problems(&problems);
            if at.json {
                say!("{}", serde_json::json!({ "items": pulled }));
            } else {
                pulled.iter().for_each(tell_pulled);
            }
            let failed = pulled.iter().any(|model| matches!(model.outcome, PullOutcome::Failed(_)));
            anyhow::ensure!(!failed, "not every model could be fetched");
            Ok(())
        }
    }
}

fn show(at: &ModelFolders, models: &[Listed], problems: &[Problem]) -> anyhow::Result<()> {
    tell_problems(problems);
    if at.json {
        say!("{}", serde_json::json!({ "items": models }));
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["MODEL", "VERSION", "INPUT", "LICENCE", "SIZE", "STATE"]);
    for model in models {
        let [width, height] = model.input;
        let size = model.bytes.map_or("–".to_owned(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
        let state = match &model.state {
            FileState::Present => "present".to_owned(),
            FileState::Verified => "whole".to_owned(),
            FileState::Missing => "missing: liuta models pull".to_owned(),
            FileState::Wrong(why) => format!("wrong: {why}"),
        };
        let input = format!("{width}x{height}");
        table.add_row([&model.name, &model.version, &input, &model.licence, &size, &state]);
    }
    say!("{table}");
    Ok(())
}

fn tell_pulled(model: &Pulled) {
    let Pulled { name, version, file, outcome } = model;
    match outcome {
        PullOutcome::Kept => say!("{name} {version}: already at {}", file.display()),
        PullOutcome::Fetched => say!("{name} {version}: fetched to {}", file.display()),
        PullOutcome::Failed(why) => say!("{name} {version}: {why}"),
    }
}

fn tell_problems(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}");
    }
}
