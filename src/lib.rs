//! Liuta: ingest, recording, relay, watching and alerting for RTSP cameras.
//!
//! The way of a picture: [`camera`] receives it, [`record`] keeps it, [`relay`] shows it, [`vision`] has it looked at,
//! [`analysis`] decides with [`alert`] what it means, [`store`] remembers, [`dispatch`] tells.
//!
//! Nothing here loads GStreamer or ONNX Runtime: the code that does lives in `src/worker`, the root of the second
//! binary `liuta-vision`, and is no part of this library. Imports point down only:
//! `cli` → `app` → `api` → `events` → `relay`, `dispatch`, `analysis`, `settings`, `evidence` → `camera` →
//! {`vision`, `alert`, `record`} → {`live`, `store`, `net`, `hw`, `access`} → {`media`, `config`, `health`} → `owner`.
//! `tests/structure.rs` holds this.

pub mod access;
pub mod alert;
pub mod analysis;
pub mod api;
pub mod app;
pub mod camera;
pub mod cli;
pub mod config;
pub mod demo;
pub mod dispatch;
pub mod events;
pub mod evidence;
pub mod health;
pub mod hw;
pub mod live;
pub mod log;
pub mod media;
pub mod net;
pub mod owner;
pub mod record;
pub mod relay;
pub mod settings;
pub mod simulate;
pub mod store;
pub mod vision;
