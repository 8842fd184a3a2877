//! A guard against hostile cameras.
