//! What a program without a container is shut into: what it sees of the host, and as whom.

use std::ffi::CString;
use std::path::Path;

use crate::limits;
use crate::runtimes::program::{c_path, c_string};
use crate::shim_api::request::{Confinement, ResolvedMount, Root, StartRequest};
use crate::sys;
use crate::sys::spawn::{Access, Jail, SHOWN, VisiblePath, WRITABLE};

/// The jail of a request's program. `changes_user`: it runs as another user than the watchdog.
pub fn jail_for(request: &StartRequest, confinement: &Confinement, changes_user: bool) -> Jail {
    let options = |bytes: u64| c_string(&format!("mode=1777,size={bytes}"));
    let user = (confinement.user, confinement.group);
    let writable = confinement.writable.iter().take(WRITABLE);
    let writable = writable.map(|folder| shown(folder, Access::Operators, true));
    let access = |mount: &ResolvedMount| if mount.writable { Access::Write } else { Access::Read };
    let mounts = request.mounts.iter().take(SHOWN - WRITABLE);
    let mounts = mounts.map(|mount| shown(&mount.source, access(mount), mount.folder));
    Jail {
        tmp: options(confinement.tmp_bytes),
        shm: options(confinement.shm_bytes),
        binary: request.root.as_deref().and_then(Root::executable).map(c_string),
        secrets: request.secrets.as_ref().map(|secrets| c_string(&secrets.folder)),
        shown: writable.chain(mounts).collect(),
        hidden: hidden_devices(&request.gpus),
        user: changes_user.then_some(user),
        groups: confinement.groups.clone(),
        open_files: sys::open_files(limits::OPEN_FILES),
    }
}

/// Folders in `/tmp` are hidden by the attempt's own, in which those above them are made again.
fn shown(path: &str, access: Access, folder: bool) -> VisiblePath {
    // Of a file the last is made by whoever shows it.
    let above = Path::new(path).ancestors().skip(usize::from(!folder));
    let mut above: Vec<CString> = above.take_while(|above| above.starts_with("/tmp/")).map(c_path).collect();
    above.reverse();
    VisiblePath { path: c_string(path), above, access, folder }
}

/// Device files of GPUs that belong to others. Who has one may ask the driver for what all devices share.
fn hidden_devices(own: &[u32]) -> Vec<CString> {
    let may = |name: &str| match name.strip_prefix("nvidia") {
        None => true,
        Some(rest) => match rest.parse::<u32>() {
            Ok(index) => own.contains(&index),
            Err(_) => !own.is_empty(),
        },
    };
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| !may(name)));
    files
        .filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()))
        .map(|entry| c_path(&entry.path()))
        .collect()
}
