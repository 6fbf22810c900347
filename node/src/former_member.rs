//! A mark beside the data folder that says whose folder it is. It outlives the folder, so that a host whose folder was
//! wiped does not found a second cluster by the `--bootstrap` that is still in its unit.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use stint_protocol::NodeId;

/// What the mark says, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub path: PathBuf,
    pub what: String,
}

/// Beside the folder: `/var/lib/stint` has `/var/lib/stint.member`.
fn place(folder: &Path) -> Option<PathBuf> {
    let folder = fs::canonicalize(folder).ok()?;
    let mut name = folder.file_name()?.to_owned();
    name.push(".member");
    Some(folder.with_file_name(name))
}

impl Mark {
    /// Notes that this folder is a member's. Where that cannot be written it is said, and nothing else is lost by it.
    pub fn write(folder: &Path, node: NodeId, cluster: &str) {
        let Some(path) = place(folder) else { return };
        let what = format!("node {node} of cluster {cluster}");
        let mut file = OpenOptions::new();
        let file = file.create(true).truncate(true).write(true).mode(0o644).open(&path);
        if let Err(error) = file.and_then(|mut file| file.write_all(what.as_bytes())) {
            tracing::warn!(path = %path.display(), %error, "a wiped data folder will not be noticed: no mark can be left beside it");
        }
    }

    /// The mark of a folder, if there is one.
    pub fn read(folder: &Path) -> Option<Self> {
        let path = place(folder)?;
        let what = fs::read_to_string(&path).ok()?.trim().to_owned();
        Some(Self { path, what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_outlives_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("data");
        fs::create_dir(&folder).unwrap();
        assert_eq!(Mark::read(&folder), None);
        Mark::write(&folder, NodeId(2), "stint");
        fs::remove_dir(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        let mark = Mark::read(&folder).unwrap();
        assert_eq!(mark.what, "node 2 of cluster stint");
        assert_eq!(mark.path.file_name().unwrap(), "data.member");
    }
}
