//! What the watchdog prepares for every program that it starts itself, whatever the program is put into: the files and
//! folders of its attempt.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use stint_protocol::Network;

use super::watchdog_side::Start;
use crate::shim_api::request::StartRequest;
use crate::sys::spawn::Program;
use crate::working_dir;

/// An attempt in its folder, with nothing to be executed yet. `seen_at`: its work folder, as its program sees it.
pub fn in_folder(start: &Start<'_>, seen_at: &str) -> Program {
    let work = start.folder.join("work");
    let made = working_dir::to_be_made(start.request.working_dir.as_deref(), seen_at, &work);
    Program {
        folder: c_path(&start.folder),
        work: c_path(&work),
        made: made.iter().map(|folder| c_path(folder)).collect(),
        starts_in: None,
        stdout: c_path(&start.folder.join("stdout")),
        stderr: c_path(&start.folder.join("stderr")),
        candidates: Vec::new(),
        arguments: Vec::new(),
        environment: Vec::new(),
        cgroups: start.cgroups.clone(),
        container: None,
        jail: None,
        owner: None,
        own_network: false,
        stop_signal: start.request.stop_signal.unwrap_or(libc::SIGTERM),
    }
}

/// Whether a program is to reach nothing but itself.
pub fn has_no_network(request: &StartRequest) -> bool {
    request.confinement.as_ref().is_some_and(|confinement| confinement.network == Network::None)
}

pub fn c_string(text: &str) -> CString {
    // A spec with NUL characters is refused at the border; cutting there is the least surprise for anything else.
    CString::new(text.split('\0').next().unwrap_or("")).unwrap_or_default()
}

pub fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}
