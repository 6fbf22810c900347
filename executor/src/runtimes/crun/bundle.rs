//! The OCI bundle of a crun attempt, and the crun commands its init runs.
//!
//! crun runs *inside* the attempt's own pid namespace, under our init: whatever ends that init (the deadline, the death
//! of the watchdog) ends crun and the container with it, at any step. The container inherits the attempt's cgroup, so
//! crun makes none (`--cgroup-manager=disabled`) and needs no particular cgroup layout; and the attempt's network, so
//! the bundle names no network namespace.
//!
//! The program runs as another user without capabilities in mount, ipc, uts and cgroup namespaces of its own, with a list of
//! system calls that it may make. Process 1 of its pid namespace is the attempt's init, which it does not see: that reaps orphans,
//! and signals that the program does not handle end it. crun executes a small program that becomes the task's, or tells why not.

mod cdi;
mod config;
mod mount;
mod rootfs;

#[cfg(any(test, feature = "fuzzing"))]
pub use self::{cdi::read as read_cdi, rootfs::is_static_elf as read_elf};

pub use config::user;

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use stint_protocol::LeaseId;

use crate::shim_api::layout::{Layout, folder_name};
use crate::shim_api::request::{ResolvedMount, StartRequest};
use crate::sys::spawn::{BindMount, Container};

const CONFIG: &str = "config.json";
/// The descriptor that crun hands on to the container's first process, as the first argument of that says.
const REFUSALS: i32 = 3;

/// Where crun writes its messages for an attempt.
pub fn log_file(layout: &Layout, lease: LeaseId) -> PathBuf {
    bundle_folder(layout, lease).join("crun.log")
}

fn bundle_folder(layout: &Layout, lease: LeaseId) -> PathBuf {
    layout.attempt(lease).join("bundle")
}

/// Where a mount of the host lies in the namespace that crun runs in.
fn mount_place(bundle: &Path, number: usize) -> PathBuf {
    bundle.join(format!("mount-{number}"))
}

/// Makes the places of a request's mounts. No program of the attempt reaches them.
fn mounts(request: &StartRequest, bundle: &Path) -> io::Result<Vec<BindMount>> {
    let laid = |(number, mount): (usize, &ResolvedMount)| {
        let place = mount_place(bundle, number);
        if mount.folder {
            std::fs::DirBuilder::new().recursive(true).create(&place)?;
        } else {
            std::fs::write(&place, "")?;
        }
        Ok(BindMount { source: text(&mount.source), place: flag("", &place), writable: mount.writable })
    };
    request.mounts.iter().enumerate().map(laid).collect()
}

/// Makes the folders that an image wants to be written in. They are its program's.
fn make_volumes(layout: &Layout, request: &StartRequest) -> io::Result<()> {
    let (user, group) = user(request);
    for number in 0..request.volumes.len() {
        let folder = layout.volume(request.lease, number);
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&folder)?;
        std::os::unix::fs::lchown(&folder, Some(user), Some(group))?;
    }
    Ok(())
}

/// Writes the bundle of an attempt and prepares the commands.
pub fn make(layout: &Layout, request: &StartRequest) -> io::Result<Container> {
    let folder = bundle_folder(layout, request.lease);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let rootfs = rootfs::make(layout, request, &folder)?;
    make_volumes(layout, request)?;
    let devices = cdi::devices(request);
    let config = config::config(layout, request, &rootfs, devices).map_err(io::Error::other)?;
    std::fs::write(folder.join(CONFIG), serde_json::to_vec(&config)?)?;

    let crun = request.crun.as_deref().ok_or_else(|| io::Error::other("crun was not found on this node"))?;
    let (state, id) = (layout.crun_state(), folder_name(request.lease));
    let pid_file = folder.join("pid");
    let common = || {
        let root = flag("--root=", &state);
        let log = flag("--log=file:", &log_file(layout, request.lease));
        vec![text(crun), root, log, text("--cgroup-manager=disabled")]
    };
    let mut create = common();
    let files = [flag("--bundle=", &folder), flag("--pid-file=", &pid_file)];
    create.extend([text("create"), text("--preserve-fds=1")].into_iter().chain(files).chain([text(&id)]));
    let mut start = common();
    start.extend([text("start"), text(&id)]);
    Ok(Container {
        create,
        start,
        env: vec![text("PATH=/usr/sbin:/usr/bin:/sbin:/bin")],
        pid_file: flag("", &pid_file),
        refusals: REFUSALS,
        gate: flag("", &state.join(&id).join("exec.fifo")),
        overlay: rootfs.overlay,
        mounts: mounts(request, &folder)?,
    })
}

/// Removes what crun remembers of a container whose processes are gone, and its configuration, which may hold secrets. Not
/// `crun delete`: it would look for the container by a process id of a namespace that no longer exists.
pub fn remove(layout: &Layout, lease: LeaseId) {
    let _ = std::fs::remove_dir_all(layout.crun_state().join(folder_name(lease)));
    for file in ["pid", CONFIG] {
        let _ = std::fs::remove_file(bundle_folder(layout, lease).join(file));
    }
}

fn text(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

fn flag(flag: &str, path: &Path) -> CString {
    CString::new([flag.as_bytes(), path.as_os_str().as_bytes()].concat()).unwrap_or_default()
}
