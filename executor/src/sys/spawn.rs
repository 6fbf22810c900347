//! Starting programs: what runs in the child between clone and exec, and the small init of an attempt's pid namespace.
//!
//! Everything the child needs is prepared before the clone. In the child only async-signal-safe calls are made and
//! nothing is allocated. Two ways:
//!
//! * **direct** (`sandbox` off): the child shares the watchdog's memory until it executes (as `vfork`), which is the
//!   cheapest start Linux has;
//! * **own namespaces**: the child is the init of a new pid namespace. It never executes another binary: it starts the
//!   program, passes TERM on, reaps, writes the program's status into the shared board and exits, whereupon the kernel
//!   kills and reaps everything that is left in the namespace.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::Ordering::SeqCst;

use libc::{c_char, c_int, c_void};

use super::{Board, Slot, boot_now};

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
}

impl Step {
    pub fn of(slot: &Slot) -> Self {
        use Step::*;
        let all =
            [ParentDied, Mounts, Folder, Logs, Cgroup, UserMap, Clone, Exec, CrunCreate, CrunStart, CrunPid];
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
        }
    }
}

/// A crun container to be run by the init of the namespace.
#[derive(Debug)]
pub struct Container {
    /// Folder, arguments and environment of `crun create`, and arguments of `crun start`.
    pub create: Vec<CString>,
    pub start: Vec<CString>,
    pub env: Vec<CString>,
    /// Where `crun create` writes the container's process id, as seen from the namespace.
    pub pid_file: CString,
    /// User and group that get the work folder and the output files.
    pub owner: (u32, u32),
}

/// One program, ready to be started.
#[derive(Debug)]
pub struct Program {
    pub folder: CString,
    pub work: CString,
    pub stdout: CString,
    pub stderr: CString,
    /// Paths to try in order, as a search in `PATH` gives them.
    pub candidates: Vec<CString>,
    pub arguments: Vec<CString>,
    pub environment: Vec<CString>,
    /// `cgroup.procs` files to enter.
    pub cgroups: Vec<CString>,
    pub container: Option<Container>,
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
struct Raw {
    slot: &'static Slot,
    index: u32,
    folder: *const c_char,
    work: *const c_char,
    stdout: *const c_char,
    stderr: *const c_char,
    candidates: *const *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    cgroups: *const *const c_char,
    container: *const RawContainer,
    user_maps: [*const c_char; 2],
    null: c_int,
    notice: c_int,
    watchdog_pidfd: c_int,
    watchdog_pid: c_int,
    stack_top: *mut c_void,
    reset_oom_score: bool,
    namespaces: Namespaces,
}

struct RawContainer {
    create: *const *const c_char,
    start: *const *const c_char,
    env: *const *const c_char,
    pid_file: *const c_char,
    owner: (u32, u32),
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
        self.launch(index, program, Some(namespaces))
    }

