//! The golden messages of the agent.

use crate::plan::conflicts::Standing;
use crate::plan::installed::DriftKind;
use crate::target::wire::Reply;
use crate::target::{
    ApplyOutcome, ApplyResult, Current, Drift, EarlierGeneration, ErrorKind, Found, FoundDirectory,
    HookFailure, Incoming, LastPack, Leftovers, ModuleState, ModuleStatus, PackEnd, Place,
    RemoteError, Step, TargetStatus, VmLife,
};

/// Messages of the agent: name, and what they say.
pub(super) fn replies() -> Vec<(&'static str, Reply)> {
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
        earlier: vec![
            EarlierGeneration {
                generation: 299,
                manifest: Some(*b"manifest"),
            },
            EarlierGeneration::default(),
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
                    is_starting: true,
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
