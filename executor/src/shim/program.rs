//! An order as a program to be started: paths, arguments, environment, and where its name may be found.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::layout::Layout;
use crate::progress;
use crate::shim::cgroup::Cgroup;
use crate::shim::recover::LABEL;
use crate::sys::spawn::Program;
use crate::wire::Order;

/// What the spawner needs to start an order in its folder; a container is added by whoever made its bundle.
pub fn program_for(layout: &Layout, order: &Order, home: Option<u32>, cgroup: Option<&Cgroup>) -> Program {
    let folder = home.map_or_else(|| layout.attempt(order.lease), |number| layout.home(number));
    let name = order.command.first().map_or("", String::as_str);
    let mut environment: Vec<CString> = order.environment.iter().map(|e| c_string(e)).collect();
    environment.push(c_string(&format!("{LABEL}={}", layout.attempt(order.lease).display())));
    for name in ["HOME=", "TMPDIR="] {
        if !order.environment.iter().any(|e| e.starts_with(name)) {
            environment.push(c_string(&format!("{name}{}/work", folder.display())));
        }
    }
    if !order.environment.iter().any(|e| e.starts_with("STINT_PROGRESS_FILE=")) {
        environment.push(c_string(&format!(
            "STINT_PROGRESS_FILE={}/work/{}",
            folder.display(),
            progress::FILE
        )));
    }
    Program {
        work: c_path(&folder.join("work")),
        stdout: c_path(&folder.join("stdout")),
        stderr: c_path(&folder.join("stderr")),
        folder: c_path(&folder),
        candidates: candidates(name, &order.environment),
        arguments: order.command.iter().map(|a| c_string(a)).collect(),
        environment,
        cgroups: cgroup.map(Cgroup::doors).unwrap_or_default(),
        container: None,
    }
}

/// Where a program of this name may lie: the name itself when it is a path, else the folders of the task's PATH.
fn candidates(name: &str, environment: &[String]) -> Vec<CString> {
    if name.contains('/') {
        return vec![c_string(name)];
    }
    let path = environment.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("");
    path.split(':').filter(|f| !f.is_empty()).map(|folder| c_string(&format!("{folder}/{name}"))).collect()
}

fn c_string(text: &str) -> CString {
    // A spec with NUL characters is refused at the border; cutting there is the least surprise for anything else.
    CString::new(text.split('\0').next().unwrap_or("")).unwrap_or_default()
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}
