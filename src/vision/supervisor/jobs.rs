//! What the worker is asked, and what is made of its answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{IN_FLIGHT, Request, Supervisor, cut, refuse, subject};
use crate::config::Id;
use crate::health::{CameraLabel, Decoder, Severity};
use crate::live::LiveStream;
use crate::media::{AccessUnit, Feed, VideoCodec};
use crate::vision::looks::Offer;
use crate::vision::process::Process;
use crate::vision::wire::{self, Job, PictureWanted, Report};
use crate::vision::{Looked, Picture, PictureError};

/// A camera is said to be looked at again once its contract has held for so long.
const STEADILY: Duration = Duration::from_secs(30);

/// A job that the worker has not answered.
pub struct InFlight {
    id: u64,
    pub camera: Id,
    pub stream: String,
    capture: Timestamp,
    pub sent: Instant,
    pub purpose: Purpose,
}

pub enum Purpose {
    Look { model: String },
    Picture(oneshot::Sender<Result<Picture, PictureError>>),
}

impl Supervisor {
    /// Has the worker make a picture that somebody waits for.
    pub(super) fn ask_picture(&mut self, process: &Process, request: Request) {
        let Request { camera, stream, units, max_width, reply } = request;
        if self.blame.suspended(&camera) {
            let why =
                "this camera's pictures have crashed the worker and are left out for a while".to_owned();
            // Nobody waits any more: fine.
            let _ = reply.send(Err(PictureError::Decode(why)));
            return;
        }
        let Some(wanted) = units.last().cloned() else {
            let _ = reply.send(Err(PictureError::NoPicture));
            return;
        };
        let (job, blobs) = self.job(stream.clone(), &units, None, PictureWanted::Always { max_width });
        let waiting = self.waiting(camera, stream, &wanted, Purpose::Picture(reply));
        self.send(process, job, blobs, waiting);
    }

    /// Has the worker look at what is due.
    pub(super) fn hand_out(&mut self, process: &Process, ready: bool) {
        let now = self.now();
        for (id, camera) in &mut self.cameras {
            self.looks.saw_gop(id, camera.observe(now));
        }
        while ready && self.backlog.is_empty() && self.in_flight.len() < IN_FLIGHT {
            let mut chosen = None;
            let (cameras, models, blame) = (&self.cameras, &self.models, &self.blame);
            let unloaded = &self.unloaded;
            let next = self.looks.next(now, |id, need| {
                let Some(camera) = cameras.get(id) else { return Offer::Nothing };
                if !camera.watch.main.is_online() {
                    return Offer::Away;
                }
                let model = models.get(&camera.watch.model).and_then(|model| model.as_ref().ok());
                if blame.suspended(id) || model.is_none_or(|model| unloaded.contains(&model.label)) {
                    return Offer::Nothing;
                }
                match camera.offer(need, now) {
                    Some((stream, units)) => {
                        let bytes = units.iter().map(|unit| unit.data.len()).sum();
                        chosen = Some((stream, units));
                        Offer::Bytes(bytes)
                    }
                    None => Offer::Nothing,
                }
            });
            let (Some((id, _)), Some((stream, units))) = (next, chosen) else { return };
            let Some((camera, unit)) = self.cameras.get_mut(&id).zip(units.last()) else { return };
            camera.looked_at(&stream, unit.seq);
            let watch = camera.watch.clone();
            let name = stream_name(&stream);
            let (job, blobs) = self.job(name.clone(), &units, Some(&watch), PictureWanted::Candidate);
            let model = watch.model;
            let waiting = self.waiting(stream.camera.clone(), name, unit, Purpose::Look { model });
            if !self.send(process, job, blobs, waiting) {
                self.looks.lost(&id);
                return;
            }
        }
    }

    fn job(
        &mut self,
        stream: String,
        access_units: &[Arc<AccessUnit>],
        watch: Option<&super::super::Watch>,
        picture: PictureWanted,
    ) -> (Job, Vec<Bytes>) {
        self.next_id += 1;
        let (units, blobs) = wire::look_units(access_units);
        let params = access_units.last().map(|unit| unit.params.clone());
        let (codec, width, height) =
            params.map_or((VideoCodec::H264, 0, 0), |params| (params.codec, params.width, params.height));
        let id = self.next_id;
        let model = watch.map(|watch| watch.model.clone());
        let (tiles, min_score) = watch.map_or((1, 1.0), |watch| (watch.tiles, watch.min_score));
        (Job::Look { id, stream, codec, width, height, units, model, tiles, min_score, picture }, blobs)
    }

    fn waiting(&self, camera: Id, stream: String, unit: &AccessUnit, purpose: Purpose) -> InFlight {
        InFlight { id: self.next_id, camera, stream, capture: unit.capture(), sent: Instant::now(), purpose }
    }

    fn send(&mut self, process: &Process, job: Job, blobs: Vec<Bytes>, waiting: InFlight) -> bool {
        let sent = process.jobs.try_send((job, blobs)).is_ok();
        if sent {
            self.in_flight.push_back(waiting);
        } else if let Purpose::Picture(reply) = waiting.purpose {
            refuse(reply, "it is busy");
        }
        sent
    }

