//! An order as a program to be started: paths, arguments, environment, and where its name may be found.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use stint_protocol::Network;

use crate::limits;
use crate::progress;
use crate::runtimes::crun::bundle;
use crate::shim::cgroup::Cgroup;
use crate::shim::probe::Ability;
use crate::shim_api::inside::{LABEL, WORK};
use crate::shim_api::layout::Layout;
use crate::shim_api::request::{Confinement, GivenMount, Mode, Order, Root};
use crate::sys;
use crate::sys::spawn::{
    Access, JAIL_BINARY, JAIL_SECRETS, JAIL_WORK, Jail, Program, SHOWN, Shown, WRITABLE,
};
use crate::working_dir;

/// What the spawner needs to start an order in its folder; a container is added by whoever made its bundle.
pub fn program_for(
    layout: &Layout,
    order: &Order,
    home: Option<u32>,
    cgroup: Option<&Cgroup>,
    ability: &Ability,
) -> Program {
    let folder = home.map_or_else(|| layout.attempt(order.lease), |number| layout.home(number));
    let confinement = order.confinement.as_deref();
    let jail = confinement.filter(|_| order.mode == Mode::Sandboxed && ability.jail);
    let jail = jail.map(|confinement| jail_for(order, confinement, ability));
    let owner = match order.mode {
        Mode::Crun => Some(bundle::user(order)),
        _ => jail.as_ref().and_then(|jail| jail.user),
    };
    let work = folder.join("work");
    let seen_at = match order.mode {
        Mode::Crun => WORK.to_owned(),
        _ if jail.is_some() => JAIL_WORK.to_owned(),
        _ => work.display().to_string(),
    };
    let wanted = order.working_dir.as_deref();
    let made = working_dir::to_be_made(wanted, &seen_at, &work);
    let starts_in = wanted.filter(|_| order.mode != Mode::Crun);
    let own_network = confinement.is_some_and(|c| c.network == Network::None);
    Program {
        work: c_path(&work),
        made: made.iter().map(|folder| c_path(folder)).collect(),
        starts_in: starts_in.map(|wanted| c_string(&working_dir::inside(wanted, &seen_at))),
        stdout: c_path(&folder.join("stdout")),
        stderr: c_path(&folder.join("stderr")),
        candidates: candidates(order, jail.is_some()),
        arguments: order.command.iter().map(|a| c_string(a)).collect(),
        environment: environment(layout, order, &folder, jail.is_some()),
        folder: c_path(&folder),
        cgroups: cgroup.map(Cgroup::doors).unwrap_or_default(),
        container: None,
        own_network: own_network && (jail.is_some() || order.mode == Mode::Crun),
        jail,
        owner,
    }
}

fn environment(layout: &Layout, order: &Order, folder: &Path, jailed: bool) -> Vec<CString> {
    let mut environment: Vec<CString> = order.environment.iter().map(|e| c_string(e)).collect();
    environment.push(c_string(&format!("{LABEL}={}", layout.attempt(order.lease).display())));
    let own = folder.join("work").display().to_string();
    let (work, tmp) = if jailed { (JAIL_WORK, "/tmp") } else { (own.as_str(), own.as_str()) };
    let said = format!("{work}/{}", progress::FILE);
    for (name, value) in [("HOME=", work), ("TMPDIR=", tmp), ("STINT_PROGRESS_FILE=", &said)] {
        if !order.environment.iter().any(|e| e.starts_with(name)) {
            environment.push(c_string(&format!("{name}{value}")));
        }
    }
    if let Some(secrets) = &order.secrets {
        let place = if jailed { JAIL_SECRETS } else { &secrets.folder };
        environment.extend(order.secret_variables(place).iter().map(|pair| c_string(pair)));
    }
    environment
}

fn jail_for(order: &Order, confinement: &Confinement, ability: &Ability) -> Jail {
    let options = |bytes: u64| c_string(&format!("mode=1777,size={bytes}"));
    let user = (confinement.user, confinement.group);
    let writable = confinement.writable.iter().take(WRITABLE);
    let writable = writable.map(|folder| shown(folder, Access::Operators, true));
    let access = |mount: &GivenMount| if mount.writable { Access::Write } else { Access::Read };
    let mounts = order.mounts.iter().take(SHOWN - WRITABLE);
    let mounts = mounts.map(|mount| shown(&mount.source, access(mount), mount.folder));
    Jail {
        tmp: options(confinement.tmp_bytes),
        shm: options(confinement.shm_bytes),
        binary: order.root.as_deref().and_then(executable).map(c_string),
        secrets: order.secrets.as_ref().map(|secrets| c_string(&secrets.folder)),
        shown: writable.chain(mounts).collect(),
        hidden: hidden_devices(&order.gpus),
        user: (!ability.namespaces.is_some_and(|n| n.user)).then_some(user),
        open_files: sys::open_files(limits::OPEN_FILES),
    }
}

fn executable(root: &Root) -> Option<&str> {
    match root {
        Root::Executable(file) => Some(file),
        Root::Folder(..) => None,
    }
}

/// Folders in `/tmp` are hidden by the attempt's own, in which those above them are made again.
fn shown(path: &str, access: Access, folder: bool) -> Shown {
    // Of a file the last is made by whoever shows it.
    let above = Path::new(path).ancestors().skip(usize::from(!folder));
    let mut above: Vec<CString> = above.take_while(|above| above.starts_with("/tmp/")).map(c_path).collect();
    above.reverse();
    Shown { path: c_string(path), above, access, folder }
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

/// Where a program of this name may lie: the name itself when it is a path, else the folders of the task's PATH.
fn candidates(order: &Order, jailed: bool) -> Vec<CString> {
    if let Some(file) = order.root.as_deref().and_then(executable) {
        return vec![c_string(if jailed { JAIL_BINARY } else { file })];
    }
    let (name, environment) = (order.command.first().map_or("", String::as_str), &order.environment);
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
