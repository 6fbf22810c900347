//! Starting programs: everything that is prepared before the clone, and the clone.
//!
//! Everything the child needs is prepared before the clone. In the child only async-signal-safe calls are made and
//! nothing is allocated. Two ways:
//!
//! * **direct** (`sandbox` off): the child shares the watchdog's memory until it executes (as `vfork`), which is the
//!   cheapest start Linux has;
//! * **own namespaces**: the child is the init of new pid and IPC namespaces. It never executes another binary: it starts the
//!   program, passes TERM on, reaps, writes the program's status into the shared board and exits, whereupon the kernel
//!   kills and reaps everything that is left in the namespace.

mod child;
mod deadline;
mod filter;
mod init;
mod jail;
mod network;
mod outputs;
mod phase;
mod program;
mod region;

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::Ordering::SeqCst;

use libc::{c_char, c_int, c_void};

use super::{StatusPage, StatusSlot, boot_now, heap};
use outputs::Places;
use region::Region;

pub use outputs::OutputPipes;
pub use phase::{Phase, Step};
pub use program::{
    Access, BindMount, Container, JAIL_BINARY, JAIL_SECRETS, JAIL_WORK, Jail, Overlay, Program, SHOWN,
    VisiblePath, WRITABLE,
};

/// Namespaces of an attempt, as far as this host permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces {
    /// Needed when the watchdog is not root.
    pub user: bool,
    /// A `/proc` that shows only the namespace.
    pub own_proc: bool,
}

/// A started attempt: the program itself, or the init of its namespace.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// What all starts share.
pub struct Spawner {
    status_page: StatusPage,
    notice: OwnedFd,
    null: OwnedFd,
    own_pidfd: OwnedFd,
    own_pid: i32,
    /// Where inits find the ends of their pipes.
    places: Places,
    stack_top: *mut c_void,
    user_maps: [*const c_char; 2],
    filter: libc::sock_fprog,
    /// Holds what the three above point to.
    _lasting: Region,
    /// What the next child reads.
    launch: Region,
    /// By slot: one attempt at a time uses each, and making one anew for every attempt costs more than all the rest.
    networks: HashMap<u32, OwnedFd>,
    /// Children must undo what was done to this process's `oom_score_adj`.
    pub reset_oom_score: bool,
}

const STACK_BYTES: usize = 64 * 1024;

/// Everything a child reads: plain pointers and numbers, valid until the clone returns in the parent (direct) or
/// copied with the address space (own namespaces). Of that the child lacks the heap: all lies in regions.
struct Raw {
    slot: &'static StatusSlot,
    index: u32,
    folder: *const c_char,
    work: *const c_char,
    made: *const *const c_char,
    /// Null: the work folder.
    starts_in: *const c_char,
    stdout: *const c_char,
    stderr: *const c_char,
    /// The ends of the pipes that become standard output and standard error.
    outputs: [c_int; 2],
    candidates: *const *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    cgroups: *const *const c_char,
    container: Option<&'static RawContainer>,
    jail: Option<&'static RawJail>,
    owner: Option<(u32, u32)>,
    /// -1: none to enter.
    network: c_int,
    /// With a user namespace: the network namespace came with it, and its loopback is down.
    new_network: bool,
    filter: libc::sock_fprog,
    user_maps: [*const c_char; 2],
    null: c_int,
    notice: c_int,
    watchdog_pidfd: c_int,
    watchdog_pid: c_int,
    /// An init that shares the watchdog's descriptors makes a table of those below this number; 0: it has a copy of all.
    shared_below: c_int,
    stack_top: *mut c_void,
    reset_oom_score: bool,
    namespaces: Namespaces,
    stop_signal: c_int,
}

#[derive(Clone, Copy)]
struct RawContainer {
    create: *const *const c_char,
    start: *const *const c_char,
    env: *const *const c_char,
    pid_file: *const c_char,
    refusals: c_int,
    gate: *const c_char,
    overlay: Option<RawOverlay>,
    mounts: *const RawBindMount,
    mounted: usize,
}

