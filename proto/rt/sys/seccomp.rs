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
    /// To open sockets and to connect them.
    Sockets,
    /// To change files, their names and what is said of them, by any descriptor that it does not have yet.
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
    Reach::Signals,
    Reach::System,
];

/// What is left to who looks: to read.
pub const ALL_BUT_READS: &[Reach] = &[
    Reach::Programs,
    Reach::Children,
    Reach::Sockets,
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
                SYS_socket SYS_socketpair SYS_connect SYS_bind SYS_listen
                // Opens them, and files, past all that is refused here.
                SYS_io_uring_setup
            ],
            Self::Writes => calls![
                SYS_unlinkat SYS_renameat2 SYS_mkdirat SYS_linkat SYS_symlinkat SYS_mknodat
                SYS_truncate SYS_ftruncate SYS_fallocate
                SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_utimensat
                SYS_setxattr SYS_lsetxattr SYS_fsetxattr
                SYS_removexattr SYS_lremovexattr SYS_fremovexattr
                // Its flags are in memory, where a filter cannot see them.
                SYS_openat2,
                SYS_FCHMODAT2, SYS_RENAMEAT
                ; x86_64
                SYS_creat SYS_unlink SYS_rename SYS_mkdir SYS_rmdir SYS_link SYS_symlink SYS_mknod
                SYS_chmod SYS_chown SYS_lchown SYS_utime SYS_utimes SYS_futimesat
            ],
            Self::Signals => calls![
                SYS_kill SYS_tkill SYS_tgkill SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo
                SYS_pidfd_send_signal
            ],
            Self::System => calls![
                // Other processes.
                SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_pidfd_getfd SYS_kcmp
                // The kernel, and what all share.
                SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_bpf
                SYS_perf_event_open SYS_userfaultfd SYS_keyctl SYS_add_key SYS_request_key
                SYS_fanotify_init SYS_acct SYS_quotactl SYS_quotactl_fd SYS_swapon SYS_swapoff
                SYS_reboot SYS_vhangup
                // Mounts.
                SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_unshare SYS_setns
                SYS_open_by_handle_at SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick
                SYS_move_mount SYS_open_tree SYS_mount_setattr
                // Names and clocks.
                SYS_sethostname SYS_setdomainname SYS_settimeofday SYS_clock_settime SYS_adjtimex
                SYS_clock_adjtime
                ; x86_64
                SYS_kexec_file_load SYS_iopl SYS_ioperm SYS_modify_ldt
            ],
        }
    }
}

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

/// The bits of open(2) with which a file is more than read.
const FOR_WRITING: libc::c_int = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;

/// What is behind the last instruction that is asked for a way out.
#[derive(Clone, Copy)]
enum Exit {
    Allowed,
    Refused,
    NotKnown,
}

/// The filter (classic BPF, Documentation/userspace-api/seccomp_filter.rst).
fn program(what: &[Reach]) -> Option<Vec<libc::sock_filter>> {
    let given_up: Vec<_> = what.iter().flat_map(|reach| reach.calls()).collect();
    let opens: &[(libc::c_long, usize)] = match what.contains(&Reach::Writes) {
        true => &[
            (libc::SYS_openat, 2),
            #[cfg(target_arch = "x86_64")]
            (libc::SYS_open, 1),
        ],
        false => &[],
    };
    let mut program = Vec::new();
    // The exits stand last, in their order; a jump counts from the instruction behind it.
    let length = 5 + given_up.len() + 3 * opens.len();
    let to = |exit: Exit, from: usize| u8::try_from(length + exit as usize - from - 1).ok();
    let load = |at: usize| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
    let jump = |test: u32, k: u32, jt: u8, jf: u8| {
        step(libc::BPF_JMP | test | libc::BPF_K, k as usize, jt, jf)
    };

    program.push(load(offset_of!(libc::seccomp_data, arch))?);
    program.push(jump(libc::BPF_JEQ, ARCH, 0, to(Exit::Refused, 1)?)?);
    program.push(load(offset_of!(libc::seccomp_data, nr))?);
    program.push(jump(libc::BPF_JGE, X32, to(Exit::Refused, 3)?, 0)?);
    program.push(jump(libc::BPF_JGE, UNKNOWN, to(Exit::NotKnown, 4)?, 0)?);
    for number in given_up {
        let number = u32::try_from(*number).ok()?;
        let refused = to(Exit::Refused, program.len())?;
        program.push(jump(libc::BPF_JEQ, number, refused, 0)?);
    }
    for (number, argument) in opens {
        // The lower half of an argument comes first on both architectures.
        let flags = offset_of!(libc::seccomp_data, args) + argument * size_of::<u64>();
        program.push(jump(libc::BPF_JEQ, u32::try_from(*number).ok()?, 0, 2)?);
        program.push(load(flags)?);
        let at = program.len();
        let (refused, allowed) = (to(Exit::Refused, at)?, to(Exit::Allowed, at)?);
        let mask = FOR_WRITING.cast_unsigned();
        program.push(jump(libc::BPF_JSET, mask, refused, allowed)?);
    }
    debug_assert_eq!(program.len(), length);
    for exit in [
        libc::SECCOMP_RET_ALLOW,
        libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned(),
        libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned(),
    ] {
        program.push(step(libc::BPF_RET | libc::BPF_K, exit as usize, 0, 0)?);
    }
    Some(program)
}

fn step(code: u32, k: usize, jt: u8, jf: u8) -> Option<libc::sock_filter> {
    Some(libc::sock_filter {
        code: u16::try_from(code).ok()?,
        jt,
        jf,
        k: u32::try_from(k).ok()?,
    })
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
        // SAFETY: no argument is an address that the kernel writes to: all are 0.
        let done = unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) };
        check(libc::c_int::try_from(done).unwrap_or(-1)).map(|_| ())
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
