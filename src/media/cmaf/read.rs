//! Reading back the files that `record` writes from our parts. Files are hostile input: a torn write, a bad disk.

use std::ops::Range;

use bytes::Bytes;

use super::init::{ABOUT, AUDIO_TRACK, VIDEO_TRACK};
use super::{About, Boxes};
use crate::media::{AudioCodec, AudioParams, VideoCodec, VideoParams, time};

/// Ticks of 90 kHz that are believed of a file, 25 000 years: sums of such times cannot overflow.
const MAX_TICKS: i64 = 1 << 56;

/// A box within a buffer that begins with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoxHeader {
    pub kind: [u8; 4],
    /// Of the whole box, header included.
    pub size: usize,
}

/// The header at the start of `bytes`; `None` when it is cut off, or a size that none of our boxes has (our boxes have
/// 32-bit sizes).
pub fn header(bytes: &[u8]) -> Option<BoxHeader> {
    let size = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = bytes.get(4..8)?.try_into().ok()?;
    (size >= 8).then_some(BoxHeader { kind, size })
}

/// What stands before a file's first part: `ftyp`, `moov` and our `uuid`.
#[derive(Clone, Debug)]
pub struct Head {
    bytes: Vec<u8>,
    pub about: About,
    /// The tracks' `stsd` boxes: samples are decoded alike where these are equal.
    video_entry: Range<usize>,
    audio_entry: Option<Range<usize>>,
    audio_timescale: Option<u32>,
    /// Places of the edit lists' media times.
    video_edit: usize,
    audio_edit: Option<usize>,
    /// Where the `uuid` box begins; it ends the head.
    uuid: usize,
}

impl Head {
    /// Reads the head at the start of `bytes`, which may go on behind it; `None` when there is no whole one of ours.
    pub fn parse(bytes: &[u8]) -> Option<Head> {
        let (mut at, mut moov) = (0, None);
        let (about, uuid): (About, usize) = loop {
            let rest = bytes.get(at..)?;
            let header = header(rest)?;
            let body = rest.get(8..header.size)?;
            match &header.kind {
                b"ftyp" => {}
                b"moov" => moov = Some(at..at + header.size),
                b"uuid" => break (serde_json::from_slice(body.strip_prefix(&ABOUT)?).ok()?, at),
                _ => return None,
            }
            at += header.size;
        };
        let believed = -MAX_TICKS..=MAX_TICKS;
        (believed.contains(&about.start_90k) && believed.contains(&about.origin_90k)).then_some(())?;
        let end = at + header(bytes.get(at..)?)?.size;
        let moov = moov?;
        let (mut video, mut audio) = (None, None);
        for (_, trak) in children(bytes, &moov).filter(|(kind, _)| kind == b"trak") {
            let entry = descend(bytes, &trak, &[b"mdia", b"minf", b"stbl", b"stsd"])?;
            // Its header, version, flags and count, and those of the first entry.
            (entry.len() >= 24).then_some(())?;
            // Behind the box's header, version and flags, entry count and a 64-bit duration.
            let list = descend(bytes, &trak, &[b"edts", b"elst"])?;
            let edit = list.start + 24;
            (edit + 8 <= list.end).then_some(())?;
            let tkhd = descend(bytes, &trak, &[b"tkhd"])?;
            match u32_at(bytes, tkhd.start + 20)? {
                VIDEO_TRACK => video = Some((entry, edit)),
                AUDIO_TRACK => {
                    let mdhd = descend(bytes, &trak, &[b"mdia", b"mdhd"])?;
                    let timescale = u32_at(bytes, mdhd.start + 20).filter(|&scale| scale > 0)?;
                    audio = Some((entry, edit, timescale));
                }
                _ => return None,
            }
        }
        let (video_entry, video_edit) = video?;
        Some(Head {
            bytes: bytes.get(..end)?.to_vec(),
            about,
            video_entry,
            video_edit,
            audio_timescale: audio.as_ref().map(|(.., timescale)| *timescale),
            audio_edit: audio.as_ref().map(|(_, edit, _)| *edit),
            audio_entry: audio.map(|(entry, ..)| entry),
            uuid,
        })
    }

    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The same codec, parameter sets and picture size.
    pub fn same_video(&self, other: &Head) -> bool {
        self.bytes.get(self.video_entry.clone()) == other.bytes.get(other.video_entry.clone())
    }