#[derive(Clone, Copy)]
struct RawBindMount {
    source: *const c_char,
    place: *const c_char,
    writable: bool,
}

#[derive(Clone, Copy)]
struct RawOverlay {
    scratch: *const c_char,
    folders: [*const c_char; 3],
    options: *const c_char,
}

/// As `Jail`; null where that has none.
#[derive(Clone, Copy)]
struct RawJail {
    tmp: *const c_char,
    shm: *const c_char,
    binary: *const c_char,
    secrets: *const c_char,
    shown: *const RawVisiblePath,
    all_shown: usize,
    hidden: *const *const c_char,
    user: Option<(u32, u32)>,
    groups: *const u32,
    all_groups: usize,
    open_files: (u64, u64),
}

#[derive(Clone, Copy)]
struct RawVisiblePath {
    path: *const c_char,
    above: *const *const c_char,
    access: Access,
    folder: bool,
}

impl RawContainer {
    fn put(region: &mut Region, container: &Container) -> io::Result<&'static Self> {
        let overlay = match &container.overlay {
            None => None,
            Some(overlay) => {
                let [upper, work, merged] = &overlay.folders;
                let folders = [region.string(upper)?, region.string(work)?, region.string(merged)?];
                let (scratch, options) = (region.string(&overlay.scratch)?, region.string(&overlay.options)?);
                Some(RawOverlay { scratch, folders, options })
            }
        };
        let mut mounts = Vec::with_capacity(container.mounts.len());
        for BindMount { source, place, writable } in &container.mounts {
            let (source, place) = (region.string(source)?, region.string(place)?);
            mounts.push(RawBindMount { source, place, writable: *writable });
        }
        let raw = Self {
            mounts: region.put(&mounts)?,
            mounted: mounts.len(),
            create: region.strings(&container.create)?,
            start: region.strings(&container.start)?,
            env: region.strings(&container.env)?,
            pid_file: region.string(&container.pid_file)?,
            refusals: container.refusals,
            gate: region.string(&container.gate)?,
            overlay,
        };
        let place = region.put(&[raw])?;
        // SAFETY: it was just put there, and stays until the region is cleared for the next launch.
        Ok(unsafe { &*place })
    }

    fn mounts(&self) -> &[RawBindMount] {
        // SAFETY: made from a slice of this length, in the same region as this value.
        unsafe { std::slice::from_raw_parts(self.mounts, self.mounted) }
    }
}

impl RawJail {
    fn put(region: &mut Region, jail: &Jail) -> io::Result<&'static Self> {
        let mut all_shown = Vec::with_capacity(jail.shown.len());
        for VisiblePath { path, above, access, folder } in &jail.shown {
            let (path, above) = (region.string(path)?, region.strings(above)?);
            all_shown.push(RawVisiblePath { path, above, access: *access, folder: *folder });
        }
        let raw = Self {
            tmp: region.string(&jail.tmp)?,
            shm: region.string(&jail.shm)?,
            binary: region.maybe(jail.binary.as_ref())?,
            secrets: region.maybe(jail.secrets.as_ref())?,
            shown: region.put(&all_shown)?,
            all_shown: all_shown.len(),
            hidden: region.strings(&jail.hidden)?,
            user: jail.user,
            groups: region.put(&jail.groups)?,
            all_groups: jail.groups.len(),
            open_files: jail.open_files,
        };
        let place = region.put(&[raw])?;
        // SAFETY: as above.
        Ok(unsafe { &*place })
    }

    fn shown(&self) -> &[RawVisiblePath] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.shown, self.all_shown) }
    }
}

