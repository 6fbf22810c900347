//! A request as a program of the host: arguments, environment, and where its name may be found.

use std::ffi::CString;
use std::path::Path;

use crate::progress;
use crate::runtimes::program::{c_string, has_no_network, in_folder};
use crate::runtimes::watchdog_side::Start;
use crate::shim_api::inside::LABEL;
use crate::shim_api::layout::Layout;
use crate::shim_api::request::{Root, StartRequest};
use crate::sys::spawn::{JAIL_BINARY, JAIL_SECRETS, JAIL_WORK, Jail, Program};
use crate::working_dir;

/// What the spawner needs to start a request. Without a jail the program sees the host.
pub fn program_for(start: &Start<'_>, jail: Option<Jail>) -> Program {
    let (request, jailed) = (start.request, jail.is_some());
    let work = start.folder.join("work").display().to_string();
    let seen_at = if jailed { JAIL_WORK } else { work.as_str() };
    let starts_in = request.working_dir.as_deref();
    Program {
        starts_in: starts_in.map(|wanted| c_string(&working_dir::inside(wanted, seen_at))),
        candidates: candidates(request, jailed),
        arguments: request.command.iter().map(|argument| c_string(argument)).collect(),
        environment: environment(start.layout, request, &start.folder, jailed),
        own_network: jailed && has_no_network(request),
        owner: jail.as_ref().and_then(|jail| jail.user),
        jail,
        ..in_folder(start, seen_at)
    }
}

fn environment(layout: &Layout, request: &StartRequest, folder: &Path, jailed: bool) -> Vec<CString> {
    let mut environment: Vec<CString> = request.environment.iter().map(|e| c_string(e)).collect();
    environment.push(c_string(&format!("{LABEL}={}", layout.attempt(request.lease).display())));
    let own = folder.join("work").display().to_string();
    let (work, tmp) = if jailed { (JAIL_WORK, "/tmp") } else { (own.as_str(), own.as_str()) };
    let said = format!("{work}/{}", progress::FILE);
    for (name, value) in [("HOME=", work), ("TMPDIR=", tmp), ("STINT_PROGRESS_FILE=", &said)] {
        if !request.environment.iter().any(|e| e.starts_with(name)) {
            environment.push(c_string(&format!("{name}{value}")));
        }
    }
    if let Some(secrets) = &request.secrets {
        let place = if jailed { JAIL_SECRETS } else { &secrets.folder };
        environment.extend(request.secret_variables(place).iter().map(|pair| c_string(pair)));
    }
    environment
}

/// Where a program of this name may lie: the name itself when it is a path, else the folders of the task's PATH.
fn candidates(request: &StartRequest, jailed: bool) -> Vec<CString> {
    if let Some(file) = request.root.as_deref().and_then(Root::executable) {
        return vec![c_string(if jailed { JAIL_BINARY } else { file })];
    }
    let (name, environment) = (request.command.first().map_or("", String::as_str), &request.environment);
    if name.contains('/') {
        return vec![c_string(name)];
    }
    let path = environment.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("");
    path.split(':').filter(|f| !f.is_empty()).map(|folder| c_string(&format!("{folder}/{name}"))).collect()
}
