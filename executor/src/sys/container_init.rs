//! The first program of every container: a program of its own, compiled by `executor/build.rs`, which needs nothing of an image.
//!
//! It executes the task's program and tells the error number when that fails, which neither runc nor crun tell apart from a
//! program's own exit code. Two ways, by its first argument:
//!
//! * a descriptor's number: it becomes the program. So with crun, whose containers lie in the pid namespace of the attempt's own
//!   init;
//! * a file: it is process 1 of its pid namespace. It starts the program in a session of its own, passes signals on to its group,
//!   reaps orphans, ends what is left with the program, and says in the file how the program ended. So with Docker.
//!
//! It uses no library, allocates nothing and holds no state.
#![no_std]
#![no_main]
// There is no library with what the compiler would make of loops.
#![no_builtins]

use core::arch::{asm, global_asm};
use core::mem::MaybeUninit;

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    begin = sym begin,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x0, sp",
    "bl {begin}",
    "brk #1",
    begin = sym begin,
);

/// Numbers of system calls.
#[cfg(target_arch = "x86_64")]
mod number {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const RT_SIGACTION: usize = 13;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const FCNTL: usize = 72;
    pub const SETSID: usize = 112;
    pub const PRCTL: usize = 157;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
    pub const OPENAT: usize = 257;
    pub const PIPE2: usize = 293;
    pub const PWRITE64: usize = 18;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const READ: usize = 63;
    pub const WRITE: usize = 64;
    pub const CLOSE: usize = 57;
    pub const RT_SIGACTION: usize = 134;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const WAIT4: usize = 260;
    pub const KILL: usize = 129;
    pub const FCNTL: usize = 25;
    pub const SETSID: usize = 157;
    pub const PRCTL: usize = 167;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const EXIT_GROUP: usize = 94;
    pub const OPENAT: usize = 56;
    pub const PIPE2: usize = 59;
    pub const PWRITE64: usize = 68;
}

const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const ENOTDIR: i32 = 20;
const EINTR: i32 = 4;
const O_WRONLY: usize = 1;
const O_CLOEXEC: usize = 0o2_000_000;
const AT_FDCWD: usize = -100isize as usize;
const F_SETFD: usize = 2;
const FD_CLOEXEC: usize = 1;
const SIG_SETMASK: usize = 2;
const PR_SET_DUMPABLE: usize = 4;
const SIGKILL: usize = 9;
const SIGCHLD: usize = 17;
const LAST_SIGNAL: usize = 64;
const WNOHANG: usize = 1;
/// Bytes of the kernel's set of signals.
const SET_BYTES: usize = 8;
/// What a shell answers for a program that is not found, and for one that cannot be executed.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
/// The longest path that the kernel takes.
const PATH_BYTES: usize = 4096;
/// Where programs are looked for when there is no PATH.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the file says: the error number of an execution that failed, or the raw wait status of the program.
const COULD_NOT_EXECUTE: i32 = 1;
const ENDED: i32 = 2;

type Strings = *const *const u8;

/// Six arguments, of which a call takes as many as it has.
unsafe fn call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the caller answers for the arguments; the kernel changes no register but these.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    result
}

/// A call of three arguments at most; its error number where it failed.
fn ask(number: usize, a: usize, b: usize, c: usize) -> Result<usize, i32> {
    // SAFETY: every caller passes numbers, or pointers to what outlives the call.
    let result = unsafe { call(number, [a, b, c, 0, 0, 0]) };
    if result < 0 { Err(-result as i32) } else { Ok(result as usize) }
}

fn exit(code: i32) -> ! {
    loop {
        let _ = ask(number::EXIT_GROUP, code as usize, 0, 0);
    }
}

/// `stack`: as the kernel lays it, the number of arguments, the arguments, a null, the environment, a null.
extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: the kernel laid it so.
    let (count, arguments) = unsafe { (*stack, stack.add(1).cast::<*const u8>()) };
    if count < 2 {
        exit(NOT_FOUND);
    }
    reset_signals();
    // SAFETY: within the arguments and the null behind them.
    let (place, program, environment) =
        unsafe { (*arguments.add(1), arguments.add(2), arguments.add(count + 1)) };
    // SAFETY: an argument is a string that ends with a zero.
    let first = unsafe { *place };
    if first.is_ascii_digit() {
        become_program(usize::from(first - b'0'), program, environment)
    } else {
        supervise(place, program, environment)
    }
}

fn become_program(descriptor: usize, program: Strings, environment: Strings) -> ! {
    let _ = ask(number::FCNTL, descriptor, F_SETFD, FD_CLOEXEC);
    fail(descriptor, execute(program, environment))
}

/// Tells the error number of an execution, and ends as a shell would.
fn fail(descriptor: usize, error: i32) -> ! {
    let _ = ask(number::WRITE, descriptor, (&raw const error).addr(), size_of_val(&error));
    exit(code_of_failure(error))
}

fn code_of_failure(error: i32) -> i32 {
    if error == ENOENT { NOT_FOUND } else { NOT_EXECUTABLE }
}

fn length(text: *const u8) -> usize {
    let mut bytes = 0;
    // SAFETY: it ends with a zero.
    while unsafe { *text.add(bytes) } != 0 {
        bytes += 1;
    }
    bytes
}

/// A string of the kernel's without its zero.
fn bytes(text: *const u8) -> &'static [u8] {
    // SAFETY: arguments and environment stay where the kernel laid them.
    unsafe { core::slice::from_raw_parts(text, length(text)) }
}

