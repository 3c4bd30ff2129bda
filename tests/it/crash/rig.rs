//! Steps that these tests share: a push through a proxy, hooks, killing its host.

use std::fs;
use std::process::{Child, Stdio};

use relsync_tests::binary::Run;
use relsync_tests::device::Device;
use relsync_tests::proxy::{Cut, Proxy};

/// Returns a cut after every message in either direction.
pub(super) fn every_message([there, back]: [u64; 2]) -> Vec<Cut> {
    let there = (1..=there).map(Cut::AfterFrames);
    there.chain((1..=back).map(Cut::AfterFramesBack)).collect()
}

/// Runs the command through a proxy.
pub(super) fn through(device: &Device, arguments: &[&str], proxy: &Proxy) -> Run {
    let port = proxy.port().to_string();
    device.run(&[arguments, &[device.port_option(), &port]].concat())
}

/// Runs the command through a proxy that holds the link, and kills the command at that moment.
pub(super) fn kill_at(device: &Device, arguments: &[&str], proxy: &Proxy) {
    let port = proxy.port().to_string();
    let mut host = start(
        device,
        &[arguments, &[device.port_option(), &port]].concat(),
    );
    proxy.wait(|| host.try_wait().is_ok_and(|ended| ended.is_some()));
    kill(host);
}

/// Starts the command, and ignores its output.
pub(super) fn start(device: &Device, arguments: &[&str]) -> Child {
    device
        .command(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("relsync runs")
}

/// Ends the command at once, unless it has ended.
pub(super) fn kill(mut host: Child) {
    let _ = host.kill();
    host.wait().expect("an end");
}

/// Writes a module of hooks, to be named as `-H name.erl`.
pub(super) fn write_hooks(device: &Device, name: &str, body: &str) {
    let path = device.cli.dir().join(format!("{name}.erl"));
    fs::write(path, format!("-module({name}).\n{body}")).expect("a file");
}
