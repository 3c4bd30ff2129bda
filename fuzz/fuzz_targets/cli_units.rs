#![no_main]
#![allow(dead_code, missing_docs)]
//! The command is a program, not a library: its files are included.

#[path = "../../cli/src/args.rs"]
mod args;
#[path = "../../cli/src/config.rs"]
mod config;
#[path = "../../cli/src/fuzzing.rs"]
mod fuzzing;
#[path = "../../cli/src/terms.rs"]
mod terms;
#[path = "../../cli/src/units.rs"]
mod units;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzzing::cli_units(input));
