//! The releases of release tools, and their updates: the cells of the table in
//! `docs/reference/release-tools.md`.
//!
//! Each tool has a file, and each cell has a test in it. This module has the steps of each column.
//! All tools build the same project, so the assertions of a cell differ only in what the table
//! says.

mod mix_with_erts;
mod mix_without_erts;
mod plain_paths;
mod rebar_dev;
mod rebar_minimal;
mod rebar_prod;
mod systools;

use relsync_tests::binary::Run;
use relsync_tests::product::Product;
use relsync_tests::project::{Build, NAME, Tool};

/// The state of the release's node.
#[derive(Debug, Clone, Copy)]
struct Runs {
    /// The number of its code.
    code: u32,
    /// The application's version in the code path, which the node also reports.
    version: &'static str,
    /// The number of calls of its server since it started, this one included.
    calls: u32,
}

/// Asserts that the node runs this code from this version's directory and from no other, and that
/// its server survives.
fn assert_runs(product: &Product, runs: Runs) {
    let server = product.server();
    let Runs {
        code,
        version,
        calls,
    } = runs;
    let answer = product.eval(&format!("'{server}':count()"));
    assert_eq!(answer, format!("{{{code},{calls}}}"), "code and calls");
    let ebin = product.device().join(format!("lib/{NAME}-{version}/ebin"));
    let file = ebin.join(format!("{server}.beam"));
    assert_eq!(
        product.eval(&format!("code:which('{server}')")),
        format!("{file:?}")
    );
    // The boot script may spell the directories differently.
    let path = product.eval(&format!(
        "[filename:join(D) || D <- [filename:split(D) || D <- code:get_path()], length(D) > 1, \
         lists:prefix(\"{NAME}-\", lists:nth(length(D) - 1, D))]"
    ));
    assert_eq!(path, format!("[{ebin:?}]"), "the code path");
    assert_version(product, version);
    if product.tool.is_mix() {
        assert_consolidated(product, runs);
    }
}

/// Asserts that the node reports this version of the application.
fn assert_version(product: &Product, version: &str) {
    let listed = product.eval(&format!(
        "[V || {{{NAME}, _, V}} <- application:which_applications()]"
    ));
    assert_eq!(listed, format!("[{version:?}]"), "which_applications()");
}

/// Asserts that protocols are consolidated, in this version's directory.
fn assert_consolidated(product: &Product, runs: Runs) {
    let integer = if runs.code == 1 {
        "any".to_owned()
    } else {
        format!("{{integer,7,{}}}", runs.code)
    };
    let answer = product.eval("'Elixir.Sample':protocols()");
    assert_eq!(answer, format!("{{{integer},true,true}}"), "protocols");
    let which = product.eval("code:which('Elixir.Size')");
    let end = format!("/releases/{}/consolidated/Elixir.Size.beam\"", runs.version);
    assert!(which.ends_with(&end), "{which}");
}

const FIRST: Runs = Runs {
    code: 1,
    version: "1.0.0",
    calls: 1,
};

/// Installs the first build, pushes it and calls its server once.
fn installed(tool: Tool) -> Option<Product> {
    let product = Product::new(tool)?;
    assert_runs(&product, FIRST);
    Some(product)
}

fn push(product: &Product, build: Build) -> Run {
    product.build(build);
    product.run(&["push", "--json"])
}

/// Pushes a build. It is applied and takes effect at once.
fn push_all(product: &Product, build: Build) -> Run {
    push_with(product, build, 0)
}

/// Pushes a build with another boot file for the same version. Loaded code runs at once, and the
/// restart for the boot file is asked for.
fn push_boot_file(product: &Product, build: Build) -> Run {
    if product.tool == Tool::Plain {
        return push_all(product, build);
    }
    let run = push_with(product, build, 4);
    let notes = run.result()["notes"].to_string();
    assert!(
        notes.contains("needs VM restart: ") && notes.contains("releases/1.0.0/start.boot"),
        "{notes}"
    );
    run
}

