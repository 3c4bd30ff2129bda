//! The things that a release needs when it is started, as its agent looked for them.

/// The things that a release needs when it is started, as far as a target has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The directories, one for each that the host asked for, in order.
    pub directories: Vec<FoundDirectory>,
    /// The indexes of the system libraries that the target lacks.
    pub lacking: Vec<u64>,
    /// The faults in the configurations that the host sent.
    pub config_faults: Vec<String>,
}

/// Where a directory of a boot script lies on a target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FoundDirectory {
    /// Whether the directory is missing.
    pub missing: bool,
    /// The directory's path in the destination, if it lies there.
    pub path: Option<Vec<u8>>,
    /// Whether the path begins with a variable that the target does not know.
    pub unknown: bool,
}
