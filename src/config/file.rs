//! The configuration as people write it (`liuta.toml`, `scenes/*.toml`), and what is wrong with it.
