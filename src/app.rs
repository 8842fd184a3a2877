//! The composition root: start, reload, ordered stop.