    pub fn same_audio(&self, other: &Head) -> bool {
        let entry = |head: &Head| head.audio_entry.clone().map(|entry| head.bytes[entry].to_vec());
        entry(self) == entry(other) && self.audio_timescale == other.audio_timescale
    }

    /// CRC-32 of the tracks' sample entries: files with the same are played with one head.
    pub fn entries(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        for entry in std::iter::once(&self.video_entry).chain(&self.audio_entry) {
            crc.update(self.bytes.get(entry.clone()).unwrap_or_default());
        }
        crc.finalize()
    }

    /// The clock of the audio track.
    pub fn audio_timescale(&self) -> Option<u32> {
        self.audio_timescale
    }

    /// `avc1` or `hvc1`.
    pub fn video_kind(&self) -> &[u8] {
        self.bytes.get(self.sample_entry() + 4..self.sample_entry() + 8).unwrap_or_default()
    }

    /// Behind `stsd`'s header, version, flags and count.
    fn sample_entry(&self) -> usize {
        self.video_entry.start + 16
    }

    /// The parameter sets, each behind its 4-byte length, as they stand in front of a random access point in band.
    pub fn parameter_sets(&self) -> Option<Vec<u8>> {
        // The visual sample entry is 86 bytes long, its configuration record follows.
        let record = self.bytes.get(self.sample_entry() + 86..self.video_entry.end)?;
        let size = header(record)?.size;
        let (kind, record) = (record.get(4..8)?, record.get(8..size)?);
        let mut sets = Vec::new();
        if kind == b"avcC" {
            let mut at = 5;
            for mask in [0x1f, 0xff] {
                let count = record.get(at)? & mask;
                at = length_prefixed(record, at + 1, count.into(), &mut sets)?;
            }
        } else {
            let mut at = 23;
            for _ in 0..*record.get(22)? {
                let count = u16::from_be_bytes(record.get(at + 1..at + 3)?.try_into().ok()?);
                at = length_prefixed(record, at + 3, count, &mut sets)?;
            }
        }
        Some(sets)
    }

    /// What a decoder must know of the video. `None` where the parameter sets say nothing that can be understood.
    pub fn video_params(&self) -> Option<VideoParams> {
        let codec = if self.video_kind() == b"avc1" { VideoCodec::H264 } else { VideoCodec::H265 };
        let (mut sets, mut rest) = (Vec::new(), Bytes::from(self.parameter_sets()?));
        while rest.len() >= 4 {
            let length = rest.split_to(4);
            let length = u32::from_be_bytes(length.as_ref().try_into().ok()?) as usize;
            sets.push(rest.split_to(length.min(rest.len())));
        }
        VideoParams::parse(codec, &sets).ok()
    }

    /// What a decoder must know of the sound; nothing where there is none that can be understood.
    pub fn audio_params(&self) -> Option<AudioParams> {
        let clock_rate = self.audio_timescale?;
        // Behind `stsd`'s header, version, flags and count; an audio sample entry is 36 bytes long, its codec's box follows.
        let entry = self.bytes.get(self.audio_entry.clone()?)?.get(16..)?;
        let channels = u16::from_be_bytes(entry.get(24..26)?.try_into().ok()?);
        let codec = match entry.get(4..8)? {
            b"mp4a" => AudioCodec::Aac { config: aac_config(entry.get(36..)?)? },
            b"alaw" => AudioCodec::Pcma,
            b"ulaw" => AudioCodec::Pcmu,
            _ => return None,
        };
        Some(AudioParams { codec, clock_rate, channels })
    }

    /// The head as long as it is, but without its edits: presentation is where the samples' own times say.
    pub fn unedited(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for at in std::iter::once(self.video_edit).chain(self.audio_edit) {
            bytes[at..at + 8].fill(0);
        }
        bytes
    }

