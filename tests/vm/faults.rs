//! What goes wrong with a channel, mostly with transfers under way: what they come to, that the channel
//! is well again without anybody's help, and that nothing is left behind.

// What the tests move while something goes wrong.
mod transfers;

mod hypervisor;
mod kills;
mod late;
mod migration;
mod noise;
mod ports;
mod restarts;
mod snapshots;
mod stalls;
