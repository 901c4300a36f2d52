//! The only room that knows the operating system: what both programs need of mio, libc and syslog.
//! `unsafe` lives in [`sys`] alone.

pub mod authorized;
pub mod check;
pub mod civil;
pub mod conf;
pub mod crypt;
pub mod log;
pub mod logfile;
pub mod notify;
pub mod partitions;
pub mod random;
pub mod replace;
pub mod route;
pub mod sha2;
pub mod signal;
pub mod stat;
pub mod sys;
pub mod tool;
pub mod tree;
pub mod unit;
pub mod users;
pub mod zone;

pub use sys::clock;
