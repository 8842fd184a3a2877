//! Zones: polygons on a camera's picture, as people write them, and the geometry that tells a zone from a slip of the pen.
//!
//! Coordinates are normalised: 0..1 of the picture, origin top left. A polygon is its corners in order, closed by
//! itself; it may be concave. What does not belong here: what counts for a zone ([`crate::alert::zone`]).

use super::reader::Reader;
use super::{Kind, Scene, Zone};

/// Keys of `[cameras.ID.zones.NAME]`.
pub const ZONE: [&str; 2] = ["points", "kinds"];

/// A zone that is smaller, as a share of the picture, encloses nothing.
const SMALLEST: f32 = 1e-4;

/// `scene`: what the camera watches for, where that could be read.
pub(super) fn read(name: String, mut table: Reader<'_>, scene: Option<&Scene>) -> Zone {
    let points = table.get::<Vec<[f32; 2]>>("points");
    match &points {
        None => table.report(table.span.clone(), "points: a zone needs its corners, [[x, y], …] from 0 to 1"),
        Some(at) => {
            if let Some(what) = flaw(&at.value) {
                table.report(at.span.clone(), format!("points: {what}"));
            }
        }
    }
    let kinds = table.get::<Vec<Kind>>("kinds");
    if let (Some(at), Some(scene)) = (&kinds, scene) {
        let has = |kind: &&Kind| scene.rules.iter().any(|rule| rule.kind == **kind);
        if let Some(kind) = at.value.iter().find(|kind| !has(kind)) {
            let known: Vec<_> = scene.rules.iter().map(|rule| rule.kind.as_str()).collect();
            let what = format!(
                "kinds: the scene {} does not watch for {}; it has {}",
                scene.name,
                kind.as_str(),
                known.join(", ")
            );
            table.report(at.span.clone(), what);
        }
    }
    table.finish(&ZONE);
    let kinds = kinds.map(|at| at.value).unwrap_or_default();
    Zone { name, points: points.map(|at| at.value).unwrap_or_default(), kinds }
}

/// Why a polygon is no zone.
fn flaw(polygon: &[[f32; 2]]) -> Option<&'static str> {
    if !(3..=64).contains(&polygon.len()) {
        return Some("3 to 64 corners were expected");
    }
    if polygon.iter().flatten().any(|value| !(0.0..=1.0).contains(value)) {
        return Some("coordinates are shares of the picture, 0 to 1, from its top left corner");
    }
    if crosses_itself(polygon) {
        return Some("two sides cross; name the corners in their order around the zone");
    }
    (area(polygon) < SMALLEST).then_some("the corners enclose nothing")
}

/// Do two sides cross each other? Such a polygon has no area to speak of. Sides that only touch do not count.
fn crosses_itself(polygon: &[[f32; 2]]) -> bool {
    type Side = ([f32; 2], [f32; 2]);
    let turn = |[ax, ay]: [f32; 2], [bx, by]: [f32; 2], [cx, cy]: [f32; 2]| {
        (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    };
    let apart = |(a, b): Side, (c, d): Side| turn(a, b, c) * turn(a, b, d) < 0.0;
    let sides: Vec<Side> = edges(polygon).collect();
    (0..sides.len()).any(|i| (0..i).any(|j| apart(sides[i], sides[j]) && apart(sides[j], sides[i])))
}

/// Of a polygon, as a share of the picture (the shoelace formula).
pub fn area(polygon: &[[f32; 2]]) -> f32 {
    let doubled: f32 = edges(polygon).map(|([ax, ay], [bx, by])| ax * by - bx * ay).sum();
    (doubled / 2.0).abs()
}

/// The sides of a polygon, the one that closes it last.
pub fn edges(polygon: &[[f32; 2]]) -> impl Iterator<Item = ([f32; 2], [f32; 2])> + '_ {
    let following = polygon.iter().cycle().skip(1);
    polygon.iter().zip(following).map(|(a, b)| (*a, *b))
}