fn push_with(product: &Product, build: Build, code: i32) -> Run {
    let run = push(product, build);
    assert_eq!(run.code, Some(code), "{run:?}");
    assert_eq!(run.result()["outcome"], "applied", "{run:?}");
    run
}

/// Asserts that another push finds files and code up to date.
fn assert_up_to_date(product: &Product) {
    let run = product.run(&["push", "--json"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.result()["outcome"], "up-to-date", "{run:?}");
}

/// Tests an edit of the code, in the same version.
fn change(tool: Tool) {
    let Some(product) = installed(tool) else {
        return;
    };
    if tool.is_mix() {
        // The edit adds a module, which the boot file names.
        push_boot_file(&product, Build::CHANGED);
    } else {
        push_all(&product, Build::CHANGED);
    }
    assert_runs(&product, CHANGED);
    assert_up_to_date(&product);
}

/// Tests an application of the project that needs one of OTP which the release did not have.
fn new_application(tool: Tool) {
    let Some(mut product) = installed(tool) else {
        return;
    };
    push_boot_file(
        &product,
        Build {
            has_extra: true,
            ..Build::CHANGED
        },
    );
    assert_runs(&product, CHANGED);
    assert_eq!(product.eval("extra:f()"), "extra");
    product.restart();
    assert_runs(&product, Runs { code: 2, ..FIRST });
    assert_eq!(product.eval("extra:f()"), "extra");
    if tool != Tool::Plain {
        let started = "[A || {A, _, _} <- application:which_applications(), A =:= extra orelse A =:= public_key]";
        assert_eq!(product.eval(started), "[extra,public_key]");
    }
    // A way back leaves the files that the VM was booted from. That must not prevent relsync from
    // installing them again.
    let back = product.run(&["rollback", "--json"]);
    assert!(matches!(back.code, Some(0 | 4)), "{back:?}");
    let again = product.run(&["push", "--json"]);
    assert!(matches!(again.code, Some(0 | 4)), "{again:?}");
    assert_eq!(again.result()["outcome"], "applied", "{again:?}");
    assert_eq!(product.eval("extra:f()"), "extra");
}

/// Tests a version bump. With `is_incremental`, the build's directory held the old version.
fn version_bump(tool: Tool, is_incremental: bool) {
    let Some(product) = installed(tool) else {
        return;
    };
    push_all(
        &product,
        Build {
            is_incremental,
            ..Build::BUMPED
        },
    );
    assert_runs(&product, BUMPED);
    assert_up_to_date(&product);
    assert_runs(&product, Runs { calls: 3, ..BUMPED });
}

/// The state after an edit that did not restart the server.
const CHANGED: Runs = Runs {
    code: 2,
    calls: 2,
    ..FIRST
};

/// The state after a version bump that did not restart the server.
const BUMPED: Runs = Runs {
    code: 2,
    version: "2.0.0",
    calls: 2,
};

/// Tests a version bump, followed by a reboot of the device.
fn restart(tool: Tool) {
    let Some(mut product) = installed(tool) else {
        return;
    };
    push_all(&product, Build::BUMPED);
    product.restart();
    assert_runs(&product, Runs { calls: 1, ..BUMPED });
    assert_up_to_date(&product);
    // The files that the first VM was started from go with the next push at the latest, and are not
    // needed.
    let next = Build {
        code: 3,
        ..Build::BUMPED
    };
    push_all(&product, next);
    let old = product.device().join(format!("lib/{NAME}-1.0.0"));
    assert!(!old.exists(), "{}", old.display());
    product.restart();
    assert_runs(
        &product,
        Runs {
            code: 3,
            calls: 1,
            ..BUMPED
        },
    );
}

/// Tests an edit of the code that a restart of the VM loads. The VM boots the same version again.
fn restart_into_change(tool: Tool) {
    let Some(mut product) = installed(tool) else {
        return;
    };
    product.build(Build::CHANGED);
    let run = product.run(&["push", "--json", "--reload", "vm"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.result()["outcome"], "applied", "{run:?}");
    product.wait();
    assert_runs(&product, Runs { code: 2, ..FIRST });
    assert_up_to_date(&product);
}

/// Tests a version bump that needs a restart of the VM, if the VM would boot the old version again.
fn restart_into_bump_is_refused(tool: Tool) {
    let Some(product) = installed(tool) else {
        return;
    };
    product.build(Build::BUMPED);
    let run = product.run(&["push", "--json", "--reload", "vm"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let hint = run.result()["error"]["hint"].to_string();
    assert!(hint.contains("--restart-command"), "{run:?}");
    assert_runs(&product, Runs { calls: 2, ..FIRST });
}

fn roll_back(product: &Product) {
    let run = product.run(&["rollback", "--json"]);
    assert_eq!(run.code, Some(0), "{run:?}");
}

/// Tests the way back from a version bump.
fn rollback(tool: Tool) {
    let Some(product) = installed(tool) else {
        return;
    };
    push_all(&product, Build::BUMPED);
    assert_runs(&product, BUMPED);
    roll_back(&product);
    assert_runs(&product, Runs { calls: 3, ..FIRST });
}

/// Tests the way back from a version bump after the device has rebooted with it, and another
/// reboot.
fn rollback_after_restart(tool: Tool) {
    let Some(mut product) = installed(tool) else {
        return;
    };
    push_all(&product, Build::BUMPED);
    product.restart();
    assert_runs(&product, Runs { calls: 1, ..BUMPED });
    roll_back(&product);
    assert_runs(&product, Runs { calls: 2, ..FIRST });
    product.restart();
    assert_runs(&product, FIRST);
}

/// Tests the same way back with `--reload apps`. The application restarts, even if its state fits
/// only the new code.
fn rollback_by_apps(tool: Tool) {
    let Some(mut product) = installed(tool) else {
        return;
    };
    push_all(&product, Build::BUMPED);
    product.restart();
    assert_runs(&product, Runs { calls: 1, ..BUMPED });
    let run = product.run(&["rollback", "--reload", "apps", "--json"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_runs(&product, FIRST);
}

/// Tests a patched OTP on the host. The release contains it, so the device boots the patched OTP.
fn otp_patch_comes_along(tool: Tool) {
    let Some(mut product) = installed(tool) else {
        return;
    };
    let before = product.eval("code:lib_dir(kernel)");
    push_boot_file(
        &product,
        Build {
            is_otp_patched: true,
            ..Build::CHANGED
        },
    );
    assert_runs(&product, CHANGED);
    product.restart();
    assert_runs(&product, Runs { code: 2, ..FIRST });
    let patched = format!("{}.1\"", before.trim_end_matches('"'));
    assert_eq!(product.eval("code:lib_dir(kernel)"), patched);
}

/// Tests a patched OTP on the host. The release takes OTP's applications from the device's own OTP,
/// so it would not boot there.
fn otp_patch_is_refused(tool: Tool) {
    let Some(mut product) = installed(tool) else {
        return;
    };
    let run = push(
        &product,
        Build {
            is_otp_patched: true,
            ..Build::CHANGED
        },
    );
    assert_eq!(run.code, Some(1), "{run:?}");
    let kernel = product.eval("filename:basename(code:lib_dir(kernel))");
    let patched = format!("{}.1", kernel.trim_matches('"'));
    assert!(run.out.contains(&patched), "{patched} is named: {run:?}");
    assert_runs(&product, Runs { calls: 2, ..FIRST });
    product.restart();
    assert_runs(&product, FIRST);
}

/// Tests a patched OTP on the host. Neither the release nor its start names any of it.
fn otp_patch_changes_nothing(tool: Tool) {
    let Some(mut product) = installed(tool) else {
        return;
    };
    let build = Build {
        is_otp_patched: true,
        ..Build::CHANGED
    };
    push_all(&product, build);
    assert_runs(&product, CHANGED);
    product.restart();
    assert_runs(&product, Runs { code: 2, ..FIRST });
}
