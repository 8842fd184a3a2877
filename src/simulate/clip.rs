//! Reading a clip: a progressive MP4 with one H.264 or H.265 track and perhaps AAC, whole in memory.
//!
//! The samples are slices of the file: the camera that is made of it copies no payload.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use mp4_atom::{Atom, Codec, Decode, FourCC, Header, Moov, Stbl, StszSamples, Trak};

use crate::media::{AudioCodec, AudioParams, VIDEO_CLOCK, VideoCodec, VideoParams};

/// Larger files are no clips.
const MAX_FILE: u64 = 1 << 30;

/// A clip's samples, with times from zero in ticks of 90 kHz.
pub struct Clip {
    pub video: Arc<VideoParams>,
    /// In decode order, beginning with a random access point at decode time zero.
    pub pictures: Vec<Picture>,
    pub audio: Option<Sound>,
    /// From the first picture to where it comes again.
    pub duration_90k: i64,
}

pub struct Picture {
    pub dts_90k: i64,
    /// Never below `dts_90k`.
    pub pts_90k: i64,
    pub is_rap: bool,
    pub data: Bytes,
}

pub struct Sound {
    pub params: Arc<AudioParams>,
    pub frames: Vec<Frame>,
}

/// An AAC frame; times in ticks of the sample rate.
pub struct Frame {
    pub pts: i64,
    pub duration: u32,
    pub data: Bytes,
}

/// One entry of a sample table.
struct Entry {
    data: Bytes,
    dts: i64,
    offset: i64,
    duration: i64,
}

impl Clip {
    pub fn open(file: &Path) -> anyhow::Result<Clip> {
        let size =
            std::fs::metadata(file).with_context(|| format!("{}: cannot be read", file.display()))?.len();
        ensure!(size <= MAX_FILE, "{}: larger than 1 GiB: cut it", file.display());
        let bytes = std::fs::read(file).with_context(|| format!("{}: cannot be read", file.display()))?;
        Clip::parse(bytes.into()).with_context(|| {
            let name = file.display();
            format!("{name}: not a clip that can be served; `ffmpeg -i {name} -c:v libx264 -c:a aac clip.mp4` makes one")
        })
    }

    pub fn parse(file: Bytes) -> anyhow::Result<Clip> {
        let moov = find_moov(&file)?;
        let track =
            |handler: &[u8; 4]| moov.trak.iter().find(|trak| trak.mdia.hdlr.handler == FourCC::new(handler));
        let trak = track(b"vide").context("no video track")?;
        let (params, length_size) = video_params(trak)?;
        let timescale = i64::from(trak.mdia.mdhd.timescale.max(1));
        let to_90k =
            |ticks: i64| (i128::from(ticks) * i128::from(VIDEO_CLOCK) / i128::from(timescale)) as i64;
        let entries = entries(&trak.mdia.minf.stbl, &file)?;
        let mut pictures = Vec::with_capacity(entries.len());
        let mut end = 0;
        // Where offsets may be negative, everything is shown later by the same time.
        let lead = entries.iter().map(|entry| entry.offset).min().unwrap_or_default().min(0);
        for entry in &entries {
            let data = four_byte_lengths(&entry.data, length_size)?;
            let is_rap = nal_units(&data).any(|nal| params.codec.is_rap(nal));
            if pictures.is_empty() && !is_rap {
                continue;
            }
            end = entry.dts + entry.duration;
            let pts_90k = to_90k(entry.dts + entry.offset - lead);
            pictures.push(Picture { dts_90k: to_90k(entry.dts), pts_90k, is_rap, data });
        }
        let start = pictures.first().context("no key picture")?.dts_90k;
        for picture in &mut pictures {
            picture.dts_90k -= start;
            picture.pts_90k -= start;
        }
        let last = pictures.last().map_or(0, |picture| picture.dts_90k);
        let duration_90k = (to_90k(end) - start).max(last + 1);
        let audio = track(b"soun").map(|trak| sound(trak, &file, start, duration_90k)).transpose()?.flatten();
        Ok(Clip { video: Arc::new(params), pictures, audio, duration_90k })
    }
}

fn find_moov(file: &Bytes) -> anyhow::Result<Moov> {
    let mut rest = &file[..];
    while !rest.is_empty() {
        let header = Header::decode(&mut rest).context("not an MP4 file")?;
        if header.kind == FourCC::new(b"moof") {
            bail!("a fragmented MP4");
        }
        let size = header.size.unwrap_or(rest.len());
        ensure!(size <= rest.len(), "the file ends in the middle of its {} box", header.kind);
        let (mut body, after) = rest.split_at(size);
        rest = after;
        if header.kind == Moov::KIND {
            let moov = Moov::decode_body(&mut body).context("its moov box cannot be read")?;
            ensure!(moov.mvex.is_none(), "a fragmented MP4");
            return Ok(moov);
        }
    }
    bail!("no moov box, so not a finished MP4 file")
}

/// The parameters, and how many bytes a NAL unit's length takes.
fn video_params(trak: &Trak) -> anyhow::Result<(VideoParams, usize)> {
    let (codec, sets, length_size): (_, Vec<Bytes>, _) = match trak.mdia.minf.stbl.stsd.codecs.first() {
        Some(Codec::Avc1(entry)) => {
            let avcc = &entry.avcc;
            let sets = avcc.sequence_parameter_sets.iter().chain(&avcc.picture_parameter_sets);
            (VideoCodec::H264, sets.map(|set| set.clone().into()).collect(), avcc.length_size)
        }
        Some(Codec::Hvc1(entry)) => {
            (VideoCodec::H265, hevc_sets(&entry.hvcc), entry.hvcc.length_size_minus_one + 1)
        }
        Some(Codec::Hev1(entry)) => {
            (VideoCodec::H265, hevc_sets(&entry.hvcc), entry.hvcc.length_size_minus_one + 1)
        }
        _ => bail!("its video is neither H.264 nor H.265"),
    };
    Ok((VideoParams::parse(codec, &sets)?, usize::from(length_size)))
}

