//! The link is cut and the host is killed, after every message and at random bytes.

use std::fs;

use relsync_tests::binary::Run;
use relsync_tests::device::{Device, PUSH, ROLLBACK, Scenario};
use relsync_tests::node::NodeOptions;
use relsync_tests::proxy::{Cut, Proxy};
use relsync_tests::release::compile;
use relsync_tests::rig::noise;
use relsync_tests::tally::{self, Tally};

use super::rig::{every_message, kill_at, through};
use crate::ways::daemon_with_subsystem;

/// Returns cuts after random numbers of bytes. Half of them are among the last bytes, which start
/// the update.
fn at_random_bytes([there, back]: [u64; 2], seed: u64, count: usize) -> Vec<Cut> {
    let random = noise(seed, count * 4);
    let numbers = random.chunks_exact(4).map(|bytes| {
        let bytes = bytes.try_into().expect("four bytes");
        u64::from(u32::from_le_bytes(bytes))
    });
    numbers
        .enumerate()
        .map(|(index, number)| match index % 4 {
            0 => Cut::After(number % there),
            1 => Cut::After(there - number % 600.min(there)),
            2 => Cut::AfterBack(number % back),
            _ => Cut::AfterBack(back - number % 300.min(back)),
        })
        .collect()
}

/// Returns the messages and bytes of an undisturbed run.
fn undisturbed(device: &Device, scenario: &Scenario) -> ([u64; 2], [u64; 2]) {
    device.reset(scenario.template);
    let proxy = device.proxy(&[Cut::Never]);
    let run = through(device, scenario.arguments, &proxy);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(device.find(), Ok(scenario.new));
    (proxy.frames(), proxy.bytes())
}

/// Checks that a push reports the truth: applied or not.
fn is_told(scenario: &Scenario, run: &Run, is_new: bool) -> Result<bool, String> {
    if scenario.name == PUSH.name && is_new != (run.code == Some(0)) {
        return Err(format!("new: {is_new}, and it told {run:?}"));
    }
    Ok(is_new)
}

fn cut_everywhere(scenario: &Scenario) {
    let device = Device::new(NodeOptions::default());
    let cuts = moments(&device, scenario);
    cut_at(&device, scenario, &cuts);
}

/// Returns cuts at messages and at random bytes.
fn moments(device: &Device, scenario: &Scenario) -> Vec<Cut> {
    let (frames, bytes) = undisturbed(device, scenario);
    let mut cuts = tally::sample(every_message(frames), 3);
    cuts.extend(at_random_bytes(bytes, tally::seed(), tally::moments(2, 30)));
    cuts
}

fn cut_at(device: &Device, scenario: &Scenario, cuts: &[Cut]) {
    let mut tally = Tally::new(&format!("{}, link cut", scenario.name));
    for cut in cuts {
        device.reset(scenario.template);
        // The link works again for the command that asks for the outcome.
        let proxy = device.proxy(&[*cut, Cut::Never]);
        let run = through(device, scenario.arguments, &proxy);
        let found = device
            .aftermath(scenario, Some(&run))
            .and_then(|is_new| is_told(scenario, &run, is_new));
        tally.count(&format!("{cut:?}"), found);
    }
    tally.finish(cuts.len());
}

fn kill_everywhere(scenario: &Scenario) {
    let device = Device::new(NodeOptions::default());
    let cuts = moments(&device, scenario);
    kill_the_host_at(&device, scenario, &cuts);
}

fn kill_the_host_at(device: &Device, scenario: &Scenario, cuts: &[Cut]) {
    let mut tally = Tally::new(&format!("{}, host killed", scenario.name));
    for cut in cuts {
        device.reset(scenario.template);
        kill_at(device, scenario.arguments, &device.holding_proxy(*cut));
        tally.count(&format!("{cut:?}"), device.aftermath(scenario, None));
    }
    tally.finish(cuts.len());
}

