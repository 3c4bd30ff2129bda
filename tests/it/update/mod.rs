//! Updates of real nodes: files, code and the next start of a release.

mod example;
mod next_boot;
mod odd_files;
mod original;
mod other_otp;
mod ours;
mod push;
mod relsyncd;
mod restart;
mod restart_otp;
mod scenarios;
mod undo;
