//! What the box says of itself: health states, metrics, and the service manager's watchdog.
//!
//! A health state is a sentence for people with a cause and what to do; a metric is a number for Prometheus. Both are
//! set where the thing happens; this module only keeps and shows them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::sync::Notify;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Ok,
    /// Works, but less than was promised.
    Degraded,
    /// Does not do its job.
    Failed,
}

/// The state of one thing, `camera/forest-1` or `record/ring`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = HealthState)]
pub struct State {
    pub severity: Severity,
    /// What is wrong and what to do; empty when nothing is.
    pub message: String,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// Health states by subject. Cheap to clone and share.
#[derive(Clone, Default)]
pub struct Health {
    states: Arc<Mutex<BTreeMap<String, State>>>,
    changed: Arc<Notify>,
    pub metrics: Arc<Metrics>,
}

impl Health {
    /// Sets a subject's state; logs every change once.
    pub fn set(&self, subject: &str, severity: Severity, message: impl Into<String>) {
        let message = message.into();
        let mut states = self.states.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(state) = states.get_mut(subject) {
            if state.severity == severity {
                if state.message != message {
                    state.message = message;
                    self.changed.notify_one();
                }
                return;
            }
        } else if severity == Severity::Ok {
            tracing::debug!(subject, "ok");
        }
        match severity {
            Severity::Ok if states.contains_key(subject) => tracing::info!(subject, "recovered"),
            Severity::Ok => {}
            Severity::Degraded => tracing::warn!(subject, "{message}"),
            Severity::Failed => tracing::error!(subject, "{message}"),
        }
        states.insert(subject.to_owned(), State { severity, message, since: Timestamp::now() });
        self.changed.notify_one();
    }

    pub fn ok(&self, subject: &str) {
        self.set(subject, Severity::Ok, "");
    }

    /// Forgets a subject that no longer exists.
    pub fn remove(&self, subject: &str) {
        let removed = self.states.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(subject);
        if removed.is_some() {
            self.changed.notify_one();
        }
    }

    /// Waits until a state has changed since the last call. For one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Forgets what is said of a camera that is no longer configured; its counters stay, as counters do.
    pub fn forget_camera(&self, id: &str) {
        let label = CameraLabel::new(id);
        self.metrics.camera_up.remove(&label);
        self.metrics.camera_clock_error_seconds.remove(&label);
        for stream in ["main", "sub"] {
            self.metrics.live_ring_bytes.remove(&CameraStream::new(id, stream));
        }
        self.metrics.record_completeness.remove(&label);
        for subject in ["camera", "vision"] {
            self.remove(&format!("{subject}/{id}"));
        }
    }

    pub fn snapshot(&self) -> BTreeMap<String, State> {
        self.states.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The state of the box as a whole: the worst of all, where what [`NOT_THE_BOX`] names counts as degraded at most.
    /// An orchestrator restarts a box that has failed, and a restart must be able to help: it brings no camera and no
    /// receiver back, and stops the recording of all others.
    pub fn overall(&self) -> Severity {
        let counted = |(subject, state): (&String, &State)| {
            let part = subject.split('/').next().unwrap_or_default();
            if NOT_THE_BOX.contains(&part) { state.severity.min(Severity::Degraded) } else { state.severity }
        };
        self.snapshot().iter().map(counted).max().unwrap_or(Severity::Ok)
    }
}

/// Parts whose failure leaves the box at work: what lies outside it, and the vision worker, which is restarted by
/// itself while everything is recorded and relayed.
const NOT_THE_BOX: [&str; 3] = ["camera", "vision", "dispatch"];

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($field:ident),+ })+) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
        pub struct $name { $(pub $field: String),+ }

        impl $name {
            pub fn new($($field: impl Into<String>),+) -> $name {
                $name { $($field: $field.into()),+ }
            }
        }
    )+ };
}

labels! {
    CameraLabel { camera }
    CameraCause { camera, cause }
    CameraClass { camera, class }
    CameraKind { camera, kind }
    CameraStream { camera, stream }
    Decoder { camera, decoder, profile }
    Cause { cause }
    Sandbox { landlock, seccomp }
    PathProtocol { path, protocol }
    DestinationLabel { destination }
    Volume { volume }
    CertificateLabel { certificate }
    ListenerLabel { listener }
    ListenerCause { listener, cause }
}

type SecondsCounter<L> = Family<L, Counter<f64, AtomicU64>>;

