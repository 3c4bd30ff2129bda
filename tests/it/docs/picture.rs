//! The picture of an update's bytes, drawn from the table in `benches/README.md`.

use std::fmt::Write;
use std::fs;

use super::{path, read};

const PICTURE: &str = "docs/images/bytes.svg";
const MEASURED: &str = "benches/README.md";

/// The pairs in the picture, and their descriptions.
const PAIRS: &[(&str, &str)] = &[
    ("line", "One line is changed in a module"),
    ("record", "A record is changed, which recompiles its users"),
    ("otp-25-beams", "A security update of Erlang/OTP 25"),
    (
        "ejabberd-beams",
        "ejabberd 23.01 to 24.12, two years of changes",
    ),
];

const WIDTH: u64 = 760;
/// The start of the bars, and the length of the longest.
const BARS_X: u64 = 190;
const BARS_WIDTH: u64 = 470;
const BAR: u64 = 16;
const GROUP: u64 = 28 + 4 * (BAR + 4) + 14;

const STYLE: &str = "text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 } .label { text-anchor: end }
.other { fill: #8c959f } .ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .other { fill: #6e7681 } .ours { fill: #58a6ff } }";

/// A row of the table: the bytes of each way.
struct Row {
    files: u64,
    ways: [(&'static str, u64); 4],
}

/// Reads a pair's row of the first table.
fn row(document: &str, pair: &str) -> Row {
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim().trim_matches('|').split('|');
        line.map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = document.lines().filter(|line| line.starts_with('|'));
    let head = cells(lines.next().expect("a table"));
    let row = lines.map(cells).find(|cells| cells[0] == pair).expect(pair);
    let figure = |column: &str| -> u64 {
        let at = head.iter().position(|name| name == column).expect(column);
        row[at].parse().expect(column)
    };
    let general = ["xdelta3", "bsdiff", "zstd -pf", "casync"].map(figure);
    Row {
        files: figure("files"),
        ways: [
            ("new content", figure("bytes")),
            ("rsync -z", figure("rsync -z")),
            (
                "best other delta",
                general.into_iter().min().expect("four figures"),
            ),
            ("relsync", figure("relsync")),
        ],
    }
}

/// Formats a number of bytes, rounded to a tenth of its unit.
fn human(bytes: u64) -> String {
    let tenths = |unit: u64| {
        let tenths = (bytes * 10 + unit / 2) / unit;
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..999_950 => format!("{} kB", tenths(1000)),
        _ => format!("{} MB", tenths(1_000_000)),
    }
}

fn drawn(document: &str) -> String {
    let height = PAIRS.len() as u64 * GROUP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>Bytes of an update</title>\n\
         <!-- Drawn by `make golden` from the table in {MEASURED}; do not edit. -->\n\
         <style>\n{STYLE}\n</style>\n"
    );
    for (index, (pair, title)) in PAIRS.iter().enumerate() {
        let Row { files, ways } = row(document, pair);
        let top = index as u64 * GROUP;
        let modules = if files == 1 { "module" } else { "modules" };
        let _ = writeln!(
            svg,
            "<text class=\"title\" x=\"8\" y=\"{}\">{title} ({files} {modules})</text>",
            top + 20
        );
        let longest = ways.iter().map(|(_, bytes)| *bytes).max().unwrap_or(1);
        for (line, (name, bytes)) in ways.iter().enumerate() {
            let y = top + 28 + line as u64 * (BAR + 4);
            // A bar always has at least one pixel.
            let length = (bytes * BARS_WIDTH / longest).max(1);
            let class = if *name == "relsync" { "ours" } else { "other" };
            let text_y = y + 13;
            let _ = writeln!(
                svg,
                "<text class=\"label\" x=\"{}\" y=\"{text_y}\">{name}</text>\n\
                 <rect class=\"{class}\" x=\"{BARS_X}\" y=\"{y}\" width=\"{length}\" height=\"{BAR}\"/>\n\
                 <text x=\"{}\" y=\"{text_y}\">{}</text>",
                BARS_X - 8,
                BARS_X + length + 8,
                human(*bytes)
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

#[test]
fn golden_picture_shows_the_measured_bytes() {
    let drawn = drawn(&read(MEASURED));
    if std::env::var_os("RELSYNC_BLESS").is_some() {
        fs::write(path(PICTURE), &drawn).expect(PICTURE);
    }
    assert!(
        read(PICTURE) == drawn,
        "{PICTURE} does not show the figures of {MEASURED}: run `make golden`"
    );
}

/// The first paragraph of the README has the same figures.
#[test]
fn the_readme_says_what_was_measured() {
    let readme = read("README.md");
    for (way, bytes) in row(&read(MEASURED), "record").ways {
        let figure = human(bytes).replace(".0 ", " ");
        assert!(readme.contains(&figure), "{way}: {figure}");
    }
}

#[test]
fn bytes_are_written_for_people() {
    let table = [
        (95, "95 B"),
        (2251, "2.3 kB"),
        (999_950, "1.0 MB"),
        (1_110_830, "1.1 MB"),
    ];
    for (bytes, text) in table {
        assert_eq!(human(bytes), text);
    }
}
