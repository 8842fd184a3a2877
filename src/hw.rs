//! Hardware profiles (`hw-profiles/*.toml`): decoder chains and execution providers in order of preference.
