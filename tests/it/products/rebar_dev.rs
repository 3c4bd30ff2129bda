//! `rebar3 release` in mode `dev` makes links to the project's build directory. Such a release is
//! useless on another machine.

use relsync_tests::product::Product;
use relsync_tests::project::{Build, Tool};

use super::{FIRST, Runs, assert_runs};

/// Pushes a build in mode `dev` to a device that runs a whole release. It is refused, and the
/// release keeps running.
fn refused(build: Build) -> Option<Product> {
    refused_with(build, &[])
}

fn refused_with(build: Build, arguments: &[&str]) -> Option<Product> {
    if !Tool::RebarDev.is_here() {
        return None;
    }
    let product = super::installed(Tool::RebarProd)?;
    let links = Tool::RebarDev.build(build);
    let links = links.to_str().expect("a path of text");
    let run = product.run(&[&["push", "--json", "-l", links], arguments].concat());
    assert_eq!(run.code, Some(1), "{run:?}");
    let result = run.result();
    let said = result["error"]["message"].as_str().expect("a message");
    assert!(
        said.contains("dev mode") && said.contains("lib/sample-"),
        "the mode and the links are named: {said}"
    );
    assert_runs(&product, Runs { calls: 2, ..FIRST });
    Some(product)
}

#[test]
fn change() {
    refused(Build::CHANGED);
}

#[test]
fn new_application() {
    refused(Build {
        has_extra: true,
        ..Build::CHANGED
    });
}

#[test]
fn version_bump_from_a_clean_build() {
    refused(Build::BUMPED);
}

#[test]
fn version_bump_from_an_incremental_build() {
    refused(Build {
        is_incremental: true,
        ..Build::BUMPED
    });
}

#[test]
fn otp_patch() {
    refused(Build {
        is_otp_patched: true,
        ..Build::CHANGED
    });
}

#[test]
fn restart() {
    if let Some(mut product) = refused(Build::BUMPED) {
        product.restart();
        assert_runs(&product, FIRST);
    }
}

/// The only way back leads to the state before the first push, which changed nothing.
fn go_back(product: &Product) {
    super::roll_back(product);
    let status = product.run(&["status", "--json"]).result();
    assert!(status["current"].is_null(), "{status}");
}

#[test]
fn rollback() {
    if let Some(product) = refused(Build::BUMPED) {
        go_back(&product);
        assert_runs(&product, Runs { calls: 3, ..FIRST });
    }
}

#[test]
fn rollback_after_restart() {
    if let Some(mut product) = refused(Build::BUMPED) {
        product.restart();
        go_back(&product);
        assert_runs(&product, FIRST);
    }
}

#[test]
fn reload_vm_after_a_change() {
    refused_with(Build::CHANGED, &["--reload", "vm"]);
}

#[test]
fn reload_vm_after_a_version_bump() {
    refused_with(Build::BUMPED, &["--reload", "vm"]);
}

#[test]
fn a_device_without_a_release_gets_none() {
    if !Tool::RebarDev.is_here() {
        return;
    }
    let rig = relsync_tests::rig::Rig::new();
    let links = Tool::RebarDev.build(Build::FIRST);
    let links = links.to_str().expect("a path of text");
    rig.push(&["-l", links], 1);
    assert_eq!(relsync_tests::release::listing(&rig.device()), [""; 0]);
}