    fn launch(&mut self, index: u32, program: &Program, namespaces: Option<Namespaces>) -> io::Result<Child> {
        let slot = self.board.slot(index);
        for field in [&slot.phase, &slot.step] {
            field.store(0, SeqCst);
        }
        for field in [&slot.status, &slot.errno] {
            field.store(0, SeqCst);
        }
        for field in [&slot.started, &slot.ended] {
            field.store(0, SeqCst);
        }
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
            owner: c.owner,
        });
        let raw = Raw {
            slot,
            index,
            folder: program.folder.as_ptr(),
            work: program.work.as_ptr(),
            stdout: program.stdout.as_ptr(),
            stderr: program.stderr.as_ptr(),
            candidates: candidates.as_ptr(),
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            cgroups: cgroups.as_ptr(),
            container: container.as_ref().map_or(ptr::null(), ptr::from_ref),
            user_maps: [self.user_maps[0].as_ptr(), self.user_maps[1].as_ptr()],
            null: self.null.as_raw_fd(),
            notice: self.notice.as_raw_fd(),
            watchdog_pidfd: self.own_pidfd.as_raw_fd(),
            watchdog_pid: self.own_pid,
            stack_top: stack_top(&mut self.stack),
            reset_oom_score: self.reset_oom_score,
            namespaces: namespaces.unwrap_or(Namespaces { user: false, own_proc: false }),
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
        libc::clone(direct_child, raw.stack_top, flags, ptr::from_ref(raw).cast_mut().cast(), &raw mut pidfd)
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
    let mut flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_PIDFD;
    if raw.namespaces.user {
        flags |= libc::CLONE_NEWUSER;
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
        0 => init(raw),
        pid if pid < 0 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel made this descriptor for us.
        pid => Ok(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

// ---- In the child. Nothing below allocates, locks or unwinds. ----

fn errno() -> c_int {
    // SAFETY: reads this thread's error number.
    unsafe { *libc::__errno_location() }
}

fn fail(slot: &Slot, step: Step, number: c_int) -> ! {
    slot.step.store(step as u32, SeqCst);
    slot.errno.store(number, SeqCst);
    slot.phase.store(3, SeqCst);
    // SAFETY: never returns.
    unsafe { libc::_exit(127) }
}

/// Dies with the watchdog; gives up when that has happened before the kernel was told so.
fn die_with_watchdog(raw: &Raw, contained: bool) {
    // SAFETY: no pointers but `polled`, which is valid.
    let orphaned = unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        if contained {
            // The parent lies outside of this pid namespace, where getppid says 0 whether it lives or not.
            let mut polled = libc::pollfd { fd: raw.watchdog_pidfd, events: libc::POLLIN, revents: 0 };
            libc::poll(&mut polled, 1, 0) != 0
        } else {
            libc::getppid() != raw.watchdog_pid
        }
    };
    if orphaned {
        fail(raw.slot, Step::ParentDied, 0);
    }
}

/// Writes a short string into a file that exists.
fn write_file(path: *const c_char, text: &[u8]) -> bool {
    // SAFETY: `path` is a C string; pointer and length describe `text`.
    unsafe {
        let fd = libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC);
        let written = fd >= 0 && libc::write(fd, text.as_ptr().cast(), text.len()) == text.len() as isize;
        let number = errno();
        if fd >= 0 {
            libc::close(fd);
        }
        *libc::__errno_location() = number;
        written
    }
}

/// Work folder, output files, standard streams, cgroup, working directory.
fn prepare(raw: &Raw) {
    if raw.reset_oom_score {
        write_file(c"/proc/self/oom_score_adj".as_ptr(), b"0");
    }
    // SAFETY: all pointers are C strings prepared by the parent; descriptors are plain numbers.
    unsafe {
        let mut cgroup = raw.cgroups;
        while !(*cgroup).is_null() {
            if !write_file(*cgroup, b"0") {
                fail(raw.slot, Step::Cgroup, errno());
            }
            cgroup = cgroup.add(1);
        }
        for folder in [raw.folder, raw.work] {
            if libc::mkdir(folder, 0o700) < 0 && errno() != libc::EEXIST {
                fail(raw.slot, Step::Folder, errno());
            }
        }
        for (path, target) in [(raw.stdout, 1), (raw.stderr, 2)] {
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
            let fd = libc::open(path, flags, 0o600);
            if fd < 0 || libc::dup2(fd, target) < 0 {
                fail(raw.slot, Step::Logs, errno());
            }
        }
        if !raw.container.is_null() {
            let (user, group) = (*raw.container).owner;
            if libc::chown(raw.work, user, group) < 0
                || libc::fchown(1, user, group) < 0
                || libc::fchown(2, user, group) < 0
            {
                fail(raw.slot, Step::Folder, errno());
            }
        }
        if libc::dup2(raw.null, 0) < 0 {
            fail(raw.slot, Step::Logs, errno());
        }
        if libc::chdir(raw.work) < 0 {
            fail(raw.slot, Step::Folder, errno());
        }
    }
}

fn close_from(first: c_int, last: u32) {
    if first as u32 <= last {
        // SAFETY: closes descriptors of this process only; the child's table is its own.
        unsafe { libc::syscall(libc::SYS_close_range, first as u32, last, 0) };
    }
}

fn unblock_signals() {
    // SAFETY: `none` is initialised before use.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
}

/// Tries the candidates as a search in PATH does; returns only on failure, with the error number that says most.
fn execute(
    mut candidate: *const *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> c_int {
    let mut best = libc::ENOENT;
    // SAFETY: all three are null-terminated arrays of C strings.
    unsafe {
        while !(*candidate).is_null() {
            libc::execve(*candidate, arguments, environment);
            match errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => best = libc::EACCES,
                other => return other,
            }
            candidate = candidate.add(1);
        }
    }
    best
}

extern "C" fn direct_child(argument: *mut c_void) -> c_int {
    // SAFETY: the parent passes its `Raw` and sleeps until this child has executed or exited.
    let raw = unsafe { &*argument.cast::<Raw>() };
    die_with_watchdog(raw, false);
    // SAFETY: no pointers.
    unsafe { libc::setsid() };
    prepare(raw);
    close_from(3, u32::MAX);
    become_program(raw)
}

fn become_program(raw: &Raw) -> ! {
    // SAFETY: no pointers. Set-user-id programs must not get out of their attempt's limits.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    unblock_signals();
    fail(raw.slot, Step::Exec, execute(raw.candidates, raw.arguments, raw.environment))
}

/// The init of an attempt's pid namespace.
fn init(raw: &Raw) -> ! {
    die_with_watchdog(raw, true);
    // SAFETY: no pointers.
    unsafe { libc::setsid() };
    if raw.namespaces.user {
        map_user(raw);
    }
    prepare(raw);
    own_mounts(raw);
    close_from(3, (raw.notice as u32).wrapping_sub(1));
    close_from(raw.notice + 1, u32::MAX);
    // SAFETY: what `container` points to was copied with the address space.
    match unsafe { raw.container.as_ref() } {
        Some(container) => run_container(raw, container),
        None => run_program(raw),
    }
}

fn map_user(raw: &Raw) {
    let files = [c"/proc/self/uid_map", c"/proc/self/gid_map"];
    let allowed = write_file(c"/proc/self/setgroups".as_ptr(), b"deny");
    let mapped = files.iter().zip(raw.user_maps).all(|(file, map)| {
        // SAFETY: `map` is a C string that was copied with the address space.
        write_file(file.as_ptr(), unsafe { CStr::from_ptr(map) }.to_bytes())
    });
    if !(allowed && mapped) {
        fail(raw.slot, Step::UserMap, errno());
    }
}

fn own_mounts(raw: &Raw) {
    let (none, root, proc) = (c"none".as_ptr(), c"/".as_ptr(), c"proc".as_ptr());
    // SAFETY: all pointers are C strings or null where mount(2) permits it.
    unsafe {
        if libc::mount(none, root, ptr::null(), libc::MS_REC | libc::MS_PRIVATE, ptr::null()) < 0 {
            fail(raw.slot, Step::Mounts, errno());
        }
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        if raw.namespaces.own_proc && libc::mount(proc, c"/proc".as_ptr(), proc, flags, ptr::null()) < 0 {
            fail(raw.slot, Step::Mounts, errno());
        }
    }
}

/// Starts a child that shares this init's memory until it executes.
fn start_child(raw: &Raw, entry: extern "C" fn(*mut c_void) -> c_int, argument: *const c_void) -> c_int {
    // SAFETY: as in `clone_direct`; the stack is this init's own copy.
    unsafe {
        libc::clone(
            entry,
            raw.stack_top,
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            argument.cast_mut(),
        )
    }
}

extern "C" fn program_child(argument: *mut c_void) -> c_int {
    // SAFETY: the init passes its `Raw` and sleeps until this child has executed or exited.
    let raw = unsafe { &*argument.cast::<Raw>() };
    // SAFETY: no pointers.
    unsafe { libc::setsid() };
    close_from(3, u32::MAX);
    become_program(raw)
}

fn run_program(raw: &Raw) -> ! {
    let pid = start_child(raw, program_child, ptr::from_ref(raw).cast());
    if pid < 0 {
        fail(raw.slot, Step::Clone, errno());
    }
    if Phase::of(raw.slot) == Phase::Failed {
        // SAFETY: never returns.
        unsafe { libc::_exit(127) }
    }
    running(raw);
    supervise(raw, pid, -pid)
}

fn running(raw: &Raw) {
    raw.slot.started.store(boot_now().0, SeqCst);
    raw.slot.phase.store(1, SeqCst);
    let index = raw.index.to_ne_bytes();
    // SAFETY: writes four bytes, which a pipe takes whole; when it is full the watchdog reads the slot anyway at the end.
    unsafe { libc::write(raw.notice, index.as_ptr().cast(), index.len()) };
}

/// Waits for the program, passes TERM on to `term_target`, reaps orphans; then tells the status and ends the namespace.
fn supervise(raw: &Raw, program: c_int, term_target: c_int) -> ! {
    // SAFETY: `set` and `status` are valid; CHLD and TERM were blocked by the watchdog and stay blocked here.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigaddset(&mut set, libc::SIGTERM);
        loop {
            let mut status = 0;
            let reaped = libc::waitpid(-1, &mut status, libc::WNOHANG);
            if reaped == program {
                raw.slot.status.store(status, SeqCst);
                raw.slot.ended.store(boot_now().0, SeqCst);
                raw.slot.phase.store(2, SeqCst);
                libc::_exit(0);
            }
            if reaped > 0 {
                continue;
            }
            if libc::sigwaitinfo(&set, ptr::null_mut()) == libc::SIGTERM {
                libc::kill(term_target, libc::SIGTERM);
            }
        }
    }
}

