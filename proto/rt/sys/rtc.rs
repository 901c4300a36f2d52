//! The battery-backed clock: /dev/rtc (rtc(4), linux/rtc.h).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::check;
use crate::rt::civil::Civil;

/// `struct rtc_time`: years since 1900, months from 0.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct RtcTime {
    second: i32,
    minute: i32,
    hour: i32,
    day: i32,
    month: i32,
    year: i32,
    /// The kernel works these out itself.
    unused: [i32; 3],
}

/// `_IOR('p', 0x09, struct rtc_time)` and `_IOW('p', 0x0a, struct rtc_time)`.
const RTC_RD_TIME: libc::c_ulong = 0x8024_7009;
const RTC_SET_TIME: libc::c_ulong = 0x4024_700A;

/// What it shows; whether that is UTC it does not say.
///
/// # Errors
/// EINVAL: it has lost its time. ENOTTY: this is no such clock.
pub fn read(clock: &File) -> io::Result<Civil> {
    let mut time = RtcTime::default();
    // SAFETY: the call fills one rtc_time, which lives for its length.
    check(unsafe { libc::ioctl(clock.as_raw_fd(), RTC_RD_TIME, &raw mut time) })?;
    let small = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    Ok(Civil {
        year: i64::from(time.year) + 1900,
        month: small(time.month + 1),
        day: small(time.day),
        hour: small(time.hour),
        minute: small(time.minute),
        second: small(time.second),
    })
}

/// Sets it.
///
/// # Errors
/// EINVAL, ERANGE: it cannot show this year. EACCES.
pub fn set(clock: &File, to: Civil) -> io::Result<()> {
    let time = RtcTime {
        second: to.second.into(),
        minute: to.minute.into(),
        hour: to.hour.into(),
        day: to.day.into(),
        month: i32::from(to.month) - 1,
        year: i32::try_from(to.year - 1900)
            .map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))?,
        unused: [0; 3],
    };
    // SAFETY: the call reads one rtc_time, which lives for its length.
    check(unsafe { libc::ioctl(clock.as_raw_fd(), RTC_SET_TIME, &raw const time) })?;
    Ok(())
}