    /// The head of an excerpt that begins with the picture at `start_90k`, whose parts count from `origin_90k`.
    /// `in_band`: parameter sets may also stand in the samples (`avc3`, `hev1`; ISO/IEC 14496-15, 5.4.2.1).
    pub fn excerpt(&self, origin_90k: i64, start_90k: i64, in_band: bool) -> Vec<u8> {
        let mut bytes = self.bytes[..self.uuid].to_vec();
        let edit = (start_90k - origin_90k).max(0);
        bytes[self.video_edit..self.video_edit + 8].copy_from_slice(&edit.to_be_bytes());
        if let (Some(at), Some(timescale)) = (self.audio_edit, self.audio_timescale) {
            let edit = super::rescale(edit, super::VIDEO_CLOCK, timescale.into());
            bytes[at..at + 8].copy_from_slice(&edit.to_be_bytes());
        }
        if in_band {
            let at = self.sample_entry() + 4;
            let kind = if self.video_kind() == b"avc1" { b"avc3" } else { b"hev1" };
            bytes[at..at + 4].copy_from_slice(kind);
        }
        let mut b = Boxes(bytes);
        About { start: time::from_90k(start_90k), start_90k, origin_90k, ..self.about.clone() }.write(&mut b);
        b.0
    }
}

/// The AudioSpecificConfig in an `esds` box (ISO/IEC 14496-1, 7.2.6).
fn aac_config(esds: &[u8]) -> Option<Bytes> {
    let header = header(esds).filter(|header| &header.kind == b"esds")?;
    let stream = descriptor(esds.get(12..header.size)?, 0x03)?;
    // ES_ID and flags; then object type, stream type, buffer size and bit rates.
    let decoder = descriptor(stream.get(3..)?, 0x04)?;
    descriptor(decoder.get(13..)?, 0x05).map(Bytes::copy_from_slice)
}

/// The body of the descriptor at the start of `bytes`, which has this tag (8.3.3).
fn descriptor(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let (&found, mut rest) = bytes.split_first()?;
    let mut length = 0;
    for _ in 0..4 {
        let (&byte, behind) = rest.split_first()?;
        (length, rest) = (length << 7 | usize::from(byte & 0x7f), behind);
        if byte & 0x80 == 0 {
            return rest.get(..length).filter(|_| found == tag);
        }
    }
    None
}

/// Copies `count` NAL units with 2-byte lengths behind 4-byte ones; gives back where they end.
fn length_prefixed(record: &[u8], mut at: usize, count: u16, out: &mut Vec<u8>) -> Option<usize> {
    for _ in 0..count {
        let length = u16::from_be_bytes(record.get(at..at + 2)?.try_into().ok()?);
        out.extend_from_slice(&u32::from(length).to_be_bytes());
        out.extend_from_slice(record.get(at + 2..at + 2 + usize::from(length))?);
        at += 2 + usize::from(length);
    }
    Some(at)
}

/// A part as it stands in a file.
#[derive(Clone, Debug)]
pub struct Fragment {
    /// `moof` and the header of `mdat`.
    pub header: Vec<u8>,
    /// Bytes of the whole part.
    pub size: usize,
    pub video: Run,
    pub audio: Option<Run>,
}

/// One track's samples in a part.
#[derive(Clone, Debug)]
pub struct Run {
    /// Decode time of the first sample on the track's timeline.
    pub decode_time: i64,
    pub independent: bool,
    pub samples: Vec<Sample>,
    /// Of the `traf` in the header.
    place: Range<usize>,
    decode_time_at: usize,
    data_offset_at: usize,
    first_size_at: usize,
    /// Bytes of a sample's entry.
    width: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub duration: u32,
    pub size: u32,
    /// Presentation minus decode time.
    pub offset: i32,
}

impl Fragment {
    /// Bytes that tell how long [`parse`](Self::parse)'s input must be.
    pub const PEEK: usize = 8;

    /// A `moof` is never longer: 512 pictures and 1024 audio frames need 15 KiB.
    pub const MAX_HEADER: usize = 64 << 10;

    /// Bytes of the `moof` that begins with `peek` and of the header of its `mdat`.
    pub fn header_size(peek: &[u8]) -> Option<usize> {
        let header = header(peek).filter(|header| &header.kind == b"moof")?;
        (header.size <= Self::MAX_HEADER).then_some(header.size + 8)
    }

