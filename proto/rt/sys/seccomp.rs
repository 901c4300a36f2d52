//! What a worker can do without it gives up, for good (seccomp(2)): what moves files can run no program, have no child and
//! open no socket, what only looks can write nothing either. What has it do otherwise finds nothing to do it with.
//!
//! It is a list of what is refused, not of what is let through: on a system that nobody tried, a call that was forgotten
//! on the other list would be an outage. Calls that came into Linux after these were written are refused as by a kernel
//! that does not have them.

use std::io;
use std::mem::offset_of;

use super::check;

/// The architecture whose numbers these are (linux/audit.h): of others no call is let through.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;

/// From here on numbers are those of x32 (`__X32_SYSCALL_BIT`), where there is such a thing.
const X32: u32 = 0x4000_0000;

/// The first number that nobody knew here (Linux 6.13): the same for all architectures.
const UNKNOWN: u32 = 463;

/// Linux 6.6, the same for all architectures.
const SYS_FCHMODAT2: libc::c_long = 452;
#[cfg(target_arch = "x86_64")]
const SYS_RENAMEAT: libc::c_long = libc::SYS_renameat;
#[cfg(target_arch = "aarch64")]
const SYS_RENAMEAT: libc::c_long = 38;

/// What a process may reach besides its own memory and the descriptors that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To run another program.
    Programs,
    /// To have children.
    Children,
    /// To open sockets, but for netlink(7), and to connect them.
    Sockets,
    /// To ask the kernel by netlink(7).
    Netlink,
    /// To change files, their names and what is said of them, by any descriptor that it does not have yet; and to tell a
    /// device anything (ioctl(2)).
    Writes,
    /// To send signals.
    Signals,
    /// The kernel, mounts, clocks, names, and other processes.
    System,
}

/// What is left to who moves files: to change them.
pub const ALL_BUT_FILES: &[Reach] = &[
    Reach::Programs,
    Reach::Children,
    Reach::Sockets,
    Reach::Netlink,
    Reach::Signals,
    Reach::System,
];

/// What is left to who looks: to read.
pub const ALL_BUT_READS: &[Reach] = &[
    Reach::Programs,
    Reach::Children,
    Reach::Sockets,
    Reach::Netlink,
    Reach::Writes,
    Reach::Signals,
    Reach::System,
];

