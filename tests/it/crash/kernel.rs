//! The kernel answers each call of the agent about the device's files with an error, once. `strace`
//! injects the error.

use relsync_tests::device::{Device, PUSH, ROLLBACK, Scenario};
use relsync_tests::node::NodeOptions;
use relsync_tests::tally::{self, Tally};
use relsync_tests::tracer::{Call, Tracer};

/// The errors of the calls.
const ERRORS: [&str; 4] = ["ENOSPC", "EIO", "EROFS", "EACCES"];

/// Returns the calls, each with the next of the errors. In the agent's own tests, each of its
/// operations fails with every error.
fn points(calls: &[Call]) -> Vec<(Call, &'static str)> {
    let recurring = calls.iter().filter(|call| !is_unique(&call.path)).cloned();
    let errors = ERRORS.iter().copied().cycle();
    tally::sample(recurring.zip(errors).collect(), 7)
}

/// Returns whether the path is that of a staged file before it has its lasting name. The next
/// session gives it another one.
fn is_unique(path: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(directory, name)| {
        // The agent reaches the directory by its path, or by a handle.
        (directory.ends_with("/staging") || directory.starts_with("/proc/self/fd/"))
            && name.len() > 6
            && name.bytes().all(|b| b.is_ascii_digit())
    })
}

fn fail_everywhere(scenario: &Scenario) {
    // With one thread for files, the calls come in one order. `strace` counts per thread.
    let device = Device::new(NodeOptions {
        args: vec!["+SDio".into(), "1".into()],
        ..NodeOptions::default()
    });
    let log = device.cli.dir().join("calls");
    device.reset(scenario.template);
    let tracer = match Tracer::record(&device.node, &log) {
        Ok(tracer) => tracer,
        Err(reason) => {
            tally::say(&format!(
                "SKIPPED: {}, errors from the kernel: {reason}",
                scenario.name
            ));
            return;
        }
    };
    let run = device.run(scenario.arguments);
    let calls = tracer.calls(device.root());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(calls.len() > 50, "{calls:#?}");

    let mut tally = Tally::new(&format!("{}, error from the kernel", scenario.name));
    let mut missed = 0;
    let points = points(&calls);
    for (call, error) in &points {
        device.reset(scenario.template);
        let tracer = Tracer::inject(&device.node, &log, call, error).expect("strace");
        let run = device.run(scenario.arguments);
        device.settle();
        if !tracer.has_injected() {
            missed += 1;
        }
        let found = device.aftermath(scenario, Some(&run));
        tally.count(&format!("{error} of {call:?}"), found);
    }
    assert!(missed * 20 <= points.len(), "{missed} errors never came");
    tally.finish(points.len());
}

#[test]
fn an_error_of_the_kernel_anywhere_in_a_push_leaves_one_release() {
    fail_everywhere(&PUSH);
}

#[test]
fn an_error_of_the_kernel_anywhere_in_a_rollback_leaves_one_release() {
    fail_everywhere(&ROLLBACK);
}
