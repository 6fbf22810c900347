//! How images are shown.

use stint_sdk::api::Image;
use stint_sdk::units;

/// The size of an image; empty when the cluster has no bytes of it.
pub fn size(image: &Image) -> String {
    image.size_bytes.map(units::show_bytes).unwrap_or_default()
}

/// What names the content of an image.
pub fn content(image: &Image) -> String {
    image.digest.clone().or_else(|| image.reference.clone()).unwrap_or_default()
}
