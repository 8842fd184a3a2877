//! What `liuta demo` runs beside the daemon.

pub mod receiver;