/// Executes the first of the arguments, looked for as a search in PATH does. Returns only on failure, with the error number that
/// says most.
fn execute(arguments: Strings, environment: Strings) -> i32 {
    // SAFETY: arguments end with a null.
    let name = unsafe { *arguments };
    if name.is_null() || bytes(name).is_empty() {
        return ENOENT;
    }
    let name = bytes(name);
    if name.iter().any(|byte| *byte == b'/') {
        return try_one(name.as_ptr(), arguments, environment);
    }
    let mut best = ENOENT;
    for folder in path(environment).split(|byte| *byte == b':').filter(|folder| !folder.is_empty()) {
        let mut place = [const { MaybeUninit::<u8>::uninit() }; PATH_BYTES];
        if folder.len() + name.len() + 2 > PATH_BYTES {
            continue;
        }
        let whole = folder.iter().chain(b"/").chain(name).chain(b"\0");
        for (to, from) in place.iter_mut().zip(whole) {
            to.write(*from);
        }
        match try_one(place.as_ptr().cast(), arguments, environment) {
            ENOENT | ENOTDIR => {}
            EACCES => best = EACCES,
            other => return other,
        }
    }
    best
}

fn try_one(place: *const u8, arguments: Strings, environment: Strings) -> i32 {
    ask(number::EXECVE, place.addr(), arguments.addr(), environment.addr()).err().unwrap_or(0)
}

fn path(mut environment: Strings) -> &'static [u8] {
    // SAFETY: the environment ends with a null.
    unsafe {
        while !(*environment).is_null() {
            if let Some(path) = bytes(*environment).strip_prefix(b"PATH=") {
                return path;
            }
            environment = environment.add(1);
        }
    }
    DEFAULT_PATH
}

/// Where the end of the program is told; none: the file could not be opened.
struct Report(Option<usize>);

impl Report {
    fn open(place: *const u8) -> Self {
        Self(ask(number::OPENAT, AT_FDCWD, place.addr(), O_WRONLY | O_CLOEXEC).ok())
    }

    fn write(&self, kind: i32, value: i32) {
        let record = [kind, value];
        if let Some(file) = self.0 {
            let start = (&raw const record).addr();
            // SAFETY: pointer and length describe `record`.
            unsafe { call(number::PWRITE64, [file, start, size_of_val(&record), 0, 0, 0]) };
        }
    }
}

/// Every signal back to its default. What a container daemon was started to ignore reaches its containers, and must not reach
/// programs; with SIGCHLD ignored there would be no end to wait for.
fn reset_signals() {
    // The kernel's own structure: default action, no flags, nothing masked.
    let default = [0u64; 4];
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: the structure outlives the call, and the one of before is not asked for. Two signals cannot be set.
        unsafe { call(number::RT_SIGACTION, [signal, (&raw const default).addr(), 0, SET_BYTES, 0, 0]) };
    }
}

fn set_signals(blocked: u64) {
    let set = (&raw const blocked).addr();
    // SAFETY: the set outlives the call, and the one of before is not asked for.
    unsafe { call(number::RT_SIGPROCMASK, [SIG_SETMASK, set, 0, SET_BYTES, 0, 0]) };
}

fn supervise(place: *const u8, program: Strings, environment: Strings) -> ! {
    let report = Report::open(place);
    // The program is of the same user: it must not trace this process, or read its memory.
    let _ = ask(number::PRCTL, PR_SET_DUMPABLE, 0, 0);
    // All that can be: each waits until it is taken.
    set_signals(u64::MAX);
    let mut ends = [0i32; 2];
    let piped = ask(number::PIPE2, (&raw mut ends).addr(), O_CLOEXEC, 0);
    // SAFETY: as a fork: the child has a copy of everything.
    let child = unsafe { call(number::CLONE, [SIGCHLD, 0, 0, 0, 0, 0]) };
    let [reader, writer] = ends.map(|end| end as usize);
    if child == 0 {
        let _ = ask(number::SETSID, 0, 0, 0);
        set_signals(0);
        fail(writer, execute(program, environment));
    }
    let mut error = -child as i32;
    if child > 0 {
        error = 0;
        let _ = ask(number::CLOSE, writer, 0, 0);
        // Nothing comes of a program that was executed: its end of the pipe is closed.
        let size = size_of_val(&error);
        while piped.is_ok() && ask(number::READ, reader, (&raw mut error).addr(), size) == Err(EINTR) {}
        let _ = ask(number::CLOSE, reader, 0, 0);
    }
    if error != 0 {
        report.write(COULD_NOT_EXECUTE, error);
        exit(code_of_failure(error));
    }
    let status = wait_for(child as usize);
    end_the_rest();
    report.write(ENDED, status);
    exit(code_of(status))
}

/// Reaps whatever ends and passes signals on, until the program has ended; its raw wait status.
fn wait_for(program: usize) -> i32 {
    loop {
        let mut status = 0;
        match ask(number::WAIT4, usize::MAX, (&raw mut status).addr(), WNOHANG) {
            Ok(ended) if ended == program => return status,
            Ok(1..) => continue,
            _ => {}
        }
        let all = u64::MAX;
        // SAFETY: the set outlives the call; what came and a timeout are not asked for.
        let signal =
            unsafe { call(number::RT_SIGTIMEDWAIT, [(&raw const all).addr(), 0, 0, SET_BYTES, 0, 0]) };
        if signal > 0 && signal as usize != SIGCHLD {
            let _ = ask(number::KILL, program.wrapping_neg(), signal as usize, 0);
        }
    }
}

/// Nothing outlives the program, and nothing but this process can change what the file says from here on.
fn end_the_rest() {
    let _ = ask(number::KILL, usize::MAX, SIGKILL, 0);
    while ask(number::WAIT4, usize::MAX, 0, 0) != Err(ECHILD) {}
}

const ECHILD: i32 = 10;

fn code_of(status: i32) -> i32 {
    let signal = status & 0x7f;
    if signal == 0 { status >> 8 & 0xff } else { 128 + signal }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(70)
}
