//! The init segment: `ftyp`, `moov`, and in files the `uuid` box that says what they are.

use bytes::Bytes;

use super::boxes::Boxes;
use super::config_record;
use super::{About, Init};
use crate::media::params::{AudioCodec, AudioParams, VideoCodec, VideoParams};
use crate::media::{VIDEO_CLOCK, time};

pub(super) const VIDEO_TRACK: u32 = 1;
pub(super) const AUDIO_TRACK: u32 = 2;

/// Names our `uuid` box.
pub(super) const ABOUT: [u8; 16] = *b"\xa1\x5c\x0e\x7b\x3d\x0f\x4b\x0e\x9a\x3e\x6c\x69\x75\x74\x61\x01";

/// The unity matrix (ISO/IEC 14496-12, 8.2.2.2).
const MATRIX: [u32; 9] = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000];

/// `edit_90k`: presentation starts at this composition time, counted from the origin of `tfdt`.
pub(super) fn write(video: &VideoParams, audio: Option<&AudioParams>, edit_90k: Option<i64>) -> Boxes {
    let mut b = Boxes::with_capacity(1536);
    b.nest(b"ftyp", |b| {
        b.bytes(b"iso6").u32(0).bytes(b"iso6mp41");
    });
    b.nest(b"moov", |b| {
        b.full(b"mvhd", 0, 0, |b| {
            b.zeros(8).u32(1000).u32(0).u32(0x10000).u16(0x100).zeros(10);
            matrix(b);
            b.zeros(24).u32(AUDIO_TRACK + 1);
        });
        video_track(b, video, edit_90k);
        if let Some(audio) = audio {
            audio_track(b, audio, edit_90k);
        }
        b.nest(b"mvex", |b| {
            trex(b, VIDEO_TRACK);
            if audio.is_some() {
                trex(b, AUDIO_TRACK);
            }
        });
    });
    b
}

impl Init {
    /// The init segment of a file whose parts are rebased to `origin_90k` and whose first picture is at `start_90k`: an
    /// edit list makes players start it at zero, and a `uuid` box names the camera and the UTC anchor, so that the
    /// file describes itself.
    pub fn for_file(
        &self,
        camera: &str,
        stream: &str,
        origin_90k: i64,
        start_90k: i64,
        camera_clock_error_seconds: Option<f64>,
    ) -> Bytes {
        let edit = (start_90k - origin_90k).max(0);
        let mut b = write(&self.video, self.audio.as_deref(), Some(edit));
        let about = About {
            liuta: env!("CARGO_PKG_VERSION").to_owned(),
            camera: camera.to_owned(),
            stream: stream.to_owned(),
            start: time::from_90k(start_90k),
            start_90k,
            origin_90k,
            codec: self.video.rfc6381.clone(),
            camera_clock_error_seconds,
        };
        about.write(&mut b);
        b.0.into()
    }
}

fn matrix(b: &mut Boxes) {
    for value in MATRIX {
        b.u32(value);
    }
}

fn trex(b: &mut Boxes, track: u32) {
    b.full(b"trex", 0, 0, |b| {
        b.u32(track).u32(1).zeros(12);
    });
}

fn video_track(b: &mut Boxes, video: &VideoParams, edit_90k: Option<i64>) {
    b.nest(b"trak", |b| {
        tkhd(b, VIDEO_TRACK, 0, video.width, video.height);
        edit_list(b, edit_90k);
        mdia(b, VIDEO_CLOCK as u32, b"vide", b"video\0", |b| {
            b.full(b"vmhd", 0, 1, |b| {
                b.zeros(8);
            });
            tables(b, |b| video_entry(b, video));
        });
    });
}

fn audio_track(b: &mut Boxes, audio: &AudioParams, edit_90k: Option<i64>) {
    b.nest(b"trak", |b| {
        tkhd(b, AUDIO_TRACK, 0x100, 0, 0);
        edit_list(b, edit_90k.map(|edit| super::rescale(edit, VIDEO_CLOCK, audio.clock_rate.into())));
        mdia(b, audio.clock_rate, b"soun", b"audio\0", |b| {
            b.full(b"smhd", 0, 0, |b| {
                b.zeros(4);
            });
            tables(b, |b| audio_entry(b, audio));
        });
    });
}

