//! The small init of an attempt's pid namespace: starts the program or the container, passes TERM on, reaps, tells what
//! came of it, and takes the namespace with it. Nothing here allocates, locks or unwinds.

use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::Ordering::SeqCst;

use libc::{c_char, c_int, c_void};

use super::child::{
    become_program, close_from, die_with_watchdog, errno, fail, open_streams, prepare, unblock_signals,
    write_file,
};
use super::deadline::{LeaseTimer, wait_for_signal};
use super::{Phase, Raw, RawContainer, RawOverlay, Step, jail, network};
use crate::limits;
use crate::sys::{back_to_before, boot_now};

/// The init of an attempt's pid namespace.
pub(super) fn init(raw: &Raw) -> ! {
    die_with_watchdog(raw, true);
    // SAFETY: no pointers but a C string. Not the watchdog's name: who stops that by name must not stop this too.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"stint-init".as_ptr(), 0, 0, 0);
    }
    let timer = LeaseTimer::arm(raw.slot);
    network::enter(raw);
    own_descriptors(raw);
    if raw.namespaces.user {
        map_user(raw);
    }
    if raw.new_network {
        network::ready(raw);
    }
    prepare(raw);
    // Before the mounts are this attempt's own: one of them with a file open for writing could not become read-only.
    open_streams(raw);
    own_mounts(raw);
    close_from(3, (raw.notice as u32).wrapping_sub(1));
    close_from(raw.notice + 1, u32::MAX);
    match raw.container {
        Some(container) => run_container(raw, container, timer),
        None => run_program(raw, timer),
    }
}

/// Until here the watchdog's table of descriptors is shared. A copy would hold those of all other attempts, for nothing:
/// this one has the first few only. Before it nothing may be opened or closed.
fn own_descriptors(raw: &Raw) {
    if raw.shared_below == 0 {
        return;
    }
    let first = raw.shared_below as u32;
    // SAFETY: no pointers.
    let own = unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_UNSHARE) == 0
            || libc::unshare(libc::CLONE_FILES) == 0
    };
    if !own {
        fail(raw.slot, Step::Descriptors, errno());
    }
    raw.slot.has_own_descriptors.store(1, SeqCst);
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
    let own = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, root, ptr::null(), libc::MS_REC | libc::MS_PRIVATE, ptr::null()) == 0
    };
    if !own {
        fail(raw.slot, Step::Mounts, errno());
    }
    if let Some(jail) = raw.jail {
        jail::shut_in(raw, jail);
    }
    if raw.container.is_none() && !own_queues() {
        fail(raw.slot, Step::Mounts, errno());
    }
    for laid in raw.container.map(RawContainer::mounts).unwrap_or_default() {
        let tree = jail::take_plain(laid.source, laid.writable);
        // SAFETY: a C string that was copied with the address space.
        if tree < 0 || !jail::put(tree, unsafe { CStr::from_ptr(laid.place) }) {
            fail(raw.slot, Step::HostMount, errno());
        }
    }
    if let Some(overlay) = raw.container.and_then(|container| container.overlay) {
        lay_over(raw, &overlay);
    }
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: all pointers are C strings or null where mount(2) permits it.
    if raw.namespaces.own_proc
        && unsafe { libc::mount(proc, c"/proc".as_ptr(), proc, flags, ptr::null()) } < 0
    {
        fail(raw.slot, Step::Mounts, errno());
    }
}

/// The message queues of the attempt's own IPC namespace, where the host shows its own.
fn own_queues() -> bool {
    let (kind, flags) = (c"mqueue".as_ptr(), libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC);
    // SAFETY: all pointers are C strings or null where mount(2) permits it.
    let laid = unsafe { libc::mount(kind, c"/dev/mqueue".as_ptr(), kind, flags, ptr::null()) == 0 };
    // Without a folder for them, or without them in this kernel, there are none to be seen.
    laid || [libc::ENOENT, libc::ENOTDIR, libc::ENODEV].contains(&errno())
}

