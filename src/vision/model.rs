//! Model manifests (`models/*.toml`): what a model takes and gives, its licence, hash and origin; list, verify, pull.
