//! From an RGB picture to a model's input tensor. Pure: no GStreamer, no ONNX Runtime.

use liuta::vision::model::{Channels, Fit, Input, Layout};

/// A picture: 3 bytes a pixel, rows without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    pub width: u32,
    pub height: u32,
    pub data: Vec<u8>,
}

/// Where the picture lies in the model's input, in its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

/// Where a picture of this size goes.
pub fn place(input: &Input, width: u32, height: u32) -> Placement {
    let [across, down] = input.size;
    if input.fit == Fit::Stretch {
        return Placement { x: 0, y: 0, width: across, height: down };
    }
    let ratio = (f64::from(across) / f64::from(width)).min(f64::from(down) / f64::from(height));
    let scaled = |side: u32, limit: u32| ((f64::from(side) * ratio).round() as u32).clamp(1, limit);
    let (width, height) = (scaled(width, across), scaled(height, down));
    match input.fit {
        Fit::LetterboxCentre => Placement { x: (across - width) / 2, y: (down - height) / 2, width, height },
        Fit::LetterboxTopLeft | Fit::Stretch => Placement { x: 0, y: 0, width, height },
    }
}

/// Fills `tensor` with the picture, which has the placement's size, and the padding around it.
pub fn fill(tensor: &mut Vec<f32>, input: &Input, placement: Placement, picture: &Rgb) {
    let [across, down] = input.size.map(|side| side as usize);
    let plane = across * down;
    let order = match input.channels {
        Channels::Rgb => [0, 1, 2],
        Channels::Bgr => [2, 1, 0],
    };
    let value = |channel: usize, byte: u8| (f32::from(byte) - input.mean[channel]) * input.scale[channel];
    let padding = [0, 1, 2].map(|channel| value(channel, input.pad));
    tensor.clear();
    match input.layout {
        Layout::Nchw => {
            for pad in padding {
                tensor.resize(tensor.len() + plane, pad);
            }
        }
        Layout::Nhwc => (0..plane).for_each(|_| tensor.extend(padding)),
    }
    // A table a channel: a byte has few values.
    let tables: [[f32; 256]; 3] =
        std::array::from_fn(|channel| std::array::from_fn(|byte| value(channel, byte as u8)));
    let (left, top) = (placement.x as usize, placement.y as usize);
    for (row, pixels) in picture.data.chunks_exact(picture.width as usize * 3).enumerate() {
        let start = (top + row) * across + left;
        for (channel, (table, source)) in tables.iter().zip(order).enumerate() {
            let bytes = pixels.iter().skip(source).step_by(3);
            let (from, step) = match input.layout {
                Layout::Nchw => (channel * plane + start, 1),
                Layout::Nhwc => (start * 3 + channel, 3),
            };
            let Some(places) = tensor.get_mut(from..) else { continue };
            for (place, &byte) in places.iter_mut().step_by(step).zip(bytes) {
                *place = table[usize::from(byte)];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(size: [u32; 2], layout: Layout, channels: Channels, fit: Fit) -> Input {
        Input { size, layout, channels, mean: [1.0, 2.0, 3.0], scale: [1.0, 0.5, 2.0], fit, pad: 114 }
    }

    #[test]
    fn a_picture_is_placed_by_its_shape() {
        let place =
            |fit, width, height| place(&input([416, 416], Layout::Nchw, Channels::Bgr, fit), width, height);
        let at = |x, y, width, height| Placement { x, y, width, height };
        assert_eq!(place(Fit::LetterboxTopLeft, 1920, 1080), at(0, 0, 416, 234));
        assert_eq!(place(Fit::LetterboxCentre, 1920, 1080), at(0, 91, 416, 234));
        assert_eq!(place(Fit::LetterboxTopLeft, 208, 104), at(0, 0, 416, 208));
        assert_eq!(place(Fit::LetterboxTopLeft, 1, 8000), at(0, 0, 1, 416));
        assert_eq!(place(Fit::Stretch, 1920, 1080), at(0, 0, 416, 416));
    }

    #[test]
    fn every_layout_holds_the_same_numbers() {
        let picture = Rgb { width: 2, height: 1, data: vec![10, 20, 30, 40, 50, 60] };
        let placement = Placement { x: 0, y: 1, width: 2, height: 1 };
        // Of the channels in the model's order: (byte - mean) * scale.
        let rgb = [[9.0, 39.0], [9.0, 24.0], [54.0, 114.0]];
        let bgr = [[29.0, 59.0], [9.0, 24.0], [14.0, 74.0]];
        let pads = [113.0, 56.0, 222.0];
        for (channels, expected) in [(Channels::Rgb, rgb), (Channels::Bgr, bgr)] {
            for layout in [Layout::Nchw, Layout::Nhwc] {
                let mut tensor = vec![7.0; 3];
                fill(
                    &mut tensor,
                    &input([2, 3], layout, channels, Fit::LetterboxCentre),
                    placement,
                    &picture,
                );
                assert_eq!(tensor.len(), 18);
                for channel in 0..3 {
                    for pixel in 0..6 {
                        let index = match layout {
                            Layout::Nchw => channel * 6 + pixel,
                            Layout::Nhwc => pixel * 3 + channel,
                        };
                        let value = match pixel {
                            2 | 3 => expected[channel][pixel - 2],
                            _ => pads[channel],
                        };
                        assert_eq!(tensor[index], value, "{channels:?} {layout:?} {channel} {pixel}");
                    }
                }
            }
        }
    }
}
