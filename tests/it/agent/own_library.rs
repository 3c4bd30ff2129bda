//! A release that contains the application `relsync_lib` itself, in the version of the pushed agent or in another.

use std::fs;
use std::path::Path;

use relsync_tests::rig::Rig;

/// Modules of the application, from its folders: those that load, hold names and are called by all others.
const MODULES: [&str; 5] = [
    "files/relsync_lib_varint",
    "files/relsync_lib_worker",
    "session/relsync_lib_blob",
    "session/relsync_lib_loader",
    "update/relsync_lib_probation",
];

/// What the VM runs of the release's own: names, digests and files.
const RUNNING: &str = "lists:sort([{M, M:module_info(md5), code:which(M)} || {M, _} <- code:all_loaded(), \
                       lists:prefix(\"relsync_lib_\", atom_to_list(M))])";

/// Makes the application in the release: with the text of this repository, or with a function more in each module.
fn library(rig: &Rig, is_other_version: bool) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../erlang/apps/relsync_lib/src");
    let modules = MODULES.map(|path| {
        let text = fs::read_to_string(sources.join(path).with_extension("erl")).expect("a source");
        let name = path.rsplit('/').next().expect("a name");
        let (_, body) = text
            .split_once(&format!("-module({name}).\n"))
            .expect("the module's name");
        let body = if is_other_version {
            format!("-export([stay/0]).\n{body}\nstay() -> receive go -> stay() end.\n")
        } else {
            body.to_owned()
        };
        (name, body)
    });
    let modules: Vec<_> = modules
        .iter()
        .map(|(name, body)| (*name, body.as_str()))
        .collect();
    rig.tree().app("relsync_lib", "0.1.0", &modules);
}

/// The device's release, loaded, with a process that runs code of the application.
fn installed(is_other_version: bool) -> Rig {
    let rig = Rig::new();
    rig.release(1);
    library(&rig, is_other_version);
    rig.push(&[], 0);
    rig.load();
    let ebin = rig.device().join("lib/relsync_lib-0.1.0/ebin");
    rig.node.eval(&format!(
        "code:add_patha({:?}), [{{module, M}} = code:load_file(M) || M <- [{}]], \
         application:load(relsync_lib), application:set_env(relsync_lib, blob, own), \
         register(own_timer, relsync_lib_worker:start(fun() -> receive stop -> ok end end)), ok",
        ebin.display().to_string(),
        MODULES
            .map(|path| path.rsplit('/').next().expect("a name"))
            .join(", ")
    ));
    rig
}

#[test]
fn a_pushed_agent_and_the_releases_own_leave_each_other_alone() {
    for is_other_version in [false, true] {
        let rig = installed(is_other_version);
        let before = rig.node.eval(RUNNING);
        assert!(before.contains("relsync_lib_loader"), "{before}");
        rig.release(2);
        rig.push(&["--confirm-timeout", "10m"], 0);
        rig.push(&["status"], 0);
        let unloaded = rig.push(&["agent", "unload"], 0);
        let unloaded = unloaded["modules"].as_array().expect("modules");
        assert!(unloaded.len() > 50, "{unloaded:?}");
        assert_eq!(rig.node.eval(RUNNING), before);
        assert_eq!(
            rig.node
                .eval("{is_pid(whereis(own_timer)), application:get_env(relsync_lib, blob)}"),
            "{true,{ok,own}}"
        );
    }
}

#[test]
fn an_update_of_the_releases_own_library_reloads_it_and_not_the_agent() {
    let rig = installed(false);
    let before = rig.node.eval(RUNNING);
    library(&rig, true);
    let result = rig.push(&[], 0);
    let modules = result["modules"].as_array().expect("modules");
    for path in MODULES {
        let name = path.rsplit('/').next().expect("a name");
        let status = modules.iter().find(|module| module["module"] == name);
        assert_eq!(
            status.map(|module| &module["status"]),
            Some(&"reload".into()),
            "{result}"
        );
    }
    let after = rig.node.eval(RUNNING);
    assert_ne!(after, before);
    // The agent is as whole as before: nothing of it is sent again.
    let status = rig.push(&["status"], 0);
    assert!(
        status["sent_bytes"].as_u64().expect("bytes") < 20_000,
        "{status}"
    );
    rig.push(&["agent", "unload"], 0);
    assert_eq!(rig.node.eval(RUNNING), after);
}
