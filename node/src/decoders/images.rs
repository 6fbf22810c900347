//! Archives of images.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::images::{kind_of, unpack};

/// Bytes that an image may unpack to here.
const MOST: u64 = 1 << 20;

/// A folder that goes with this.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("stint-decoders-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { std::env::temp_dir() }.join(name);
        fs::create_dir(&folder).expect("a folder to try things in");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Nothing is written outside of the folder, and no more than was allowed in it.
pub fn image(bytes: &[u8]) {
    let _ = kind_of(&bytes[..bytes.len().min(512)]);
    let folder = Folder::new();
    let (image, out) = (folder.0.join("image"), folder.0.join("out"));
    fs::write(&image, bytes).expect("a file to try things in");
    fs::write(folder.0.join("secret"), "not yours").expect("a file to try things in");
    fs::create_dir(&out).expect("a folder to try things in");
    let unpacked = unpack(&image, &out, MOST);
    assert_eq!(fs::read(folder.0.join("secret")).expect("it was written"), b"not yours");
    assert_eq!(fs::read_dir(&folder.0).expect("it was made").count(), 3, "something was written outside");
    if unpacked.is_ok() {
        let mut outside = fs::read_dir(&out).expect("it was made").filter_map(Result::ok);
        assert!(outside.all(|entry| entry.file_name() == "root"));
        assert!(size(&out.join("root")) <= MOST, "it is larger than it may be");
    }
}

/// Bytes of the files in a folder, each once.
fn size(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (mut folders, mut seen, mut sum) = (vec![folder.to_path_buf()], std::collections::BTreeSet::new(), 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
            let Ok(meta) = entry.metadata() else { continue };
            match meta.is_dir() {
                true => folders.push(entry.path()),
                false if meta.is_file() && seen.insert(meta.ino()) => sum += meta.len(),
                false => {}
            }
        }
    }
    sum
}
