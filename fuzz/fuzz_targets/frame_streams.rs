#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relsync_engine::fuzzing::frame_streams(input));
