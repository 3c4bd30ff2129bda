//! The link is cut and the host is killed while a generation is on probation, and while it is
//! confirmed.

use relsync_tests::binary::Run;
use relsync_tests::device::{Device, PUSH, Scenario};
use relsync_tests::node::NodeOptions;
use relsync_tests::proxy::{Cut, Proxy};
use relsync_tests::tally::{self, Tally};

use super::rig::{every_message, kill_at, through};

/// A push that must be confirmed soon.
const ON_PROBATION: Scenario = Scenario {
    name: "push on probation",
    arguments: &[
        "push",
        "--json",
        "-l",
        "release-2",
        "--retries",
        "0",
        "--confirm-timeout",
        "2s",
    ],
    ..PUSH
};

/// Installs release 2 over release 1. The host is killed when it starts to confirm.
fn put_on_probation(device: &Device) {
    device.reset("one");
    let proxy = Proxy::holding(&device.node, &[Cut::Never, Cut::AfterFrames(1)]);
    let arguments = [PUSH.arguments, &["--confirm-timeout", "600s"]].concat();
    kill_at(device, &arguments, &proxy);
    assert_eq!(device.find(), Ok(2));
}

/// Returns whether the installed generation is confirmed. Release 2 stays in any case.
fn is_confirmed(device: &Device) -> Result<bool, String> {
    let status = device.status()?;
    device.is_recorded(2, &status)?;
    match device.find()? {
        2 => Ok(status["current"]["state"] == "confirmed"),
        other => Err(format!("release {other}")),
    }
}

/// Kills the host or cuts the link at these points. Returns the command's result, if it survived.
fn disturb(device: &Device, arguments: &[&str], cuts: &[Cut], kills: bool) -> Option<Run> {
    if kills {
        kill_at(device, arguments, &Proxy::holding(&device.node, cuts));
        None
    } else {
        let proxy = Proxy::start(&device.node, cuts);
        Some(through(device, arguments, &proxy))
    }
}

fn confirm_everywhere(kills: bool) {
    let device = Device::new(NodeOptions::default());
    put_on_probation(&device);
    let proxy = Proxy::start(&device.node, &[Cut::Never]);
    let arguments = ["confirm", "--json"];
    let run = through(&device, &arguments, &proxy);
    assert_eq!(run.result()["was_on_probation"], true, "{run:?}");
    let disturbed = if kills { "host killed" } else { "link cut" };
    let mut tally = Tally::new(&format!("confirm, {disturbed}"));
    let cuts = tally::sample(every_message(proxy.frames()), 2);
    for cut in &cuts {
        put_on_probation(&device);
        disturb(&device, &arguments, &[*cut], kills);
        device.settle();
        let mut found = is_confirmed(&device);
        let again = device.run(&arguments);
        if again.code != Some(0) || is_confirmed(&device) != Ok(true) {
            found = Err(format!("it cannot be confirmed: {again:?}"));
        }
        tally.count(&format!("{cut:?}"), found);
    }
    tally.finish(cuts.len());
}

/// Returns the messages of the push's two connections. It confirms over the second one.
fn undisturbed(device: &Device) -> [[u64; 2]; 2] {
    device.reset(ON_PROBATION.template);
    let mut frames = Vec::new();
    for connections in [1, 2] {
        device.reset(ON_PROBATION.template);
        let proxy = Proxy::start(&device.node, &vec![Cut::Never; connections]);
        through(device, ON_PROBATION.arguments, &proxy);
        device
            .node
            .wait_for("whereis(relsync_agent_probation)", "undefined");
        frames.push(proxy.frames());
    }
    [frames[0], frames[1]]
}

fn probation_everywhere(kills: bool) {
    let device = Device::new(NodeOptions::default());
    let [first, second] = undisturbed(&device);
    let first = tally::sample(every_message(first), 2)
        .into_iter()
        .map(|cut| vec![cut]);
    let second = tally::sample(every_message(second), 3)
        .into_iter()
        .map(|cut| vec![Cut::Never, cut]);
    let disturbed = if kills { "host killed" } else { "link cut" };
    let mut tally = Tally::new(&format!("{}, {disturbed}", ON_PROBATION.name));
    let moments: Vec<_> = first.chain(second).collect();
    for cuts in &moments {
        device.reset(ON_PROBATION.template);
        let run = disturb(&device, ON_PROBATION.arguments, cuts, kills);
        device.settle();
        // The generation is confirmed, or the target has rolled it back.
        device
            .node
            .wait_for("whereis(relsync_agent_probation)", "undefined");
        let found = device
            .aftermath(&ON_PROBATION, run.as_ref())
            .and_then(
                |is_new| match device.status()?["current"]["state"].as_str() {
                    Some("confirmed") => Ok(is_new),
                    other => Err(format!("in the end {other:?}")),
                },
            );
        tally.count(&format!("{cuts:?}"), found);
    }
    tally.finish(moments.len());
}

#[test]
fn a_link_cut_in_a_confirmation_leaves_the_release() {
    confirm_everywhere(false);
}

#[test]
fn a_host_killed_in_a_confirmation_leaves_the_release() {
    confirm_everywhere(true);
}

#[test]
fn a_link_cut_around_a_probation_leaves_one_confirmed_release() {
    probation_everywhere(false);
}

#[test]
fn a_host_killed_around_a_probation_leaves_one_confirmed_release() {
    probation_everywhere(true);
}
