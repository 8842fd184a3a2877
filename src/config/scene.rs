//! Scenes: what a camera watches, from `scenes/NAME.toml` beside the configuration or the defaults built in.

use std::path::Path;
use std::sync::Arc;

use super::reader::{Problem, Reader, Source, within_a_day};
use super::{Kind, Rule, Scene};

/// The scenes that the program brings, by name.
pub const BUILT_IN: [(&str, &str); 4] = [
    ("forest-fire", include_str!("../../config/scenes/forest-fire.toml")),
    ("school-gate", include_str!("../../config/scenes/school-gate.toml")),
    ("trunk-road", include_str!("../../config/scenes/trunk-road.toml")),
    ("illegal-mining", include_str!("../../config/scenes/illegal-mining.toml")),
];

/// Finds a scene: first `<folder>/scenes/NAME.toml`, then the built-in one.
///
/// `Ok(None)`: there is no scene of that name.
pub fn load(name: &str, folder: &Path) -> Result<Option<Arc<Scene>>, Vec<Problem>> {
    let file = folder.join("scenes").join(format!("{name}.toml"));
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            match BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
                Some((_, text)) => (*text).to_owned(),
                None => return Ok(None),
            }
        }
        Err(error) => return Err(vec![Problem::of_file(&file, error.to_string())]),
    };
    let source = Source::new(&file, text);
    let scene = read(name, source.root());
    let problems = source.into_problems();
    if problems.is_empty() { Ok(Some(Arc::new(scene))) } else { Err(problems) }
}

fn read(name: &str, mut file: Reader<'_>) -> Scene {
    let model = file.get_or("model", "liuta-watch-n".to_owned());
    let look_every = file.parsed_or("look_every", "2s", within_a_day);
    let tiles = match file.get::<u32>("tiles") {
        Some(at) if (1..=4).contains(&at.value) => at.value,
        Some(at) => {
            file.report(at.span, "tiles: 1 (the whole picture only) to 4 (and in 4 by 4 overlapping tiles)");
            1
        }
        None => 1,
    };
    let pre_capture = file.parsed_or("pre_capture", "10s", within_a_day);
    let post_capture = file.parsed_or("post_capture", "20s", within_a_day);
    let mut rules = Vec::new();
    for (key, table) in file.tables("rules") {
        rules.extend(rule(&key, table));
    }
    if rules.is_empty() {
        file.report(file.span.clone(), "a scene needs at least one rule, such as [rules.fire]");
    }
    file.finish(&["model", "look_every", "tiles", "pre_capture", "post_capture", "rules"]);
    Scene { name: name.to_owned(), model, look_every, tiles, pre_capture, post_capture, rules }
}

fn rule(key: &str, mut table: Reader<'_>) -> Option<Rule> {
    let span = table.span.clone();
    let kind = match kind(key) {
        Ok(kind) => Some(kind),
        Err(what) => {
            table.report(span.clone(), what);
            None
        }
    };
    let class = table.get_or("class", key.to_owned());
    let min_score = unit(&mut table, "min_score", 0.4);
    let threshold = unit(&mut table, "threshold", 0.6);
    let confirm = table.get::<[u32; 2]>("confirm");
    let rule = Rule {
        kind: kind.unwrap_or(Kind::Fire),
        class,
        min_score,
        threshold,
        confirm: confirm.as_ref().map_or([3, 5], |at| at.value),
        min_count: table.get_or("min_count", 1),
        end_after: table.parsed_or("end_after", "30s", within_a_day),
        cooldown: table.parsed_or("cooldown", "60s", within_a_day),
        level: table.get_or("level", 3),
    };
    if let Some(at) = confirm
        && !(1 <= at.value[0] && at.value[0] <= at.value[1] && at.value[1] <= 100)
    {
        table.report(at.span, "confirm: [N, M] means N hits in the last M looks, 1 ≤ N ≤ M ≤ 100");
    }
    if rule.threshold < rule.min_score {
        table.report(span.clone(), "threshold is below min_score, so detections that count would be ignored");
    }
    if !(1..=4).contains(&rule.level) {
        table.report(span, "level: 1 (most severe) to 4");
    }
    table.finish(&[
        "class",
        "min_score",
        "threshold",
        "confirm",
        "min_count",
        "end_after",
        "cooldown",
        "level",
    ]);
    kind.map(|_| rule)
}

fn unit(table: &mut Reader<'_>, key: &str, default: f32) -> f32 {
    match table.get::<f32>(key) {
        Some(at) if (0.0..=1.0).contains(&at.value) => at.value,
        Some(at) => {
            table.report(at.span, format!("{key}: a score from 0 to 1"));
            default
        }
        None => default,
    }
}

/// An alert kind by its name in the contract.
pub fn kind(name: &str) -> Result<Kind, String> {
    use serde::Deserialize;
    use serde::de::IntoDeserializer;
    let deserializer: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
        name.into_deserializer();
    Kind::deserialize(deserializer).map_err(|error| error.to_string())
}
