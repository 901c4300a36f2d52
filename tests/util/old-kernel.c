/* Runs a program as a kernel 3.10 would, as far as a filter of system calls can: RHEL 7 has that one, and it cannot be
 * had for the tests. What that kernel does not know fails here as it does there.
 *
 *   usage: old-kernel PROGRAM [ARGUMENT...]
 *
 * The filter holds for all that the program starts, too. What it cannot hide are files below /proc and /sys. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* finit_module is the last of 3.10's table for x86-64 (arch/x86/syscalls/syscall_64.tbl there). */
#define LAST 313
/* What O_TMPFILE (3.11) is besides O_DIRECTORY: passed over before, so that a directory is opened for writing. */
#define TMPFILE 020000000
#define RNDRESEEDCRNG 0x5207 /* 4.14 */
#define TIOCGPTPEER 0x5441   /* 4.13 */

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define END(what) BPF_STMT(BPF_RET | BPF_K, what)
#define FAIL(error) END(SECCOMP_RET_ERRNO | (error))
#define UNLESS(kind, value, skip) BPF_JUMP(BPF_JMP | kind | BPF_K, value, 0, skip)

int main(int argc, char **argv)
{
    struct sock_filter code[] = {
        LOAD(arch),
        UNLESS(BPF_JEQ, AUDIT_ARCH_X86_64, 1),
        LOAD(nr),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, LAST, 0, 1),
        FAIL(ENOSYS),
        UNLESS(BPF_JEQ, SYS_openat, 3),
        LOAD(args[2]),
        UNLESS(BPF_JSET, TMPFILE, 8),
        FAIL(EISDIR),
        UNLESS(BPF_JEQ, SYS_ioctl, 6),
        LOAD(args[1]),
        UNLESS(BPF_JEQ, RNDRESEEDCRNG, 1),
        FAIL(EINVAL),
        UNLESS(BPF_JEQ, TIOCGPTPEER, 1),
        FAIL(ENOTTY),
        END(SECCOMP_RET_ALLOW),
        END(SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = { sizeof code / sizeof *code, code };

    if (argc < 2)
        return 2;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) {
        perror("old-kernel: seccomp");
        return 1;
    }
    execv(argv[1], argv + 1);
    perror(argv[1]);
    return 1;
}