/// A tmpfs with an overlay in it, whose lower part is the root file system.
fn lay_over(raw: &Raw, overlay: &RawOverlay) {
    let tmpfs = c"tmpfs".as_ptr();
    // SAFETY: all pointers are C strings that were copied with the address space.
    let laid = unsafe {
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        libc::mount(tmpfs, overlay.scratch, tmpfs, flags, c"mode=755,size=1m".as_ptr().cast()) == 0
            && overlay.folders.iter().all(|folder| jail::make_folder(CStr::from_ptr(*folder)))
            && libc::mount(
                c"overlay".as_ptr(),
                overlay.folders[2],
                c"overlay".as_ptr(),
                flags,
                overlay.options.cast(),
            ) == 0
    };
    if !laid {
        fail(raw.slot, Step::Root, errno());
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

fn run_program(raw: &Raw, timer: Option<LeaseTimer>) -> ! {
    raw.slot.phase.store(4, SeqCst);
    let pid = start_child(raw, program_child, ptr::from_ref(raw).cast());
    if pid < 0 {
        fail(raw.slot, Step::Clone, errno());
    }
    if Phase::in_slot(raw.slot) == Phase::Failed {
        // SAFETY: never returns.
        unsafe { libc::_exit(127) }
    }
    running(raw);
    supervise(raw, pid, timer)
}

fn running(raw: &Raw) {
    raw.slot.started.store(boot_now().0, SeqCst);
    raw.slot.phase.store(1, SeqCst);
    let index = raw.index.to_ne_bytes();
    // SAFETY: writes four bytes, which a pipe takes whole; when it is full the watchdog reads the slot anyway at the end.
    unsafe { libc::write(raw.notice, index.as_ptr().cast(), index.len()) };
}

/// Waits for the program, asks its process group to end when TERM comes, reaps orphans; then tells the status and ends the
/// namespace.
fn supervise(raw: &Raw, program: c_int, timer: Option<LeaseTimer>) -> ! {
    // SAFETY: `status` is valid; CHLD and TERM were blocked by the watchdog and stay blocked here.
    unsafe {
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
            if wait_for_signal(timer, &[libc::SIGCHLD, libc::SIGTERM]) == libc::SIGTERM {
                // Both crun and this init make it the leader of a session of its own.
                libc::kill(-program, raw.stop_signal);
            }
        }
    }
}

struct Helper {
    arguments: *const *const c_char,
    environment: *const *const c_char,
    /// A descriptor that crun hands on to the container, and its number there.
    handed_on: Option<(c_int, c_int)>,
}

extern "C" fn helper_child(argument: *mut c_void) -> c_int {
    // SAFETY: the init passes a `Helper` and sleeps until this child has executed or exited.
    unsafe {
        let helper = &*argument.cast::<Helper>();
        unblock_signals();
        back_to_before();
        // Folders that crun makes in the container (mount points, a working directory) are for its user to walk through,
        // as Docker has them. What crun keeps for itself lies in folders that are closed.
        libc::umask(0o022);
        if let Some((descriptor, number)) = helper.handed_on
            && libc::dup3(descriptor, number, 0) < 0
        {
            libc::_exit(127)
        }
        libc::execve(*helper.arguments, helper.arguments, helper.environment);
        libc::_exit(127)
    }
}

/// Runs crun once; its raw wait status, or -1 when it could not be started.
fn run_helper(raw: &Raw, helper: &Helper, timer: Option<LeaseTimer>) -> c_int {
    let pid = start_child(raw, helper_child, ptr::from_ref(helper).cast());
    let mut status = -1;
    if pid < 0 {
        return status;
    }
    loop {
        // SAFETY: `status` is valid.
        let reaped = unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) };
        if reaped == pid || reaped < 0 && errno() != libc::EINTR {
            return status;
        }
        // A TERM stays for the program.
        wait_for_signal(timer, &[libc::SIGCHLD]);
    }
}

fn run_container(raw: &Raw, container: &RawContainer, timer: Option<LeaseTimer>) -> ! {
    // crun refuses a hybrid cgroup layout even when it is told to manage none. In this mount namespace of ours the
    // second half of such a layout goes; on other hosts there is nothing at this path.
    // SAFETY: the pointer is a C string.
    unsafe { libc::umount2(c"/sys/fs/cgroup/unified".as_ptr(), libc::MNT_DETACH) };
    let refusals = Refusals::open(raw);
    let create = Helper {
        arguments: container.create,
        environment: container.env,
        handed_on: Some((refusals.writer, container.refusals)),
    };
    let status = run_helper(raw, &create, timer);
    if status != 0 {
        fail(raw.slot, Step::CrunCreate, status);
    }
    let pid = read_number(container.pid_file);
    // TERM will go to this number: 0 would be the group of this init, and 1 this init.
    if pid <= 1 {
        fail(raw.slot, Step::CrunPid, errno());
    }
    // SAFETY: the pointer is a C string that was copied with the address space.
    let has_gate = || unsafe { libc::access(container.gate, libc::F_OK) == 0 };
    let had_gate = has_gate();
    raw.slot.phase.store(4, SeqCst);
    let start = Helper { arguments: container.start, environment: container.env, handed_on: None };
    let status = run_helper(raw, &start, timer);
    // A crun that fails or is killed may have let the program begin: then that has an end of its own.
    if status != 0 && has_gate() {
        fail(raw.slot, Step::CrunStart, status);
    }
    if status != 0 && !had_gate {
        fail(raw.slot, Step::CrunUnknown, status);
    }
    if let Some(number) = refusals.wait(timer) {
        fail(raw.slot, Step::Exec, number);
    }
    running(raw);
    supervise(raw, pid, timer)
}

/// A pipe whose other end the container's first process has until it has become the program, or says why it could not.
struct Refusals {
    reader: c_int,
    writer: c_int,
}

impl Refusals {
    fn open(raw: &Raw) -> Self {
        let mut ends = [-1; 2];
        // SAFETY: there is room for two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
            fail(raw.slot, Step::CrunCreate, errno());
        }
        Self { reader: ends[0], writer: ends[1] }
    }

    /// The error number of an execution that failed; none: the program runs, or its container ended before that was known.
    fn wait(self, timer: Option<LeaseTimer>) -> Option<c_int> {
        // SAFETY: the descriptors are this init's own, `polled` is valid, and pointer and length describe `number`.
        unsafe {
            libc::close(self.writer);
            let mut polled = libc::pollfd { fd: self.reader, events: libc::POLLIN, revents: 0 };
            while libc::poll(&mut polled, 1, limits::EXECUTE_LOOK_MS) <= 0 {
                if let Some(timer) = timer {
                    timer.look();
                }
            }
            let mut number: c_int = 0;
            let size = std::mem::size_of_val(&number);
            let read = libc::read(self.reader, (&raw mut number).cast(), size);
            libc::close(self.reader);
            (read == size as isize && number != 0).then_some(number)
        }
    }
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
