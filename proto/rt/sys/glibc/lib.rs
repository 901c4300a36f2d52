//! What glibc is not to bring into a static program: a quarter of one otherwise. A symbol that is defined
//! here is not looked for in libc.a, nor what its definition there needs. So small replacements at a few
//! places keep out what neither program uses: stdio and its printf(3), alphabets and translations
//! (gconv, gettext), and the loader of shared libraries.
//!
//! In a crate of its own, because it is for the two programs as they ship: those have one thread, so that
//! [`fork`] need not care for others. The tests' program has several, and links none of this.
//!
//! What always holds: a replacement does what its name promises to whoever can call it in a program
//! without stdio, else it says that it cannot. With another glibc than 2.36 a program may become
//! larger again; if two definitions met, it would not link.

use core::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};
use core::ptr::{null, null_mut};

unsafe extern "C" {
    fn _Fork() -> c_int;
    fn abort() -> !;
    fn getauxval(what: c_ulong) -> c_ulong;
    fn getrandom(buffer: *mut c_void, size: usize, flags: c_uint) -> isize;
    fn strcmp(a: *const c_char, b: *const c_char) -> c_int;
    fn strerrordesc_np(error: c_int) -> *const c_char;
    fn strlen(text: *const c_char) -> usize;
}

const EAGAIN: c_int = 11;
const ENOSYS: c_int = 38;
const ERANGE: c_int = 34;
const AT_PAGESZ: c_ulong = 6;
const AT_CLKTCK: c_ulong = 17;
const SC_CLK_TCK: c_int = 2;
const SC_PAGESIZE: c_int = 30;

/// Where the main thread's stack is. glibc reads it from /proc/self/maps by sscanf(3). std asks it so that
/// an overflow of the stack has a message; without an answer (std/src/sys/pal/unix/stack_overflow.rs)
/// it ends by SIGSEGV alone.
// SAFETY: the name and arguments of pthread_getattr_np(3), with its way to fail.
#[unsafe(no_mangle)]
extern "C" fn pthread_getattr_np(_thread: c_ulong, _attributes: *mut c_void) -> c_int {
    ENOSYS
}

/// fork(2) of one that has a single thread and no streams: glibc's own takes the locks of both, and asks
/// the handlers of pthread_atfork(3), of which there are none.
// SAFETY: the name and arguments of fork(2).
#[unsafe(no_mangle)]
extern "C" fn fork() -> c_int {
    // SAFETY: takes and touches nothing. It differs from fork(2) as said.
    unsafe { _Fork() }
}

/// There are no threads, which [`fork`] relies on: none can be made (EAGAIN). What termion has for one is never
/// called, but linked.
// SAFETY: the name and arguments of pthread_create(3), with its way to fail.
#[unsafe(no_mangle)]
extern "C" fn pthread_create(
    _thread: *mut c_ulong,
    _attributes: *const c_void,
    _run: *const c_void,
    _argument: *mut c_void,
) -> c_int {
    EAGAIN
}

/// See [`pthread_create`].
// SAFETY: the name and arguments of pthread_setname_np(3), with a way to fail.
#[unsafe(no_mangle)]
extern "C" fn pthread_setname_np(_thread: c_ulong, _name: *const c_char) -> c_int {
    ENOSYS
}

/// Nothing is ever loaded, so there is nothing to find by name. But getrandom(2), which the crate of that
/// name asks for in this way: without it would read /dev/urandom, which a guest may not have.
// SAFETY: the name and arguments of dlsym(3); what it gives has the type that is asked for.
#[unsafe(no_mangle)]
extern "C" fn dlsym(_library: *mut c_void, name: *const c_char) -> *mut c_void {
    // SAFETY: both are strings that end with a zero, as dlsym(3) says of `name`.
    if unsafe { strcmp(name, c"getrandom".as_ptr()) } == 0 {
        return getrandom as *mut c_void;
    }
    null_mut()
}

/// sysconf(3), of which std and realpath(3) ask for the page, and who may else for the clock. "-1" is "not known".
// SAFETY: the name and arguments of sysconf(3), as glibc itself calls it.
#[unsafe(no_mangle)]
extern "C" fn __sysconf(name: c_int) -> c_long {
    let what = match name {
        SC_PAGESIZE => AT_PAGESZ,
        SC_CLK_TCK => AT_CLKTCK,
        _ => return -1,
    };
    // SAFETY: takes a number and touches nothing (getauxval(3)).
    let value = unsafe { getauxval(what) };
    c_long::try_from(value).unwrap_or(-1)
}

