//! The picture of an alert: the boxes drawn into the clean JPEG that came with the look.
//!
//! The JPEG comes from the worker, hence from a camera: its size and what decoding it may cost are bounded. What does
//! not belong here: decoding video.

use std::io::Cursor;

use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::{ImageReader, Limits, Rgb, RgbImage};

use super::Detection;

/// Largest width and height that is decoded, and the most memory that it may take.
const MAX_SIDE: u32 = 8192;
const MAX_MEMORY: u64 = 256 << 20;
/// No picture has more things worth a box than this.
const MAX_BOXES: usize = 64;
const QUALITY: u8 = 88;

#[derive(Debug, thiserror::Error)]
#[error("the look's picture cannot be drawn on: {0}")]
pub struct PictureError(#[from] image::ImageError);

/// The JPEG with a labelled frame around every detection.
pub fn draw(jpeg: &[u8], boxes: &[Detection]) -> Result<Bytes, PictureError> {
    let mut reader = ImageReader::with_format(Cursor::new(jpeg), image::ImageFormat::Jpeg);
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let mut image = reader.decode()?.into_rgb8();
    // Lines of two pixels at 720p, so that they look alike at every size.
    let line = (image.width().max(image.height()) / 500).max(1) as i64;
    let shown = &boxes[..boxes.len().min(MAX_BOXES)];
    for detection in shown {
        frame(&mut image, detection, line);
    }
    // Labels last: no frame crosses one.
    for detection in shown {
        label(&mut image, detection, line);
    }
    let mut drawn = Vec::new();
    JpegEncoder::new_with_quality(&mut drawn, QUALITY).encode_image(&image)?;
    Ok(drawn.into())
}

fn colour(class: &str) -> Rgb<u8> {
    match class {
        "fire" => Rgb([255, 64, 32]),
        "smoke" => Rgb([64, 190, 255]),
        "person" => Rgb([255, 208, 40]),
        "vehicle" => Rgb([96, 224, 112]),
        _ => Rgb([232, 120, 255]),
    }
}

/// Corners in pixels.
fn pixels(image: &RgbImage, bbox: [f32; 4]) -> [i64; 4] {
    let scale =
        |value: f32, size: u32| (value.clamp(0.0, 1.0) * (size.saturating_sub(1)) as f32).round() as i64;
    let (width, height) = image.dimensions();
    [scale(bbox[0], width), scale(bbox[1], height), scale(bbox[2], width), scale(bbox[3], height)]
}

fn frame(image: &mut RgbImage, detection: &Detection, line: i64) {
    let [x0, y0, x1, y1] = pixels(image, detection.bbox);
    // A dark rim keeps the frame visible before bright flames and pale smoke.
    for (grow, width, colour) in
        [(line + 1, line + 2, Rgb([0, 0, 0])), (line, line, colour(&detection.class))]
    {
        let [x0, y0, x1, y1] = [x0 - grow, y0 - grow, x1 + grow, y1 + grow];
        fill(image, [x0, y0, x1, y0 + width], colour);
        fill(image, [x0, y1 - width, x1, y1], colour);
        fill(image, [x0, y0, x0 + width, y1], colour);
        fill(image, [x1 - width, y0, x1, y1], colour);
    }
}

fn label(image: &mut RgbImage, detection: &Detection, line: i64) {
    let percent = (detection.score.clamp(0.0, 1.0) * 100.0).round() as u32;
    let text = format!("{} {percent}%", detection.class.to_ascii_uppercase());
    let dot = line.max(1);
    let glyphs: Vec<_> = text.chars().take(24).filter_map(glyph).collect();
    let (width, height) = ((glyphs.len() as i64 * 6 + 1) * dot, 9 * dot);
    let [x0, y0, ..] = pixels(image, detection.bbox);
    let x = (x0 - line).min(i64::from(image.width()) - width).max(0);
    // Above the box; inside it where there is no room above.
    let y = if y0 - line >= height { y0 - line - height } else { y0.max(0) };
    fill(image, [x, y, x + width, y + height], colour(&detection.class));
    for (n, rows) in glyphs.iter().enumerate() {
        for (row, bits) in rows.iter().enumerate() {
            for column in (0..5).filter(|column| bits & (0b10000 >> column) != 0) {
                let (left, top) = (x + (n as i64 * 6 + 1 + column) * dot, y + (row as i64 + 1) * dot);
                fill(image, [left, top, left + dot, top + dot], Rgb([16, 16, 16]));
            }
        }
    }
}

/// Fills `x0..x1, y0..y1`, as far as it lies in the picture.
fn fill(image: &mut RgbImage, [x0, y0, x1, y1]: [i64; 4], colour: Rgb<u8>) {
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    for y in y0.clamp(0, height)..y1.clamp(0, height) {
        for x in x0.clamp(0, width)..x1.clamp(0, width) {
            image.put_pixel(x as u32, y as u32, colour);
        }
    }
}

/// Five by seven dots, a row a byte. Class names and percentages need no more than these.
fn glyph(character: char) -> Option<[u8; 7]> {
    Some(match character {
        ' ' => [0; 7],
        '-' | '_' => [0, 0, 0, 0b11111, 0, 0, 0],
        '%' => [0b11001, 0b11010, 0b00010, 0b00100, 0b01000, 0b01011, 0b10011],
        '0' => [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110],
        '1' => [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
        '2' => [0b01110, 0b10001, 0b00001, 0b00110, 0b01000, 0b10000, 0b11111],
        '3' => [0b11110, 0b00001, 0b00001, 0b01110, 0b00001, 0b00001, 0b11110],
        '4' => [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010],
        '5' => [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110],
        '6' => [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110],
        '7' => [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000],
        '8' => [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110],
        '9' => [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100],
        'A' => [0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001],
        'B' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10001, 0b10001, 0b11110],
        'C' => [0b01110, 0b10001, 0b10000, 0b10000, 0b10000, 0b10001, 0b01110],
        'D' => [0b11110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b11110],
        'E' => [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111],
        'F' => [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b10000],
        'G' => [0b01110, 0b10001, 0b10000, 0b10111, 0b10001, 0b10001, 0b01111],
        'H' => [0b10001, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001],
        'I' => [0b01110, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
        'J' => [0b00111, 0b00010, 0b00010, 0b00010, 0b00010, 0b10010, 0b01100],
        'K' => [0b10001, 0b10010, 0b10100, 0b11000, 0b10100, 0b10010, 0b10001],
        'L' => [0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111],
        'M' => [0b10001, 0b11011, 0b10101, 0b10101, 0b10001, 0b10001, 0b10001],
        'N' => [0b10001, 0b11001, 0b10101, 0b10011, 0b10001, 0b10001, 0b10001],
        'O' => [0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110],
        'P' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10000, 0b10000, 0b10000],
        'Q' => [0b01110, 0b10001, 0b10001, 0b10001, 0b10101, 0b10010, 0b01101],
        'R' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001],
        'S' => [0b01111, 0b10000, 0b10000, 0b01110, 0b00001, 0b00001, 0b11110],
        'T' => [0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100],
        'U' => [0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110],
        'V' => [0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01010, 0b00100],
        'W' => [0b10001, 0b10001, 0b10001, 0b10101, 0b10101, 0b11011, 0b10001],
        'X' => [0b10001, 0b10001, 0b01010, 0b00100, 0b01010, 0b10001, 0b10001],
        'Y' => [0b10001, 0b10001, 0b01010, 0b00100, 0b00100, 0b00100, 0b00100],
        'Z' => [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b10000, 0b11111],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn jpeg(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let grey = RgbImage::from_pixel(width, height, Rgb([90, 100, 90]));
        JpegEncoder::new(&mut bytes).encode_image(&grey).unwrap();
        bytes
    }

    fn detection(class: &str, bbox: [f32; 4]) -> Detection {
        Detection { class: class.into(), score: 0.87, bbox }
    }

    fn is_near(pixel: &Rgb<u8>, colour: Rgb<u8>) -> bool {
        pixel.0.iter().zip(colour.0).all(|(a, b)| a.abs_diff(b) < 60)
    }

    #[test]
    fn the_frame_lies_around_the_box_and_leaves_its_inside_alone() {
        let drawn = draw(&jpeg(1280, 720), &[detection("fire", [0.25, 0.5, 0.5, 0.75])]).unwrap();
        let image = image::load_from_memory(&drawn).unwrap().into_rgb8();
        assert_eq!(image.dimensions(), (1280, 720));
        for (x, y) in [(319, 450), (641, 450), (500, 359), (500, 540)] {
            assert!(is_near(image.get_pixel(x, y), colour("fire")), "{x} {y}: {:?}", image.get_pixel(x, y));
        }
        assert!(is_near(image.get_pixel(480, 450), Rgb([90, 100, 90])));
        assert!(is_near(image.get_pixel(319, 342), colour("fire")), "the label stands above");
    }

    #[test]
    fn hostile_pictures_are_errors() {
        let whole = jpeg(64, 64);
        assert!(draw(b"", &[]).is_err());
        assert!(draw(b"GIF89a", &[]).is_err());
        assert!(draw(&whole[..whole.len() / 3], &[]).is_err());
        // The same header with a height of 65500 rows.
        let mut tall = whole.clone();
        let sof = tall.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
        tall[sof + 5..sof + 7].copy_from_slice(&65_500u16.to_be_bytes());
        assert!(draw(&tall, &[]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_box_on_any_picture_is_drawn(
            (width, height) in (1u32..90, 1u32..90),
            bbox in prop::array::uniform4(-2.0f32..3.0),
            class in "[a-z -]{0,40}",
            score in prop_oneof![Just(f32::NAN), -1.0f32..2.0],
        ) {
            let drawn = draw(&jpeg(width, height), &[Detection { class, score, bbox }]);
            prop_assert!(drawn.is_ok());
        }

        #[test]
        fn noise_never_panics(at in 0usize..700, byte: u8) {
            let mut bytes = jpeg(48, 48);
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = draw(&bytes, &[]);
        }
    }
}
