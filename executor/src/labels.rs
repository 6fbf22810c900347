//! Processes of attempts, found by the label that every one of them carries in its environment.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use stint_protocol::LeaseId;

use crate::shim_api::inside::LABEL;
use crate::shim_api::layout::parse_folder_name;
use crate::sys;

/// Kills every process that carries the label of an attempt in `attempts` that `wanted` names; says which it found.
pub fn kill_labelled(attempts: &Path, wanted: impl Fn(LeaseId) -> bool) -> BTreeSet<LeaseId> {
    let mut found = BTreeSet::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok()) {
        let Some(lease) = label_of(pid, attempts).filter(|l| wanted(*l)) else { continue };
        if let Ok(handle) = sys::pidfd_open(pid)
            && label_of(pid, attempts) == Some(lease)
        {
            sys::pidfd_signal(&handle, libc::SIGKILL);
            found.insert(lease);
        }
    }
    found
}

/// The attempt a process belongs to, as its environment says.
pub fn label_of(pid: i32, attempts: &Path) -> Option<LeaseId> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{LABEL}=");
    let value = environment.split(|b| *b == 0).find_map(|v| v.strip_prefix(prefix.as_bytes()))?;
    let folder = Path::new(std::ffi::OsStr::from_bytes(value));
    if folder.parent() != Some(attempts) {
        return None;
    }
    parse_folder_name(folder.file_name()?.to_str()?)
}
