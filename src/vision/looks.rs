//! The deadline queue: which camera is looked at next.
