//! From a model's raw output to detections. Pure: no GStreamer, no ONNX Runtime.

use liuta::alert::Detection;
use liuta::vision::model::{Input, Output};

use crate::preprocess::Placement;

/// Cells of YOLOX's three grids, in pixels of the input; their predictions follow each other in this order.
const STRIDES: [u32; 3] = [8, 16, 32];

/// Boxes of one class that overlap by more than this (intersection over union) are the same object.
const SAME_OBJECT: f32 = 0.45;

/// Share of the smaller of two boxes that lies within the other, from which on they are one thing seen twice.
const PIECE: f32 = 0.6;

/// Candidates that enter the suppression, and detections that leave it: beyond this a picture tells nothing more, and
/// a broken model would cost seconds.
const MAX_CANDIDATES: usize = 2000;
const MAX_DETECTIONS: usize = 200;

/// What the columns of an output mean: the classes that are reported.
#[derive(Clone, Debug)]
pub struct Classes {
    names: Vec<String>,
    /// By label: its class, `None` where it is not reported.
    of_label: Vec<Option<usize>>,
}

impl Classes {
    pub fn new(output: &Output) -> Classes {
        let mut names: Vec<String> = Vec::new();
        let of_label = output.labels.iter().map(|label| {
            let class = if output.map.is_empty() { label } else { output.map.get(label)? };
            Some(names.iter().position(|name| name == class).unwrap_or_else(|| {
                names.push(class.clone());
                names.len() - 1
            }))
        });
        let of_label = of_label.collect();
        Classes { names, of_label }
    }

    /// Numbers of one prediction: x, y, width, height, objectness, and a score a label.
    pub fn columns(&self) -> usize {
        5 + self.of_label.len()
    }

    /// The class whose label scores highest; a class of several labels counts by its best one.
    fn best(&self, scores: &[f32]) -> Option<(usize, f32)> {
        let reported =
            scores.iter().zip(&self.of_label).filter_map(|(&score, class)| Some((class.as_ref()?, score)));
        reported.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(&class, score)| (class, score))
    }
}

/// How many predictions a YOLOX network makes for this input.
pub fn predictions(input: &Input) -> usize {
    STRIDES.iter().map(|stride| (input.size[0] / stride * (input.size[1] / stride)) as usize).sum()
}

struct Candidate {
    class: usize,
    score: f32,
    /// Pixels of the input.
    bbox: [f32; 4],
}

/// YOLOX's raw grid output to detections of at least `min_score`, best first, in coordinates of the picture; and how
/// many predictions were no numbers or far out of the picture.
///
/// A prediction holds the box's middle relative to its cell and the logarithm of its sides, in strides; objectness and
/// labels are probabilities and multiply.
pub fn yolox(
    raw: &[f32],
    input: &Input,
    placement: Placement,
    classes: &Classes,
    min_score: f32,
) -> (Vec<Detection>, u32) {
    let mut rejected = 0;
    let mut candidates = Vec::new();
    for (prediction, (column, row, stride)) in raw.chunks_exact(classes.columns()).zip(cells(input)) {
        let Some((class, best)) = classes.best(&prediction[5..]) else { continue };
        let score = prediction[4] * best;
        if score < min_score {
            continue;
        }
        let (x, y) = ((prediction[0] + column) * stride, (prediction[1] + row) * stride);
        let (width, height) = (prediction[2].exp() * stride, prediction[3].exp() * stride);
        let bbox = [x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0];
        // Written so that NaN fails.
        let sound = (0.0..=1.0).contains(&score) && plausible(&bbox, input);
        if sound {
            candidates.push(Candidate { class, score, bbox });
        } else {
            rejected += 1;
        }
    }
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
    candidates.truncate(MAX_CANDIDATES);
    let kept = suppress(candidates);
    let detections = kept.into_iter().filter_map(|candidate| {
        let bbox = on_picture(candidate.bbox, placement)?;
        Some(Detection { class: classes.names[candidate.class].clone(), score: candidate.score, bbox })
    });
    (detections.take(MAX_DETECTIONS).collect(), rejected)
}

/// Column, row and stride of each prediction.
fn cells(input: &Input) -> impl Iterator<Item = (f32, f32, f32)> {
    let [width, height] = input.size;
    STRIDES.into_iter().flat_map(move |stride| {
        let columns = width / stride;
        (0..height / stride)
            .flat_map(move |row| (0..columns).map(move |column| (column as f32, row as f32, stride as f32)))
    })
}

/// Within three times the input around its middle: trained networks overshoot a little, broken ones by far.
fn plausible(bbox: &[f32; 4], input: &Input) -> bool {
    let within = |value: f32, side: u32| (-(side as f32)..=2.0 * side as f32).contains(&value);
    let [width, height] = input.size;
    within(bbox[0], width) && within(bbox[1], height) && within(bbox[2], width) && within(bbox[3], height)
}

/// Greedy non-maximum suppression by class; candidates come best first.
fn suppress(candidates: Vec<Candidate>) -> Vec<Candidate> {
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        let same = |other: &Candidate| {
            other.class == candidate.class && overlap(&other.bbox, &candidate.bbox) > SAME_OBJECT
        };
        if !kept.iter().any(same) {
            kept.push(candidate);
        }
    }
    kept
}

/// Detections of a picture and of its overlapping tiles as one list, best first: what lies mostly within a better one
/// of its class is the same thing, or a piece of it.
pub fn merge(mut detections: Vec<Detection>) -> Vec<Detection> {
    detections.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Detection> = Vec::new();
    for one in detections {
        let same = |other: &Detection| {
            let within = shared(&other.bbox, &one.bbox) > PIECE * area(&other.bbox).min(area(&one.bbox));
            other.class == one.class && within
        };
        if !kept.iter().any(same) {
            kept.push(one);
        }
    }
    kept.truncate(MAX_DETECTIONS);
    kept
}

