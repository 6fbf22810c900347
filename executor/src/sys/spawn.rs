//! Starting programs: everything that is prepared before the clone, and the clone.
//!
//! Everything the child needs is prepared before the clone. In the child only async-signal-safe calls are made and
//! nothing is allocated. Two ways:
//!
//! * **direct** (`sandbox` off): the child shares the watchdog's memory until it executes (as `vfork`), which is the
//!   cheapest start Linux has;
//! * **own namespaces**: the child is the init of a new pid namespace. It never executes another binary: it starts the
//!   program, passes TERM on, reaps, writes the program's status into the shared board and exits, whereupon the kernel
//!   kills and reaps everything that is left in the namespace.

mod child;
mod filter;
mod init;
mod jail;
mod network;
mod program;

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::Ordering::SeqCst;

use libc::{c_char, c_int, c_void};

use super::{Board, Slot, boot_now};

pub use program::{
    Container, JAIL_BINARY, JAIL_SECRETS, JAIL_WORK, Jail, Overlay, Program, WRITABLE, Writable,
};

/// What is known about an attempt, in `Slot::phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Nothing,
    Running,
    Exited,
    Failed,
}

impl Phase {
    pub fn of(slot: &Slot) -> Self {
        match slot.phase.load(SeqCst) {
            1 => Phase::Running,
            2 => Phase::Exited,
            3 => Phase::Failed,
            _ => Phase::Nothing,
        }
    }
}

/// Where starting failed, in `Slot::step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    Unknown = 0,
    ParentDied = 1,
    Mounts = 2,
    Folder = 3,
    Logs = 4,
    Cgroup = 5,
    UserMap = 6,
    Clone = 7,
    Exec = 8,
    CrunCreate = 9,
    CrunStart = 10,
    CrunPid = 11,
    Network = 12,
    Privileges = 13,
    Root = 14,
    Writable = 15,
    WorkingDir = 16,
}

impl Step {
    pub fn of(slot: &Slot) -> Self {
        use Step::*;
        let all = [
            ParentDied, Mounts, Folder, Logs, Cgroup, UserMap, Clone, Exec, CrunCreate, CrunStart, CrunPid,
            Network, Privileges, Root, Writable, WorkingDir,
        ];
        let number = slot.step.load(SeqCst);
        all.into_iter().find(|s| *s as u32 == number).unwrap_or(Step::Unknown)
    }

    /// What was being done, for a message.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Unknown => "starting it",
            Step::ParentDied => "starting it while the watchdog ended",
            Step::Mounts => "setting up its mounts",
            Step::Folder => "making its work folder",
            Step::Logs => "opening its output files",
            Step::Cgroup => "entering its cgroup",
            Step::UserMap => "mapping users",
            Step::Clone => "starting the process",
            Step::Exec => "executing the program",
            Step::CrunCreate => "crun create",
            Step::CrunStart => "crun start",
            Step::CrunPid => "reading the container's process id",
            Step::Network => "entering its network",
            Step::Privileges => "giving up privileges",
            Step::Writable => "finding a folder of executor.process.writable",
            Step::WorkingDir => "going to its working directory",
            Step::Root => "laying a writable layer over its root file system",
        }
    }
}

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
    board: Board,
    notice: OwnedFd,
    null: OwnedFd,
    own_pidfd: OwnedFd,
    own_pid: i32,
    stack: Box<[u8]>,
    user_maps: [CString; 2],
    filter: Vec<libc::sock_filter>,
    /// By slot: one attempt at a time uses each, and making one anew for every attempt costs more than all the rest.
    networks: HashMap<u32, OwnedFd>,
    /// Children must undo what was done to this process's `oom_score_adj`.
    pub reset_oom_score: bool,
}

const STACK_BYTES: usize = 64 * 1024;

/// Null-terminated pointers to strings that live as long as the borrow.
struct Pointers(Vec<*const c_char>);

impl Pointers {
    fn to(strings: &[CString]) -> Self {
        Self(strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect())
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.0.as_ptr()
    }
}

/// Everything a child reads: plain pointers and numbers, valid until the clone returns in the parent (direct) or
/// copied with the whole address space (own namespaces).
struct Raw<'a> {
    slot: &'static Slot,
    index: u32,
    folder: *const c_char,
    work: *const c_char,
    made: *const *const c_char,
    /// Null: the work folder.
    starts_in: *const c_char,
    stdout: *const c_char,
    stderr: *const c_char,
    candidates: *const *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    cgroups: *const *const c_char,
    container: *const RawContainer<'a>,
    jail: Option<&'a Jail>,
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
    stack_top: *mut c_void,
    reset_oom_score: bool,
    namespaces: Namespaces,
}

struct RawContainer<'a> {
    create: *const *const c_char,
    start: *const *const c_char,
    env: *const *const c_char,
    pid_file: *const c_char,
    overlay: Option<&'a Overlay>,
}

impl Spawner {
    /// Prepares for starts; `notice` is written to whenever a program begins to run inside a namespace.
    pub fn new(board: Board, notice: OwnedFd) -> io::Result<Self> {
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        let own_pid = std::process::id() as i32;
        let (user, group) = super::effective_ids();
        let map = |id: u32| CString::new(format!("{id} {id} 1")).unwrap_or_default();
        Ok(Self {
            board,
            notice,
            null: null.into(),
            own_pidfd: super::pidfd_open(own_pid)?,
            own_pid,
            stack: vec![0u8; STACK_BYTES].into_boxed_slice(),
            user_maps: [map(user), map(group)],
            filter: filter::program(),
            networks: HashMap::new(),
            reset_oom_score: false,
        })
    }

