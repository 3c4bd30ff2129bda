//! The command that starts a throw-away VM on a target whose own VM does not run.
//!
//! This module chooses an ERTS and a boot file: those of the release that would be booted, then
//! others of the release, then the machine's own. The VM speaks a session on its standard channels
//! (`relsync_stdio`), and ends with it.

use super::quote;
use super::survey::{FILES_FLAG, Survey};
use crate::target::agent;

/// The script. Its arguments: the release's root, or nothing; the directory of the ERTS, or nothing
/// for the machine's `erl`; the boot file without its ending; the expressions; [`FILES_FLAG`].
///
/// The frames go out on descriptor 3, so that nothing that the VM prints gets between them.
const SCRIPT: &str = r#"unset ERL_FLAGS ERL_AFLAGS ERL_ZFLAGS ERL_LIBS ERL_INETRC
R=$(printf "$1."); R=${R%.}; E=$(printf "$2."); E=${E%.}; B=$(printf "$3."); B=${B%.}
X=$(printf "$4."); X=${X%.}; F=$5
cd / && HOME=${HOME:-/} ERL_CRASH_DUMP_SECONDS=0 && export HOME ERL_CRASH_DUMP_SECONDS
if [ -n "$E" ]; then
  ROOTDIR=$R BINDIR=$E/bin EMU=beam PROGNAME=erl && export ROOTDIR BINDIR EMU PROGNAME
  set -- "$E/bin/erlexec" -boot_var RELEASE_LIB "$R/lib"
else
  set -- erl
fi
exec "$@" -boot "$B" -noinput +S 1:1 +A 1 "$F" -eval "$X" 3>&1 1>&2"#;

/// A VM that can be started.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The directory of its ERTS; none for the machine's own `erl`.
    erts: Option<String>,
    root: String,
    /// The boot file, without its ending.
    boot: String,
}

/// Lists the VMs that can be started, the best first.
pub(super) fn candidates(survey: &Survey) -> Vec<Candidate> {
    let mut all = Vec::new();
    if let Some(root) = &survey.root {
        let named = survey.named.as_ref();
        let mut erts: Vec<&String> = survey.erts.iter().collect();
        erts.sort_by_key(|version| named.map(|(erts, _)| erts) != Some(version));
        let mut boots: Vec<&String> = survey.boots.iter().collect();
        let of_next = named.map(|(_, release)| format!("releases/{release}/"));
        boots.sort_by_key(|boot| !of_next.as_ref().is_some_and(|of| boot.starts_with(of)));
        for version in erts {
            for boot in &boots {
                all.push(Candidate {
                    erts: Some(format!("{root}/erts-{version}")),
                    root: root.clone(),
                    boot: format!("{root}/{}", boot.trim_end_matches(".boot")),
                });
            }
        }
    }
    if survey.erl.is_some() {
        all.push(Candidate {
            erts: None,
            root: String::new(),
            boot: "no_dot_erlang".to_owned(),
        });
    }
    all.truncate(MAX_CANDIDATES);
    all
}

/// The number of VMs that are tried.
const MAX_CANDIDATES: usize = 4;

impl Candidate {
    /// Returns the command that starts the VM.
    pub(super) fn command(&self) -> String {
        let arguments = [
            self.root.as_str(),
            self.erts.as_deref().unwrap_or_default(),
            &self.boot,
            agent::stdio(),
            FILES_FLAG,
        ];
        let arguments = arguments.map(|argument| quote::printf(argument.as_bytes()));
        quote::script(SCRIPT, &arguments.each_ref().map(String::as_str))
    }
}