fn area(of: &[f32; 4]) -> f32 {
    (of[2] - of[0]).max(0.0) * (of[3] - of[1]).max(0.0)
}

fn shared(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    area(&[a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])])
}

/// Intersection over union.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let shared = shared(a, b);
    let all = area(a) + area(b) - shared;
    if all > 0.0 { shared / all } else { 0.0 }
}

/// From pixels of the input to parts of the picture, clipped; `None` where nothing is left.
fn on_picture(bbox: [f32; 4], placement: Placement) -> Option<[f32; 4]> {
    let part = |value: f32, start: u32, side: u32| ((value - start as f32) / side as f32).clamp(0.0, 1.0);
    let Placement { x, y, width, height } = placement;
    let [x0, y0, x1, y1] = bbox;
    let clipped = [part(x0, x, width), part(y0, y, height), part(x1, x, width), part(y1, y, height)];
    (clipped[0] < clipped[2] && clipped[1] < clipped[3]).then_some(clipped)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use liuta::vision::model::{Channels, Fit, Layout};
    use proptest::prelude::*;

    use super::*;

    fn input(side: u32) -> Input {
        Input {
            size: [side, side],
            layout: Layout::Nchw,
            channels: Channels::Bgr,
            mean: [0.0; 3],
            scale: [1.0; 3],
            fit: Fit::LetterboxTopLeft,
            pad: 114,
        }
    }

    fn whole(side: u32) -> Placement {
        Placement { x: 0, y: 0, width: side, height: side }
    }

    fn output(labels: &[&str], map: &[(&str, &str)]) -> Output {
        let map = map.iter().map(|(label, class)| ((*label).to_owned(), (*class).to_owned())).collect();
        Output { labels: labels.iter().map(|label| (*label).to_owned()).collect(), map }
    }

    /// Crowded enough that suppression has much to do.
    fn random_output(side: u32, labels: usize) -> Vec<f32> {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let mut raw = Vec::new();
        for _ in 0..predictions(&input(side)) {
            raw.extend([next() * 4.0 - 2.0, next() * 4.0 - 2.0, next() * 1.5, next() * 1.5, next()]);
            raw.extend((0..labels).map(|_| next()));
        }
        raw
    }

    #[test]
    fn numpy_finds_the_same_boxes() {
        let (side, names) = (160, ["a", "b", "c"]);
        let raw = random_output(side, names.len());
        let classes = Classes::new(&output(&names, &[]));
        let (found, rejected) = yolox(&raw, &input(side), whole(side), &classes, 0.5);
        assert_eq!(rejected, 0);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/yolox_reference.py");
        let mut judge = Command::new("/usr/bin/python3")
            .args([script, "160", "3", "0.5"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let bytes: Vec<u8> = raw.iter().flat_map(|value| value.to_le_bytes()).collect();
        judge.stdin.take().unwrap().write_all(&bytes).unwrap();
        let answer = judge.wait_with_output().unwrap();
        assert!(answer.status.success(), "python3-numpy is needed");
        let text = String::from_utf8(answer.stdout).unwrap();
        let parse = |line: &str| line.split(' ').map(|word| word.parse().unwrap()).collect::<Vec<f32>>();
        let clip = |pixel: f32| pixel.clamp(0.0, side as f32);
        let on_picture =
            |found: &Vec<f32>| clip(found[2]) < clip(found[4]) && clip(found[3]) < clip(found[5]);
        let expected: Vec<Vec<f32>> = text.lines().map(parse).filter(on_picture).collect();
        assert!(found.len() > 50, "{}", found.len());
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.class, names[expected[0] as usize]);
            assert!((found.score - expected[1]).abs() < 1e-5);
            for (part, pixel) in found.bbox.iter().zip(&expected[2..]) {
                assert!((part * side as f32 - clip(*pixel)).abs() < 1.0, "{found:?} {expected:?}");
            }
        }
    }

    #[test]
    fn labels_merge_into_classes_and_others_are_not_reported() {
        let classes = Classes::new(&output(
            &["person", "cat", "car", "bus"],
            &[("car", "vehicle"), ("bus", "vehicle")],
        ));
        assert_eq!(classes.names, ["vehicle"]);
        assert_eq!(classes.best(&[0.9, 0.8, 0.2, 0.4]), Some((0, 0.4)));
        assert_eq!(classes.columns(), 9);
    }

    #[test]
    fn boxes_in_the_padding_are_no_detections() {
        let placement = Placement { x: 0, y: 35, width: 160, height: 90 };
        assert_eq!(on_picture([10.0, 5.0, 30.0, 30.0], placement), None);
        assert_eq!(on_picture([-10.0, 35.0, 80.0, 200.0], placement), Some([0.0, 0.0, 0.5, 1.0]));
    }

    proptest! {
        #[test]
        fn whatever_a_network_says_detections_are_sound(
            seed in prop::collection::vec(prop::num::f32::ANY, 7 * 21),
            min_score in 0.0f32..1.0,
        ) {
            // 32×32: 16 + 4 + 1 predictions.
            let classes = Classes::new(&output(&["a", "b"], &[]));
            let (found, rejected) = yolox(&seed, &input(32), whole(32), &classes, min_score);
            prop_assert!(found.len() + rejected as usize <= 21);
            for detection in found {
                prop_assert!((min_score..=1.0).contains(&detection.score));
                let [x0, y0, x1, y1] = detection.bbox;
                prop_assert!(0.0 <= x0 && x0 < x1 && x1 <= 1.0 && 0.0 <= y0 && y0 < y1 && y1 <= 1.0);
            }
        }
    }
}
