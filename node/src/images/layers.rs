//! An image as an archive of layers: an OCI layout, or what `docker save` writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;
use stint_executor::ImageConfig;
use stint_protocol::Digest;
use tar::EntryType;

use super::UnpackError;
use super::bounded_tar::{BoundedTar, Skip};
use super::config::ImageConfigFile;
use crate::limits;

/// A file inside an archive.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    pub offset: u64,
    pub size: u64,
}

/// The layers of one image, from the lowest on.
pub struct Layered {
    pub layers: Vec<Member>,
    pub config: ImageConfig,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

/// An OCI index or an OCI manifest.
#[derive(Deserialize)]
struct Described {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    config: Option<Descriptor>,
}

/// One image of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

/// Indexes within indexes that are followed.
const NESTED: u32 = 3;

impl Layered {
    /// Whether an archive is one in layers.
    pub fn is_one(archive: impl Skip) -> Result<bool, UnpackError> {
        for entry in BoundedTar::new(archive).entries()? {
            let entry = entry?;
            let path = entry.path().map_err(UnpackError::unreadable)?;
            if matches!(name(&path), Some("oci-layout" | "manifest.json")) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The layers of an archive without compression; none when it is a plain root file system.
    pub fn find(file: &mut File) -> Result<Option<Self>, UnpackError> {
        file.rewind().map_err(UnpackError::unreadable)?;
        if !Self::is_one(&mut *file)? {
            return Ok(None);
        }
        let members = members(file, limits::IMAGE_NAMES_BYTES)?;
        let mut archive = Members { file, members };
        if archive.members.contains_key("oci-layout") {
            return archive.oci("index.json", NESTED).map(Some);
        }
        match archive.saved() {
            Some(saved) => archive.docker(saved).map(Some),
            None => Ok(None),
        }
    }
}

/// Files that can belong to an image in layers, by name; `left` is the memory for their names.
fn members(file: &mut File, mut left: usize) -> Result<BTreeMap<String, Member>, UnpackError> {
    file.rewind().map_err(UnpackError::unreadable)?;
    let mut found = BTreeMap::new();
    for entry in BoundedTar::new(file).entries()? {
        let entry = entry?;
        let path = entry.path().map_err(UnpackError::unreadable)?;
        let Some(name) = name(&path) else { continue };
        let fits = name.starts_with("blobs/") || name.ends_with(".tar") || !name.contains('/');
        if fits && entry.header().entry_type() == EntryType::Regular {
            left = left
                .checked_sub(name.len() + limits::IMAGE_NAME_COSTS)
                .ok_or_else(|| UnpackError::Wrong("it has too many files for an image in layers".into()))?;
            found.insert(name.to_owned(), Member { offset: entry.raw_file_position(), size: entry.size() });
        }
    }
    Ok(found)
}

fn name(path: &Path) -> Option<&str> {
    path.to_str().map(|name| name.trim_start_matches("./"))
}

struct Members<'a> {
    file: &'a mut File,
    members: BTreeMap<String, Member>,
}

impl Members<'_> {
    /// An OCI layout, from its index on.
    fn oci(&mut self, name: &str, nested: u32) -> Result<Layered, UnpackError> {
        let described: Described = self.json(name)?;
        if let Some(config) = described.config {
            let config: ImageConfigFile = self.json(&blob_path(&config.digest)?)?;
            let layers = described.layers.iter().map(|layer| blob_path(&layer.digest));
            return self.layered(&layers.collect::<Result<Vec<_>, _>>()?, config);
        }
        if nested == 0 {
            return Err(UnpackError::Wrong("its indexes are nested too deep".into()));
        }
        let chosen = choose(&described.manifests)?;
        self.oci(&blob_path(&chosen.digest)?, nested - 1)
    }

    /// What `docker save` says, if it is that: a root file system may have a file of that name too.
    fn saved(&mut self) -> Option<Vec<Saved>> {
        let saved: Vec<Saved> = self.json("manifest.json").ok()?;
        let known = |name: &String| self.members.contains_key(name);
        let whole = |image: &Saved| known(&image.config) && image.layers.iter().all(known);
        (!saved.is_empty() && saved.iter().all(whole)).then_some(saved)
    }

    fn docker(&mut self, saved: Vec<Saved>) -> Result<Layered, UnpackError> {
        let [image] = saved.as_slice() else {
            let message = format!("it holds {} images: save one", saved.len());
            return Err(UnpackError::Wrong(message));
        };
        let config: ImageConfigFile = self.json(&image.config)?;
        self.layered(&image.layers, config)
    }

    fn layered(&self, names: &[String], config: ImageConfigFile) -> Result<Layered, UnpackError> {
        if names.len() > limits::IMAGE_LAYERS {
            return Err(UnpackError::Wrong(format!("it has {} layers", names.len())));
        }
        let layers = names.iter().map(|name| self.member(name));
        Ok(Layered { layers: layers.collect::<Result<_, _>>()?, config: config.into() })
    }

    fn member(&self, name: &str) -> Result<Member, UnpackError> {
        let missing = || UnpackError::Wrong(format!("{name} is missing in it"));
        self.members.get(name).copied().ok_or_else(missing)
    }

    fn json<T: for<'de> Deserialize<'de>>(&mut self, name: &str) -> Result<T, UnpackError> {
        let member = self.member(name)?;
        if member.size > limits::IMAGE_JSON_BYTES {
            return Err(UnpackError::Wrong(format!("{name} in it has {} bytes", member.size)));
        }
        self.file.seek(SeekFrom::Start(member.offset)).map_err(UnpackError::unreadable)?;
        let mut text = Vec::new();
        self.file.take(member.size).read_to_end(&mut text).map_err(UnpackError::unreadable)?;
        serde_json::from_slice(&text)
            .map_err(|e| UnpackError::Wrong(format!("{name} in it cannot be read: {e}")))
    }
}

fn blob_path(digest: &str) -> Result<String, UnpackError> {
    let digest: Digest = digest.parse().map_err(|e| UnpackError::Wrong(format!("in its index, {e}")))?;
    Ok(format!("blobs/sha256/{}", digest.hex()))
}

/// The one of this machine's platform, or the only one.
fn choose(manifests: &[Descriptor]) -> Result<&Descriptor, UnpackError> {
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let fits = |found: &&Descriptor| {
        found.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == own)
    };
    match manifests {
        [only] => Ok(only),
        all => all.iter().find(fits).ok_or_else(|| {
            UnpackError::Wrong(format!("none of its {} images is for linux/{own}", all.len()))
        }),
    }
}

#[cfg(test)]
mod tests {
    use tar::{Builder, Header};

    use super::*;

    #[test]
    fn names_are_kept_up_to_a_bound() {
        let mut builder = Builder::new(tempfile::tempfile().unwrap());
        let names = ["one.tar", "./blobs/sha256/00", "three", "folder/of no use"];
        for name in names {
            let mut header = Header::new_gnu();
            header.set_size(0);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, &[][..]).unwrap();
        }
        let mut file = builder.into_inner().unwrap();
        let kept = ["blobs/sha256/00", "one.tar", "three"];
        let costs = kept.map(|name| name.len() + limits::IMAGE_NAME_COSTS).iter().sum::<usize>();
        assert!(members(&mut file, costs).unwrap().keys().eq(&kept));
        let message = members(&mut file, costs - 1).err().unwrap().to_string();
        assert!(message.contains("too many files for an image in layers"), "{message}");
        // A root file system may have any number of them.
        assert!(Layered::find(&mut file).unwrap().is_none());
    }
}
