//! Thumbnails of JPEGs.

use std::io::Cursor;

use anyhow::{Result, ensure};
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

use super::random::Random;
use crate::measure::Scale;
use crate::program::Wrong;
use crate::work::check;

const JPEGS: usize = 96;
const WIDTH: u32 = 1_024;
const HEIGHT: u32 = 768;
const SIDE: u32 = 128;
/// Of the pictures that differ.
const COLOURS: [[u8; 3]; 6] =
    [[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 60], [60, 180, 180], [120, 120, 120]];

/// Photographs, that is a colour with noise and a gradient.
pub fn jpegs(scale: Scale) -> Result<Vec<Vec<u8>>> {
    let different: Vec<_> = COLOURS.into_iter().map(jpeg).collect::<Result<_>>()?;
    Ok(different.into_iter().cycle().take(scale.times(JPEGS)).collect())
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small numbers
fn jpeg(colour: [u8; 3]) -> Result<Vec<u8>> {
    let mut random = Random(3);
    let picture = RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        let noise = (random.next() % 24) as i16 - 12 + (x * 32 / WIDTH + y * 32 / HEIGHT) as i16 - 32;
        Rgb(colour.map(|value| (i16::from(value) + noise).clamp(0, 255) as u8))
    });
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 85).encode_image(&picture)?;
    Ok(jpeg)
}

/// A JPEG of 128 by 96; empty if there is none.
pub fn thumbnail(jpeg: &[u8]) -> Vec<u8> {
    let mut small = Cursor::new(Vec::new());
    let written = image::load_from_memory(jpeg)
        .and_then(|picture| picture.thumbnail(SIDE, SIDE).write_to(&mut small, ImageFormat::Jpeg));
    written.map(|()| small.into_inner()).unwrap_or_default()
}

/// Each has the right size and the colour of its picture.
pub fn check_thumbnails(scale: Scale, thumbnails: &[Vec<u8>]) -> Result<()> {
    check("number of thumbnails", scale.times(JPEGS) as u64, thumbnails.len() as u64)?;
    for (thumbnail, colour) in thumbnails.iter().zip(COLOURS.iter().cycle()) {
        let picture = image::load_from_memory(thumbnail).map_err(|error| Wrong(error.to_string()))?;
        check("width of a thumbnail", SIDE.into(), picture.width().into())?;
        check("height of a thumbnail", (SIDE * HEIGHT / WIDTH).into(), picture.height().into())?;
        let middle = middle(&picture);
        let is_near = middle.iter().zip(colour).all(|(&is, &should)| is.abs_diff(should) < 24);
        ensure!(is_near, Wrong(format!("a thumbnail is {middle:?} and not {colour:?}")));
    }
    Ok(())
}

fn middle(picture: &DynamicImage) -> [u8; 3] {
    picture.to_rgb8().get_pixel(picture.width() / 2, picture.height() / 2).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbnail_of_another_picture_is_noticed() {
        let quick = Scale { quick: true };
        let mut thumbnails: Vec<_> = jpegs(quick).unwrap().iter().map(|jpeg| thumbnail(jpeg)).collect();
        check_thumbnails(quick, &thumbnails).unwrap();
        thumbnails.swap(0, 1);
        assert!(check_thumbnails(quick, &thumbnails).is_err());
        assert_eq!(thumbnail(b"none"), Vec::<u8>::new());
    }
}