impl Spawner {
    /// Prepares for starts; `notice` is written to whenever a program begins to run inside a namespace.
    pub fn new(status_page: StatusPage, notice: OwnedFd) -> io::Result<Self> {
        let null: OwnedFd = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?.into();
        let own_pid = std::process::id() as i32;
        let (user, group) = super::effective_ids();
        let mut lasting = Region::new()?;
        let mut map = |id: u32| lasting.string(&CString::new(format!("{id} {id} 1")).unwrap_or_default());
        let user_maps = [map(user)?, map(group)?];
        let filter = filter::program();
        let filter = libc::sock_fprog { len: filter.len() as u16, filter: lasting.put(&filter)? };
        // Aligned as the processor demands.
        let stack = lasting.put(&vec![0u128; STACK_BYTES / 16])?;
        Ok(Self {
            status_page,
            notice,
            places: Places::reserve(&null)?,
            null,
            own_pidfd: super::pidfd_open(own_pid)?,
            own_pid,
            // SAFETY: one past the end of what was put there.
            stack_top: unsafe { stack.add(STACK_BYTES / 16) }.cast(),
            user_maps,
            filter,
            _lasting: lasting,
            launch: Region::new()?,
            networks: HashMap::new(),
            reset_oom_score: false,
        })
    }

    /// The shared slot of an attempt.
    pub fn slot(&self, index: u32) -> &'static StatusSlot {
        self.status_page.slot(index)
    }

    /// Starts `program` as a child with no namespaces. Whether it could be executed is known on return (in the slot).
    pub fn direct(&mut self, index: u32, program: &Program) -> io::Result<(Child, OutputPipes)> {
        self.launch(index, program, None)
    }

    /// Starts `program` under an init of its own in new namespaces. What comes of it shows in the slot later.
    pub fn contained(
        &mut self,
        index: u32,
        program: &Program,
        namespaces: Namespaces,
    ) -> io::Result<(Child, OutputPipes)> {
        if program.own_network && !namespaces.user && !self.networks.contains_key(&index) {
            self.networks.insert(index, network::make()?);
        }
        self.launch(index, program, Some(namespaces))
    }

    /// Forks a child that does `work` with a copy of this process's memory and none of its descriptors but standard
    /// error and the notice pipe; its exit code is the answer of `work`. It gets USR1 when this process dies.
    pub fn monitor(&self, work: impl FnOnce(&OwnedFd) -> i32) -> io::Result<Child> {
        match super::fork()? {
            super::Fork::Parent(pid) => Ok(Child { pid, pidfd: super::pidfd_open(pid)? }),
            super::Fork::Child => {
                child::become_monitor(self.own_pid, self.notice.as_raw_fd());
                // Unwinding into the watchdog's loop would make a second watchdog.
                let work = std::panic::AssertUnwindSafe(|| work(&self.notice));
                super::exit_now(std::panic::catch_unwind(work).unwrap_or(70))
            }
        }
    }

    /// The slot of a new attempt.
    pub fn empty_slot(&self, index: u32) -> &'static StatusSlot {
        let slot = self.status_page.slot(index);
        for field in [&slot.phase, &slot.step, &slot.has_own_descriptors] {
            field.store(0, SeqCst);
        }
        for field in [&slot.status, &slot.errno, &slot.container] {
            field.store(0, SeqCst);
        }
        for field in [&slot.started, &slot.ended, &slot.container_since] {
            field.store(0, SeqCst);
        }
        slot
    }

    fn launch(
        &mut self,
        index: u32,
        program: &Program,
        namespaces: Option<Namespaces>,
    ) -> io::Result<(Child, OutputPipes)> {
        let (pipes, ends) = outputs::make()?;
        let placed = match namespaces {
            Some(_) => self.places.put(index, &ends, &self.status_page)?,
            None => None,
        };
        let slot = self.empty_slot(index);
        let namespaced = namespaces.unwrap_or(Namespaces { user: false, own_proc: false });
        let entered = self.networks.get(&index).filter(|_| program.own_network && namespaces.is_some());
        let shared =
            [self.null.as_raw_fd(), self.notice.as_raw_fd(), self.own_pidfd.as_raw_fd(), self.places.last()];
        let shared_below = shared.into_iter().max().unwrap_or(2) + 1;
        let region = &mut self.launch;
        region.clear();
        let raw = Raw {
            slot,
            index,
            folder: region.string(&program.folder)?,
            work: region.string(&program.work)?,
            made: region.strings(&program.made)?,
            starts_in: region.maybe(program.starts_in.as_ref())?,
            stdout: region.string(&program.stdout)?,
            stderr: region.string(&program.stderr)?,
            outputs: placed.unwrap_or_else(|| ends.numbers()),
            candidates: region.strings(&program.candidates)?,
            arguments: region.strings(&program.arguments)?,
            environment: region.strings(&program.environment)?,
            cgroups: region.strings(&program.cgroups)?,
            container: program.container.as_ref().map(|c| RawContainer::put(region, c)).transpose()?,
            jail: program.jail.as_ref().map(|jail| RawJail::put(region, jail)).transpose()?,
            owner: program.owner,
            network: entered.map_or(-1, AsRawFd::as_raw_fd),
            new_network: program.own_network && namespaced.user,
            filter: self.filter,
            user_maps: self.user_maps,
            null: self.null.as_raw_fd(),
            notice: self.notice.as_raw_fd(),
            watchdog_pidfd: self.own_pidfd.as_raw_fd(),
            watchdog_pid: self.own_pid,
            shared_below: placed.map_or(0, |_| shared_below),
            stack_top: self.stack_top,
            reset_oom_score: self.reset_oom_score,
            namespaces: namespaced,
            stop_signal: program.stop_signal,
        };
        let child = if namespaces.is_some() { clone_contained(&raw) } else { clone_direct(&raw) }?;
        Ok((child, pipes))
    }
}

