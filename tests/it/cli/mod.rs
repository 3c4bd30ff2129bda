//! The command: its usage, its output and exit codes, interrupted and cut off.

mod bad_input;
mod lost;
mod offline;
mod online;
mod ssh;
