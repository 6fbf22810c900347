//! Folders and files of this host that its operator lets tasks see.

use std::path::{Path, PathBuf};

use stint_protocol::limits::MOUNTS;
use stint_protocol::{HostMount, MountRoot, Runtime, TaskSpec, is_taken};

use crate::host::{Launch, LocalUser};
use crate::refusal::Refusal;
use crate::settings::MountRules;
use crate::shim_api::inside::HOST_FOLDERS;
use crate::shim_api::request::ResolvedMount;
use crate::users;

/// Of the kernel, and memory that looks like files: the secrets of attempts lie there.
const SYSTEM: [&str; 3] = ["/proc", "/sys", "/dev"];

impl MountRules {
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

    /// What a task mounts, found on this host: no part of a source is a link. It may have to wait for a slow file system.
    /// `closed`: what nobody sees, whatever the operator opened. `user`: who must be able to reach it; none: whoever submits tasks may.
    pub fn find(
        &self,
        spec: &TaskSpec,
        closed: &[PathBuf],
        user: Option<&LocalUser>,
    ) -> Result<Vec<ResolvedMount>, Refusal> {
        let Some(limits) = spec.limits.as_deref() else { return Ok(Vec::new()) };
        let found: Result<Vec<ResolvedMount>, Refusal> =
            limits.mounts().iter().map(|mount| self.find_one(mount, closed, user)).collect();
        let found = found?;
        // Where it is missing it would be made, as root, in the host's folder.
        let below = |mount: &&ResolvedMount| {
            let rest = Path::new(limits.working_dir.as_deref().unwrap_or("")).strip_prefix(&mount.target);
            rest.is_ok_and(|rest| !Path::new(&mount.source).join(rest).is_dir())
        };
        match found.iter().find(below) {
            None => Ok(found),
            Some(mount) => {
                let message =
                    format!("the working directory is not there in {}: make it first", mount.source);
                Err(Refusal::not_runnable(message))
            }
        }
    }

    /// The home of a user, as an attempt sees it where the operator opened it; none: it does not, or it mounts something there itself.
    pub fn find_home(
        &self,
        user: &LocalUser,
        launch: &Launch,
        closed: &[PathBuf],
        others: &[ResolvedMount],
    ) -> Option<ResolvedMount> {
        let home = user.home.to_str()?;
        let overlaps = |other: &Path| user.home.starts_with(other) || other.starts_with(&user.home);
        if others.len() >= MOUNTS || others.iter().any(|mount| overlaps(Path::new(&mount.target))) {
            return None;
        }
        // Without an image the host's system folders are there.
        if HOST_FOLDERS.iter().any(|name| overlaps(&Path::new("/").join(name))) {
            return None;
        }
        let source = match launch.runtime {
            Runtime::Docker => self
                .writable
                .iter()
                .chain(&self.readable)
                .find(|root| user.home.starts_with(root))?
                .to_str()?,
            _ => home,
        };
        let found = |writable| {
            let mount = HostMount { source: source.into(), target: None, writable };
            self.find_one(&mount, closed, Some(user)).ok()
        };
        found(true).or_else(|| found(false))
    }

    fn find_one(
        &self,
        mount: &HostMount,
        closed: &[PathBuf],
        user: Option<&LocalUser>,
    ) -> Result<ResolvedMount, Refusal> {
        let source = &mount.source;
        // A link there must not lead out of what the operator opened, nor tell what lies outside.
        let denied = || {
            let key = if mount.writable { "writable" } else { "readable" };
            let message = format!(
                "{source} leads out of the folders of [executor.mounts] {key} of this node: mount what lies in one"
            );
            Refusal::denied(message)
        };
        let missing = || Refusal::files_missing(format!("{source} is not there on this node"));
        // As the user: whoever is root sees through the modes of the folders above.
        let look = || std::fs::canonicalize(source).and_then(|real| Ok((std::fs::metadata(&real)?, real)));
        let (meta, real) = match users::as_whom(user, look) {
            Ok(found) => found,
            Err(_) if user.is_some() => {
                let message =
                    format!("{source} is not there on this node, or not for the user that it runs as");
                return Err(Refusal::files_missing(message));
            }
            Err(_) => return Err(if self.is_inside(Path::new(source)) { missing() } else { denied() }),
        };
        if !self.real().any(|(root, writable)| real.starts_with(root) && (writable || !mount.writable)) {
            return Err(denied());
        }
        // As above.
        let closed = closed.iter().filter_map(|path| std::fs::canonicalize(path).ok());
        let own = closed.chain(SYSTEM.iter().map(PathBuf::from));
        if let Some(own) = own.into_iter().find(|own| real.starts_with(own) || own.starts_with(&real)) {
            let message = format!("{source} holds or lies in {}, which is never mounted", own.display());
            return Err(Refusal::denied(message));
        }
        // A process sees it where it really is, which nobody could check before.
        let seen_at = if mount.target() == source { real.to_str().unwrap_or("/") } else { mount.target() };
        if let Some(taken) = is_taken(seen_at) {
            let message = format!("{source} would be seen at {seen_at}, and {taken} is the program's own");
            return Err(Refusal::not_runnable(message));
        }
        let text = real.to_str().filter(|text| !text.contains([':', ',', '\0']));
        match text {
            Some(real) if meta.is_dir() || meta.is_file() => Ok(ResolvedMount {
                source: real.to_owned(),
                target: mount.target().to_owned(),
                writable: mount.writable,
                folder: meta.is_dir(),
            }),
            Some(_) => Err(Refusal::not_runnable(format!("{source} is neither a folder nor a file"))),
            None => Err(Refusal::not_runnable(format!("{source} leads to a name that cannot be mounted"))),
        }
    }