fn clone_direct(raw: &Raw) -> io::Result<Child> {
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: as vfork: this thread sleeps until the child has executed or exited, and the child runs on a stack of its
    // own that nothing else uses. `raw` and what it points to live until then. `pidfd` receives the descriptor.
    let pid = unsafe {
        libc::clone(
            child::direct_child,
            raw.stack_top,
            flags,
            ptr::from_ref(raw).cast_mut().cast(),
            &raw mut pidfd,
        )
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if Phase::in_slot(raw.slot) == Phase::Nothing {
        raw.slot.started.store(boot_now().0, SeqCst);
        raw.slot.phase.store(1, SeqCst);
    }
    // SAFETY: the kernel made this descriptor for us.
    Ok(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

fn clone_contained(raw: &Raw) -> io::Result<Child> {
    let mut pidfd: c_int = -1;
    let mut flags = libc::CLONE_NEWPID | libc::CLONE_PIDFD;
    if raw.shared_below > 0 {
        flags |= libc::CLONE_FILES;
    }
    // crun makes one for its container. What is in it goes with the last process of the attempt: elsewhere System V
    // shared memory stays, and the next program of the same user reads it.
    if raw.container.is_none() {
        flags |= libc::CLONE_NEWIPC;
    }
    if raw.namespaces.user {
        flags |= libc::CLONE_NEWUSER;
    }
    if raw.new_network {
        flags |= libc::CLONE_NEWNET;
    }
    heap::hide();
    // SAFETY: clone_args is a plain structure of integers; without CLONE_VM this is a fork, and the watchdog's other thread
    // changes nothing that the child uses, so its copy of memory is consistent; of what it lacks it uses nothing. It shares
    // the descriptors until it makes a table of its own, and opens and closes none before.
    let pid = unsafe {
        let mut arguments: libc::clone_args = std::mem::zeroed();
        arguments.flags = flags as u64;
        arguments.exit_signal = libc::SIGCHLD as u64;
        arguments.pidfd = (&raw mut pidfd) as u64;
        libc::syscall(libc::SYS_clone3, &raw const arguments, std::mem::size_of_val(&arguments))
    };
    match pid {
        0 => init::init(raw),
        pid if pid < 0 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel made this descriptor for us.
        pid => Ok(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}
