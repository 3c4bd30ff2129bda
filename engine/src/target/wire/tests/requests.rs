//! The golden messages of the host.

use crate::plan::ModuleAction;
use crate::target::wire::Request;
use crate::target::{HooksKind, HooksPoint, PlannedFiles, ReloadMode};

/// Messages of the host: name, message, and what the agent makes of it, as its tests write it down.
pub(super) fn requests() -> Vec<(&'static str, Request, &'static str)> {
    let modules = vec![
        (
            b"lib/a-1/ebin/a.beam".to_vec(),
            ModuleAction::Added,
            Some([0xa5; 16]),
        ),
        (
            b"lib/a-1/ebin/b.beam".to_vec(),
            ModuleAction::Changed,
            Some([0x20; 16]),
        ),
        (b"c\xff".to_vec(), ModuleAction::Removed, None),
    ];
    vec![
        (
            "host-hello",
            Request::Hello {
                host: "user@board".to_owned(),
                destination: b"/srv/erlang".to_vec(),
                writable: None,
                checksum: false,
                prepare: false,
            },
            "hello\ndestination\t/srv/erlang\nhost\tuser@board\nprotocol\t4\n",
        ),
        (
            "host-hello-all",
            Request::Hello {
                host: "übung@board".to_owned(),
                destination: b"/srv/\xff\\".to_vec(),
                writable: Some(b"/rw".to_vec()),
                checksum: true,
                prepare: true,
            },
            "hello\nchecksum\ttrue\ndestination\t/srv/\\xff\\x5c\nhost\t\\xc3\\xbcbung@board\nprepare\ttrue\nprotocol\t4\nwritable\t/rw\n",
        ),
        (
            "host-get-manifest",
            Request::GetManifest { inventory: false },
            "get_manifest\n",
        ),
        (
            "host-get-inventory",
            Request::GetManifest { inventory: true },
            "get_manifest\ninventory\ttrue\n",
        ),
        (
            "host-hooks-beam",
            Request::Hooks {
                kind: HooksKind::Beam,
                name: "my_hooks".to_owned(),
                content: b"FOR1\0\0\0\x04BEAM".to_vec(),
                timeout_ms: None,
                presync_now: false,
                point: HooksPoint::Update,
            },
            "hooks\ncontent\tFOR1\\x00\\x00\\x00\\x04BEAM\nform\tbeam\nname\tmy_hooks\n",
        ),
        (
            "host-hooks-source",
            Request::Hooks {
                kind: HooksKind::Source,
                name: "my_hooks.erl".to_owned(),
                content: Vec::new(),
                timeout_ms: Some(60_000),
                presync_now: true,
                point: HooksPoint::Update,
            },
            "hooks\ncontent\t\nform\tsource\nname\tmy_hooks.erl\npresync_now\ttrue\ntimeout\t60000\n",
        ),
        (
            "host-hooks-undo",
            Request::Hooks {
                kind: HooksKind::Beam,
                name: "my_hooks".to_owned(),
                content: b"FOR1".to_vec(),
                timeout_ms: None,
                presync_now: false,
                point: HooksPoint::Undo,
            },
            "hooks\ncontent\tFOR1\nform\tbeam\nname\tmy_hooks\nundo\ttrue\n",
        ),
        (
            "host-pack-begin",
            Request::PackBegin {
                pack_id: [b'p'; 32],
                size: u64::MAX,
                offset: 128,
            },
            "pack_begin\noffset\t128\npack_id\tpppppppppppppppppppppppppppppppp\nsize\t18446744073709551615\n",
        ),
        (
            "host-pack-data",
            Request::PackData(b"RSPK".to_vec()),
            "pack_data\nbytes\tRSPK\n",
        ),
        (
            "host-apply",
            Request::Apply {
                reload: ReloadMode::Soft,
                keep: 2,
                confirm_timeout_ms: None,
                pack_id: [b'p'; 32],
                keep_bytes: None,
                restart_command: None,
            },
            "apply\nkeep\t2\npack_id\tpppppppppppppppppppppppppppppppp\nreload\tsoft\n",
        ),
        (
            "host-apply-vm",
            Request::Apply {
                reload: ReloadMode::Vm,
                keep: 0,
                confirm_timeout_ms: Some(300),
                pack_id: [b'q'; 32],
                keep_bytes: Some(5_000_000_000),
                restart_command: None,
            },
            "apply\nconfirm_timeout\t300\nkeep\t0\nkeep_bytes\t5000000000\npack_id\tqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq\nreload\tvm\n",
        ),
        (
            "host-rollback",
            Request::Rollback {
                generation: None,
                snapshot: None,
                reload: ReloadMode::Hard,
                restart_command: None,
            },
            "rollback\nreload\thard\n",
        ),
        (
            "host-rollback-to",
            Request::Rollback {
                generation: Some(7),
                snapshot: Some([b's'; 32]),
                reload: ReloadMode::Apps,
                restart_command: None,
            },
            "rollback\ngeneration\t7\nreload\tapps\nsnapshot\tssssssssssssssssssssssssssssssss\n",
        ),
        (
            "host-confirm",
            Request::Confirm {
                generation: 8,
                snapshot: [b's'; 32],
            },
            "confirm\ngeneration\t8\nsnapshot\tssssssssssssssssssssssssssssssss\n",
        ),
        (
            "host-plan-reload",
            Request::PlanReload {
                reload: ReloadMode::None,
                modules,
                files: PlannedFiles::default(),
                boot_files: Vec::new(),
            },
            "plan_reload\n\
             modules[1].action\tadded\n\
             modules[1].md5\t\\xa5\\xa5\\xa5\\xa5\\xa5\\xa5\\xa5\\xa5\\xa5\\xa5\\xa5\\xa5\\xa5\\xa5\\xa5\\xa5\n\
             modules[1].path\tlib/a-1/ebin/a.beam\n\
             modules[2].action\tchanged\n\
             modules[2].md5\t                \n\
             modules[2].path\tlib/a-1/ebin/b.beam\n\
             modules[3].action\tremoved\n\
             modules[3].path\tc\\xff\n\
             reload\tnone\n",
        ),
        (
            "host-plan-restart",
            Request::PlanReload {
                reload: ReloadMode::Vm,
                modules: Vec::new(),
                boot_files: Vec::new(),
                files: PlannedFiles {
                    removed: vec![b"releases/1".to_vec(), b"lib/a-1".to_vec()],
                    start_erl_data: Some(b"13.1.5 2\n".to_vec()),
                    runtime_changes: true,
                    restart_command: Some("bin/a daemon".to_owned()),
                },
            },
            "plan_reload\n\
             files.removed[1]\treleases/1\n\
             files.removed[2]\tlib/a-1\n\
             files.restart_command\tbin/a daemon\n\
             files.runtime_changes\ttrue\n\
             files.start_erl_data\t13.1.5 2\\x0a\n\
             reload\tvm\n",
        ),
        (
            "host-apply-restart",
            Request::Apply {
                reload: ReloadMode::Vm,
                keep: 2,
                confirm_timeout_ms: None,
                pack_id: [b'r'; 32],
                keep_bytes: None,
                restart_command: Some("none".to_owned()),
            },
            "apply\nkeep\t2\npack_id\trrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr\nreload\tvm\nrestart_command\tnone\n",
        ),
        (
            "host-plan-reload-boot",
            Request::PlanReload {
                reload: ReloadMode::Soft,
                modules: Vec::new(),
                files: PlannedFiles::default(),
                boot_files: vec![
                    (b"releases/start_erl.data".to_vec(), Some(b"x\x9c".to_vec())),
                    (b"releases/1/start.boot".to_vec(), None),
                ],
            },
            "plan_reload\n\
             boot_files[1].content\tx\\x9c\n\
             boot_files[1].path\treleases/start_erl.data\n\
             boot_files[2].path\treleases/1/start.boot\n\
             reload\tsoft\n",
        ),
        (
            "host-reload",
            Request::Reload {
                reload: ReloadMode::Apps,
                restart_command: None,
            },
            "reload\nreload\tapps\n",
        ),
        ("host-status", Request::Status { verify: false }, "status\n"),
        (
            "host-status-verify",
            Request::Status { verify: true },
            "status\nverify\ttrue\n",
        ),
        (
            "host-look",
            Request::Look {
                directories: vec!["$ROOT/lib/a-1/ebin".to_owned(), "lib/b".to_owned()],
                systems: vec!["kernel-9.0".to_owned()],
                own_root: true,
                configs: vec![(b"releases/1/sys.config".to_vec(), b"x\x9c".to_vec())],
            },
            "look\nconfigs[1].content\tx\\x9c\nconfigs[1].path\treleases/1/sys.config\ndirectories[1]\t$ROOT/lib/a-1/ebin\ndirectories[2]\tlib/b\nown_root\ttrue\nsystems[1]\tkernel-9.0\n",
        ),
        (
            "host-claim",
            Request::Claim {
                wishes: vec![
                    (b"etc/app.conf".to_vec(), Some(300)),
                    (b"lib/a-1".to_vec(), None),
                ],
            },
            "claim\n\
             wishes[1].path\tetc/app.conf\n\
             wishes[1].size\t300\n\
             wishes[2].path\tlib/a-1\n",
        ),
        ("host-probe", Request::Probe, "probe\n"),
        ("host-bye", Request::Bye, "bye\n"),
    ]
}
