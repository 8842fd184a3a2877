//! The configuration's files, of which a NUL ends all but the last: whatever stands in them gives a configuration or
//! problems that say where.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use liuta::config::file::parse_layers;
use liuta::config::overlay::Layer;

fuzz_target!(|text: &str| {
    let file = |at: usize| format!("/nonexistent/{at}.toml");
    let texts: Vec<_> = text.split('\0').collect();
    let layers = texts.iter().enumerate().map(|(at, text)| Layer::new(Path::new(&file(at)), (*text).to_owned()));
    if let Err(problems) = parse_layers(layers.collect()) {
        assert!(!problems.0.is_empty());
        for problem in &problems.0 {
            assert!(!problem.to_string().is_empty());
            let of = texts.iter().enumerate().find(|(at, _)| problem.file == Path::new(&file(*at)));
            let lines = of.map_or(0, |(_, text)| text.lines().count().max(1));
            assert!(problem.line <= lines + 1, "{problem}");
        }
    }
});
