//! The golden vectors of the messages: the host's are made here and read by the agent's tests
//! (`relsync_lib_wire_tests.erl`), the agent's are made there and read here; and bytes from anybody.

use std::collections::BTreeSet;
use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;

use super::fields::Message;
use super::*;
use crate::golden_tests::{check_golden, golden_dir};
use crate::plan::ModuleAction;
use crate::plan::conflicts::Standing;
use crate::plan::installed::DriftKind;
use crate::target::{
    ApplyOutcome, ApplyResult, Current, Drift, ErrorKind, Found, FoundDirectory, HookFailure,
    HooksKind, HooksPoint, Incoming, KeptGeneration, LastPack, Leftovers, ModuleState,
    ModuleStatus, PackEnd, Place, PlannedFiles, ReloadMode, RemoteError, Step, TargetStatus,
    VmLife,
};

/// Messages of the host: name, message, and what the agent makes of it, as its tests write it down.
fn requests() -> Vec<(&'static str, Request, &'static str)> {
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

/// Messages of the agent: name, and what they say.
fn replies() -> Vec<(&'static str, Reply)> {
    let modules = || {
        vec![
            ModuleStatus {
                name: "a".to_owned(),
                status: ModuleState::Reload,
                detail: String::new(),
            },
            ModuleStatus {
                name: "Elixir.B".to_owned(),
                status: ModuleState::InUse,
                detail: "<0.1.0> läuft".to_owned(),
            },
        ]
    };
    let status = || TargetStatus {
        protocol: 4,
        otp_release: 25,
        erts: "13.1.5".to_owned(),
        has_zstd: true,
        embedded: true,
        free_bytes: Some(1 << 40),
        writable: true,
        current: Some(Current {
            generation: 300,
            snapshot: [b's'; 32],
            manifest: [b'm'; 32],
            probation: true,
            applied_at: 1_700_000_000,
            probation_ms: Some(59_000),
        }),
        drift: vec![
            Drift {
                index: 0,
                kind: DriftKind::Missing,
            },
            Drift {
                index: 128,
                kind: DriftKind::Changed,
            },
            Drift {
                index: 999_999,
                kind: DriftKind::Mode,
            },
        ],
        incoming: Some(Incoming {
            pack_id: [b'p'; 32],
            verified: 4096,
        }),
        damage: vec![("journal".to_owned(), "set aside".to_owned())],
        credit: 262_144,
        kept: vec![
            KeptGeneration {
                generation: 299,
                manifest: Some(*b"manifest"),
            },
            KeptGeneration::default(),
        ],
        recovered: Some("undone".to_owned()),
        last_pack: Some(LastPack {
            pack: [b'p'; 32],
            generation: 299,
            end: PackEnd::RolledBack,
            begun_ms: 1_700_000_000_000,
        }),
        zlib: Some(*b"deflated"),
        ..TargetStatus::default()
    };
    vec![
        (
            "agent-hello-least",
            Reply::Hello(Box::new(TargetStatus {
                protocol: 4,
                otp_release: 23,
                erts: "11.1".to_owned(),
                credit: 1,
                ..TargetStatus::default()
            })),
        ),
        (
            "agent-hello-stale",
            Reply::Hello(Box::new(TargetStatus {
                protocol: 4,
                stale: 5,
                waiting: 300,
                ..TargetStatus::default()
            })),
        ),
        ("agent-hello-all", Reply::Hello(Box::new(status()))),
        (
            "agent-hello-mounts",
            Reply::Hello(Box::new(TargetStatus {
                mounts: vec![b"releases/1/sys.config".to_vec(), b"\xff".to_vec()],
                ..TargetStatus::default()
            })),
        ),
        (
            "agent-hello-runs",
            Reply::Hello(Box::new(TargetStatus {
                runs: true,
                ..TargetStatus::default()
            })),
        ),
        (
            "agent-hello-elsewhere",
            Reply::Hello(Box::new(TargetStatus {
                release_root: Some(b"/opt/\xff".to_vec()),
                ..TargetStatus::default()
            })),
        ),
        (
            "agent-hello-vm",
            Reply::Hello(Box::new(TargetStatus {
                protocol: 4,
                leftovers: Leftovers {
                    count: 300,
                    tops: vec![b"lib/a-1".to_vec(), b"releases/\xff".to_vec()],
                },
                vm: VmLife {
                    creation: 1_700_000_000,
                    os_pid: 4711,
                    boot: Some(b"releases/1/start.boot".to_vec()),
                    named: Some("2".to_owned()),
                },
                ..TargetStatus::default()
            })),
        ),
        (
            "agent-taken",
            Reply::Taken(vec![
                (0, Standing::File(Some([b'h'; 32]))),
                (300, Standing::Dir),
                (301, Standing::Symlink(b"../x".to_vec())),
                (302, Standing::Other),
            ]),
        ),
        ("agent-taken-none", Reply::Taken(Vec::new())),
        (
            "agent-place",
            Reply::Place(Place::Refused {
                path: b"/ro".to_vec(),
                reason: "erofs".to_owned(),
            }),
        ),
        (
            "agent-status",
            Reply::Status(Box::new(TargetStatus {
                modules: modules(),
                kept_bytes: vec![(299, 1 << 33), (298, 0)],
                boot_faults: vec!["a restart fails".to_owned()],
                boot_warnings: vec!["it may".to_owned()],
                boots: vec!["releases/1/start.boot".to_owned()],
                ..status()
            })),
        ),
        (
            "agent-found",
            Reply::Found(Box::new(Found {
                directories: vec![
                    FoundDirectory::default(),
                    FoundDirectory {
                        missing: true,
                        path: Some(b"lib/a-1/ebin".to_vec()),
                        unknown: false,
                    },
                    FoundDirectory {
                        unknown: true,
                        ..FoundDirectory::default()
                    },
                ],
                lacking: vec![1, 300],
                config_faults: vec!["releases/1/sys.config: it holds no term".to_owned()],
            })),
        ),
        (
            "agent-manifest",
            Reply::Manifest {
                inventory: true,
                compressed: b"x\x9c\x03\0\0\0\0\x01".to_vec(),
                size: 0,
                left_out: vec![b"dev/null".to_vec(), b"\xff".to_vec()],
            },
        ),
        ("agent-credit", Reply::Credit { bytes: 65_536 }),
        (
            "agent-staged",
            Reply::Staged {
                files: 3,
                bytes: u64::MAX,
            },
        ),
        (
            "agent-output",
            Reply::Output {
                text: "größer\n".to_owned(),
            },
        ),
        (
            "agent-step",
            Reply::Step {
                step: Step::Presync,
            },
        ),
        (
            "agent-result-applied",
            Reply::Result(Box::new(ApplyResult {
                outcome: ApplyOutcome::Applied,
                generation: 8,
                modules: modules(),
                notes: vec!["one".to_owned(), "two".to_owned()],
                downtime_us: 12_345,
                error: None,
                needs_restart: true,
                probation_ms: Some(60_000),
                snapshot: Some([b's'; 32]),
                ended_funs: vec!["app_server".to_owned()],
                restarted: vec!["app".to_owned(), "app_web".to_owned()],
            })),
        ),
        (
            "agent-result-rolled-back",
            Reply::Result(Box::new(ApplyResult {
                outcome: ApplyOutcome::RolledBack,
                generation: 7,
                error: Some(RemoteError {
                    kind: ErrorKind::Hooks,
                    message: "postsync raised".to_owned(),
                    path: None,
                    hook: Some(HookFailure::Timeout),
                }),
                ..ApplyResult::default()
            })),
        ),
        (
            "agent-result-unchanged",
            Reply::Result(Box::new(ApplyResult {
                outcome: ApplyOutcome::Unchanged,
                ..ApplyResult::default()
            })),
        ),
        (
            "agent-error",
            Reply::Error(RemoteError {
                kind: ErrorKind::Space,
                message: "needs 10 bytes, has 9".to_owned(),
                path: Some("/srv/erlang".to_owned()),
                hook: None,
            }),
        ),
    ]
}

#[test]
fn golden_requests_are_encoded() {
    for (name, request, text) in requests() {
        check_golden("wire", &format!("{name}.bin"), &request.encode());
        check_golden("wire", &format!("{name}.txt"), text.as_bytes());
    }
}

#[test]
fn golden_replies_are_decoded() {
    for (name, reply) in replies() {
        let bytes = fs::read(golden_dir("wire").join(format!("{name}.bin"))).expect(name);
        assert_eq!(Reply::decode(&bytes), Ok(reply), "{name}");
    }
}

#[test]
fn golden_vectors_are_all_listed() {
    let requests = requests().into_iter().map(|(name, ..)| name);
    let replies = replies().into_iter().map(|(name, _)| name);
    let listed: BTreeSet<String> = requests
        .chain(replies)
        .flat_map(|name| [format!("{name}.bin"), format!("{name}.txt")])
        .collect();
    let stored: BTreeSet<String> = fs::read_dir(golden_dir("wire"))
        .expect("golden vectors")
        .map(|file| {
            file.expect("entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    assert_eq!(stored, listed);
}

#[test]
fn boot_messages_are_decoded() {
    let busy = |holder: &str, returning| Reply::Busy {
        holder: holder.to_owned(),
        returning,
    };
    let table: [(&[u8], Reply); 7] = [
        (&[0x80, 1, 1, 25], Reply::WantsAgent { otp_release: 25 }),
        (&[0x80, 4, 1, 25], Reply::WantsLoading { otp_release: 25 }),
        (
            &[0x80, 3, 6, b'c', b'r', b'y', b'p', b't', b'o'],
            Reply::Lacks {
                application: "crypto".to_owned(),
            },
        ),
        (b"\x80\x02\x04me@b", busy("me@b", false)),
        (b"\x80\x05\x04back", busy("back", true)),
        (b"\x80\x02\x00", busy("", false)),
        (&[0x80], busy("", false)),
    ];
    for (bytes, reply) in table {
        assert_eq!(Reply::decode(bytes), Ok(reply), "{bytes:?}");
    }
}

#[test]
fn replies_that_break_the_rules_are_refused() {
    let field = |message, tag| Err(WireError::BadField { message, tag });
    let table: [(&[u8], Result<Reply, WireError>); 9] = [
        (b"", Err(WireError::Empty)),
        (&[0x01], Err(WireError::UnknownMessage(0x01))),
        (&[0x8f], Err(WireError::UnknownMessage(0x8f))),
        // A number with bytes behind it, a snapshot of 31 bytes, an outcome and a drift that do not exist.
        (&[0x83, 1, 2, 5, 5], field(0x83, 1)),
        (&[&[0x87, 9, 31][..], &[0; 31]].concat(), field(0x87, 9)),
        (&[0x87, 1, 1, 3], field(0x87, 1)),
        (&[0x81, 9, 3, 2, 1, 3], field(0x81, 9)),
        // An unknown tag is skipped, a missing number is 0, of repeated ones the last counts.
        (&[0x83, 200, 1, 0], Ok(Reply::Credit { bytes: 0 })),
        (&[0x83, 1, 1, 4, 1, 1, 9], Ok(Reply::Credit { bytes: 9 })),
    ];
    for (bytes, expected) in table {
        assert_eq!(Reply::decode(bytes), expected, "{bytes:?}");
    }
    let lengths: [&[u8]; 4] = [
        &[0x83, 1],
        &[0x83, 1, 2, 5],
        &[0x83, 1, 0x80, 0],
        b"\x85\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01text",
    ];
    for bytes in lengths {
        assert!(
            matches!(Reply::decode(bytes), Err(WireError::Bytes(_))),
            "{bytes:?}"
        );
    }
}

#[test]
fn messages_are_bounded_while_they_are_joined() {
    let mut part = vec![1];
    part.resize(1 + (8 << 20), 0);
    let mut assembler = Assembler::default();
    for _ in 0..MAX_REPLY_BYTES / (8 << 20) {
        assert_eq!(assembler.add(&part), Ok(None));
    }
    let limit = MAX_REPLY_BYTES;
    assert_eq!(assembler.add(&[1, 0]), Err(WireError::TooLarge { limit }));
    let mut assembler = Assembler::default();
    assert_eq!(assembler.add(&[]), Err(WireError::Empty));
    assert_eq!(assembler.add(&[2, 0]), Err(WireError::BadPart(2)));
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(kind in 0x7f_u8..=0x8b, bytes in vec(any::<u8>(), 0..200)) {
        let _ = Reply::decode(&bytes);
        let _ = Reply::decode(&[&[kind], &bytes[..]].concat());
    }

    /// Fields of right lengths with any content: what gets past the framing.
    #[test]
    fn any_fields_are_decoded_or_refused(
        kind in 0x80_u8..=0x8a,
        fields in vec((0_u8..=21, vec(any::<u8>(), 0..40)), 0..8),
    ) {
        let message = fields
            .into_iter()
            .fold(Message::new(kind), |message, (tag, value)| message.bytes(tag, &value));
        let _ = Reply::decode(&message.finish());
    }

    /// A message that was changed in one byte or cut is read or refused.
    #[test]
    fn damaged_messages_are_decoded_or_refused(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let replies = replies();
        let (name, _) = which.get(&replies);
        let mut bytes = fs::read(golden_dir("wire").join(format!("{name}.bin"))).expect("a vector");
        let at = at.index(bytes.len());
        let _ = Reply::decode(&bytes[..at]);
        bytes[at] = byte;
        let _ = Reply::decode(&bytes);
    }

    #[test]
    fn parts_join_to_the_message(message in vec(any::<u8>(), 0..3 * MAX_PART_BYTES)) {
        let parts: Vec<_> = parts(&message).collect();
        let (last, before) = parts.split_last().expect("a part");
        let mut assembler = Assembler::default();
        for part in before {
            prop_assert_eq!(part.len(), 1 + MAX_PART_BYTES);
            prop_assert_eq!(assembler.add(part), Ok(None));
        }
        prop_assert_eq!(assembler.add(last), Ok(Some(message)));
    }

    #[test]
    fn any_parts_are_joined_or_refused(parts in vec(vec(0_u8..4, 0..20), 0..10)) {
        let mut assembler = Assembler::default();
        for part in parts {
            if assembler.add(&part).is_err() {
                break;
            }
        }
    }
}