/// Every metric of the daemon, under the names that `docs/reference.md` lists.
pub struct Metrics {
    registry: Registry,
    pub camera_up: Family<CameraLabel, Gauge>,
    pub camera_sessions: Family<CameraLabel, Counter>,
    pub camera_clock_error_seconds: Family<CameraLabel, Gauge<f64, AtomicU64>>,
    pub live_ring_bytes: Family<CameraStream, Gauge>,
    pub recorded_access_units: Family<CameraLabel, Counter>,
    pub recorded_bytes: Family<CameraLabel, Counter>,
    pub gap_seconds: SecondsCounter<CameraCause>,
    pub record_completeness: Family<CameraLabel, Gauge<f64, AtomicU64>>,
    pub looks: Family<CameraLabel, Counter>,
    pub look_interval_seconds: Family<CameraLabel, Histogram>,
    pub look_contract_missed: Family<CameraLabel, Counter>,
    pub decoder_info: Family<Decoder, Gauge>,
    pub detections: Family<CameraClass, Counter>,
    pub alerts: Family<CameraKind, Counter>,
    pub vision_restarts: Family<Cause, Counter>,
    pub vision_sandbox_info: Family<Sandbox, Gauge>,
    pub relay_readers: Family<PathProtocol, Gauge<i64, AtomicI64>>,
    pub relay_skips: Family<PathProtocol, Counter>,
    pub event_followers: Gauge<i64, AtomicI64>,
    pub event_resets: Counter,
    pub outbox_pending: Family<DestinationLabel, Gauge<i64, AtomicI64>>,
    pub outbox_delivery_seconds: Family<DestinationLabel, Histogram>,
    pub ring_free_bytes: Family<Volume, Gauge<f64, AtomicU64>>,
    pub connections: Family<ListenerLabel, Gauge<i64, AtomicI64>>,
    pub connections_refused: Family<ListenerCause, Counter>,
    pub certificate_expiry_timestamp_seconds: Family<CertificateLabel, Gauge<i64, AtomicI64>>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("liuta");
        macro_rules! register {
            ($($name:ident: $make:expr, $help:literal;)+) => {
                $(let $name = $make; registry.register(stringify!($name), $help, $name.clone());)+
                Metrics { registry, $($name),+ }
            };
        }
        register! {
            camera_up: Family::default(), "1 while the camera's main stream delivers pictures";
            camera_sessions: Family::default(), "RTSP sessions that delivered a picture";
            camera_clock_error_seconds: Family::default(), "Camera clock minus box clock, from RTCP sender reports";
            live_ring_bytes: Family::default(), "Bytes of recent pictures and sound that are held for readers";
            recorded_access_units: Family::default(), "Access units written to disk";
            recorded_bytes: Family::default(), "Bytes written to disk";
            gap_seconds: Family::default(), "Seconds without recording, by cause";
            record_completeness: Family::default(),
                "Part of the last 24 hours that is recorded, of what should be (0 to 1)";
            looks: Family::default(), "Looks: decoded and inferred pictures";
            look_interval_seconds: Family::<CameraLabel, Histogram>::new_with_constructor(
                || Histogram::new(exponential_buckets(0.1, 1.6, 14))), "Time between two looks";
            look_contract_missed: Family::default(), "Times that no look came within the look contract";
            decoder_info: Family::default(), "1 for the decoder in use";
            detections: Family::default(), "Detections at or above min_score inside a zone";
            alerts: Family::default(), "Alerts confirmed";
            vision_restarts: Family::default(), "Restarts of the vision worker";
            vision_sandbox_info: Family::default(), "1 for what of the vision worker's sandbox this kernel has";
            relay_readers: Family::default(), "Clients that play a stream, by protocol; by HLS, those that asked for a piece within 15 s";
            relay_skips: Family::default(), "Times that a slow reader skipped to a newer random access point";
            event_followers: Gauge::default(), "Clients that follow live events";
            event_resets: Counter::default(), "Times that a client of live events was too late to be told what it missed";
            outbox_pending: Family::default(), "Alerts not yet acknowledged by the destination";
            outbox_delivery_seconds: Family::<DestinationLabel, Histogram>::new_with_constructor(
                || Histogram::new(exponential_buckets(0.01, 2.5, 14))), "From the alert's revision to its acknowledgement";
            ring_free_bytes: Family::default(), "Free bytes on a recording volume";
            connections: Family::default(), "Connections that clients hold, by listener";
            connections_refused: Family::default(), "Connections that were not let in, by listener and cause";
            certificate_expiry_timestamp_seconds: Family::default(), "When the certificate that is served ends, in Unix seconds";
        }
    }
}

impl Metrics {
    /// Of the worker that runs now; `landlock`: its ABI, 0 where there is none.
    pub fn set_vision_sandbox(&self, landlock: u32, seccomp: bool) {
        let landlock = if landlock == 0 { "none".to_owned() } else { landlock.to_string() };
        self.vision_sandbox_info.clear();
        let label = Sandbox::new(landlock, if seccomp { "yes" } else { "no" });
        self.vision_sandbox_info.get_or_create(&label).set(1);
    }

    /// The OpenMetrics text exposition, which Prometheus reads.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => {
                tracing::error!("metrics: {error}");
                String::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_restart_can_help_makes_the_box_failed() {
        let health = Health::default();
        assert_eq!(health.overall(), Severity::Ok);
        for subject in
            ["camera/gate-1", "vision", "vision/gate-1", "dispatch/desk", "dispatch/desk/undelivered"]
        {
            health.set(subject, Severity::Failed, "gone");
            assert_eq!(health.overall(), Severity::Degraded, "{subject}");
            health.ok(subject);
            assert_eq!(health.overall(), Severity::Ok, "{subject}");
        }
        health.set("camera/gate-1", Severity::Failed, "gone");
        for subject in ["record/ring", "record/evidence/gate-1", "store/alerts", "config", "cameras"] {
            health.set(subject, Severity::Failed, "gone");
            assert_eq!(health.overall(), Severity::Failed, "{subject}");
            health.remove(subject);
            assert_eq!(health.overall(), Severity::Degraded, "{subject}");
        }
    }
}