fn hevc_sets(hvcc: &mp4_atom::Hvcc) -> Vec<Bytes> {
    hvcc.arrays.iter().flat_map(|array| &array.nalus).map(|nal| nal.clone().into()).collect()
}

fn sound(trak: &Trak, file: &Bytes, start_90k: i64, duration_90k: i64) -> anyhow::Result<Option<Sound>> {
    let stbl = &trak.mdia.minf.stbl;
    let Some(Codec::Mp4a(entry)) = stbl.stsd.codecs.first() else { bail!("its audio is not AAC") };
    let specific = entry.esds.es_desc.dec_config.dec_specific.as_ref();
    let specific = specific.context("its audio has no configuration")?;
    let clock_rate = trak.mdia.mdhd.timescale;
    ensure!(clock_rate > 0, "its audio has no sample rate");
    let params = AudioParams {
        codec: AudioCodec::Aac { config: specific.raw.clone().into() },
        clock_rate,
        channels: specific.chan_conf.into(),
    };
    let ticks = |at_90k: i64| (i128::from(at_90k) * i128::from(clock_rate) / i128::from(VIDEO_CLOCK)) as i64;
    let (start, end) = (ticks(start_90k), ticks(duration_90k));
    // Frames that would sound on into the next round are left out.
    let frames: Vec<Frame> = entries(stbl, file)?
        .into_iter()
        .map(|entry| Frame {
            pts: entry.dts - start,
            duration: u32::try_from(entry.duration).unwrap_or_default(),
            data: entry.data,
        })
        .filter(|frame| {
            frame.pts >= 0 && frame.pts + i64::from(frame.duration) <= end && !frame.data.is_empty()
        })
        .collect();
    Ok((!frames.is_empty()).then(|| Sound { params: Arc::new(params), frames }))
}

/// Resolves a sample table (ISO/IEC 14496-12 8.6 and 8.7). Nothing in it is believed before it is checked.
fn entries(stbl: &Stbl, file: &Bytes) -> anyhow::Result<Vec<Entry>> {
    let count = match &stbl.stsz.samples {
        StszSamples::Identical { count, .. } => *count as usize,
        StszSamples::Different { sizes } => sizes.len(),
    };
    let size = |at: usize| match &stbl.stsz.samples {
        StszSamples::Identical { size, .. } => Some(*size as usize),
        StszSamples::Different { sizes } => sizes.get(at).map(|size| *size as usize),
    };
    // Every sample takes at least a byte, so that this bounds what follows.
    ensure!(count > 0 && count <= file.len(), "it claims {count} samples");
    let chunks: Vec<u64> = match (&stbl.stco, &stbl.co64) {
        (Some(stco), _) => stco.entries.iter().map(|at| u64::from(*at)).collect(),
        (None, Some(co64)) => co64.entries.clone(),
        (None, None) => bail!("it does not say where its samples are"),
    };
    let mut durations = stbl
        .stts
        .entries
        .iter()
        .flat_map(|run| std::iter::repeat_n(run.sample_delta, run.sample_count as usize));
    let offsets = stbl.ctts.iter().flat_map(|ctts| &ctts.entries);
    let mut offsets =
        offsets.flat_map(|run| std::iter::repeat_n(run.sample_offset, run.sample_count as usize));

    let mut entries = Vec::with_capacity(count);
    let mut dts = 0i64;
    let mut runs = stbl.stsc.entries.iter().peekable();
    let mut per_chunk = 0;
    'chunks: for (number, chunk) in chunks.iter().enumerate() {
        while let Some(run) = runs.next_if(|run| run.first_chunk as usize <= number + 1) {
            per_chunk = run.samples_per_chunk;
        }
        let mut at = usize::try_from(*chunk).unwrap_or(usize::MAX);
        for _ in 0..per_chunk {
            let Some(size) = size(entries.len()).filter(|_| entries.len() < count) else { break 'chunks };
            let end = at.checked_add(size).filter(|end| *end <= file.len());
            let end = end.context("a sample lies beyond the end of the file: is it cut off?")?;
            let duration = i64::from(durations.next().context("samples without a time")?);
            let offset = offsets.next().unwrap_or_default();
            entries.push(Entry { data: file.slice(at..end), dts, offset, duration });
            dts += duration;
            at = end;
        }
    }
    ensure!(entries.len() == count, "it claims {count} samples and has {}", entries.len());
    Ok(entries)
}

/// The sample as it is, where its NAL units have lengths of four bytes, as nearly every file's do.
fn four_byte_lengths(data: &Bytes, length_size: usize) -> anyhow::Result<Bytes> {
    if length_size == 4 {
        return Ok(data.clone());
    }
    let mut rest = data.clone();
    let mut out = BytesMut::with_capacity(data.len() + 16);
    while !rest.is_empty() {
        ensure!(rest.len() >= length_size, "a NAL unit is cut off");
        let length = rest.get_uint(length_size) as usize;
        ensure!(rest.len() >= length, "a NAL unit is cut off");
        out.put_u32(u32::try_from(length)?);
        out.put_slice(&rest.split_to(length));
    }
    Ok(out.freeze())
}

/// NAL units behind four-byte lengths.
fn nal_units(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (nal, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        rest = after;
        Some(nal)
    })
}
