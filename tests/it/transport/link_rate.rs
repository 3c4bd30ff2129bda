//! What is said of the link decides how hard an update is searched.

use relsync_tests::rig::Rig;

#[test]
fn a_fast_link_is_given_more_bytes_in_less_time() {
    let rig = Rig::new();
    release_of_many_functions(&rig, 1);
    rig.push(&[], 0);
    release_of_many_functions(&rig, 2);
    let pack_bytes = |arguments: &[&str]| {
        let planned = rig.push(&[&["plan"][..], arguments].concat(), 0);
        planned["pack_bytes"].as_u64().expect("a size")
    };
    let unknown = pack_bytes(&[]);
    let slow = pack_bytes(&["--link-rate", "1k"]);
    let fast = pack_bytes(&["--link-rate", "10M"]);
    assert!(
        fast > unknown && fast > slow,
        "{unknown}, {slow}, {fast} bytes"
    );
    assert_eq!(pack_bytes(&["--bwlimit", "10M"]), fast);
    assert_eq!(pack_bytes(&["--link-rate", "10M", "--bwlimit", "1k"]), slow);
    let pushed = rig.push(&["--link-rate", "10M"], 0);
    assert_eq!(
        (&pushed["outcome"], &pushed["pack_bytes"]),
        (&"applied".into(), &fast.into())
    );
}

/// Makes a release of modules whose functions say other things in each version.
fn release_of_many_functions(rig: &Rig, version: u32) {
    let function = |module: u32, at: u32| {
        // Every fourth is as it was.
        let said = if at.is_multiple_of(4) {
            at
        } else {
            at.wrapping_mul(2_654_435_761 ^ version << module)
        };
        format!(
            "f{at}(X) -> case X of {{{said}, Y}} -> [Y, {} | \"{said:x}\"]; _ -> f{}(X - {}) end.\n",
            said >> 9,
            (at * 7 + version) % 200,
            said % 1000
        )
    };
    let modules = (0..8).map(|module| {
        let functions: String = (0..200).map(|at| function(module, at)).collect();
        (
            format!("many_{module}"),
            format!("-compile(export_all).\n-compile(nowarn_export_all).\n{functions}"),
        )
    });
    let modules: Vec<(String, String)> = modules.collect();
    let modules: Vec<(&str, &str)> = modules
        .iter()
        .map(|(name, body)| (&name[..], &body[..]))
        .collect();
    rig.tree().app("many", "1.0", &modules);
}
