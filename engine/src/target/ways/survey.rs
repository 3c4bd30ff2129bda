//! The survey of a target by a shell: the release's directory, and the VMs that run there.
//!
//! This module owns the script that finds it out, and reads its answer. The script needs a shell of
//! POSIX with `tr`, as BusyBox has them, and Linux's `/proc`. It changes nothing.

use super::quote;

/// The script. Its arguments are the destination and nothing else. It has no single quotes, because
/// the user's own shell passes it on in such.
const SCRIPT: &str = r#"D=$(printf "$1."); D=${D%.}
echo relsync-survey
R=$(cd "$D" 2>/dev/null && pwd -P) && printf "root %s\n" "$R"
if [ -n "$R" ]; then
  S=; { read -r S <"$R/releases/start_erl.data"; } 2>/dev/null; printf "named %s\n" "$S"
  for E in "$R"/erts-*; do [ -x "$E/bin/erlexec" ] && printf "erts %s\n" "${E##*/erts-}"; done
  for B in "$R"/releases/*/start_clean.boot "$R"/bin/start_clean.boot "$R"/bin/no_dot_erlang.boot; do
    [ -f "$B" ] && printf "boot %s\n" "${B#"$R"/}"
  done
fi
E=$(command -v erl) && printf "erl %s\n" "$E"
owner() { set -- $(ls -ldn "$1" 2>/dev/null); printf %s "$3"; }
U=$(id -u); O=; [ -n "$R" ] && O=$(owner "$R"); printf "user %s\n" "$U"
printf "host %s\n" "$(hostname 2>/dev/null || uname -n)"
K=; { read -r K <"$HOME/.erlang.cookie"; } 2>/dev/null; [ -n "$K" ] && printf "cookie %s\n" "$K"
for P in /proc/[0-9]*; do
  C=; { read -r C <"$P/comm"; } 2>/dev/null
  case $C in beam|beam.*) ;; *) continue ;; esac
  W=$(owner "$P")
  case " $U 0 $O " in *" $W "*) ;; *) continue ;; esac
  printf "vm %s\nowner %s\n" "${P#/proc/}" "$W"
  tr "\n\000" " \n" 2>/dev/null <"$P/cmdline" | while IFS= read -r A; do
    printf "arg %s\n" "$A"
    case $A in
      "$D"|"$D"/*|"$R"|"$R"/*) [ -n "$R" ] && echo here ;;
      /*) [ -n "$R" ] && [ "$A" -ef "$R" ] && echo here ;;
    esac
  done
  tr "\n\000" " \n" 2>/dev/null <"$P/environ" | while IFS= read -r A; do
    case $A in ERL_EPMD_PORT=*) printf "epmd %s\n" "${A#*=}" ;; esac
  done
done
echo end"#;

/// The flag of a VM that relsync started for the files. Such a VM does not run the release.
pub(super) const FILES_FLAG: &str = "-relsync_files";

/// The maximum number of VMs.
const MAX_VMS: usize = 64;

/// The maximum number of arguments of a VM.
const MAX_ARGUMENTS: usize = 4096;

/// Returns the command that asks about a destination.
pub(super) fn command(destination: &[u8]) -> String {
    quote::script(SCRIPT, &[&quote::printf(destination)])
}

/// A shell's answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// The destination without symbolic links, if it is a directory.
    pub(super) root: Option<String>,
    /// The versions of ERTS and of the release that are booted next: `releases/start_erl.data`.
    pub(super) named: Option<(String, String)>,
    /// The versions of ERTS in the destination.
    pub(super) erts: Vec<String>,
    /// The boot files in the destination that start nothing but the system, below it.
    pub(super) boots: Vec<String>,
    /// The program `erl` of the machine.
    pub(super) erl: Option<String>,
    /// The number of the login user.
    user: String,
    /// The machine's name.
    pub(super) host: String,
    /// The user's cookie.
    cookie: Option<String>,
    /// The VMs of the machine.
    vms: Vec<Vm>,
}

/// A VM on the target.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Vm {
    /// The process id.
    pub(super) os_pid: String,
    /// The number of the user who runs it.
    owner: String,
    arguments: Vec<String>,
    is_here: bool,
    /// The port of the EPMD that it registers with, if it is not the usual one.
    pub(super) epmd_port: Option<u16>,
}

/// The arguments may hold the cookie.
impl std::fmt::Debug for Vm {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Vm")
            .field("os_pid", &self.os_pid)
            .field("is_here", &self.is_here)
            .finish_non_exhaustive()
    }
}

impl Survey {
    /// Reads the answer. Returns none if it is not complete.
    pub(super) fn read(answer: &[u8]) -> Option<Self> {
        let answer = String::from_utf8_lossy(answer);
        let mut lines = answer.lines().skip_while(|line| *line != "relsync-survey");
        lines.next()?;
        let mut survey = Self::default();
        for line in lines {
            let (what, value) = line.split_once(' ').unwrap_or((line, ""));
            let text = || value.to_owned();
            let is_full = survey.vms.len() >= MAX_VMS;
            match (what, survey.vms.last_mut()) {
                ("root", None) => survey.root = Some(text()),
                ("named", None) => {
                    let versions = value.split_once(' ');
                    survey.named =
                        versions.map(|(erts, release)| (erts.to_owned(), release.to_owned()));
                }
                ("erts", None) => survey.erts.push(text()),
                ("boot", None) => survey.boots.push(text()),
                ("erl", None) => survey.erl = Some(text()),
                ("host", None) => survey.host = text(),
                ("cookie", None) => survey.cookie = Some(text()),
                // What is not known entirely is not known: one of the others may be the release's.
                ("vm", _) if is_full => return None,
                ("arg", Some(vm)) if vm.arguments.len() >= MAX_ARGUMENTS => return None,
                ("user", None) => survey.user = text(),
                ("owner", Some(vm)) => vm.owner = text(),
                ("vm", _) => survey.vms.push(Vm {
                    os_pid: text(),
                    ..Vm::default()
                }),
                ("arg", Some(vm)) => vm.arguments.push(text()),
                ("here", Some(vm)) => vm.is_here = true,
                ("epmd", Some(vm)) => vm.epmd_port = value.parse().ok(),
                ("end", _) => return Some(survey),
                _ => {}
            }
        }
        None
    }

    /// Returns the VMs that run from the destination.
    pub(super) fn running(&self) -> impl Iterator<Item = &Vm> {
        let is_release = |vm: &&Vm| vm.is_here && !vm.arguments.iter().any(|a| a == FILES_FLAG);
        self.vms.iter().filter(is_release)
    }

    /// Returns the name of a VM's node. A short name without a host is completed with the machine's.
    pub(super) fn node_name(&self, vm: &Vm) -> Option<String> {
        let name = vm.argument("-name").or_else(|| vm.argument("-sname"))?;
        if name.contains('@') {
            return Some(name.to_owned());
        }
        let (short, _) = self.host.split_once('.').unwrap_or((&self.host, ""));
        let host = match vm.argument("-name") {
            Some(_) => &self.host,
            None => short,
        };
        Some(format!("{name}@{host}"))
    }

    /// Returns the cookie of a VM, as its arguments say, or the file of the login user if that user
    /// runs it. A VM of somebody else gets no proof of that file.
    pub(super) fn cookie<'a>(&'a self, vm: &'a Vm) -> Option<&'a str> {
        let of_user = self.cookie.as_deref().filter(|_| vm.owner == self.user);
        vm.argument("-setcookie").or(of_user)
    }
}

impl Vm {
    /// Returns the value of the last flag of this name, which counts.
    fn argument(&self, flag: &str) -> Option<&str> {
        let at = self
            .arguments
            .iter()
            .rposition(|argument| argument == flag)?;
        self.arguments.get(at + 1).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_behind_a_banner() {
        let answer = b"Welcome!\nrelsync-survey\nroot /srv/erlang\nnamed 13.1.5 0.2.0\n\
            erts 13.1.5\nboot releases/0.2.0/start_clean.boot\nerl /usr/bin/erl\nuser 7\nhost board.lan\n\
            cookie SECRET\nvm 12\nowner 7\narg beam.smp\narg -sname\narg shop\narg -root\narg /srv/erlang\n\
            here\nepmd 4000\nvm 14\narg -root\narg /srv/erlang\nhere\narg -relsync_files\n\
            vm 13\nowner 0\narg -name\narg other@10.0.0.1\narg -setcookie\narg C\nend\n";
        let survey = Survey::read(answer).expect("an answer");
        assert_eq!(survey.root.as_deref(), Some("/srv/erlang"));
        let named = ("13.1.5".to_owned(), "0.2.0".to_owned());
        assert_eq!(survey.named, Some(named));
        let running: Vec<_> = survey.running().collect();
        assert_eq!(running.len(), 1);
        assert_eq!(survey.node_name(running[0]).as_deref(), Some("shop@board"));
        assert_eq!(survey.cookie(running[0]), Some("SECRET"));
        assert_eq!(running[0].epmd_port, Some(4000));
        let other = &survey.vms[2];
        assert_eq!(survey.node_name(other).as_deref(), Some("other@10.0.0.1"));
        assert_eq!(survey.cookie(other), Some("C"));
        assert!(!format!("{survey:?}").contains("\"C\""));
        let mut of_another = Survey::read(answer).expect("an answer");
        of_another.vms[0].owner = "8".to_owned();
        let vm = &of_another.vms[0];
        assert_eq!(of_another.cookie(vm), None, "the VM of another user");
    }

    #[test]
    fn an_incomplete_answer_is_none() {
        for answer in ["", "end", "relsync-survey\nroot /x\n"] {
            assert_eq!(Survey::read(answer.as_bytes()), None, "{answer:?}");
        }
    }

    #[test]
    fn more_vms_than_counted_are_no_answer() {
        let vms: String = (0..=MAX_VMS).map(|pid| format!("vm {pid}\n")).collect();
        let answer = format!("relsync-survey\n{vms}end\n");
        assert_eq!(Survey::read(answer.as_bytes()), None);
    }

    #[test]
    fn this_machine_answers_about_any_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let awkward = directory.path().join("it's 100% \"a\\b\" $HOME\n*");
        std::fs::create_dir_all(awkward.join("erts-1.2/bin")).expect("a directory");
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(awkward.as_os_str());
        for shell in ["sh", "bash"] {
            let said = std::process::Command::new(shell)
                .args(["-c", &command(bytes)])
                .output();
            let Ok(said) = said else { continue };
            let survey = Survey::read(&said.stdout).expect("an answer");
            assert!(survey.root.is_some(), "{shell}: {said:?}");
            assert!(!survey.host.is_empty(), "{shell}: {said:?}");
        }
    }
}
