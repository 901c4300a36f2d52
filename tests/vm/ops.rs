//! What an operator does to a guest, each where it has an effect: in a guest of its own.

mod freeze;
mod network;
mod power;
mod processes;
mod services;
mod time;
mod users;
