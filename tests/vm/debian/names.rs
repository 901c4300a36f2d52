//! Host name, timezone and clock, as hostnamed and timedated have them.

use super::Guest;
use crate::vm::harness::{PATIENCE, wait_until};

pub fn are_those_of_hostnamed_and_timedated(guest: &Guest) {
    let name = "web-7.example.org";
    assert_eq!(guest.ask("hostname", &[name]).text(), name);
    assert_eq!(
        guest.sh("hostnamectl --static; hostname; cat /etc/hostname"),
        [name; 3].join("\n")
    );
    guest.sh("hostnamectl set-hostname web8");
    assert_eq!(guest.ask("hostname", &[]).text(), "web8");
    // Others are told of it as it changes.
    wait_until("the daemon to know", PATIENCE, || {
        guest.json("info", &[])["agent"]["hostname"] == "web8"
    });

    let zone = "timedatectl show -p Timezone --value; cat /etc/timezone; date +%z";
    guest.ask("timezone", &["Europe/Berlin"]).ok();
    let said = guest.sh(zone);
    assert!(
        said.starts_with("Europe/Berlin\nEurope/Berlin\n+0"),
        "{said}"
    );
    guest.sh("timedatectl set-timezone Asia/Tokyo");
    assert_eq!(guest.ask("timezone", &[]).text(), "Asia/Tokyo (UTC+9)");
    guest.ask("timezone", &["Etc/UTC"]).ok();
    // timedated has read it before, and is no witness of its own any more.
    assert_eq!(guest.sh(zone), "Etc/UTC\nEtc/UTC\n+0000");

    guest.ask("time", &["--set", "2031-02-03 04:05:06"]).ok();
    let clocks =
        guest.sh("timedatectl show -p TimeUSec --value; timedatectl show -p RTCTimeUSec --value");
    assert_eq!(
        clocks.matches("Mon 2031-02-03 04:05:").count(),
        2,
        "{clocks}"
    );
    let ahead = guest.json("time", &["--sync"])["ahead_seconds"]
        .as_f64()
        .unwrap();
    assert!(ahead.abs() < 1.0, "{ahead}");
}
