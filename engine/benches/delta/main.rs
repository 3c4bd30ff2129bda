//! Measures deltas between two versions of releases: their bytes beside what other tools make of the same pairs, the time
//! that making them takes, and the time and memory that decoding them takes on a target.
//!
//! `cargo bench -p relsync-engine --bench delta [-- NAME...]` measures the pairs whose names begin with one of the NAMEs, or all:
//! modules of the installed OTP that are recompiled with small changes, and those of `RELSYNC_PAIRS=DIR`, `DIR/*/{old,new}` (see
//! `scripts/pairs.sh`). Files that are equal are left out. `RELSYNC_LEVEL` sets the level (9 is the effort `fast`), `RELSYNC_ALONE` leaves the other tools
//! out, `RELSYNC_RELEASES=25,23` names the OTP releases that decode, `RELSYNC_EXPLAIN` shows how each file was coded.
//! `benches/README.md` at the top of the repository holds what came out.
#![expect(clippy::print_stdout, reason = "a table is what this prints")]

mod ours;
mod pair;
mod peers;
mod target;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ours::Ours;
use pair::Pair;
use peers::Peers;
use target::Target;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Where the bench keeps what it makes.
fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn main() -> Result<()> {
    let names: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let targets = Target::all()?;
    print_head(&targets);
    for pair in Pair::all(&names)? {
        let ours = Ours::encode(&pair)?;
        let peers = match std::env::var_os("RELSYNC_ALONE") {
            Some(_) => Peers::default(),
            None => Peers::measure(&pair)?,
        };
        let mut row = columns(&pair, &peers, &ours);
        for target in &targets {
            row.push_str(&format!(" {} |", target.decode(&ours)?));
        }
        println!("{row}");
    }
    Ok(())
}

fn print_head(targets: &[Target]) {
    let mut head = format!("| {:<26} | files | {:>9} |", "pair", "bytes");
    let mut rule = format!("|{:-<28}|------:|{:->10}:|", "", "");
    for (name, _) in Peers::default().columns() {
        head.push_str(&format!(" {name:>9} |"));
        rule.push_str(&format!("{:->10}:|", ""));
    }
    head.push_str(&format!(" {:>9} | of best |  encode |", "relsync"));
    rule.push_str(&format!("{:->10}:|--------:|--------:|", ""));
    for target in targets {
        head.push_str(&format!(" {:>16} |", target.to_string()));
        rule.push_str(&format!("{:->17}:|", ""));
    }
    println!("{head}\n{rule}");
}

fn columns(pair: &Pair, peers: &Peers, ours: &Ours) -> String {
    let mut row = format!(
        "| {:<26} | {:>5} | {:>9} |",
        pair.name,
        pair.changes.len(),
        pair.bytes()
    );
    for (_, bytes) in peers.columns() {
        row.push_str(&match bytes {
            Some(bytes) => format!(" {bytes:>9} |"),
            None => format!(" {:>9} |", "–"),
        });
    }
    let of_best = peers
        .best()
        .map_or_else(|| "–".to_owned(), |best| ratio(ours.bytes, best));
    row.push_str(&format!(
        " {:>9} | {of_best:>7} | {:>5.2} s |",
        ours.bytes,
        seconds(ours.encoding)
    ));
    row
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn ratio(bytes: u64, best: u64) -> String {
    format!("{:.3}", bytes as f64 / best.max(1) as f64)
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
