//! Users, groups and modes: who else could write to a file or exchange a directory on this machine.
//!
//! A directory is safe from other users only if those above it are. Anybody who may write to one of
//! these can move the directory away and put another in its place, while relsync works in it.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The bits of a mode that let others write, and the one that lets only owners remove.
const GROUP_WRITE: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// The largest list of users or groups that is read.
const MAX_ACCOUNTS_BYTES: u64 = 1 << 20;

/// Why a directory is not safe from other users.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Others may write to a directory above it.
    #[error("other users may write to `{}` above `{}` (mode {mode:04o})", above.display(), dir.display())]
    Open {
        /// The directory to be used.
        dir: PathBuf,
        /// The directory above it.
        above: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A directory above it was made by another user, where everybody may make some.
    #[error("`{}` above `{}` belongs to another user (user number {owner})", above.display(), dir.display())]
    Foreign {
        /// The directory to be used.
        dir: PathBuf,
        /// The directory above it.
        above: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The system does not tell.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Refuses a directory if another user could exchange it, or one above it. The directory need not
/// exist, and its own owner and mode are not looked at.
///
/// The owner of a directory above it counts only where everybody may make directories, as in `/tmp`.
/// Elsewhere, whoever made the place for that user meant it so: a container's mounted workspace, for
/// example.
pub fn check_above(dir: &Path) -> Result<(), PlaceError> {
    let failed = |path: &Path, source| PlaceError::Io {
        path: path.to_owned(),
        source,
    };
    let absolute = std::path::absolute(dir).map_err(|source| failed(dir, source))?;
    let mut existing = absolute.ancestors().filter(|path| path.exists());
    let Some(nearest) = existing.next() else {
        return Ok(());
    };
    let real = nearest
        .canonicalize()
        .map_err(|source| failed(nearest, source))?;
    let skipped = usize::from(nearest == absolute);
    let mut above: Vec<&Path> = real.ancestors().skip(skipped).collect();
    above.reverse();
    let mut is_shared = false;
    for above in above {
        let metadata = fs::metadata(above).map_err(|source| failed(above, source))?;
        if is_shared && !is_own(metadata.uid()) {
            return Err(PlaceError::Foreign {
                dir: dir.to_owned(),
                above: above.to_owned(),
                owner: metadata.uid(),
            });
        }
        is_shared = is_writable_by_others(&metadata);
        if is_shared && metadata.mode() & STICKY == 0 {
            return Err(PlaceError::Open {
                dir: dir.to_owned(),
                above: above.to_owned(),
                mode: metadata.mode() & 0o7777,
            });
        }
    }
    Ok(())
}

/// Whether an owner is the user, or root.
#[must_use]
pub fn is_own(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Whether somebody else than the owner may write. A group that has no other member than the owner
/// does not count: many systems give each user a group, and a umask of 002.
#[must_use]
pub fn is_writable_by_others(metadata: &Metadata) -> bool {
    let mode = metadata.mode();
    mode & OTHERS_WRITE != 0
        || (mode & GROUP_WRITE != 0 && !is_private(metadata.uid(), metadata.gid()))
}

/// Whether nobody else than this user is in the group.
fn is_private(uid: u32, gid: u32) -> bool {
    match (text("/etc/passwd"), text("/etc/group")) {
        (Some(users), Some(groups)) => is_private_in(&users, &groups, uid, gid),
        _ => false,
    }
}

fn text(path: &str) -> Option<String> {
    let mut content = String::new();
    let mut limited = File::open(path).ok()?.take(MAX_ACCOUNTS_BYTES + 1);
    limited.read_to_string(&mut content).ok()?;
    (content.len() as u64 <= MAX_ACCOUNTS_BYTES).then_some(content)
}

/// As [`is_private`], with the text of `/etc/passwd` and `/etc/group`. Where the machine asks another
/// directory for its users, no group counts as private.
fn is_private_in(users: &str, groups: &str, uid: u32, gid: u32) -> bool {
    let records = |text: &str| -> Vec<Vec<String>> {
        let fields = |line: &str| line.split(':').map(str::to_owned).collect();
        text.lines().map(fields).collect()
    };
    let is_number = |field: Option<&String>, number: u32| {
        field.and_then(|text| text.parse().ok()) == Some(number)
    };
    let users = records(users);
    let user = users.iter().find(|user| is_number(user.get(2), uid));
    let groups = records(groups);
    let group = groups.iter().find(|group| is_number(group.get(2), gid));
    let (Some(user), Some(group)) = (user, group) else {
        return false;
    };
    let others_first_group = users
        .iter()
        .any(|other| other[0] != user[0] && is_number(other.get(3), gid));
    let mut members = group.get(3).map_or("", String::as_str).split(',');
    is_number(user.get(3), gid)
        && group[0] == user[0]
        && !others_first_group
        && members.all(|member| member.is_empty() || member == user[0])
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    const NOBODY: Option<u32> = Some(65534);

    #[test]
    fn a_directory_that_others_can_exchange_is_refused() {
        let top = tempfile::tempdir().expect("a directory");
        let outer = top.path().join("outer");
        let inner = outer.join("inner");
        fs::create_dir_all(&inner).expect("directories");
        let places = [
            inner.join("new/store"),
            inner.clone(),
            outer.join("missing"),
        ];
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
        };
        for place in &places {
            check_above(place).expect("safe");
        }
        mode(&outer, 0o757);
        for place in &places {
            let error = check_above(place).expect_err("others can exchange it");
            assert!(
                matches!(&error, PlaceError::Open { above, mode: 0o757, .. } if *above == outer),
                "{error}"
            );
        }
        mode(&outer, 0o1777);
        for place in &places {
            check_above(place).expect("only its owner removes it");
        }
        // It is the directory itself that others may write to here.
        mode(&outer, 0o755);
        mode(&inner, 0o757);
        check_above(&inner).expect("safe");
        // A link leads to the directories that count.
        let link = top.path().join("link");
        std::os::unix::fs::symlink(&inner, &link).expect("a link");
        assert!(check_above(&link.join("store")).is_err());
        mode(&inner, 0o755);
        // Only root can give directories away.
        if chown(&inner, NOBODY, NOBODY).is_err() {
            return;
        }
        check_above(&places[0]).expect("whoever owns the outer one has placed it");
        mode(&outer, 0o1777);
        let error = check_above(&places[0]).expect_err("anybody could have placed it");
        assert!(
            matches!(error, PlaceError::Foreign { owner: 65534, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_group_of_one_is_private() {
        let users = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\ncarl:x:1002:100::/:/bin/sh\ndan:x:1003:1003::/:/bin/sh\neve:x:1004:1003::/:/bin/sh\n";
        let groups = "root:x:0:\nann:x:1000:\nbob:x:1001:bob,carl\nusers:x:100:\ndan:x:1003:\n";
        let table = [
            (1000, 1000, true),
            (0, 0, true),
            (1000, 1001, false),
            // Another user is a member, or has it as the first group, or it has another name.
            (1001, 1001, false),
            (1003, 1003, false),
            (1002, 100, false),
            (1000, 4711, false),
            (4711, 1000, false),
        ];
        for (uid, gid, expected) in table {
            let private = is_private_in(users, groups, uid, gid);
            assert_eq!(private, expected, "{uid}:{gid}");
        }
        assert!(!is_private_in("", "", 0, 0));
        assert!(!is_private_in("::", "::", 0, 0));
    }
}