    /// Takes a report on a job; an error is nonsense.
    pub(super) fn take_answer(&mut self, report: Report, jpeg: Bytes) -> Result<(), String> {
        let id = match &report {
            Report::Looked { id, .. } | Report::Failed { id, .. } => *id,
            Report::Ready { .. } | Report::Unfit { .. } => return Ok(()),
        };
        let at = self.in_flight.iter().position(|job| job.id == id);
        let Some(job) = at.and_then(|at| self.in_flight.remove(at)) else {
            return Err(format!("an answer to job {id}, which nobody waits for"));
        };
        let now = self.now();
        match report {
            Report::Looked { detections, decoder, profile, .. } => {
                if !jpeg.is_empty() && !jpeg.starts_with(&[0xff, 0xd8]) {
                    return Err("a picture that is no JPEG".to_owned());
                }
                self.decoded_by(&job, decoder, profile);
                match job.purpose {
                    Purpose::Picture(reply) => {
                        let picture = match jpeg.is_empty() {
                            true => Err(PictureError::Decode("the worker sent none".to_owned())),
                            false => Ok(Picture { jpeg, capture: job.capture }),
                        };
                        // Nobody waits any more: fine.
                        let _ = reply.send(picture);
                    }
                    Purpose::Look { model } => {
                        let Some(Ok(model)) = self.models.get(&model) else { return Ok(()) };
                        model.check(&detections)?;
                        let model = model.label.clone();
                        self.blame.clear(&job.camera);
                        if !self.cameras.contains_key(&job.camera) {
                            return Ok(());
                        }
                        let label = CameraLabel::new(&*job.camera);
                        let metrics = &self.shared.health.metrics;
                        metrics.looks.get_or_create(&label).inc();
                        if let Some(interval) = self.looks.answered(&job.camera, now) {
                            let intervals = metrics.look_interval_seconds.get_or_create(&label);
                            intervals.observe(interval.as_secs_f64());
                        }
                        let missed = self.cameras.get(&job.camera).and_then(|camera| camera.missed);
                        if missed.is_none_or(|missed| now.saturating_sub(missed) >= STEADILY) {
                            self.shared.health.ok(&subject(&job.camera));
                        }
                        let jpeg = (!jpeg.is_empty()).then_some(jpeg);
                        let (camera, capture) = (job.camera, job.capture);
                        self.backlog.push_back(Looked { camera, capture, detections, jpeg, model });
                    }
                }
            }
            Report::Failed { why, .. } => match job.purpose {
                Purpose::Picture(reply) => {
                    // Nobody waits any more: fine.
                    let _ = reply.send(Err(PictureError::Decode(cut(&why))));
                }
                Purpose::Look { .. } => {
                    self.looks.lost(&job.camera);
                    tracing::debug!(camera = &*job.camera, "look: {}", cut(&why));
                    if self.cameras.contains_key(&job.camera) {
                        let message = format!("a look failed: {}", cut(&why));
                        self.shared.health.set(&subject(&job.camera), Severity::Degraded, message);
                    }
                }
            },
            Report::Ready { .. } | Report::Unfit { .. } => {}
        }
        Ok(())
    }

    /// Says once which decoder a watched camera's stream has, loudly where it changed to a slower one. That a box has
    /// software decoders only is said once, by the worker when it starts.
    fn decoded_by(&mut self, job: &InFlight, decoder: String, profile: String) {
        let new = Decoder::new(&*job.camera, cut(&decoder), cut(&profile));
        if !self.cameras.contains_key(&job.camera) || self.decoders.get(&job.stream) == Some(&new) {
            return;
        }
        let before = self.forget_decoder(&job.stream);
        self.shared.health.metrics.decoder_info.get_or_create(&new).set(1);
        let (stream, decoder, profile) = (&job.stream, &new.decoder, &new.profile);
        let changed = before.as_ref().is_some_and(|before| before.profile != new.profile);
        if profile == "software" && changed {
            tracing::warn!(
                stream,
                decoder,
                "decoded in SOFTWARE: the hardware decoder failed; see `liuta probe`"
            );
        } else {
            tracing::info!(stream, decoder, profile, "decoder");
        }
        self.decoders.insert(job.stream.clone(), new);
    }

    /// The stream's decoder is not in use any more, nor shown, unless the camera's other stream has the same.
    pub(super) fn forget_decoder(&mut self, stream: &str) -> Option<Decoder> {
        let before = self.decoders.remove(stream)?;
        if !self.decoders.values().any(|other| *other == before) {
            self.shared.health.metrics.decoder_info.remove(&before);
        }
        Some(before)
    }
}

/// What the worker calls a live stream: `forest-1/sub`.
pub(in crate::vision) fn stream_name(stream: &LiveStream) -> String {
    match stream.feed {
        Feed::Main => stream.camera.to_string(),
        Feed::Sub => format!("{}/sub", stream.camera),
    }
}
