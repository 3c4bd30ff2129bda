//! Shows what a push would do: entries, modules, bytes, and the time they take.

use std::time::Duration;

use relsync_engine::target::ApplyResult;
use relsync_engine::tree::manifest::Manifest;
use relsync_engine::update::PushReport;

use crate::listing::{self, CodedTotals, Coding};
use crate::output::Output;
use crate::report::Report;
use crate::units::{Bytes, Count, Elapsed};

/// Shows a dry run, and completes its report.
pub(crate) fn show(
    pushed: &PushReport,
    outlook: &ApplyResult,
    new: &Manifest,
    link_bytes_per_s: Option<u64>,
    explained: bool,
    output: &Output,
    report: &mut Report,
) {
    report.set_outlook(outlook);
    let pack_bytes = pushed.pack.as_ref().map_or(0, |pack| pack.pack_bytes);
    report.figures.get_or_insert_default().pack_bytes = pack_bytes;
    say_entries(pushed, new, explained, output);
    output.line(&listing::totals_line(&pushed.planned.totals));
    let estimate = link_bytes_per_s.map(|rate| transfer_time(pack_bytes, rate));
    report.estimated_ms = estimate.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let time = estimate.map_or_else(String::new, |time| {
        format!(", {} on this link", Elapsed(time))
    });
    output.line(&format!("{} to send{time}", Bytes(pack_bytes)));
}

/// Says for each file of a push how it was coded.
pub(crate) fn explain(pushed: &PushReport, new: &Manifest, output: &Output) {
    say_entries(pushed, new, true, output);
}

fn say_entries(pushed: &PushReport, new: &Manifest, explained: bool, output: &Output) {
    let codings = match &pushed.pack {
        Some(pack) if explained => listing::codings(&pack.pieces, pushed.planned.held()),
        _ => Default::default(),
    };
    let mut folded = 0;
    for change in listing::changes(&pushed.planned, new) {
        let coding: Option<&Coding<'_>> = change.entry.and_then(|entry| codings.get(&entry));
        output.event("entry", &change.value(coding));
        if explained && !output.is_verbose() && change.costs_nothing(coding) {
            folded += 1;
        } else {
            output.line(&change.line(coding));
        }
    }
    if folded > 0 {
        output.line(&format!(
            "  and {} in 0 B (-v lists them)",
            Count(folded, "file")
        ));
    }
    if let Some(pack) = pushed.pack.as_ref().filter(|_| explained) {
        let totals = CodedTotals::new(pack);
        output.line(&totals.line());
        output.event("coding", &totals.value());
    }
}

fn transfer_time(bytes: u64, bytes_per_s: u64) -> Duration {
    let milliseconds = u128::from(bytes) * 1000 / u128::from(bytes_per_s.max(1));
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_bytes_by_rate() {
        let table = [
            (11_000, 11_000, 1000),
            (0, 1, 0),
            (1, 0, 1000),
            (u64::MAX, 1, u64::MAX),
        ];
        for (bytes, rate, milliseconds) in table {
            assert_eq!(
                transfer_time(bytes, rate),
                Duration::from_millis(milliseconds)
            );
        }
    }
}