/// See [`__sysconf`].
// SAFETY: the name and arguments of sysconf(3).
#[unsafe(no_mangle)]
extern "C" fn sysconf(name: c_int) -> c_long {
    __sysconf(name)
}

/// How many processors there are, for malloc(3), which gives threads arenas by it: there is one thread.
// SAFETY: the name and arguments of get_nprocs(3), as glibc itself calls it.
#[unsafe(no_mangle)]
extern "C" fn __get_nprocs() -> c_int {
    1
}

/// What isalpha(3) and the like look up for each thread. There is no alphabet that it could point to, and
/// nobody who would look.
// SAFETY: the name and arguments of what starts a thread; the tables stay null.
#[unsafe(no_mangle)]
const extern "C" fn __ctype_init() {}

/// An error's text without a translation, null if it has none.
fn text(error: c_int) -> *const c_char {
    // SAFETY: takes a number, gives a constant or null (strerrordesc_np(3)).
    unsafe { strerrordesc_np(error) }
}

/// strerror_r(3) as POSIX has it: std's text of an error.
///
/// # Safety
/// `buffer` has `size` bytes.
// SAFETY: the name and arguments of strerror_r(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn __xpg_strerror_r(error: c_int, buffer: *mut c_char, size: usize) -> c_int {
    let text = match text(error) {
        text if text.is_null() => c"Unknown error".as_ptr(),
        text => text,
    };
    // SAFETY: a constant that ends with a zero.
    let length = unsafe { strlen(text) };
    if size == 0 {
        return ERANGE;
    }
    let copied = length.min(size - 1);
    // SAFETY: `copied` and a zero are at most `size`, which the caller has room for; a constant of
    // glibc's and memory of the caller's are apart.
    unsafe {
        core::ptr::copy_nonoverlapping(text, buffer, copied);
        buffer.add(copied).write(0);
    }
    if copied < length { ERANGE } else { 0 }
}

/// strerror_r(3) as GNU has it, which glibc's own start code has for its last words.
// SAFETY: the name and arguments of strerror_r(3), as glibc itself calls it.
#[unsafe(no_mangle)]
extern "C" fn __strerror_r(error: c_int, _buffer: *mut c_char, _size: usize) -> *const c_char {
    match text(error) {
        text if text.is_null() => c"Unknown error".as_ptr(),
        text => text,
    }
}

/// dcgettext(3): messages stay as they are.
// SAFETY: the name and arguments of dcgettext(3), as glibc itself calls it.
#[unsafe(no_mangle)]
extern "C" fn __dcgettext(
    _domain: *const c_char,
    text: *const c_char,
    _kind: c_int,
) -> *const c_char {
    text
}

/// An assertion of glibc's that does not hold: the program ends by SIGABRT, without its line.
// SAFETY: the name and arguments of what assert(3) calls; it does not return either.
#[unsafe(no_mangle)]
extern "C" fn __assert_fail(_: *const c_char, _: *const c_char, _: c_uint, _: *const c_char) -> ! {
    // SAFETY: it does not return.
    unsafe { abort() }
}

// What malloc_stats(3) and malloc_info(3) print by, which are in one piece with malloc(3) and which
// nobody calls. They take any arguments, and touch none of them.

/// There is no stream.
// SAFETY: the name and size of stderr(3), null, which no one here reads through.
#[unsafe(no_mangle)]
static stderr: Stream = Stream(null());

/// fprintf(3) into no stream.
// SAFETY: the name of fprintf(3); the caller alone puts and takes away the arguments.
#[unsafe(no_mangle)]
extern "C" fn fprintf() -> c_int {
    -1
}

/// fputs(3) into no stream.
// SAFETY: the name of fputs(3), as above.
#[unsafe(no_mangle)]
extern "C" fn _IO_fputs() -> c_int {
    -1
}

/// fwrite(3) into no stream.
// SAFETY: the name of fwrite(3), as above.
#[unsafe(no_mangle)]
extern "C" fn fwrite() -> usize {
    0
}

/// A `FILE *` that is null.
#[repr(transparent)]
struct Stream(*const c_void);

// SAFETY: null, and never written.
unsafe impl Sync for Stream {}
