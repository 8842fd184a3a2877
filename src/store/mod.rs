//! `state.db`: alerts, the outbox, detections, tokens. One writer; `synchronous = FULL`.
pub struct Store {}