    /// Whether what is missing is missing in a folder of the operator's, or that itself is.
    fn is_inside(&self, path: &Path) -> bool {
        let all = self.readable.iter().chain(&self.writable);
        let absent = |root: &&PathBuf| path.starts_with(root) && std::fs::canonicalize(root).is_err();
        let nearest = path.ancestors().find_map(|above| std::fs::canonicalize(above).ok());
        all.clone().any(|root| absent(&root))
            || nearest.is_some_and(|real| self.real().any(|(root, _)| real.starts_with(root)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use stint_protocol::{Class, EndKind, TaskLimits};

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
        let settings = MountRules { readable: vec![at("alias")], writable: vec![at("work")] };
        std::fs::create_dir(at("open/own")).unwrap();
        let closed = [at("open/own")];
        let find = |name: &str, writable| settings.find(&mounting(&at(name), writable), &closed, None);
        let found = |name: &str, writable| find(name, writable).unwrap().remove(0);
        // Where the links lead, so that whoever mounts follows none.
        let real = std::fs::canonicalize(at("open")).unwrap();
        assert_eq!(found("alias/sets", false).source, real.join("sets").display().to_string());
        assert_eq!(found("alias/latest", false).source, real.join("sets").display().to_string());
        assert!(!found("alias/file", false).folder && found("work", true).writable);
        let refused = |name: &str, writable| find(name, writable).unwrap_err();
        assert_eq!(refused("alias/out", false).kind, EndKind::Denied);
        assert_eq!(refused("alias/out/absent", false).kind, EndKind::Denied);
        assert_eq!(refused("alias/absent", false).kind, EndKind::FilesMissing, "another node may have it");
        let gone = MountRules { readable: vec![at("not-mounted")], ..MountRules::default() };
        for name in ["not-mounted", "not-mounted/set"] {
            let refusal = gone.find(&mounting(&at(name), false), &closed, None).unwrap_err();
            assert_eq!(
                refusal.kind,
                EndKind::FilesMissing,
                "its file system is not mounted here: {refusal:?}"
            );
        }
        for name in ["alias/own", "alias"] {
            let Refusal { kind, message: text } = refused(name, false);
            assert!(kind == EndKind::Denied && text.contains("never mounted"), "{name}: {text}");
        }
        let mut in_it = mounting(&at("alias/sets"), false);
        let place = |spec: &mut TaskSpec, dir: &str| {
            let mut limits = spec.limits.clone().unwrap();
            limits.working_dir = Some(dir.into());
            spec.limits = Some(limits);
        };
        place(&mut in_it, "/in");
        assert!(settings.find(&in_it, &closed, None).is_ok());
        place(&mut in_it, "/in/absent");
        assert_eq!(
            settings.find(&in_it, &closed, None).unwrap_err().kind,
            EndKind::NotRunnable,
            "root would make it"
        );
        let Refusal { kind, message: text } = refused("alias/sets", true);
        assert!(kind == EndKind::Denied && text.contains("[executor.mounts] writable"), "{text}");
        assert_eq!(refused("shut", false).kind, EndKind::Denied);
        std::os::unix::net::UnixListener::bind(at("open/socket")).unwrap();
        assert_eq!(refused("alias/socket", false).kind, EndKind::NotRunnable);
    }

    #[test]
    fn docker_mounts_what_the_operator_named_and_nothing_below_it() {
        let settings = MountRules { readable: vec!["/data/".into()], writable: vec!["/scratch".into()] };
        let root = |path: &str, writable, below| MountRoot { path: path.into(), writable, below };
        let crun = [root("/data", false, true), root("/scratch", true, true)];
        assert_eq!(settings.roots(Runtime::Crun), crun);
        let docker = [root("/data", false, false), root("/scratch", true, false)];
        assert_eq!(settings.roots(Runtime::Docker), docker);
    }
}
