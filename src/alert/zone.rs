//! Where on the picture a detection counts: points and boxes against a zone's polygon.
//!
//! Polygons are those of [`crate::config::zone`]. What does not belong here: what a zone is watched for
//! ([`super::watch`]).

use crate::config::zone::{area, edges};

/// A plume or a flame counts for a zone when so much of its box lies inside, even where its centre does not: smoke
/// rises out of the slope that burns.
pub const PLUME_SHARE: f32 = 0.3;

/// Which point of an object places it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Stands on the ground: the middle of the box's lower edge is where it is.
    Ground,
    /// Has no foot: its centre, or [`PLUME_SHARE`] of its box.
    Plume,
}

impl Anchor {
    /// By detection class: fire and smoke have no foot, everything else stands on the ground.
    pub fn of(class: &str) -> Anchor {
        if matches!(class, "fire" | "smoke") { Anchor::Plume } else { Anchor::Ground }
    }
}

/// Does a box (x0 y0 x1 y1) count for the zone?
pub fn counts(polygon: &[[f32; 2]], bbox: [f32; 4], anchor: Anchor) -> bool {
    let [x0, y0, x1, y1] = bbox;
    let centre_x = (x0 + x1) / 2.0;
    match anchor {
        Anchor::Ground => contains(polygon, [centre_x, y1]),
        Anchor::Plume => {
            contains(polygon, [centre_x, (y0 + y1) / 2.0]) || share(polygon, bbox) >= PLUME_SHARE
        }
    }
}

/// Is the point inside (even-odd rule)? Points on an edge may fall either way, except that the picture's own border
/// belongs to the zones that reach it.
pub fn contains(polygon: &[[f32; 2]], point: [f32; 2]) -> bool {
    // A person cut off by the picture's lower edge has its foot at exactly 1.0, where zones end too.
    let [x, y] = point.map(|value| value.clamp(1e-4, 1.0 - 1e-4));
    let mut inside = false;
    for ([ax, ay], [bx, by]) in edges(polygon) {
        if (ay > y) != (by > y) && x < (bx - ax) * (y - ay) / (by - ay) + ax {
            inside = !inside;
        }
    }
    inside
}

/// The share of the box's area that lies inside the polygon, 0..1; 0 for a box without area.
pub fn share(polygon: &[[f32; 2]], bbox: [f32; 4]) -> f32 {
    let [x0, y0, x1, y1] = bbox;
    let whole = (x1 - x0) * (y1 - y0);
    if whole.is_nan() || whole <= 0.0 {
        return 0.0;
    }
    // Sutherland–Hodgman against the four sides of the box. A concave polygon may leave coinciding edges behind,
    // which enclose no area and so do not disturb the sum.
    let mut inside = polygon.to_vec();
    for (axis, limit, keep_above) in [(0, x0, true), (0, x1, false), (1, y0, true), (1, y1, false)] {
        inside = clip(&inside, axis, limit, keep_above);
    }
    (area(&inside) / whole).clamp(0.0, 1.0)
}

