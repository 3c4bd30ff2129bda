//! Modules that were compiled for another OTP release than the target's.

use std::fs;

use relsync_tests::otp;
use relsync_tests::release::listing;
use relsync_tests::rig::Rig;

/// A module that no release older than its compiler's can load, because of an instruction that OTP
/// 26 introduced.
const BODY: &str = "-export([f/1]).\nf(<<A:8, B:16, Rest/binary>>) -> <<(A + B):32, Rest/binary>>.";

/// Makes a release whose modules have long names, compiled by that OTP. Returns `None` if that OTP
/// is not available.
fn compiled_by(rig: &Rig, release: u32) -> Option<()> {
    let tree = rig.tree();
    tree.app(
        "sample",
        "1.0",
        &[("sample", "-export([f/1]).\nf(_) -> 1.")],
    );
    let ebin = tree.root().join("lib/sample-1.0/ebin");
    let modules = [("sample", BODY), ("a_module_of_a_long_name", BODY)];
    otp::compile(release, &ebin, &modules)
}

#[test]
fn modules_of_a_later_otp_are_refused_before_they_are_sent() {
    for (target, release) in [(25, 27), (25, 29), (27, 29)] {
        let Some(options) = otp::node(target) else {
            continue;
        };
        let rig = Rig::with(options);
        if compiled_by(&rig, release).is_none() {
            continue;
        }
        let said = format!(
            "compiled by OTP {release}'s compiler, which OTP {target} on the target cannot load"
        );
        let plan = rig.push(&["plan"], 0);
        let notes = plan["notes"].to_string();
        assert!(
            notes.contains("would be refused") && notes.contains(&said),
            "{plan}"
        );
        for mode in ["soft", "hard", "apps"] {
            let parts = [said.as_str(), "a_module_of_a_long_name.beam"];
            rig.refused(&["push", "--reload", mode], 1, "other_otp", &parts);
        }
        // Code that shall not be loaded may be of any release.
        let plan = rig.push(&["plan", "--reload", "none"], 0);
        assert!(!plan["notes"].to_string().contains("refused"), "{plan}");
        rig.push(&["--reload", "none"], 0);
        assert_eq!(listing(&rig.device()), listing(rig.tree().root()));
    }
}

#[test]
fn modules_that_are_never_loaded_may_be_of_any_otp() {
    let Some(options) = otp::node(25) else {
        return;
    };
    let rig = Rig::with(options);
    let tree = rig.tree();
    tree.app(
        "sample",
        "1.0",
        &[("sample", "-export([f/1]).\nf(_) -> 1.")],
    );
    let templates = tree.root().join("lib/sample-1.0/priv/templates");
    fs::create_dir_all(&templates).expect("a directory");
    if otp::compile(27, &templates, &[("a_template", BODY)]).is_none() {
        return;
    }
    let plan = rig.push(&["plan"], 0);
    assert!(!plan["notes"].to_string().contains("refused"), "{plan}");
    rig.push(&[], 0);
    assert_eq!(listing(&rig.device()), listing(tree.root()));
    rig.load();
    // If it is beside a module that is loaded, it is not named.
    otp::compile(29, &templates, &[("a_template", BODY)]);
    let ebin = tree.root().join("lib/sample-1.0/ebin");
    otp::compile(27, &ebin, &[("sample", BODY)]);
    let said = [
        "lib/sample-1.0/ebin/sample.beam was compiled by OTP 27's compiler, which OTP 25 on the target cannot load",
    ];
    rig.refused(&[], 1, "other_otp", &said);
}

#[test]
fn modules_of_an_earlier_otp_are_refused_by_the_vm_that_is_to_load_them() {
    let Some(options) = otp::node(27) else {
        return;
    };
    let rig = Rig::with(options);
    let ebin = rig.tree().root().join("lib/sample-1.0/ebin");
    fs::create_dir_all(&ebin).expect("a directory");
    let catches = "-export([f/2]).\nf(X, Y) -> try X + Y catch error:E:S -> {E, S} end.";
    let body = "-export([f/2]).\nf(X, Y) -> X + Y.";
    if otp::compile(23, &ebin, &[("sample", body)]).is_none() {
        return;
    }
    rig.push(&[], 0);
    rig.load();
    otp::compile(23, &ebin, &[("sample", catches)]);
    let said = [
        "sample",
        "compiled by OTP 23's compiler, which OTP 27 cannot load",
    ];
    rig.refused(&[], 1, "other_otp", &said);
}
