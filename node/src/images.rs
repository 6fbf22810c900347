//! Registered images on the node that runs them: fetched, checked, unpacked once, shared by the attempts that use them,
//! and swept when nobody does.

mod archive;
mod bounded_tar;
mod cache;
mod compression;
mod config;
mod layers;
mod rootfs_writer;
mod store;

use stint_protocol::ImageKind;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use archive::unpack;
pub use cache::ImageCache;
use compression::Compression;
pub use store::{ImageStore, maintenance};

/// What an image is, as far as its first 512 bytes tell.
pub fn kind_of(first: &[u8]) -> Option<ImageKind> {
    if first.starts_with(b"\x7fELF") || first.starts_with(b"#!") {
        return Some(ImageKind::Executable);
    }
    let tar = first.get(257..262) == Some(b"ustar");
    (tar || Compression::detect(first) != Compression::Plain).then_some(ImageKind::Rootfs)
}

/// Why an image cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is not what an image should be: no retry helps.
    #[error("{0}")]
    Wrong(String),
    #[error("{action}: {source}")]
    Io { action: String, source: std::io::Error },
}

impl UnpackError {
    fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// Bytes whose digest was right, and that cannot be read as what they should be.
    fn unreadable(error: std::io::Error) -> Self {
        Self::Wrong(format!("the archive cannot be read: {error}"))
    }
}
