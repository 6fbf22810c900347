//! The crun runtime: containers of the host's system folders, of one executable file, or of a root file system.

mod bundle;
mod seccomp;
mod verdict;
mod watchdog_side;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use bundle::{read_cdi, read_elf};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stint_protocol::{Allowance, Runtime as Kind, TaskSpec};

use super::request::{self, DEFAULTS, INSIDE};
use super::{HostCapabilities, NodeRuntime};
use crate::host::Launch;
use crate::refusal::Refusal;
use crate::settings::HostOptions;
use crate::shim_api::inside::HOST_FOLDERS;
use crate::shim_api::layout::Layout;
use crate::shim_api::request::{Mode, ResolvedMount, Root, StartRequest};
use crate::stages::{Owner, Staged};
use crate::{confine, root, sys, users, working_dir};

pub use watchdog_side::MODES;

struct Crun {
    settings: Arc<HostOptions>,
    /// Its absolute path, when it is there.
    path: Option<PathBuf>,
}

pub fn open(settings: Arc<HostOptions>, _: &Layout) -> Arc<dyn NodeRuntime> {
    let path = find_program(&settings.crun_path);
    Arc::new(Crun { settings, path })
}

impl NodeRuntime for Crun {
    fn probe(&self, permits: HostCapabilities) -> Result<(), String> {
        if self.path.is_none() {
            return Err(format!(
                "crun was not found as {}: install it (Debian: apt install crun) or set crun_path",
                self.settings.crun_path.display()
            ));
        }
        if sys::effective_ids().0 != 0 {
            return Err(
                "crun runs as root only for now: start the node as root or use another runtime".into()
            );
        }
        if !permits.pid_namespaces {
            return Err(
                "crun needs pid namespaces and a mountable /proc, which this host does not permit".into()
            );
        }
        Ok(())
    }

    fn allowance(&self, permits: HostCapabilities) -> Allowance {
        // What it mounts takes the same calls of the kernel as a jail.
        let mounts = permits.jails.then(|| self.settings.mounts.roots(Kind::Crun));
        Allowance { mounts, ..self.settings.crun.confine.allowance(Kind::Crun) }
    }

    fn owner(&self, launch: &Launch) -> Owner {
        Some(users::user_for(self.settings.crun.confine.user, launch))
    }

    fn request(
        &self,
        launch: &Launch,
        staged: &Staged,
        permits: HostCapabilities,
    ) -> Result<StartRequest, Refusal> {
        let spec = &launch.spec;
        let image = root::resolve(&self.settings, spec, true, staged.image.as_ref())?;
        self.check(spec, permits)?;
        let defaults = DEFAULTS.iter().chain(&INSIDE);
        let request = request::common(&self.settings, launch, staged, image.as_ref(), Mode::Crun, defaults);
        let working_dir = working_dir(spec, staged, request.root.as_deref())?;
        check_targets(&request)?;
        let confinement = confine::confinement(&self.settings.crun.confine, &[], launch);
        let crun = self.path.as_ref().map(|path| path.display().to_string());
        Ok(StartRequest { working_dir, crun, confinement: Some(Box::new(confinement)), ..request })
    }
}

/// Where the program starts. Without a root file system of its own only some places are there for sure.
fn working_dir(spec: &TaskSpec, staged: &Staged, root: Option<&Root>) -> Result<Option<String>, Refusal> {
    let wanted = spec.limits.as_deref().and_then(|limits| limits.working_dir.clone());
    let (Some(wanted), None | Some(Root::Executable(_))) = (&wanted, root) else { return Ok(wanted) };
    if staged.mounts.iter().any(|mount| Path::new(wanted).starts_with(&mount.target)) {
        return Ok(Some(wanted.clone()));
    }
    working_dir::in_shared_root(wanted, root.is_none()).map(Some).map_err(Refusal::not_runnable)
}

/// crun makes the place of a mount, as root, and the host's folders become read-only only after that.
fn check_targets(request: &StartRequest) -> Result<(), Refusal> {
    if matches!(request.root.as_deref(), Some(Root::Folder(..))) {
        return Ok(());
    }
    let of_host = |mount: &&ResolvedMount| {
        HOST_FOLDERS.iter().any(|name| Path::new(&mount.target).starts_with(Path::new("/").join(name)))
    };
    let Some(mount) = request.mounts.iter().find(of_host) else { return Ok(()) };
    let advice = "without an image the host's system folders are there: name another target";
    Err(Refusal::not_runnable(format!("{}: {advice}", mount.target)))
}

/// A program's absolute path, searched in PATH when it has no `/`.
fn find_program(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.is_file().then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}
