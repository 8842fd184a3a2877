//! Telling the world: the outbox's deliveries, one task a destination, one file a kind of destination.

pub mod webhook;
