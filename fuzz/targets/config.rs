//! The configuration file: whatever stands in it gives a configuration or problems that say where.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use liuta::config::file::parse;

fuzz_target!(|text: &str| {
    let lines = text.lines().count().max(1);
    if let Err(problems) = parse(Path::new("/nonexistent/liuta.toml"), text.to_owned()) {
        assert!(!problems.0.is_empty());
        for problem in &problems.0 {
            assert!(!problem.to_string().is_empty());
            assert!(problem.line as usize <= lines + 1, "{problem}");
        }
    }
});
