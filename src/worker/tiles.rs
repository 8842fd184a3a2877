//! A picture in overlapping tiles, each as large as the model's input: small things are seen larger. Pure.

use liuta::alert::Detection;

use crate::preprocess::Rgb;

/// How much wider a tile is than its share of the picture, so that what lies on a border is whole in one of them.
const OVERLAP: f32 = 1.2;

/// `count` by `count` tiles of a picture that is scaled to `width` × `height` for them.
pub struct Tiles {
    count: u32,
    pub width: u32,
    pub height: u32,
    tile_width: u32,
    tile_height: u32,
}

impl Tiles {
    /// Tiles of `tile_width` × `tile_height` pixels. `count` is at least 2.
    pub fn of(count: u32, tile_width: u32, tile_height: u32) -> Tiles {
        let whole = |side: u32| ((side * count) as f32 / OVERLAP).round().max(side as f32) as u32;
        Tiles { count, width: whole(tile_width), height: whole(tile_height), tile_width, tile_height }
    }

    /// The left top corner of every tile; the last ones end with the picture.
    pub fn places(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let (count, right, down) = (self.count, self.width - self.tile_width, self.height - self.tile_height);
        let step = move |rest: u32, at: u32| rest * at / (count - 1).max(1);
        (0..count).flat_map(move |row| (0..count).map(move |column| (step(right, column), step(down, row))))
    }

    pub fn cut(&self, picture: &Rgb, (x, y): (u32, u32)) -> Rgb {
        let row = picture.width as usize * 3;
        let (from, length) = (x as usize * 3, self.tile_width as usize * 3);
        let rows = picture.data.chunks_exact(row).skip(y as usize).take(self.tile_height as usize);
        let data = rows.flat_map(|row| row.get(from..from + length).unwrap_or_default()).copied().collect();
        Rgb { width: self.tile_width, height: self.tile_height, data }
    }

    /// A detection on a tile as one on the picture.
    pub fn on_picture(&self, mut detection: Detection, (x, y): (u32, u32)) -> Detection {
        let across = |part: f32| (x as f32 + part * self.tile_width as f32) / self.width as f32;
        let down = |part: f32| (y as f32 + part * self.tile_height as f32) / self.height as f32;
        let [x0, y0, x1, y1] = detection.bbox;
        detection.bbox = [across(x0), down(y0), across(x1), down(y1)].map(|part| part.clamp(0.0, 1.0));
        detection
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_picture_and_overlap() {
        for count in 2..=4 {
            let tiles = Tiles::of(count, 416, 234);
            let places: Vec<_> = tiles.places().collect();
            assert_eq!(places.len(), (count * count) as usize);
            assert_eq!(places[0], (0, 0));
            assert_eq!(places.last(), Some(&(tiles.width - 416, tiles.height - 234)));
            for pair in places.windows(2).filter(|pair| pair[0].1 == pair[1].1) {
                assert!(pair[1].0 - pair[0].0 < 416 * 9 / 10, "{pair:?} hardly overlap");
            }
        }
    }

    #[test]
    fn a_box_on_a_tile_lies_where_its_pixels_were_cut() {
        let tiles = Tiles::of(2, 6, 4);
        let (width, height) = (tiles.width, tiles.height);
        let mut picture = Rgb { width, height, data: vec![0; (width * height * 3) as usize] };
        let last = picture.data.len() - 3;
        picture.data[last] = 255;
        let tile = tiles.places().last().unwrap();
        let cut = tiles.cut(&picture, tile);
        assert_eq!((cut.width, cut.height, cut.data.len()), (6, 4, 72));
        assert_eq!(cut.data[69], 255);
        let corner = [5.0 / 6.0, 3.0 / 4.0, 1.0, 1.0];
        let seen = Detection { class: "fire".into(), score: 0.9, bbox: corner };
        let [x0, y0, x1, y1] = tiles.on_picture(seen, tile).bbox;
        assert!((x0 * width as f32 - (width - 1) as f32).abs() < 1e-3 && x1 == 1.0);
        assert!((y0 * height as f32 - (height - 1) as f32).abs() < 1e-3 && y1 == 1.0);
    }
}
