//! The driver of virtio-serial ports.

use quantix::rt::check::{Check, Status};

use super::{Guest, fine, found};

const NAME: &str = "driver";

pub fn check(guest: &mut Guest) -> Check {
    // A driver that is built in and has no parameters is in the second place alone.
    for place in [
        "sys/module/virtio_console",
        "sys/bus/virtio/drivers/virtio_console",
    ] {
        if guest.has(place) {
            return fine(NAME, format_args!("/{place} is there"));
        }
    }
    found(
        NAME,
        Status::Fail,
        format_args!("there is no /sys/module/virtio_console"),
        format_args!("the kernel has no driver for the port"),
        format_args!("modprobe virtio_console"),
    )
}