    /// The shared slot of an attempt.
    pub fn slot(&self, index: u32) -> &'static Slot {
        self.board.slot(index)
    }

    /// Starts `program` as a child with no namespaces. Whether it could be executed is known on return (in the slot).
    pub fn direct(&mut self, index: u32, program: &Program) -> io::Result<Child> {
        self.launch(index, program, None)
    }

    /// Starts `program` under an init of its own in new namespaces. What comes of it shows in the slot later.
    pub fn contained(&mut self, index: u32, program: &Program, namespaces: Namespaces) -> io::Result<Child> {
        if program.own_network && !namespaces.user && !self.networks.contains_key(&index) {
            self.networks.insert(index, network::make()?);
        }
        self.launch(index, program, Some(namespaces))
    }

    /// Forks a child that does `work` with a copy of this process's memory and none of its descriptors but standard
    /// error and the notice pipe; its exit code is the answer of `work`. It gets USR1 when this process dies.
    pub fn keeper(&self, work: impl FnOnce(&OwnedFd) -> i32) -> io::Result<Child> {
        match super::fork()? {
            super::Fork::Parent(pid) => Ok(Child { pid, pidfd: super::pidfd_open(pid)? }),
            super::Fork::Child => {
                child::become_keeper(self.own_pid, self.notice.as_raw_fd());
                // Unwinding into the watchdog's loop would make a second watchdog.
                let work = std::panic::AssertUnwindSafe(|| work(&self.notice));
                super::exit_now(std::panic::catch_unwind(work).unwrap_or(70))
            }
        }
    }

    /// The slot of a new attempt.
    pub fn empty_slot(&self, index: u32) -> &'static Slot {
        let slot = self.board.slot(index);
        for field in [&slot.phase, &slot.step] {
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

    fn launch(&mut self, index: u32, program: &Program, namespaces: Option<Namespaces>) -> io::Result<Child> {
        let slot = self.empty_slot(index);
        let made = Pointers::to(&program.made);
        let candidates = Pointers::to(&program.candidates);
        let arguments = Pointers::to(&program.arguments);
        let environment = Pointers::to(&program.environment);
        let cgroups = Pointers::to(&program.cgroups);
        let parts = program
            .container
            .as_ref()
            .map(|c| (Pointers::to(&c.create), Pointers::to(&c.start), Pointers::to(&c.env), c));
        let container = parts.as_ref().map(|(create, start, env, c)| RawContainer {
            create: create.as_ptr(),
            start: start.as_ptr(),
            env: env.as_ptr(),
            pid_file: c.pid_file.as_ptr(),
            overlay: c.overlay.as_ref(),
        });
        let namespaced = namespaces.unwrap_or(Namespaces { user: false, own_proc: false });
        let entered = self.networks.get(&index).filter(|_| program.own_network && namespaces.is_some());
        let raw = Raw {
            slot,
            index,
            folder: program.folder.as_ptr(),
            work: program.work.as_ptr(),
            made: made.as_ptr(),
            starts_in: program.starts_in.as_ref().map_or(ptr::null(), |place| place.as_ptr()),
            stdout: program.stdout.as_ptr(),
            stderr: program.stderr.as_ptr(),
            candidates: candidates.as_ptr(),
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            cgroups: cgroups.as_ptr(),
            container: container.as_ref().map_or(ptr::null(), ptr::from_ref),
            jail: program.jail.as_ref(),
            owner: program.owner,
            network: entered.map_or(-1, AsRawFd::as_raw_fd),
            new_network: program.own_network && namespaced.user,
            filter: libc::sock_fprog { len: self.filter.len() as u16, filter: self.filter.as_mut_ptr() },
            user_maps: [self.user_maps[0].as_ptr(), self.user_maps[1].as_ptr()],
            null: self.null.as_raw_fd(),
            notice: self.notice.as_raw_fd(),
            watchdog_pidfd: self.own_pidfd.as_raw_fd(),
            watchdog_pid: self.own_pid,
            stack_top: stack_top(&mut self.stack),
            reset_oom_score: self.reset_oom_score,
            namespaces: namespaced,
        };
        if namespaces.is_some() { clone_contained(&raw) } else { clone_direct(&raw) }
    }
}

fn stack_top(stack: &mut [u8]) -> *mut c_void {
    let end = stack.as_mut_ptr_range().end as usize;
    (end & !15) as *mut c_void
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
    if Phase::of(raw.slot) == Phase::Nothing {
        raw.slot.started.store(boot_now().0, SeqCst);
        raw.slot.phase.store(1, SeqCst);
    }
    // SAFETY: the kernel made this descriptor for us.
    Ok(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

fn clone_contained(raw: &Raw) -> io::Result<Child> {
    let mut pidfd: c_int = -1;
    let mut flags = libc::CLONE_NEWPID | libc::CLONE_PIDFD;
    if raw.namespaces.user {
        flags |= libc::CLONE_NEWUSER;
    }
    if raw.new_network {
        flags |= libc::CLONE_NEWNET;
    }
    // SAFETY: clone_args is a plain structure of integers; without CLONE_VM this is a fork, and the watchdog has one
    // thread, so the child's copy of memory is consistent.
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