struct Helper {
    arguments: *const *const c_char,
    environment: *const *const c_char,
}

extern "C" fn helper_child(argument: *mut c_void) -> c_int {
    // SAFETY: the init passes a `Helper` and sleeps until this child has executed or exited.
    unsafe {
        let helper = &*argument.cast::<Helper>();
        unblock_signals();
        libc::execve(*helper.arguments, helper.arguments, helper.environment);
        libc::_exit(127)
    }
}

/// Runs crun once; its raw wait status, or -1 when it could not be started.
fn run_helper(raw: &Raw, helper: &Helper) -> c_int {
    let pid = start_child(raw, helper_child, ptr::from_ref(helper).cast());
    let mut status = -1;
    // SAFETY: `status` is valid.
    while pid > 0 && unsafe { libc::waitpid(pid, &mut status, 0) } < 0 && errno() == libc::EINTR {}
    status
}

fn run_container(raw: &Raw, container: &RawContainer) -> ! {
    // crun refuses a hybrid cgroup layout even when it is told to manage none. In this mount namespace of ours the
    // second half of such a layout goes; on other hosts there is nothing at this path.
    // SAFETY: the pointer is a C string.
    unsafe { libc::umount2(c"/sys/fs/cgroup/unified".as_ptr(), libc::MNT_DETACH) };
    for (arguments, step) in [(container.create, Step::CrunCreate), (container.start, Step::CrunStart)] {
        let status = run_helper(raw, &Helper { arguments, environment: container.env });
        if status != 0 {
            fail(raw.slot, step, status);
        }
    }
    let pid = read_number(container.pid_file);
    if pid <= 1 {
        fail(raw.slot, Step::CrunPid, errno());
    }
    running(raw);
    supervise(raw, pid, pid)
}

fn read_number(path: *const c_char) -> c_int {
    let mut text = [0u8; 16];
    // SAFETY: `path` is a C string; pointer and length describe `text`.
    let read = unsafe {
        let fd = libc::open(path, libc::O_RDONLY | libc::O_CLOEXEC);
        libc::read(fd, text.as_mut_ptr().cast(), text.len())
    };
    let digits = text.iter().take(read.max(0) as usize).take_while(|b| b.is_ascii_digit());
    digits.fold(0, |number: c_int, digit| number.wrapping_mul(10).wrapping_add(c_int::from(digit - b'0')))
}
