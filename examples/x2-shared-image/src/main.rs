//! Four processes compute the rows of one image, each in the image's own memory.

use std::error::Error;
use std::fs;
use std::path::Path;

use image::ColorType;
use multiproc::{ArrayChunk, Pool, SharedArray};

const WIDTH: u16 = 240;
const HEIGHT: u16 = 160;

/// The number of steps until a point of the plane has left the Mandelbrot set.
fn steps(re: f64, im: f64) -> u8 {
    let (mut x, mut y) = (0.0, 0.0);
    let mut steps = 0;
    while x * x + y * y <= 4.0 && steps < 100 {
        (x, y) = (x * x - y * y + re, 2.0 * x * y + im);
        steps += 1;
    }
    steps
}

/// Fills one row of the image, of which this process has the memory for itself.
fn fill_row(number: u16, mut row: ArrayChunk<u8>) {
    let im = f64::from(number) / 80.0 - 1.0;
    for (column, pixel) in (0..WIDTH).zip(row.as_mut()) {
        *pixel = 2 * steps(f64::from(column) / 80.0 - 2.0, im);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    multiproc::init();

    let mut image = SharedArray::zeroed(usize::from(WIDTH) * usize::from(HEIGHT))?;
    let pool = Pool::new(4)?;
    pool.starmap(fill_row, (0..HEIGHT).zip(image.chunks_mut(WIDTH.into())?))?;

    let pixels = image.into_shared()?;
    let brightness: u64 = pixels.iter().map(|&pixel| u64::from(pixel)).sum();
    println!("{WIDTH} x {HEIGHT} pixels from 4 processes, brightness {brightness}");

    let path = Path::new("target/x2-shared-image.png");
    fs::create_dir_all("target")?;
    image::save_buffer(path, &pixels, WIDTH.into(), HEIGHT.into(), ColorType::L8)?;
    println!("written to {}", path.display());
    Ok(())
}