/// On x86-64 also the calls that later architectures do not have.
macro_rules! calls {
    ($($call:ident)* $(, $other:expr)* $(; x86_64 $($old:ident)*)?) => {
        &[$(libc::$call,)* $($other,)* $($(#[cfg(target_arch = "x86_64")] libc::$old,)*)?]
    };
}

impl Reach {
    const fn calls(self) -> &'static [libc::c_long] {
        match self {
            Self::Programs => calls![SYS_execve SYS_execveat],
            Self::Children => calls![SYS_clone SYS_clone3; x86_64 SYS_fork SYS_vfork],
            Self::Sockets => calls![
                SYS_socketpair SYS_connect SYS_bind SYS_listen
                // Opens them, and files, past all that is refused here.
                SYS_io_uring_setup
            ],
            Self::Netlink => calls![SYS_socket],
            Self::Writes => calls![
                SYS_unlinkat SYS_renameat2 SYS_mkdirat SYS_linkat SYS_symlinkat SYS_mknodat
                SYS_truncate SYS_ftruncate SYS_fallocate
                SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_utimensat
                SYS_setxattr SYS_lsetxattr SYS_fsetxattr
                SYS_removexattr SYS_lremovexattr SYS_fremovexattr
                SYS_ioctl SYS_io_uring_setup
                // Its flags are in memory, where a filter cannot see them.
                SYS_openat2,
                SYS_FCHMODAT2, SYS_RENAMEAT
                ; x86_64
                SYS_creat SYS_unlink SYS_rename SYS_mkdir SYS_rmdir SYS_link SYS_symlink SYS_mknod
                SYS_chmod SYS_chown SYS_lchown SYS_utime SYS_utimes SYS_futimesat
            ],
            Self::Signals => calls![
                SYS_kill SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_pidfd_send_signal
            ],
            Self::System => calls![
                // Other processes.
                SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_pidfd_getfd SYS_kcmp
                // The kernel, and what all share.
                SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_bpf
                SYS_perf_event_open SYS_userfaultfd SYS_keyctl SYS_add_key SYS_request_key
                SYS_fanotify_init SYS_acct SYS_quotactl SYS_quotactl_fd SYS_swapon SYS_swapoff
                SYS_reboot SYS_vhangup SYS_syslog
                // Mounts.
                SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_unshare SYS_setns
                SYS_open_by_handle_at SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick
                SYS_move_mount SYS_open_tree SYS_mount_setattr
                // Names and clocks.
                SYS_sethostname SYS_setdomainname SYS_settimeofday SYS_clock_settime SYS_adjtimex
                SYS_clock_adjtime
                ; x86_64
                SYS_kexec_file_load SYS_iopl SYS_ioperm SYS_modify_ldt SYS_uselib SYS__sysctl
            ],
        }
    }

    /// Calls that are refused for some values of an argument, which has this number.
    fn judged(self) -> Vec<(libc::c_long, usize, Refused)> {
        match self {
            Self::Sockets => vec![(
                libc::SYS_socket,
                0,
                Refused::AllBut(libc::AF_NETLINK.cast_unsigned()),
            )],
            Self::Writes => vec![
                (libc::SYS_openat, 2, Refused::Bits(FOR_WRITING)),
                #[cfg(target_arch = "x86_64")]
                (libc::SYS_open, 1, Refused::Bits(FOR_WRITING)),
            ],
            Self::Signals => {
                // abort(3) is one to itself; its only thread has the same number.
                let own = Refused::AllBut(std::process::id());
                vec![
                    (libc::SYS_tgkill, 0, own),
                    (libc::SYS_tkill, 0, own),
                    // The kernel sends them for who says that it is to.
                    (
                        libc::SYS_fcntl,
                        1,
                        Refused::Any([F_SETOWN, F_SETSIG, F_SETOWN_EX]),
                    ),
                    (libc::SYS_prlimit64, 0, Refused::AllBut(0)),
                ]
            }
            Self::Programs | Self::Children | Self::Netlink | Self::System => Vec::new(),
        }
    }
}

/// What is refused of an argument, of which the lower half is looked at: all that are judged have 32 bits.
#[derive(Clone, Copy, Debug)]
enum Refused {
    /// One of these bits is set.
    Bits(u32),
    /// It is one of these.
    Any([u32; 3]),
    /// It is another.
    AllBut(u32),
}

/// The bits of open(2) with which a file is more than read.
const FOR_WRITING: u32 =
    (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC).cast_unsigned();

/// Of fcntl(2), by asm-generic/fcntl.h.
const F_SETOWN: u32 = 8;
const F_SETSIG: u32 = 10;
const F_SETOWN_EX: u32 = 15;

/// Has this process give these up: from now on they fail with EPERM.
///
/// # Errors
/// EINVAL, ENOSYS: the kernel has no seccomp, or is older than 3.5.
pub fn give_up(what: &[Reach]) -> io::Result<()> {
    let mut filter = program(what).ok_or(io::ErrorKind::Unsupported)?;
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog {
        len: length,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: prctl with these operations reads `program` and the instructions that it points to, of which there are as
    // many as it says; both live for the length of the calls, and the kernel keeps a copy.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        check(libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        ))?;
    }
    Ok(())
}

/// An instruction of the filter.
#[derive(Clone, Copy)]
enum Step {
    /// A word of what is known of the call (struct `seccomp_data`).
    Load(usize),
    /// A test of that word.
    If(u32, u32, To, To),
}

/// Where a test leads.
#[derive(Clone, Copy)]
enum To {
    /// Past so many instructions.
    Past(usize),
    Allowed,
    Refused,
    NotKnown,
}

const NEXT: To = To::Past(0);

/// What the filter looks at, in this order.
fn steps(what: &[Reach]) -> Option<Vec<Step>> {
    let is = |k: u32, then: To, or: To| Step::If(libc::BPF_JEQ, k, then, or);
    let is_from = |k: u32, then: To| Step::If(libc::BPF_JGE, k, then, NEXT);
    let mut steps = vec![
        Step::Load(offset_of!(libc::seccomp_data, arch)),
        is(ARCH, NEXT, To::Refused),
        Step::Load(offset_of!(libc::seccomp_data, nr)),
        is_from(X32, To::Refused),
        is_from(UNKNOWN, To::NotKnown),
    ];
    for call in what.iter().flat_map(|reach| reach.calls()) {
        steps.push(is(u32::try_from(*call).ok()?, To::Refused, NEXT));
    }
    // Behind those that are refused whatever their arguments are: these let some through.
    for (call, argument, refused) in what.iter().flat_map(|reach| reach.judged()) {
        let tests = match refused {
            Refused::Bits(bits) => vec![Step::If(libc::BPF_JSET, bits, To::Refused, To::Allowed)],
            Refused::AllBut(one) => vec![is(one, To::Allowed, To::Refused)],
            Refused::Any([a, b, c]) => vec![
                is(a, To::Refused, NEXT),
                is(b, To::Refused, NEXT),
                is(c, To::Refused, To::Allowed),
            ],
        };
        steps.push(is(
            u32::try_from(call).ok()?,
            NEXT,
            To::Past(1 + tests.len()),
        ));
        // The lower half comes first on both architectures.
        let at = offset_of!(libc::seccomp_data, args) + argument * size_of::<u64>();
        steps.push(Step::Load(at));
        steps.extend(tests);
    }
    Some(steps)
}

/// The filter (classic BPF, Documentation/userspace-api/seccomp_filter.rst).
fn program(what: &[Reach]) -> Option<Vec<libc::sock_filter>> {
    let steps = steps(what)?;
    // The ways out stand last; a jump counts from the instruction behind it.
    let jump = |at: usize, to: To| {
        let past = |exit: usize| steps.len() + exit - at - 1;
        u8::try_from(match to {
            To::Past(count) => count,
            To::Allowed => past(0),
            To::Refused => past(1),
            To::NotKnown => past(2),
        })
        .ok()
    };
    let one = |code: u32, k: u32, jt: u8, jf: u8| {
        let code = u16::try_from(code).ok()?;
        Some(libc::sock_filter { code, jt, jf, k })
    };
    let refused = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
    let mut program = Vec::with_capacity(steps.len() + 3);
    for (at, step) in steps.iter().enumerate() {
        program.push(match *step {
            Step::Load(from) => {
                let code = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
                one(code, u32::try_from(from).ok()?, 0, 0)?
            }
            Step::If(test, k, then, or) => {
                let code = libc::BPF_JMP | test | libc::BPF_K;
                one(code, k, jump(at, then)?, jump(at, or)?)?
            }
        });
    }
    let exits = [
        libc::SECCOMP_RET_ALLOW,
        refused(libc::EPERM),
        refused(libc::ENOSYS),
    ];
    for exit in exits {
        program.push(one(libc::BPF_RET | libc::BPF_K, exit, 0, 0)?);
    }
    Some(program)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::net::UnixDatagram;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::super::process::{Ended, spawn_for_test, wait};
    use super::*;

    /// What a process that has given these up ends with: 0, or the error's number.
    fn ends(without: &[Reach], work: impl FnOnce() -> io::Result<()>) -> i32 {
        let pid = spawn_for_test(|| match give_up(without).and_then(|()| work()) {
            Ok(()) => 0,
            Err(e) => e.raw_os_error().unwrap_or(99),
        });
        match wait(pid.unwrap()).unwrap() {
            Ended::Exited(code) => code,
            ended => panic!("{ended:?}"),
        }
    }

    fn call(number: libc::c_long) -> io::Result<()> {
        call_with(number, [0; 3])
    }

    fn call_with(number: libc::c_long, [a, b, c]: [libc::c_long; 3]) -> io::Result<()> {
        // SAFETY: no argument is an address that the kernel writes to: each is a small number.
        let done = unsafe { libc::syscall(number, a, b, c, 0, 0, 0) };
        check(libc::c_int::try_from(done).unwrap_or(-1)).map(|_| ())
    }

    fn netlink(family: libc::c_int) -> io::Result<()> {
        call_with(libc::SYS_socket, [family.into(), libc::SOCK_RAW.into(), 0])
    }

    #[test]
    fn files_can_be_moved_and_nothing_else_be_done() {
        let path = std::env::temp_dir().join(format!("qx-seccomp-{}", std::process::id()));
        let files = ends(ALL_BUT_FILES, || {
            fs::write(&path, "x")?;
            fs::rename(&path, path.with_extension("moved"))?;
            fs::remove_file(path.with_extension("moved"))
        });
        assert_eq!(files, 0);
        let refused = |work: &dyn Fn() -> io::Result<()>| {
            assert_eq!(ends(ALL_BUT_FILES, work), libc::EPERM);
        };
        refused(&|| Err(Command::new("/bin/true").exec()));
        refused(&|| Command::new("/bin/true").status().map(|_| ()));
        refused(&|| call(libc::SYS_execveat));
        refused(&|| UnixDatagram::unbound().map(|_| ()));
        // Signal 0 to the process that waits would be sent.
        refused(&|| call(libc::SYS_kill));
        refused(&|| call(libc::SYS_io_uring_setup));
        refused(&|| call(libc::SYS_fsopen));
        refused(&|| netlink(libc::AF_NETLINK));
        // Nor has it another do it: the kernel, which tells whom it is told to when there is something to read.
        refused(&|| call_with(libc::SYS_fcntl, [0, libc::F_SETOWN.into(), 1]));
        refused(&|| call_with(libc::SYS_prlimit64, [1, 0, 0]));
        refused(&|| call_with(libc::SYS_tgkill, [1, 1, 0]));
        assert_eq!(
            ends(ALL_BUT_FILES, || call_with(
                libc::SYS_fcntl,
                [0, libc::F_GETFD.into(), 0]
            )),
            0
        );
    }

    #[test]
    fn who_ends_by_itself_is_said_to_have_aborted() {
        let pid = spawn_for_test(|| match give_up(ALL_BUT_READS) {
            Ok(()) => std::process::abort(),
            Err(_) => 1,
        });
        let ended = wait(pid.unwrap()).unwrap();
        assert_eq!(ended, Ended::Signalled(libc::SIGABRT));
    }

    #[test]
    fn who_asks_the_kernel_reaches_nobody_else() {
        let without = &[Reach::Sockets, Reach::Writes];
        assert_eq!(ends(without, || netlink(libc::AF_NETLINK)), 0);
        let refused = |work: &dyn Fn() -> io::Result<()>| {
            assert_eq!(ends(without, work), libc::EPERM);
        };
        refused(&|| netlink(libc::AF_UNIX));
        refused(&|| call(libc::SYS_connect));
        refused(&|| call(libc::SYS_io_uring_setup));
        assert_eq!(
            ends(&[Reach::Writes], || call(libc::SYS_io_uring_setup)),
            libc::EPERM
        );
    }

    #[test]
    fn who_looks_can_write_nothing() {
        let path = std::env::temp_dir().join(format!("qx-looks-{}", std::process::id()));
        fs::write(&path, "as it was").unwrap();
        let reads = ends(ALL_BUT_READS, || {
            let read = fs::read_to_string(&path)?;
            fs::metadata(&path)?;
            fs::read_dir("/")?.next();
            (read == "as it was")
                .then_some(())
                .ok_or(io::ErrorKind::InvalidData.into())
        });
        assert_eq!(reads, 0);
        let refused = |work: &dyn Fn() -> io::Result<()>| {
            assert_eq!(ends(ALL_BUT_READS, work), libc::EPERM);
        };
        refused(&|| File::create(&path).map(|_| ()));
        refused(&|| File::options().append(true).open(&path).map(|_| ()));
        refused(&|| {
            File::options()
                .read(true)
                .write(true)
                .open(&path)
                .map(|_| ())
        });
        refused(&|| fs::remove_file(&path));
        refused(&|| fs::rename(&path, "/tmp/elsewhere"));
        refused(&|| fs::set_permissions(&path, fs::metadata("/")?.permissions()));
        refused(&|| fs::create_dir("/tmp/qx-looks"));
        refused(&|| std::os::unix::fs::symlink("/", "/tmp/qx-looks"));
        refused(&|| fs::hard_link(&path, "/tmp/qx-looks"));
        // What tools for whole trees use.
        for number in [
            libc::SYS_unlinkat,
            libc::SYS_renameat2,
            libc::SYS_mkdirat,
            libc::SYS_linkat,
            libc::SYS_symlinkat,
            libc::SYS_mknodat,
            libc::SYS_ftruncate,
            libc::SYS_fchmodat,
            libc::SYS_fchownat,
            libc::SYS_utimensat,
            libc::SYS_fsetxattr,
            libc::SYS_openat2,
            libc::SYS_ioctl,
        ] {
            refused(&|| call(number));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "as it was");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_call_that_is_newer_is_one_that_there_is_not() {
        assert_eq!(
            ends(ALL_BUT_FILES, || call(i64::from(UNKNOWN))),
            libc::ENOSYS
        );
        assert_eq!(ends(ALL_BUT_FILES, || call(i64::from(X32))), libc::EPERM);
        assert_eq!(ends(&[], || call(libc::SYS_getpid)), 0);
    }
}