fn clip(polygon: &[[f32; 2]], axis: usize, limit: f32, keep_above: bool) -> Vec<[f32; 2]> {
    let kept = |point: [f32; 2]| if keep_above { point[axis] >= limit } else { point[axis] <= limit };
    let mut clipped = Vec::with_capacity(polygon.len() + 4);
    for (a, b) in edges(polygon) {
        if kept(a) {
            clipped.push(a);
        }
        if kept(a) != kept(b) {
            let t = (limit - a[axis]) / (b[axis] - a[axis]);
            let other = 1 - axis;
            let mut crossing = [0.0; 2];
            crossing[axis] = limit;
            crossing[other] = a[other] + t * (b[other] - a[other]);
            clipped.push(crossing);
        }
    }
    clipped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOWER_HALF: [[f32; 2]; 4] = [[0.0, 0.5], [1.0, 0.5], [1.0, 1.0], [0.0, 1.0]];
    /// A U: the notch between its arms is outside.
    const CONCAVE: [[f32; 2]; 8] =
        [[0.1, 0.1], [0.3, 0.1], [0.3, 0.7], [0.7, 0.7], [0.7, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]];

    #[test]
    fn people_stand_where_their_feet_are_and_plumes_where_they_mostly_are() {
        let tall = [0.4, 0.1, 0.5, 0.6];
        assert!(counts(&LOWER_HALF, tall, Anchor::Ground));
        assert!(!counts(&LOWER_HALF, tall, Anchor::Plume));
        assert!(counts(&LOWER_HALF, [0.4, 0.1, 0.5, 0.8], Anchor::Plume), "3/7 of the plume lies inside");
        assert!(counts(&LOWER_HALF, [0.4, 0.7, 0.5, 1.0], Anchor::Ground), "cut off by the picture's edge");
        assert_eq!((Anchor::of("smoke"), Anchor::of("person")), (Anchor::Plume, Anchor::Ground));
    }

    #[test]
    fn a_concave_zone_does_not_own_its_notch() {
        assert!(contains(&CONCAVE, [0.2, 0.2]) && contains(&CONCAVE, [0.5, 0.8]));
        assert!(!contains(&CONCAVE, [0.5, 0.4]));
        assert_eq!(share(&CONCAVE, [0.35, 0.2, 0.65, 0.6]), 0.0);
        assert!((share(&CONCAVE, [0.0, 0.0, 1.0, 1.0]) - 0.40).abs() < 1e-4);
    }

    #[test]
    fn broken_polygons_and_boxes_count_for_nothing() {
        for polygon in [&[][..], &LOWER_HALF[..1], &LOWER_HALF[..2]] {
            assert!(!counts(polygon, [0.0, 0.0, 1.0, 1.0], Anchor::Plume));
        }
        assert_eq!(share(&LOWER_HALF, [0.5, 0.6, 0.5, 0.9]), 0.0);
        assert!(!counts(&LOWER_HALF, [f32::NAN; 4], Anchor::Plume));
    }

    fn triangle() -> impl Strategy<Value = Vec<[f32; 2]>> {
        prop::collection::vec(prop::array::uniform2(0.0f32..=1.0), 3)
    }

    fn bbox() -> impl Strategy<Value = [f32; 4]> {
        (0.0f32..0.9, 0.0f32..0.9, 0.05f32..0.5, 0.05f32..0.5)
            .prop_map(|(x, y, w, h)| [x, y, (x + w).min(1.0), (y + h).min(1.0)])
    }

    proptest! {
        #[test]
        fn the_share_is_what_counting_points_gives(polygon in triangle(), bbox in bbox()) {
            let [x0, y0, x1, y1] = bbox;
            let grid = 40;
            let mut inside = 0;
            for i in 0..grid * grid {
                let (column, row) = ((i % grid) as f32 + 0.5, (i / grid) as f32 + 0.5);
                let point = [x0 + (x1 - x0) * column / grid as f32, y0 + (y1 - y0) * row / grid as f32];
                inside += i32::from(contains(&polygon, point));
            }
            let counted = inside as f32 / (grid * grid) as f32;
            prop_assert!((share(&polygon, bbox) - counted).abs() < 0.08);
        }

        #[test]
        fn the_order_of_corners_does_not_matter(polygon in triangle(), bbox in bbox(), turn in 0usize..3) {
            let mut other: Vec<_> = polygon.iter().rev().copied().collect();
            other.rotate_left(turn);
            prop_assert!((share(&polygon, bbox) - share(&other, bbox)).abs() < 1e-3);
        }

        #[test]
        fn the_whole_picture_holds_everything(bbox in bbox()) {
            let whole = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]];
            prop_assert!(counts(&whole, bbox, Anchor::Ground) && counts(&whole, bbox, Anchor::Plume));
            prop_assert!(share(&whole, bbox) > 0.999);
        }
    }
}
