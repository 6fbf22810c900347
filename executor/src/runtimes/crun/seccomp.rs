//! The system calls that a program in a container may make: a list of what may be, for x86-64 and arm64.
//!
//! The list is the sum of what ordinary programs need (files, memory, threads, signals, time, sockets, epoll, asynchronous
//! I/O) in the kernel's tables of system calls; what reaches the host, makes namespaces or has a long history of
//! escapes is left out, as in the profile that Docker documents. What a kernel of tomorrow adds answers ENOSYS, upon
//! which libraries fall back; what is refused on purpose answers EPERM. New threads and processes are made by `clone`
//! without namespaces; `clone3`, whose flags a filter cannot see, answers ENOSYS and the C library uses `clone`.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

const FILES: &str = "access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat \
    faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr \
    file_getattr flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents \
    getdents64 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl lchown \
    lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod \
    mknodat name_to_handle_at newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev \
    pwritev2 read readahead readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir \
    sendfile setxattr setxattrat splice stat statfs statx symlink symlinkat sync sync_file_range sync_file_range2 \
    syncfs tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write writev";
const MEMORY: &str = "brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 \
    mlockall mmap mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect \
    process_madvise process_mrelease remap_file_pages";
const PROCESSES: &str = "alarm arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue \
    futex_wait futex_waitv futex_wake get_robust_list get_thread_area getcpu getegid geteuid getgid getgroups \
    getitimer getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid \
    ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self pause pidfd_open \
    pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev ptrace restart_syscall rseq rt_sigaction \
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo \
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
    sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp \
    set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority \
    setregid setresgid setresuid setreuid setrlimit setsid setuid sigaltstack signalfd signalfd4 sysinfo tgkill \
    time times tkill uname uretprobe vfork wait4 waitid";
const CLOCKS: &str = "adjtimex clock_adjtime clock_getres clock_gettime clock_nanosleep gettimeofday nanosleep \
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime \
    timerfd_settime";
const EVENTS: &str = "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
    epoll_wait_old eventfd eventfd2 getrandom io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit poll \
    ppoll pselect6 select";
const SOCKETS: &str = "accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg \
    sendmmsg sendmsg sendto setsockopt shutdown socketpair";
const MESSAGES: &str = "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv \
    msgsnd semctl semget semop semtimedop shmat shmctl shmdt shmget";
/// What is there and refused: it reaches the host, its kernel or another namespace.
const REFUSED: &str = "acct add_key bpf chroot clock_settime delete_module fanotify_init fanotify_mark finit_module \
    fsconfig fsmount fsopen fspick get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl \
    kcmp kexec_file_load kexec_load keyctl listmount lookup_dcookie mbind migrate_pages mount mount_setattr move_mount \
    move_pages nfsservctl open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root quotactl quotactl_fd \
    reboot request_key set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday statmount \
    stime swapoff swapon syslog umount umount2 unshare userfaultfd uselib vhangup vm86 vm86old";

/// Flags of `clone` that make a namespace.
const NEW_NAMESPACES: u64 = 0x7e02_0080;
/// The address family of sockets to a hypervisor, which a network namespace does not hold back.
const AF_VSOCK: u64 = 40;
/// Execution domains that programs ask for: Linux, a 32-bit machine, no random addresses, and asking for the current.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The `linux.seccomp` member of a bundle.
pub fn profile() -> Result<LinuxSeccomp, OciSpecError> {
    let all = [FILES, MEMORY, PROCESSES, CLOCKS, EVENTS, SOCKETS, MESSAGES].join(" ");
    let mut rules = vec![
        rule(&all, Vec::new())?,
        // The first argument of each holds the flags; on no machine of ours the second.
        rule(
            "clone",
            vec![when(NEW_NAMESPACES).value_two(0u64).op(LinuxSeccompOperator::ScmpCmpMaskedEq).build()?],
        )?,
        rule("socket", vec![when(AF_VSOCK).op(LinuxSeccompOperator::ScmpCmpNe).build()?])?,
        LinuxSyscallBuilder::default()
            .names(names(REFUSED))
            .action(LinuxSeccompAction::ScmpActErrno)
            .errno_ret(libc::EPERM as u32)
            .build()?,
    ];
    for domain in PERSONALITIES {
        let asked = when(domain).op(LinuxSeccompOperator::ScmpCmpEq).build()?;
        rules.push(rule("personality", vec![asked])?);
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::ENOSYS as u32)
        .architectures(architectures())
        .syscalls(rules)
        .build()
}

/// Calls that may be made when all conditions hold.
fn rule(calls: &str, conditions: Vec<LinuxSeccompArg>) -> Result<LinuxSyscall, OciSpecError> {
    LinuxSyscallBuilder::default()
        .names(names(calls))
        .action(LinuxSeccompAction::ScmpActAllow)
        .args(conditions)
        .build()
}

/// A condition for a call's first argument.
fn when(value: u64) -> LinuxSeccompArgBuilder {
    LinuxSeccompArgBuilder::default().index(0usize).value(value)
}

fn names(calls: &str) -> Vec<String> {
    calls.split_whitespace().map(str::to_owned).collect()
}

/// Programs of this machine only: each further interface doubles what crun spends on making the filter, which is
/// milliseconds. The kernel ends a 32-bit program by SIGSYS.
fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64],
        "aarch64" => vec![Arch::ScmpArchAarch64],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn with(action: LinuxSeccompAction) -> Vec<String> {
        let rules = profile().unwrap().syscalls().clone().unwrap();
        rules.iter().filter(|rule| rule.action() == action).flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn no_call_is_both_allowed_and_refused_and_none_stands_twice() {
        let allowed = with(LinuxSeccompAction::ScmpActAllow);
        let refused = with(LinuxSeccompAction::ScmpActErrno);
        let plain: Vec<_> = allowed.iter().filter(|name| *name != "personality").collect();
        let once: BTreeSet<_> = plain.iter().chain(&refused.iter().collect::<Vec<_>>()).cloned().collect();
        assert_eq!(once.len(), plain.len() + refused.len());
    }

    #[test]
    fn what_opens_a_way_out_is_not_allowed() {
        let allowed = with(LinuxSeccompAction::ScmpActAllow);
        let ways = [
            "clone3",
            "unshare",
            "setns",
            "mount",
            "bpf",
            "keyctl",
            "userfaultfd",
            "io_uring_setup",
            "kexec_load",
        ];
        for way in ways {
            assert!(!allowed.iter().any(|name| name == way), "{way}");
        }
    }
}
