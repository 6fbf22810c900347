//! The filter of system calls for programs that run without a container: what makes namespaces, mounts, loads code into
//! the kernel, reaches a hypervisor or has no use for a task is refused; all else goes on. A program of a container has
//! the longer list of its bundle.

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// Refused with EPERM.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];
/// Flags of `clone` that make a namespace.
const NEW_NAMESPACES: u32 = 0x7e02_0080;
/// Offsets in `struct seccomp_data`; the flags of `clone` and the family of `socket` are the lower half of the first
/// argument.
const NUMBER: u32 = 0;
const MACHINE: u32 = 4;
const FIRST: u32 = 16;
#[cfg(target_arch = "x86_64")]
const OWN_MACHINE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OWN_MACHINE: u32 = 0xc000_00b7;
/// Other machines are not supported: nothing compares equal, so every call of a jailed program fails.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OWN_MACHINE: u32 = 0;
/// Numbers from here on are the x32 interface of x86-64, which has another table.
const X32: u32 = 0x4000_0000;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOT_PERMITTED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const NOT_THERE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

fn load(offset: u32) -> sock_filter {
    sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

fn answer(value: u32) -> sock_filter {
    sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: value }
}

/// Compares what was loaded, and skips so many instructions when it holds, or when not.
fn when(test: u32, value: u32, yes: usize, no: usize) -> sock_filter {
    sock_filter { code: (BPF_JMP | test | BPF_K) as u16, jt: yes as u8, jf: no as u8, k: value }
}

/// The filter. Another machine's calls (32-bit programs) have other numbers and all answer ENOSYS.
pub(super) fn program() -> Vec<sock_filter> {
    let mut filter = vec![
        load(MACHINE),
        when(BPF_JEQ, OWN_MACHINE, 1, 0),
        answer(NOT_THERE),
        load(NUMBER),
        when(libc::BPF_JGE, X32, 0, 1),
        answer(NOT_THERE),
        when(BPF_JEQ, libc::SYS_clone3 as u32, 0, 1),
        answer(NOT_THERE),
        when(BPF_JEQ, libc::SYS_clone as u32, 0, 4),
        load(FIRST),
        when(BPF_JSET, NEW_NAMESPACES, 0, 1),
        answer(NOT_PERMITTED),
        answer(ALLOW),
        // Sockets to a hypervisor, which a network namespace does not hold back: answered as in a container of crun's.
        when(BPF_JEQ, libc::SYS_socket as u32, 0, 4),
        load(FIRST),
        when(BPF_JEQ, libc::AF_VSOCK as u32, 0, 1),
        answer(NOT_THERE),
        answer(ALLOW),
    ];
    // After the last comparison: one answer, then the other.
    let refused = REFUSED.iter().enumerate();
    filter.extend(refused.map(|(at, number)| when(BPF_JEQ, *number as u32, REFUSED.len() - at, 0)));
    filter.extend([answer(ALLOW), answer(NOT_PERMITTED)]);
    filter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel would.
    fn verdict(machine: u32, number: u32, first: u32) -> u32 {
        let (program, mut at, mut value) = (program(), 0, 0);
        loop {
            let step = program[at];
            at += 1;
            let holds = match u32::from(step.code) {
                code if code == BPF_LD | BPF_W | BPF_ABS => {
                    value = match step.k {
                        NUMBER => number,
                        MACHINE => machine,
                        _ => first,
                    };
                    continue;
                }
                code if code == BPF_RET | BPF_K => return step.k,
                code if code == BPF_JMP | BPF_JEQ | BPF_K => value == step.k,
                code if code == BPF_JMP | libc::BPF_JGE | BPF_K => value >= step.k,
                code if code == BPF_JMP | BPF_JSET | BPF_K => value & step.k != 0,
                code => panic!("unknown instruction {code}"),
            };
            at += usize::from(if holds { step.jt } else { step.jf });
        }
    }

    #[test]
    fn each_call_gets_its_answer() {
        let own = |number: libc::c_long, first| verdict(OWN_MACHINE, number as u32, first);
        for number in REFUSED {
            assert_eq!(own(*number, 0), NOT_PERMITTED, "{number}");
        }
        for number in
            [libc::SYS_read, libc::SYS_execve, libc::SYS_statx, libc::SYS_epoll_ctl, libc::SYS_ptrace]
        {
            assert_eq!(own(number, 0), ALLOW, "{number}");
        }
        assert_eq!(own(libc::SYS_clone3, 0), NOT_THERE);
        assert_eq!(own(libc::SYS_clone, libc::CLONE_VM as u32 | libc::CLONE_THREAD as u32), ALLOW);
        for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNET, libc::CLONE_NEWNS, libc::CLONE_NEWPID] {
            assert_eq!(own(libc::SYS_clone, flag as u32), NOT_PERMITTED);
        }
        assert_eq!(own(libc::SYS_socket, libc::AF_VSOCK as u32), NOT_THERE);
        for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK] {
            assert_eq!(own(libc::SYS_socket, family as u32), ALLOW);
        }
        assert_eq!(verdict(OWN_MACHINE, X32 | 1, 0), NOT_THERE);
        assert_eq!(verdict(0x4000_0003, 1, 0), NOT_THERE);
    }
}
