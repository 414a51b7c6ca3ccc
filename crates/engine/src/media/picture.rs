//! Pictures: how large they are, and the same made smaller.
//!
//! Refused before a pixel is decoded: a head that promises more than [`PIXELS_MAX`]. The decoders are told what they
//! may allocate besides. The invariant: what [`shrunk`] gives back is no larger than asked for, in pixels and in bytes,
//! and stands as a person sees it (the turn that a camera noted is carried out, because the note gets lost).

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::imageops::FilterType;
use image::{
    DynamicImage, ImageDecoder, ImageEncoder, ImageError, ImageFormat, ImageReader, ImageResult, Limits,
};
use std::io::Cursor;

/// Pixels of a picture that is decoded at all. Larger lets one request of a few kilobytes fill the memory (a
/// progressive JPEG takes nine bytes for each); smaller refuses what telephones make.
pub const PIXELS_MAX: u64 = 50_000_000;
/// Bytes a decoder may allocate for one picture; 16-bit pictures reach it before the pixels do. Larger and smaller as
/// above.
const DECODE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes above which a picture is made smaller whatever its edges: the largest that every provider takes.
/// (specification 6.4)
pub const BYTES_MAX: usize = 5_000_000;
/// JPEG quality of what is written. Lower blurs small text, higher costs bytes nobody sees.
const QUALITY: u8 = 85;
/// Edge below which a picture is not made smaller still; any picture of that size is far below [`BYTES_MAX`].
const EDGE_MIN: u32 = 256;

/// Why a picture cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Its head makes no sense.
    #[error("its width and height cannot be read")]
    NoSize,
    /// Too many pixels.
    #[error("it has {width} x {height} pixels; at most {PIXELS_MAX} are looked at")]
    TooManyPixels {
        /// Pixels of a line.
        width: u32,
        /// Lines.
        height: u32,
    },
    /// Its head is fine and the rest is not.
    #[error("it cannot be decoded")]
    Broken,
}

/// A picture that was made smaller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smaller {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// `image/jpeg`, or `image/png` where something can be seen through.
    pub media_type: &'static str,
}

fn format_of(bytes: &[u8]) -> Option<ImageFormat> {
    match super::kind::recognised(bytes)? {
        "image/png" => Some(ImageFormat::Png),
        "image/jpeg" => Some(ImageFormat::Jpeg),
        "image/gif" => Some(ImageFormat::Gif),
        "image/webp" => Some(ImageFormat::WebP),
        _ => None,
    }
}

fn reader(bytes: &[u8]) -> Option<ImageReader<Cursor<&[u8]>>> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format_of(bytes)?);
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    reader.limits(limits);
    Some(reader)
}

/// Width and height, by the picture's head.
pub fn size_of(bytes: &[u8]) -> Result<(u32, u32), Unusable> {
    let (width, height) =
        reader(bytes).ok_or(Unusable::NoSize)?.into_dimensions().map_err(|_| Unusable::NoSize)?;
    match u64::from(width) * u64::from(height) {
        0 => Err(Unusable::NoSize),
        pixels if pixels > PIXELS_MAX => Err(Unusable::TooManyPixels { width, height }),
        _ => Ok((width, height)),
    }
}

/// The picture with no edge longer than `edge` and no more bytes than [`BYTES_MAX`]; `None` when it is so already, or
/// is none that can be judged.
pub fn shrunk(bytes: &[u8], edge: u32) -> Result<Option<Smaller>, Unusable> {
    let (width, height) = match size_of(bytes) {
        Ok(size) => size,
        // whether broken pictures are refused is the validation's business
        Err(Unusable::NoSize | Unusable::Broken) => return Ok(None),
        Err(error @ Unusable::TooManyPixels { .. }) => return Err(error),
    };
    if width.max(height) <= edge && bytes.len() <= BYTES_MAX {
        return Ok(None);
    }
    smaller(bytes, edge).map(Some).map_err(|_| Unusable::Broken)
}

fn smaller(bytes: &[u8], edge: u32) -> ImageResult<Smaller> {
    let (mut picture, profile) = decoded(bytes)?;
    let mut edge = edge.min(picture.width().max(picture.height()));
    loop {
        if picture.width().max(picture.height()) > edge {
            picture = within(&picture, edge);
        }
        let made = written(&picture, profile.as_deref())?;
        if made.bytes.len() <= BYTES_MAX || edge <= EDGE_MIN {
            return Ok(made);
        }
        edge = (edge / 4 * 3).max(EDGE_MIN);
    }
}

/// The picture as it is to be seen, with eight bits for a colour, and what its colours mean.
fn decoded(bytes: &[u8]) -> ImageResult<(DynamicImage, Option<Vec<u8>>)> {
    let unknown = || ImageError::Unsupported(image::error::ImageFormatHint::Unknown.into());
    let mut decoder = reader(bytes).ok_or_else(unknown)?.into_decoder()?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    limits.reserve(decoder.total_bytes())?;
    let profile = decoder.icc_profile()?;
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    let picture = match picture.color().has_alpha() {
        true => DynamicImage::ImageRgba8(picture.into_rgba8()),
        false => DynamicImage::ImageRgb8(picture.into_rgb8()),
    };
    Ok((picture, profile))
}

