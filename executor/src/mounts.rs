//! Folders and files of this host that its operator lets tasks see.

use std::path::{Component, Path, PathBuf};

use stint_protocol::{EndKind, HostMount, MountRoot, Runtime, TaskSpec};

use crate::client::Refusal;
use crate::wire::GivenMount;

/// Why mounts wait for another watchdog.
const EARLIER_WATCHDOG: &str = "the watchdog of an earlier version still runs and knows no mounts: let this node's \
                                attempts end, and start it again";

/// What tasks may name in their mounts; with Docker these folders only, else also what lies below them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountSettings {
    pub readable: Vec<PathBuf>,
    /// Also for reading.
    pub writable: Vec<PathBuf>,
}

impl MountSettings {
    /// What the tasks of a runtime may mount. The daemon of Docker follows whatever links lie in a path when it mounts it:
    /// who can write in a folder could send it anywhere. So its tasks get the folders that the operator named.
    pub fn roots(&self, runtime: Runtime) -> Vec<MountRoot> {
        let below = runtime != Runtime::Docker;
        let root = |folder: &PathBuf, writable| {
            let path = folder.components().collect::<PathBuf>().display().to_string();
            MountRoot { path, writable, below }
        };
        let readable = self.readable.iter().map(|folder| root(folder, false));
        readable.chain(self.writable.iter().map(|folder| root(folder, true))).collect()
    }

    /// The operator's folders as they are without links, with what may be done in each.
    fn real(&self) -> impl Iterator<Item = (PathBuf, bool)> + '_ {
        let all = self.readable.iter().map(|folder| (folder, false));
        let all = all.chain(self.writable.iter().map(|folder| (folder, true)));
        all.filter_map(|(folder, writable)| Some((std::fs::canonicalize(folder).ok()?, writable)))
    }

    /// What a task mounts, found on this host: no part of a source is a link. `knows`: the watchdog can mount.
    pub fn find(&self, spec: &TaskSpec, knows: bool) -> Result<Vec<GivenMount>, Refusal> {
        let asked = spec.limits.as_deref().map(|limits| limits.mounts()).unwrap_or_default();
        if !(asked.is_empty() || knows) {
            return Err((EndKind::StartFailed, EARLIER_WATCHDOG.into()));
        }
        asked.iter().map(|mount| self.find_one(mount)).collect()
    }

    fn find_one(&self, mount: &HostMount) -> Result<GivenMount, Refusal> {
        let source = &mount.source;
        // A link there must not lead out of what the operator opened, nor tell what lies outside.
        let denied = || {
            let key = if mount.writable { "writable" } else { "readable" };
            let message = format!(
                "{source} leads out of the folders of [executor.mounts] {key} of this node: mount what lies in one"
            );
            (EndKind::Denied, message)
        };
        let missing = || (EndKind::FilesMissing, format!("{source} is not there on this node"));
        let Ok(real) = std::fs::canonicalize(source) else {
            return Err(if self.nearest_is_inside(Path::new(source)) { missing() } else { denied() });
        };
        if !self.real().any(|(root, writable)| real.starts_with(root) && (writable || !mount.writable)) {
            return Err(denied());
        }
        let meta = std::fs::metadata(&real).map_err(|_| missing())?;
        let text = real.to_str().filter(|text| !text.contains([':', ',', '\0']));
        match text {
            Some(real) if meta.is_dir() || meta.is_file() => Ok(GivenMount {
                source: real.to_owned(),
                target: mount.target().to_owned(),
                writable: mount.writable,
                folder: meta.is_dir(),
            }),
            Some(_) => Err((EndKind::NotRunnable, format!("{source} is neither a folder nor a file"))),
            None => Err((EndKind::NotRunnable, format!("{source} leads to a name that cannot be mounted"))),
        }
    }

    /// Whether the first folder above that is there lies in the operator's.
    fn nearest_is_inside(&self, path: &Path) -> bool {
        let plain = !path.components().any(|part| part == Component::ParentDir);
        let nearest = path.ancestors().find_map(|above| std::fs::canonicalize(above).ok());
        plain && nearest.is_some_and(|real| self.real().any(|(root, _)| real.starts_with(root)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use stint_protocol::{Class, TaskLimits};

    use super::*;

    fn mounting(source: &Path, writable: bool) -> TaskSpec {
        let mount = HostMount { source: source.display().to_string(), target: Some("/in".into()), writable };
        let mut spec = TaskSpec::new(Class::CpuShort, vec!["true".into()]);
        spec.limits = Some(Box::new(TaskLimits { mounts: Some(vec![mount]), ..TaskLimits::default() }));
        spec
    }

    #[test]
    fn what_lies_in_an_open_folder_is_found_and_no_link_leads_out() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["open/sets", "shut", "work"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        std::fs::write(at("open/file"), "x").unwrap();
        symlink(at("open/sets"), at("open/latest")).unwrap();
        symlink(at("shut"), at("open/out")).unwrap();
        symlink(at("open"), at("alias")).unwrap();
        let settings = MountSettings { readable: vec![at("alias")], writable: vec![at("work")] };
        let find = |name: &str, writable| settings.find(&mounting(&at(name), writable), true);
        let found = |name: &str, writable| find(name, writable).unwrap().remove(0);
        // Where the links lead, so that whoever mounts follows none.
        let real = std::fs::canonicalize(at("open")).unwrap();
        assert_eq!(found("alias/sets", false).source, real.join("sets").display().to_string());
        assert_eq!(found("alias/latest", false).source, real.join("sets").display().to_string());
        assert!(!found("alias/file", false).folder && found("work", true).writable);
        let refused = |name: &str, writable| find(name, writable).unwrap_err();
        assert_eq!(refused("alias/out", false).0, EndKind::Denied);
        assert_eq!(refused("alias/out/absent", false).0, EndKind::Denied);
        assert_eq!(refused("alias/absent", false).0, EndKind::FilesMissing, "another node may have it");
        let (kind, words) = refused("alias/sets", true);
        assert!(kind == EndKind::Denied && words.contains("[executor.mounts] writable"), "{words}");
        assert_eq!(refused("shut", false).0, EndKind::Denied);
        std::os::unix::net::UnixListener::bind(at("open/socket")).unwrap();
        assert_eq!(refused("alias/socket", false).0, EndKind::NotRunnable);
        let (kind, words) = settings.find(&mounting(&at("alias"), false), false).unwrap_err();
        assert!(kind == EndKind::StartFailed && words.contains("earlier version"), "{words}");
    }

    #[test]
    fn docker_mounts_what_the_operator_named_and_nothing_below_it() {
        let settings = MountSettings { readable: vec!["/data/".into()], writable: vec!["/scratch".into()] };
        let root = |path: &str, writable, below| MountRoot { path: path.into(), writable, below };
        let crun = [root("/data", false, true), root("/scratch", true, true)];
        assert_eq!(settings.roots(Runtime::Crun), crun);
        let docker = [root("/data", false, false), root("/scratch", true, false)];
        assert_eq!(settings.roots(Runtime::Docker), docker);
    }
}
