//! Finds out once, by doing it, what containment this host permits.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use crate::host::Sandbox;
use crate::layout::Layout;
use crate::shim::cgroup::Cgroups;
use crate::sys;
use crate::sys::spawn::{Namespaces, Phase, Program, Spawner};

/// What this host permits.
#[derive(Debug)]
pub struct Ability {
    /// None: no pid namespaces here.
    pub namespaces: Option<Namespaces>,
    pub cgroups: Cgroups,
    pub problems: Vec<String>,
}

impl Ability {
    /// Tries namespaces from the best to the least, running `/bin/true` in them.
    pub fn probe(layout: &Layout, spawner: &mut Spawner) -> Self {
        let label = format!("{:08x}", crc32c::crc32c(layout.root().as_os_str().as_bytes()));
        let cgroups = Cgroups::find(&label);
        let mut problems = cgroups.problems.clone();
        let user = sys::effective_ids().0 != 0;
        let tries = [Namespaces { user, own_proc: true }, Namespaces { user, own_proc: false }];
        let namespaces = tries.into_iter().find(|n| works(layout, spawner, *n));
        match namespaces {
            None => problems.push(
                "no pid namespaces: run the node as root or permit user namespaces \
                 (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces)"
                    .into(),
            ),
            Some(Namespaces { own_proc: false, .. }) => {
                problems.push("attempts see the host's /proc: this host does not permit mounting it".into());
            }
            Some(_) => {}
        }
        if std::fs::File::open(children_file()).is_err() {
            problems.push(
                "with sandbox off, daemonised children are not found: the kernel lacks CONFIG_PROC_CHILDREN"
                    .into(),
            );
        }
        Self { namespaces, cgroups, problems }
    }

    pub fn sandbox(&self) -> Sandbox {
        match self.namespaces {
            Some(_) => Sandbox::PidNamespace,
            None if self.cgroups.can_kill() => Sandbox::Cgroup,
            None => Sandbox::None,
        }
    }
}

/// Lists the children of this process, also adopted ones.
pub fn children_file() -> String {
    let pid = std::process::id();
    format!("/proc/{pid}/task/{pid}/children")
}

fn works(layout: &Layout, spawner: &mut Spawner, namespaces: Namespaces) -> bool {
    let text = |t: &str| CString::new(t).unwrap_or_default();
    let folder = CString::new(layout.root().as_os_str().as_bytes()).unwrap_or_default();
    let program = Program {
        work: folder.clone(),
        folder,
        stdout: text("/dev/null"),
        stderr: text("/dev/null"),
        candidates: vec![text("/bin/true"), text("/usr/bin/true")],
        arguments: vec![text("true")],
        environment: Vec::new(),
        cgroups: Vec::new(),
        container: None,
    };
    let Ok(child) = spawner.contained(0, &program, namespaces) else { return false };
    sys::wait_ready(&[(std::os::fd::AsRawFd::as_raw_fd(&child.pidfd), false)], 5000);
    sys::reap(child.pid);
    let slot = spawner.slot(0);
    Phase::of(slot) == Phase::Exited && slot.status.load(std::sync::atomic::Ordering::SeqCst) == 0
}
