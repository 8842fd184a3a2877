//! What is recorded and what is missing, as coarse as a time bar shows it.

use std::ops::Range;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::archive::{Archive, JOIN_90K, told_once, without};
use super::index::Gap;
use super::{GapCause, RecordError, ticks};
use crate::media::{VIDEO_CLOCK, time};

/// Recorded stretches that look like one.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RecordedSpan {
    #[schema(value_type = String, format = DateTime)]
    pub start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub end: Timestamp,
    /// So many stretches, with less than a step between them.
    pub merged: u32,
}

/// Gaps that look like one.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct GapSpan {
    #[schema(value_type = String, format = DateTime)]
    pub start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub end: Timestamp,
    /// Of the longest of them.
    #[schema(value_type = String)]
    pub cause: GapCause,
    /// So many gaps, with less than a step between them.
    pub merged: u32,
}

impl Archive {
    /// What is recorded and what is missing of a camera's main feed within the range, each oldest first. What lies less
    /// than a `step` apart is told as one, so that there are no more than two for each step of the range.
    pub fn timeline(
        &self,
        camera: &str,
        range: &Range<Timestamp>,
        step: Duration,
    ) -> Result<(Vec<RecordedSpan>, Vec<GapSpan>), RecordError> {
        let range = ticks(range)?;
        let step_90k =
            i64::try_from(step.as_nanos() * VIDEO_CLOCK as u128 / 1_000_000_000).unwrap_or(i64::MAX);
        let (mut spans, mut gaps) = (Vec::new(), Vec::new());
        for shelf in self.shelves() {
            shelf.spans(camera, &range, |start, end| {
                spans.push((start.max(range.start), end.min(range.end)))
            })?;
            gaps.append(&mut shelf.find_gaps(camera, &range)?);
        }
        for gap in &mut gaps {
            (gap.start_90k, gap.end_90k) = (gap.start_90k.max(range.start), gap.end_90k.min(range.end));
        }
        spans.sort_unstable();
        // Another volume may have what one has missed.
        let recorded = join(&spans, JOIN_90K);
        let mut missing: Vec<Gap> = Vec::new();
        for gap in gaps {
            let near = recorded.partition_point(|there| there.end <= gap.start_90k);
            let near = recorded[near..].iter().take_while(|there| there.start < gap.end_90k);
            missing.extend(without(gap.clone(), &near.cloned().collect::<Vec<_>>()));
        }
        Ok((merge_recorded(&recorded, step_90k), merge_gaps(told_once(missing), step_90k)))
    }
}

/// Ranges in the order of their starts, those with less than `apart` between them as one.
fn join(spans: &[(i64, i64)], apart: i64) -> Vec<Range<i64>> {
    let mut joined: Vec<Range<i64>> = Vec::new();
    for &(start, end) in spans.iter().filter(|(start, end)| start < end) {
        match joined.last_mut().filter(|last| start - last.end < apart) {
            Some(last) => last.end = last.end.max(end),
            None => joined.push(start..end),
        }
    }
    joined
}

fn merge_recorded(recorded: &[Range<i64>], step_90k: i64) -> Vec<RecordedSpan> {
    let mut merged: Vec<(Range<i64>, u32)> = Vec::new();
    for there in recorded {
        match merged.last_mut().filter(|(last, _)| there.start - last.end < step_90k) {
            Some((last, stretches)) => {
                last.end = there.end;
                *stretches += 1;
            }
            None => merged.push((there.clone(), 1)),
        }
    }
    let told = |(there, merged): (Range<i64>, u32)| RecordedSpan {
        start: time::from_90k(there.start),
        end: time::from_90k(there.end),
        merged,
    };
    merged.into_iter().map(told).collect()
}

fn merge_gaps(gaps: Vec<Gap>, step_90k: i64) -> Vec<GapSpan> {
    struct Merged {
        whole: Gap,
        longest_90k: i64,
        gaps: u32,
    }
    let mut merged: Vec<Merged> = Vec::new();
    for gap in gaps.into_iter().filter(|gap| gap.start_90k < gap.end_90k) {
        let length_90k = gap.end_90k - gap.start_90k;
        match merged.last_mut() {
            // Two that can both be seen and differ are told apart, however close they are.
            Some(Merged { whole, longest_90k, gaps })
                if gap.start_90k - whole.end_90k < step_90k
                    && (whole.cause == gap.cause || length_90k.min(*longest_90k) < step_90k) =>
            {
                whole.end_90k = whole.end_90k.max(gap.end_90k);
                *gaps += 1;
                if length_90k > *longest_90k {
                    (*longest_90k, whole.cause) = (length_90k, gap.cause);
                }
            }
            _ => merged.push(Merged { whole: gap, longest_90k: length_90k, gaps: 1 }),
        }
    }
    let told = |Merged { whole, gaps, .. }| GapSpan {
        start: time::from_90k(whole.start_90k),
        end: time::from_90k(whole.end_90k),
        cause: whole.cause,
        merged: gaps,
    };
    merged.into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = VIDEO_CLOCK;

    #[test]
    fn recordings_are_merged_by_the_step_and_say_so() {
        let minutes: Vec<(i64, i64)> = (0..10).map(|at| (at * 60 * SECOND, (at + 1) * 60 * SECOND)).collect();
        let mut spans = minutes.clone();
        // A hole of two seconds behind the fifth minute, one of a minute behind the eighth.
        spans[5].0 += 2 * SECOND;
        spans.remove(8);
        let told = |step: i64| {
            let merged = merge_recorded(&join(&spans, JOIN_90K), step * SECOND);
            merged
                .iter()
                .map(|span| (span.start.as_second(), span.end.as_second(), span.merged))
                .collect::<Vec<_>>()
        };
        assert_eq!(told(0), [(0, 300, 1), (302, 480, 1), (540, 600, 1)]);
        assert_eq!(told(10), [(0, 480, 2), (540, 600, 1)]);
        assert_eq!(told(100), [(0, 600, 3)]);
        assert_eq!(merge_recorded(&[], SECOND), []);
    }

    #[test]
    fn gaps_that_can_be_seen_keep_their_cause() {
        let gap =
            |start: i64, end: i64, cause| Gap { start_90k: start * SECOND, end_90k: end * SECOND, cause };
        let gaps = vec![
            gap(0, 100, GapCause::Camera),
            gap(100, 200, GapCause::Daemon),
            gap(205, 206, GapCause::Camera),
            gap(300, 301, GapCause::Disk),
        ];
        let told = |step: i64| {
            let merged = merge_gaps(gaps.clone(), step * SECOND);
            merged
                .iter()
                .map(|gap| (gap.start.as_second(), gap.end.as_second(), gap.cause, gap.merged))
                .collect::<Vec<_>>()
        };
        assert_eq!(told(1).len(), 4);
        let merged =
            [(0, 100, GapCause::Camera, 1), (100, 206, GapCause::Daemon, 2), (300, 301, GapCause::Disk, 1)];
        assert_eq!(told(50), merged);
        assert_eq!(told(1000), [(0, 301, GapCause::Camera, 4)]);
    }
}