/// The same over SSH, where a cut is at any byte of the encrypted stream.
#[test]
fn a_link_of_ssh_cut_anywhere_leaves_one_release() {
    let mut device = Device::new(NodeOptions::default());
    let daemon = daemon_with_subsystem(&device.node);
    device.go_through(daemon);
    for scenario in [&PUSH, &ROLLBACK] {
        let (_, bytes) = undisturbed(&device, scenario);
        let count = tally::moments(4, 60);
        cut_at(
            &device,
            scenario,
            &at_random_bytes(bytes, tally::seed(), count),
        );
        let cuts = at_random_bytes(bytes, tally::seed() + 1, count);
        kill_the_host_at(&device, scenario, &cuts);
    }
}

/// A session that reloads code and changes no file. The code is the old one or that of the files,
/// and the next session loads it.
const RELOAD: &[&str] = &["reload", "--json"];

fn load_by_hand(device: &Device) {
    device.reset("two");
    let patch = device.cli.dir().join("patch");
    if !patch.is_dir() {
        fs::create_dir(&patch).expect("a directory");
        let body = "-export([version/0]).\nversion() -> 9.";
        compile(
            &patch,
            &[("sample", body), ("steady", "-export([f/0]).\nf() -> 9.")],
        );
    }
    device.node.eval(&format!(
        "[begin code:purge(M), {{module, M}} = code:load_abs({patch:?} ++ [$/ | atom_to_list(M)]) end || M <- [sample, steady]]"
    ));
}

fn reloaded(device: &Device, run: Option<&Run>) -> Result<bool, String> {
    device.settle();
    let running = device.node.eval("{sample:version(), steady:f()}");
    let is_new = running == "{2,2}";
    if !is_new && (running != "{9,9}" || run.is_some_and(|run| run.code == Some(0))) {
        return Err(format!("{running} runs, and it told {run:?}"));
    }
    let status = device.status()?;
    device.is_recorded(2, &status)?;
    let run = device.run(RELOAD);
    if run.code != Some(0) || device.find() != Ok(2) {
        return Err(format!("the next reload: {run:?}"));
    }
    Ok(is_new)
}

fn reload_everywhere(kills: bool) {
    let device = Device::new(NodeOptions::default());
    load_by_hand(&device);
    let proxy = Proxy::start(&device.node, &[Cut::Never]);
    let run = through(&device, RELOAD, &proxy);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(device.find(), Ok(2));
    let mut cuts = tally::sample(every_message(proxy.frames()), 3);
    cuts.extend(at_random_bytes(
        proxy.bytes(),
        tally::seed(),
        tally::moments(2, 30),
    ));
    let what = if kills { "host killed" } else { "link cut" };
    let mut tally = Tally::new(&format!("reload, {what}"));
    for cut in &cuts {
        load_by_hand(&device);
        let found = if kills {
            kill_at(&device, RELOAD, &Proxy::holding(&device.node, &[*cut]));
            reloaded(&device, None)
        } else {
            let proxy = Proxy::start(&device.node, &[*cut, Cut::Never]);
            let run = through(&device, RELOAD, &proxy);
            reloaded(&device, Some(&run))
        };
        tally.count(&format!("{cut:?}"), found);
    }
    tally.finish(cuts.len());
}

#[test]
fn a_link_cut_anywhere_in_a_reload_leaves_one_code() {
    reload_everywhere(false);
}

#[test]
fn a_host_killed_anywhere_in_a_reload_leaves_one_code() {
    reload_everywhere(true);
}

#[test]
fn a_link_cut_anywhere_in_a_push_leaves_one_release() {
    cut_everywhere(&PUSH);
}

#[test]
fn a_link_cut_anywhere_in_a_rollback_leaves_one_release() {
    cut_everywhere(&ROLLBACK);
}

#[test]
fn a_host_killed_anywhere_in_a_push_leaves_one_release() {
    kill_everywhere(&PUSH);
}

#[test]
fn a_host_killed_anywhere_in_a_rollback_leaves_one_release() {
    kill_everywhere(&ROLLBACK);
}