/// Far too large ones are averaged down to twice the size first: the better filter takes sixteen bytes for a pixel.
fn within(picture: &DynamicImage, edge: u32) -> DynamicImage {
    let twice = edge.saturating_mul(2);
    match picture.width().max(picture.height()) > twice {
        true => picture.thumbnail(twice, twice).resize(edge, edge, FilterType::CatmullRom),
        false => picture.resize(edge, edge, FilterType::CatmullRom),
    }
}

fn written(picture: &DynamicImage, profile: Option<&[u8]>) -> ImageResult<Smaller> {
    let mut bytes = Vec::new();
    let seen_through = picture.as_rgba8().is_some_and(|p| p.pixels().any(|pixel| pixel.0[3] != u8::MAX));
    if seen_through {
        let mut encoder = PngEncoder::new(&mut bytes);
        if let Some(profile) = profile {
            encoder.set_icc_profile(profile.to_vec()).map_err(ImageError::Unsupported)?;
        }
        picture.write_with_encoder(encoder)?;
        return Ok(Smaller { bytes, media_type: "image/png" });
    }
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
    if let Some(profile) = profile {
        encoder.set_icc_profile(profile.to_vec()).map_err(ImageError::Unsupported)?;
    }
    DynamicImage::ImageRgb8(picture.to_rgb8()).write_with_encoder(encoder)?;
    Ok(Smaller { bytes, media_type: "image/jpeg" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage, Rgba, RgbaImage};

    fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).expect("a picture");
        bytes.into_inner()
    }

    fn opaque(width: u32, height: u32) -> DynamicImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 7])).into()
    }

    #[test]
    fn every_kind_is_made_smaller_and_keeps_its_shape() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP] {
            let bytes = encoded(&opaque(900, 300), format);
            let made = shrunk(&bytes, 300).expect("usable").expect("too large");
            assert_eq!((size_of(&made.bytes), made.media_type), (Ok((300, 100)), "image/jpeg"), "{format:?}");
            assert_eq!(shrunk(&bytes, 900), Ok(None), "{format:?}: it is small enough");
        }
    }

    #[test]
    fn what_can_be_seen_through_stays_so() {
        let picture = RgbaImage::from_fn(400, 400, |x, _| Rgba([1, 2, 3, x as u8]));
        let made = shrunk(&encoded(&picture.into(), ImageFormat::Png), 300).expect("usable").expect("large");
        assert_eq!((size_of(&made.bytes), made.media_type), (Ok((300, 300)), "image/png"));
        let back = image::load_from_memory(&made.bytes).expect("a picture");
        assert!(back.to_rgba8().pixels().any(|p| p.0[3] < 40));
    }

    #[test]
    fn too_many_bytes_are_made_fewer_though_the_edges_fit() {
        let mut state = 1_u32;
        let noise = RgbaImage::from_fn(1300, 1300, |_, _| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Rgba(state.to_be_bytes())
        });
        let bytes = encoded(&noise.into(), ImageFormat::Png);
        assert!(bytes.len() > BYTES_MAX, "{}", bytes.len());
        let made = shrunk(&bytes, 4000).expect("usable").expect("too many bytes");
        assert!(made.bytes.len() <= BYTES_MAX, "{}", made.bytes.len());
        let (width, height) = size_of(&made.bytes).expect("a picture");
        assert!(width == height && width > 900, "no smaller than it must be: {width}");
    }

    #[test]
    fn a_camera_s_turn_is_carried_out() {
        let mut bytes = encoded(&opaque(600, 300), ImageFormat::Jpeg);
        // a note of one entry: orientation 6, to be turned by a quarter
        let note =
            b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        bytes.splice(2..2, note.iter().copied());
        let made = shrunk(&bytes, 300).expect("usable").expect("too large");
        assert_eq!(size_of(&made.bytes), Ok((150, 300)));
    }

    /// A PNG of these edges whose data are missing.
    fn head(width: u32, height: u32) -> Vec<u8> {
        let small = encoded(&opaque(1, 1), ImageFormat::Png);
        let mut bytes = small[..16].to_vec();
        bytes.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
        bytes.extend(&small[24..29]);
        bytes.extend(crc(&bytes[12..29]).to_be_bytes());
        bytes.extend(&small[33..]);
        bytes
    }

    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
        })
    }

    #[test]
    fn a_bomb_is_refused_by_its_head() {
        let error = Unusable::TooManyPixels { width: 60_000, height: 60_000 };
        assert_eq!(size_of(&head(60_000, 60_000)), Err(error));
        assert_eq!(shrunk(&head(60_000, 60_000), 2048), Err(error));
        assert_eq!(size_of(&head(0, 9)), Err(Unusable::NoSize));
    }

    #[test]
    fn a_picture_that_breaks_off_is_told_from_one_that_does_not() {
        let whole = encoded(&opaque(900, 900), ImageFormat::Png);
        assert_eq!(shrunk(&whole[..whole.len() / 2], 300), Err(Unusable::Broken));
        assert_eq!(size_of(&whole[..20]), Err(Unusable::NoSize));
        assert_eq!(shrunk(&whole[..20], 300), Ok(None));
        assert_eq!(size_of(b"GIF8"), Err(Unusable::NoSize));
        assert_eq!(size_of(b"no picture"), Err(Unusable::NoSize));
    }
}
