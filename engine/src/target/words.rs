//! The words that host and target share: enums here, atoms in Erlang, text on the wire.

use std::fmt;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// A word that this version of relsync does not know.
            Other(String),
        }

        impl $name {
            /// The words that this version knows.
            #[cfg(test)]
            pub(crate) const KNOWN: &[&str] = &[$($word),*];

            /// Returns the word as it travels.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Other(word) => word,
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::Other(String::new())
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)*
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// The kind of an error that the agent reports (store-format.md, `ERROR`).
    ErrorKind {
        /// A message makes no sense, or comes out of turn.
        Protocol = "protocol",
        /// The destination is not an absolute path.
        Path = "path",
        /// Another session holds the target.
        Busy = "busy",
        /// Something else stands in the place of the state directory.
        State = "state",
        /// The update would overwrite what is not relsync's.
        Conflict = "conflict",
        /// There is not enough space.
        Space = "space",
        /// The file system cannot be written.
        ReadOnly = "read_only",
        /// An operation on files failed.
        Io = "io",
        /// The pack is damaged, or is not the one that was expected.
        Pack = "pack",
        /// The target no longer holds what the update is built on.
        BaseChanged = "base_changed",
        /// Another session changed the destination at the same time.
        Interfered = "interfered",
        /// Hooks cannot be loaded, or one of them failed.
        Hooks = "hooks",
        /// A hooks module exports something else than hooks.
        HooksExports = "hooks_exports",
        /// Two paths are one to the target's file system.
        SameName = "same_name",
        /// A path that would be replaced is a mount point.
        MountPoint = "mount_point",
        /// The update would kill processes.
        InUse = "in_use",
        /// A module's file holds no object code.
        BadBeam = "bad_beam",
        /// A module was compiled for another release of OTP.
        OtherOtp = "other_otp",
        /// The VM cannot restart into the new release.
        Restart = "restart",
        /// An `-on_load` function failed.
        OnLoad = "on_load",
        /// Code cannot be reloaded.
        Reload = "reload",
        /// The target is between two releases.
        Damaged = "damaged",
        /// The generation is not kept.
        NoGeneration = "no_generation",
        /// The generation to be confirmed is not on probation.
        NotOnProbation = "not_on_probation",
        /// A restart would fail after the update.
        Boot = "boot",
        /// The target's zlib gives other bytes than the host's.
        ZlibDiffers = "zlib_differs",
        /// The agent failed.
        Internal = "internal",
    }
}

words! {
    /// The way in which a hook kept an update from passing.
    HookFailure {
        /// The hook returned an error.
        Refused = "refused",
        /// `health` did not return that the release is healthy.
        Unhealthy = "unhealthy",
        /// The hook did not return in time.
        Timeout = "timeout",
    }
}

words! {
    /// A step of an update.
    Step {
        /// The agent compiles hooks that came as source.
        Hooks = "hooks",
        /// The hook before the switch runs.
        Presync = "presync",
        /// The agent switches the files.
        Switch = "switch",
        /// The VM loads the code.
        Reload = "reload",
        /// The hook after the switch runs.
        Postsync = "postsync",
        /// The hook that judges the new release runs.
        Health = "health",
        /// The new generation begins to count.
        Commit = "commit",
        /// The agent takes back a failed update.
        Undo = "undo",
        /// The agent brings back an earlier generation.
        Rollback = "rollback",
    }
}

words! {
    /// The fate of a module.
    ModuleState {
        /// The module's new code takes the place of the old.
        Reload = "reload",
        /// The VM loads the module because it loads all modules at its start.
        Load = "load",
        /// The module's code goes.
        Remove = "remove",
        /// The module is gone already.
        Gone = "gone",
        /// The VM runs the module's new code already.
        Unchanged = "unchanged",
        /// Loading the module would kill a process.
        InUse = "in_use",
        /// The module has native code, which stays until the VM restarts.
        Nif = "nif",
        /// The module lies in a sticky directory.
        Sticky = "sticky",
        /// The module is part of the emulator.
        Preloaded = "preloaded",
        /// The module lies in an archive, which the VM reads at its next start.
        Archive = "archive",
        /// Nobody has called the module yet.
        NotLoaded = "notloaded",
        /// The module runs from a file outside the release.
        Foreign = "foreign",
        /// Another directory of the release comes first on the code path.
        Shadowed = "shadowed",
        /// The module's directory is not on the code path.
        OffPath = "offpath",
        /// The module is compiled for coverage.
        Cover = "cover",
        /// The module belongs to the agent.
        Agent = "agent",
        /// The installed file holds other code than the VM runs.
        Changed = "changed",
        /// The installed file holds other code, which waits for a restart of the VM.
        Waiting = "waiting",
        /// The installed release has no file of the module.
        Missing = "missing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_went() {
        for word in ErrorKind::KNOWN {
            let kind = ErrorKind::from(*word);
            assert!(!matches!(kind, ErrorKind::Other(_)), "{word}");
            assert_eq!(kind.as_str(), *word);
        }
        let unknown = ErrorKind::from("of tomorrow");
        assert_eq!(unknown, ErrorKind::Other("of tomorrow".to_owned()));
        assert_eq!(unknown.to_string(), "of tomorrow");
    }
}
