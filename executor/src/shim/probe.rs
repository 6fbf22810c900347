//! Finds out once, by doing it, what containment this host permits.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use stint_protocol::limits::NOBODY;

use crate::host::Sandbox;
use crate::limits;
use crate::shim::cgroup::Cgroups;
use crate::shim_api::layout::Layout;
use crate::sys;
use crate::sys::spawn::{Jail, Namespaces, Phase, Program, Spawner};

/// What this host permits.
#[derive(Debug)]
pub struct ProbedHost {
    /// None: no pid and IPC namespaces here.
    pub namespaces: Option<Namespaces>,
    /// A program without a container can be shut into its own view of the host, without network.
    pub jail: bool,
    pub cgroups: Cgroups,
    pub problems: Vec<String>,
}

impl ProbedHost {
    /// Tries namespaces from the best to the least, running `/bin/true` in them.
    pub fn probe(layout: &Layout, spawner: &mut Spawner) -> Self {
        let cgroups = Cgroups::find(&layout.cgroup_label());
        let mut problems = cgroups.problems.clone();
        let user = sys::effective_ids().0 != 0;
        let tries = [Namespaces { user, own_proc: true }, Namespaces { user, own_proc: false }];
        let namespaces = tries.into_iter().find(|n| works(layout, spawner, *n, false));
        let jail = namespaces.is_some_and(|n| works(layout, spawner, n, true));
        if namespaces.is_some() && !jail {
            problems.push(
                "sandboxed processes see this host's files and network: shutting them in needs Linux 5.12 and mounts \
                 and network namespaces to be permitted"
                    .into(),
            );
        }
        match namespaces {
            None => problems.push(
                "no pid and IPC namespaces: run the node as root or permit user namespaces \
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
        Self { namespaces, jail, cgroups, problems }
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

/// A jail like that of attempts, for the same user.
fn jail(namespaces: Namespaces) -> Jail {
    let options = || CString::new("mode=1777,size=1m").unwrap_or_default();
    Jail {
        tmp: options(),
        shm: options(),
        binary: None,
        secrets: None,
        shown: Vec::new(),
        hidden: Vec::new(),
        user: (!namespaces.user).then_some((NOBODY, NOBODY)),
        groups: Vec::new(),
        open_files: sys::open_files(limits::OPEN_FILES),
    }
}

fn works(layout: &Layout, spawner: &mut Spawner, namespaces: Namespaces, jailed: bool) -> bool {
    let text = |t: &str| CString::new(t).unwrap_or_default();
    let own = layout.root().join("probe");
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
    let program = Program {
        work: path(&own.join("work")),
        made: Vec::new(),
        starts_in: None,
        stdout: path(&own.join("stdout")),
        stderr: path(&own.join("stderr")),
        folder: path(&own),
        candidates: vec![text("/bin/true"), text("/usr/bin/true")],
        arguments: vec![text("true")],
        environment: Vec::new(),
        cgroups: Vec::new(),
        container: None,
        jail: jailed.then(|| jail(namespaces)),
        owner: None,
        own_network: jailed,
        stop_signal: libc::SIGTERM,
    };
    let Ok((child, _output)) = spawner.contained(0, &program, namespaces) else { return false };
    sys::wait_ready(&[(std::os::fd::AsRawFd::as_raw_fd(&child.pidfd), false)], 5000);
    sys::reap(child.pid);
    let _ = std::fs::remove_dir_all(&own);
    let slot = spawner.slot(0);
    Phase::in_slot(slot) == Phase::Exited && slot.status.load(std::sync::atomic::Ordering::SeqCst) == 0
}