    /// Reads a part's header, the bytes that [`header_size`](Self::header_size) counts.
    pub fn parse(bytes: &[u8]) -> Option<Fragment> {
        let moof = header(bytes).filter(|header| &header.kind == b"moof")?.size;
        let mdat = header(bytes.get(moof..)?).filter(|header| &header.kind == b"mdat")?;
        let (mut video, mut audio) = (None, None);
        for (_, traf) in children(bytes, &(0..moof)).filter(|(kind, _)| kind == b"traf") {
            if audio.is_some() {
                return None;
            }
            let tfhd = descend(bytes, &traf, &[b"tfhd"])?.start;
            let run = Run::parse(bytes, &traf)?;
            match u32_at(bytes, tfhd + 12)? {
                VIDEO_TRACK if video.is_none() => video = Some(run),
                // We write it last, and it is taken out from there.
                AUDIO_TRACK if video.is_some() => audio = Some(run),
                _ => return None,
            }
        }
        let video: Run = video.filter(|video: &Run| !video.samples.is_empty())?;
        let payload: u64 = video.bytes() + audio.as_ref().map_or(0, Run::bytes);
        (payload + 8 == mdat.size as u64).then_some(())?;
        Some(Fragment { header: bytes.get(..moof + 8)?.to_vec(), size: moof + mdat.size, video, audio })
    }

    /// Moves the part on its timelines, by ticks of 90 kHz and of the audio's clock.
    pub fn shift(&mut self, video: i64, audio: i64) {
        let runs = [(Some(&mut self.video), video), (self.audio.as_mut(), audio)];
        for (run, by) in runs.into_iter().filter_map(|(run, by)| Some((run?, by))) {
            run.decode_time = run.decode_time.saturating_add(by).max(0);
            let at = run.decode_time_at;
            self.header[at..at + 8].copy_from_slice(&run.decode_time.to_be_bytes());
        }
    }

    /// The number that rises from fragment to fragment of a file.
    pub fn set_sequence(&mut self, number: u32) {
        // `mfhd` is a `moof`'s first box.
        if let Some(at) = self.header.get_mut(20..24) {
            at.copy_from_slice(&number.to_be_bytes());
        }
    }

