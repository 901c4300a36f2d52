//! A process that only moves files gives up the rest (seccomp(2)): it can run no program, have no child, open no socket,
//! and change nothing of the system beside files. What has it do otherwise finds nothing to do it with.

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

/// What is given up.
const GIVEN_UP: &[libc::c_long] = &[
    // Programs and processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_clone,
    libc::SYS_clone3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    // Sockets.
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    // The kernel, and what all share.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
];

/// Has this process give them up, for good: from now on they fail with EPERM.
///
/// # Errors
/// EINVAL, ENOSYS: the kernel has no seccomp, or is older than 3.5.
pub fn only_files() -> io::Result<()> {
    let mut filter = program().ok_or(io::ErrorKind::Unsupported)?;
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

/// The filter (classic BPF, Documentation/userspace-api/seccomp_filter.rst).
fn program() -> Option<Vec<libc::sock_filter>> {
    let step = |code: u32, k: u32, jt: usize, jf: usize| {
        Some(libc::sock_filter {
            code: u16::try_from(code).ok()?,
            jt: u8::try_from(jt).ok()?,
            jf: u8::try_from(jf).ok()?,
            k,
        })
    };
    let load = |at: usize| {
        let at = u32::try_from(at).ok()?;
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0)
    };
    let (is, is_from) = (
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K,
    );
    let answer = |what: u32| step(libc::BPF_RET | libc::BPF_K, what, 0, 0);
    // A jump counts from the instruction behind it; refused is the last, let through the one before.
    let count = GIVEN_UP.len();
    let mut program = vec![
        load(offset_of!(libc::seccomp_data, arch))?,
        step(is, ARCH, 0, count + 3)?,
        load(offset_of!(libc::seccomp_data, nr))?,
        step(is_from, X32, count + 1, 0)?,
    ];
    for (at, number) in GIVEN_UP.iter().enumerate() {
        program.push(step(is, u32::try_from(*number).ok()?, count - at, 0)?);
    }
    let errno = u32::try_from(libc::EPERM).ok()?;
    program.push(answer(libc::SECCOMP_RET_ALLOW)?);
    program.push(answer(libc::SECCOMP_RET_ERRNO | errno)?);
    Some(program)
}

#[cfg(test)]
mod tests {
    use super::super::process::{Ended, spawn_for_test, wait};
    use super::*;

    /// What a process that has given them up ends with.
    fn ends(work: impl FnOnce() -> io::Result<()>) -> Ended {
        let pid = spawn_for_test(|| match only_files().and_then(|()| work()) {
            Ok(()) => 0,
            Err(e) => e.raw_os_error().unwrap_or(99),
        });
        wait(pid.unwrap()).unwrap()
    }

    #[test]
    fn files_can_be_moved_and_nothing_else_be_done() {
        let path = std::env::temp_dir().join(format!("qx-seccomp-{}", std::process::id()));
        let files = ends(|| {
            std::fs::write(&path, "x")?;
            std::fs::rename(&path, path.with_extension("moved"))?;
            std::fs::remove_file(path.with_extension("moved"))
        });
        assert_eq!(files, Ended::Exited(0));
        let refused = Ended::Exited(libc::EPERM);
        let program = ends(|| std::process::Command::new("/bin/true").status().map(|_| ()));
        assert_eq!(program, refused);
        let socket = ends(|| std::os::unix::net::UnixDatagram::unbound().map(|_| ()));
        assert_eq!(socket, refused);
    }
}
