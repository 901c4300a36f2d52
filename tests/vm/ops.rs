//! What an operator does to a guest, each where it has an effect: in a guest of its own.

mod freeze;
mod grow;
mod hardware;
pub mod install;
mod network;
mod power;
mod processes;
mod restored;
mod services;
mod setup;
mod storage;
mod time;
mod users;
mod watchdog;