    /// Makes room for `bytes` in front of the first picture's payload.
    pub fn grow_first(&mut self, bytes: u32) {
        let mdat = self.header.len() - 8;
        let mut places = vec![self.video.first_size_at, mdat];
        places.extend(self.audio.as_ref().map(|audio| audio.data_offset_at));
        for at in places {
            let value = u32_at(&self.header, at).unwrap_or(0).saturating_add(bytes);
            self.header[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        self.size += bytes as usize;
    }

    /// Keeps the first `pictures`, at least one, and of the audio what begins before `until` on its timeline. Gives back
    /// which bytes of the payload stay, counted from its start.
    pub fn truncate(&mut self, pictures: usize, until: i64) -> [Range<u64>; 2] {
        let video_bytes = self.video.bytes();
        let frames = self
            .audio
            .as_ref()
            .map_or(0, |audio| audio.presentation().take_while(|&begins| begins < until).count());
        if frames == 0 {
            self.drop_audio();
        }
        // The later one in the header first: its places move with what is taken from the one before it.
        let (mut cut, mut left_out) = (0, 0);
        if let Some(audio) = &mut self.audio {
            (cut, left_out) = audio.truncate(&mut self.header, frames);
        }
        let (cut_video, left_out_video) = self.video.truncate(&mut self.header, pictures.max(1));
        if let Some(audio) = &mut self.audio {
            let Run { place, decode_time_at, data_offset_at, first_size_at, .. } = audio;
            for at in [&mut place.start, &mut place.end, decode_time_at, data_offset_at, first_size_at] {
                *at -= cut_video;
            }
        }
        cut += cut_video;
        left_out += left_out_video;
        let mdat = self.header.len() - 8;
        let mut changes = vec![(0, cut as u64), (self.video.data_offset_at, cut as u64), (mdat, left_out)];
        if let Some(audio) = &self.audio {
            changes.push((audio.data_offset_at, cut as u64 + left_out_video));
        }
        for (at, by) in changes {
            subtract(&mut self.header, at, by);
        }
        self.size -= cut + left_out as usize;
        let audio = self.audio.as_ref().map_or(0, Run::bytes);
        [0..self.video.bytes(), video_bytes..video_bytes + audio]
    }

    /// Takes the audio out; its payload, at the end of the part, is to be left away too.
    pub fn drop_audio(&mut self) {
        let Some(audio) = self.audio.take() else { return };
        let (gone, bytes) = (audio.place.len(), audio.bytes() as usize);
        self.header.drain(audio.place);
        let mdat = self.header.len() - 8;
        for (at, by) in [(0, gone), (self.video.data_offset_at, gone), (mdat, bytes)] {
            subtract(&mut self.header, at, by as u64);
        }
        self.size -= gone + bytes;
    }
}

impl Run {
    fn parse(bytes: &[u8], traf: &Range<usize>) -> Option<Run> {
        let tfdt = descend(bytes, traf, &[b"tfdt"])?.start;
        let decode_time_at = tfdt + 12;
        let decode_time = u64::from_be_bytes(bytes.get(decode_time_at..decode_time_at + 8)?.try_into().ok()?);
        let trun = descend(bytes, traf, &[b"trun"])?;
        let flags = u32_at(bytes, trun.start + 8)? & 0xff_ffff;
        let count = u32_at(bytes, trun.start + 12)? as usize;
        let independent = flags & super::FIRST_FLAGS != 0;
        let reordered = flags & super::OFFSETS != 0;
        let mut at = trun.start + if independent { 24 } else { 20 };
        let first_size_at = at + 4;
        // Bounded by what the box can hold, whatever the count says.
        let table = bytes.get(at..trun.end)?;
        let width = if reordered { 12 } else { 8 };
        (table.len() == count.checked_mul(width)?).then_some(())?;
        let mut samples = Vec::with_capacity(count);
        for _ in 0..count {
            let offset = if reordered { u32_at(bytes, at + 8)? as i32 } else { 0 };
            samples.push(Sample { duration: u32_at(bytes, at)?, size: u32_at(bytes, at + 4)?, offset });
            at += width;
        }
        Some(Run {
            decode_time: i64::try_from(decode_time).ok().filter(|&ticks| ticks <= MAX_TICKS)?,
            independent,
            samples,
            place: traf.clone(),
            decode_time_at,
            data_offset_at: trun.start + 16,
            first_size_at,
            width,
        })
    }

    /// Keeps the first samples; gives back the bytes taken from the header, and those of the samples that are left out.
    fn truncate(&mut self, header: &mut Vec<u8>, keep: usize) -> (usize, u64) {
        let Some(gone) = self.samples.get(keep..).filter(|gone| !gone.is_empty()) else { return (0, 0) };
        let (cut, left_out) =
            (gone.len() * self.width, gone.iter().map(|sample| u64::from(sample.size)).sum());
        let end = self.first_size_at - 4 + self.samples.len() * self.width;
        header.drain(end - cut..end);
        let count = gone.len() as u64;
        self.samples.truncate(keep);
        self.place.end -= cut;
        if self.decode_time_at >= end {
            self.decode_time_at -= cut;
        }
        // The box's size and its count stand before the data offset.
        for (at, by) in [
            (self.place.start, cut as u64),
            (self.data_offset_at - 16, cut as u64),
            (self.data_offset_at - 4, count),
        ] {
            subtract(header, at, by);
        }
        (cut, left_out)
    }

    pub fn bytes(&self) -> u64 {
        self.samples.iter().map(|sample| u64::from(sample.size)).sum()
    }

    pub fn duration(&self) -> i64 {
        self.samples.iter().map(|sample| i64::from(sample.duration)).sum()
    }

    /// Presentation times on the track's timeline, in decode order.
    pub fn presentation(&self) -> impl Iterator<Item = i64> + '_ {
        let mut decode = self.decode_time;
        self.samples.iter().map(move |sample| {
            let at = decode + i64::from(sample.offset);
            decode += i64::from(sample.duration);
            at
        })
    }
}

/// The boxes directly in the box at `parent`, with their places.
fn children<'a>(
    bytes: &'a [u8],
    parent: &Range<usize>,
) -> impl Iterator<Item = ([u8; 4], Range<usize>)> + use<'a> {
    let (mut at, end) = (parent.start + 8, parent.end);
    std::iter::from_fn(move || {
        let found = header(bytes.get(at..end)?)?;
        let range = at..at.checked_add(found.size).filter(|&next| next <= end)?;
        at = range.end;
        Some((found.kind, range))
    })
}

fn descend(bytes: &[u8], parent: &Range<usize>, path: &[&[u8; 4]]) -> Option<Range<usize>> {
    path.iter().try_fold(parent.clone(), |parent, kind| {
        children(bytes, &parent).find(|(found, _)| found == *kind).map(|(_, range)| range)
    })
}

fn subtract(bytes: &mut [u8], at: usize, by: u64) {
    let value = u32_at(bytes, at).unwrap_or(0).saturating_sub(by as u32);
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