fn tkhd(b: &mut Boxes, track: u32, volume: u16, width: u32, height: u32) {
    // Flags: enabled, in movie.
    b.full(b"tkhd", 0, 3, |b| {
        b.zeros(8).u32(track).zeros(4).u32(0).zeros(8).u16(0).u16(0).u16(volume).u16(0);
        matrix(b);
        b.u32(width << 16).u32(height << 16);
    });
}

/// One edit of duration 0, which in a fragmented file means "to the end" (ISO/IEC 14496-12, 8.6.6.1).
fn edit_list(b: &mut Boxes, media_time: Option<i64>) {
    let Some(media_time) = media_time else { return };
    b.nest(b"edts", |b| {
        b.full(b"elst", 1, 0, |b| {
            b.u32(1).u64(0).u64(media_time as u64).u16(1).u16(0);
        });
    });
}

fn mdia(b: &mut Boxes, timescale: u32, handler: &[u8; 4], name: &[u8], minf: impl FnOnce(&mut Boxes)) {
    b.nest(b"mdia", |b| {
        b.full(b"mdhd", 0, 0, |b| {
            // Language "und".
            b.zeros(8).u32(timescale).u32(0).u16(0x55c4).u16(0);
        });
        b.full(b"hdlr", 0, 0, |b| {
            b.u32(0).bytes(handler).zeros(12).bytes(name);
        });
        b.nest(b"minf", minf);
    });
}

/// `dinf`, and `stbl` with one sample entry and no samples: those are in the fragments.
fn tables(b: &mut Boxes, entry: impl FnOnce(&mut Boxes)) {
    b.nest(b"dinf", |b| {
        b.full(b"dref", 0, 0, |b| {
            b.u32(1);
            // Flag 1: the media is in this file.
            b.full(b"url ", 0, 1, |_| ());
        });
    });
    b.nest(b"stbl", |b| {
        b.full(b"stsd", 0, 0, |b| {
            b.u32(1);
            entry(b);
        });
        for kind in [b"stts", b"stsc", b"stco"] {
            b.full(kind, 0, 0, |b| {
                b.u32(0);
            });
        }
        b.full(b"stsz", 0, 0, |b| {
            b.zeros(8);
        });
    });
}

fn video_entry(b: &mut Boxes, video: &VideoParams) {
    let (entry, record) = match video.codec {
        VideoCodec::H264 => (b"avc1", b"avcC"),
        VideoCodec::H265 => (b"hvc1", b"hvcC"),
    };
    b.nest(entry, |b| {
        b.zeros(6).u16(1).zeros(16).u16(video.width as u16).u16(video.height as u16);
        // 72 dpi, one frame a sample, no compressor name, 24 bits deep.
        b.u32(0x48_0000).u32(0x48_0000).u32(0).u16(1).zeros(32).u16(0x18).u16(0xffff);
        b.nest(record, |b| config_record::write(b, video));
    });
}

fn audio_entry(b: &mut Boxes, audio: &AudioParams) {
    let kind = match audio.codec {
        AudioCodec::Aac { .. } => b"mp4a",
        // QuickTime's codes: ISO/IEC 14496-12 has none for G.711, and ffmpeg, GStreamer and VLC know these.
        AudioCodec::Pcma => b"alaw",
        AudioCodec::Pcmu => b"ulaw",
    };
    b.nest(kind, |b| {
        b.zeros(6).u16(1).zeros(8).u16(audio.channels).u16(16).zeros(4);
        // 16.16 fixed point: rates that do not fit are told by `mdhd` and the codec's own header.
        b.u32(u16::try_from(audio.clock_rate).map_or(0, |rate| u32::from(rate) << 16));
        if let AudioCodec::Aac { config } = &audio.codec {
            b.full(b"esds", 0, 0, |b| elementary_stream(b, config));
        }
    });
}

/// ES_Descriptor of AAC (ISO/IEC 14496-1, 7.2.6.5; 14496-14, 3.1.2).
fn elementary_stream(b: &mut Boxes, config: &Bytes) {
    b.descriptor(0x03, |b| {
        b.u16(0).u8(0);
        b.descriptor(0x04, |b| {
            // MPEG-4 audio; audio stream; buffer size and bit rates unknown.
            b.u8(0x40).u8(0x15).zeros(11);
            b.descriptor(0x05, |b| {
                b.bytes(config);
            });
        });
        b.descriptor(0x06, |b| {
            b.u8(2);
        });
    });
}
