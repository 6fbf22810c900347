//! Bytes that a released version wrote, kept as test data: today's code must read them to the same values, and
//! write the same values as the same bytes.
#![allow(dead_code, clippy::unwrap_used)]

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use minicbor::{Decode, Encode};

const CHANGED: &str = "these bytes lie in data folders and logs, and a stored file is never written anew. A changed \
                       encoding is a changed format: number the field anew and give it `#[cbor(default)]`, keep the \
                       old file as one that is only read, and store the new layout under the next number";

/// A folder of stored bytes.
pub struct Stored(PathBuf);

impl Stored {
    /// The folder `tests/stored` of the crate whose manifest lies in `manifest_dir`.
    pub fn of_crate(manifest_dir: &str) -> Self {
        Self(Path::new(manifest_dir).join("tests/stored"))
    }

    /// The bytes under this name. `STINT_BLESS=1` writes a file that does not exist yet, and never one that does.
    pub fn bytes(&self, name: &str, today: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        let path = self.0.join(name);
        if !path.exists() && std::env::var_os("STINT_BLESS").is_some() {
            std::fs::create_dir_all(&self.0).unwrap();
            std::fs::write(&path, today()).unwrap();
        }
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; STINT_BLESS=1 stores it", path.display()))
    }

    /// Holds that the stored bytes and `value` are each other, in both directions.
    pub fn check<T>(&self, name: &str, value: &T)
    where
        T: Encode<()> + for<'b> Decode<'b, ()> + Debug,
    {
        let today = minicbor::to_vec(value).unwrap();
        let stored = self.bytes(name, || today.clone());
        assert_reads(name, &stored, value);
        assert_same(name, &today, &stored);
    }

    /// The names of all files.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Holds that what was stored is read as `value`: all that is asked of a layout that is no longer written.
pub fn assert_reads<T>(name: &str, stored: &[u8], value: &T)
where
    T: for<'b> Decode<'b, ()> + Debug,
{
    let read: T = minicbor::decode(stored).unwrap_or_else(|e| panic!("{name} is not read any more: {e}"));
    assert_eq!(format!("{read:#?}"), format!("{value:#?}"), "{name} reads as something else: {CHANGED}");
}

/// Holds that what is written today is what is stored.
pub fn assert_same(name: &str, today: &[u8], stored: &[u8]) {
    assert!(today == stored, "{name} is written as other bytes than it is stored: {CHANGED}");
}
