//! The counts of crash tests: how often they found the old release, the new one, or anything else.

use std::fmt::Display;
use std::fs::File;
use std::io::Write as _;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

/// Returns whether to test all moments (`RELSYNC_CRASH=full`), and not only a few.
pub fn is_full() -> bool {
    std::env::var("RELSYNC_CRASH").is_ok_and(|value| value == "full")
}

/// Returns one of two numbers of moments.
pub fn moments(few: usize, many: usize) -> usize {
    if is_full() { many } else { few }
}

/// Returns all of them, or only `few`, evenly spread from the first to the last.
pub fn sample<T>(all: Vec<T>, few: usize) -> Vec<T> {
    let count = all.len();
    if is_full() || count <= few {
        return all;
    }
    let steps = few.saturating_sub(1).max(1);
    let wanted: Vec<usize> = (0..few).map(|i| i * (count - 1) / steps).collect();
    all.into_iter()
        .enumerate()
        .filter(|(index, _)| wanted.contains(index))
        .map(|(_, item)| item)
        .collect()
}

/// Returns the seed of random moments: `RELSYNC_CRASH_SEED`, or the time. It is printed on standard
/// error.
///
/// # Panics
/// If the seed is not a number.
pub fn seed() -> u64 {
    let seed = match std::env::var("RELSYNC_CRASH_SEED") {
        Ok(text) => text.parse().expect("RELSYNC_CRASH_SEED is a number"),
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    };
    say(&format!("RELSYNC_CRASH_SEED={seed}"));
    seed
}

/// Prints a line on standard error.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The counts of one scenario. They are printed when it ends, and written to the file
/// `RELSYNC_CRASH_REPORT`, if there is one.
#[derive(Debug)]
pub struct Tally {
    name: String,
    old: usize,
    new: usize,
    other: Vec<String>,
    is_said: bool,
}

impl Tally {
    /// Starts to count.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            old: 0,
            new: 0,
            other: Vec::new(),
            is_said: false,
        }
    }

    /// Counts the result at one point: whether it is the new release, or why it is neither.
    pub fn count(&mut self, point: &dyn Display, found: Result<bool, String>) {
        match found {
            Ok(false) => self.old += 1,
            Ok(true) => self.new += 1,
            Err(problem) => {
                say(&format!("{}, {point}: {problem}", self.name));
                self.other.push(format!("{point}: {problem}"));
            }
        }
    }

    /// Returns the number of points.
    pub fn points(&self) -> usize {
        self.old + self.new + self.other.len()
    }

    /// Ends the count.
    ///
    /// # Panics
    /// If anything but the old or the new release was found, or there were fewer points than that.
    pub fn finish(mut self, least: usize) {
        self.report(self.other.len());
        assert!(self.other.is_empty(), "{}: {:#?}", self.name, self.other);
        assert!(self.points() >= least, "{}: too few points", self.name);
    }

    /// Ends the count, and returns the number of results that are neither release.
    pub fn end(&mut self) -> usize {
        self.report(self.other.len());
        self.other.len()
    }

    fn report(&mut self, other: usize) {
        self.is_said = true;
        let points = self.old + self.new + other;
        say(&format!(
            "{}: {points} points, {} old, {} new, {other} anything else",
            self.name, self.old, self.new
        ));
        let Some(path) = std::env::var_os("RELSYNC_CRASH_REPORT") else {
            return;
        };
        let row = format!(
            "{}\t{points}\t{}\t{}\t{other}\n",
            self.name, self.old, self.new
        );
        let written = File::options()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| file.write_all(row.as_bytes()));
        if let Err(error) = written {
            say(&format!("RELSYNC_CRASH_REPORT: {error}"));
        }
    }
}

/// If a scenario fails in another way, it counts as one more bad end.
impl Drop for Tally {
    fn drop(&mut self) {
        if !self.is_said && thread::panicking() {
            self.report(self.other.len() + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "here: a mix")]
    fn anything_else_is_a_failure() {
        let mut tally = Tally::new("tally's own test");
        tally.count(&"there", Ok(true));
        tally.count(&"here", Err("a mix".to_owned()));
        tally.finish(1);
    }

    #[test]
    #[should_panic(expected = "too few points")]
    fn nothing_tried_is_a_failure() {
        Tally::new("tally's own test").finish(1);
    }
}
