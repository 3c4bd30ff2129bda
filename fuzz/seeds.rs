//! Writes inputs to start fuzzing from, made of the golden vectors: `seeds DIR` fills `DIR/<target>/`.
//!
//! To be compiled with `--cfg fuzzing`, as README.md says.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use relsync_engine::fuzzing;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let out = std::env::args_os().nth(1).ok_or("where to?")?;
    let seeds = Seeds {
        golden: Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden"),
        out: out.into(),
    };
    seeds.manifests()?;
    seeds.packs()?;
    seeds.frames()?;
    seeds.wire()?;
    seeds.distribution()?;
    seeds.store()?;
    seeds.texts()
}

struct Seeds {
    golden: PathBuf,
    out: PathBuf,
}

/// Writes a part as the targets read it.
fn part(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

impl Seeds {
    fn write(&self, target: &str, name: &str, input: &[u8]) -> Outcome {
        let dir = self.out.join(target);
        fs::create_dir_all(&dir)?;
        Ok(fs::write(dir.join(name), input)?)
    }

    /// The golden files of a kind whose names end alike: name and content.
    fn golden(&self, kind: &str, end: &str) -> Result<Vec<(String, Vec<u8>)>, Box<dyn Error>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.golden.join(kind))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(end) && path.is_file() {
                found.push((name.trim_end_matches(end).to_owned(), fs::read(&path)?));
            }
        }
        found.sort();
        Ok(found)
    }

    fn manifests(&self) -> Outcome {
        let mut last = Vec::new();
        for (name, manifest) in self.golden("manifest", ".bin")? {
            self.write("manifest", &name, &manifest)?;
            let frame = relsync_engine::delta::zstd_frame::compress(&last, &manifest, 19)?;
            self.write("manifest_delta", &name, &[part(&last), frame].concat())?;
            self.write(
                "manifest_delta",
                &format!("{name}-plain"),
                &[part(&last), manifest.clone()].concat(),
            )?;
            let size = u32::try_from(manifest.len())?.to_be_bytes();
            let stored = [&size[..], &zlib(&manifest)].concat();
            self.write("inventory", &name, &stored)?;
            last = manifest;
        }
        for (index, path) in [
            "lib/app-1.0/ebin/app.beam",
            "a",
            "..",
            ".relsync/x",
            "a//b",
            "\u{1b}[0m",
        ]
        .iter()
        .enumerate()
        {
            self.write("entry", &format!("path-{index}"), path.as_bytes())?;
        }
        self.write("entry", "hex", "0123456789abcdef".repeat(4).as_bytes())?;
        self.write(
            "bytes",
            "all",
            &[part(&[0, 1, 2, 3, 4, 5, 0xfe, 0xff]), (0..60).collect()].concat(),
        )
    }

    fn packs(&self) -> Outcome {
        for (name, pack) in self.golden("pack", ".pack")? {
            self.write("pack", &name, &pack)?;
            let (mut rest, mut input) = (&pack[..], Vec::new());
            while let Some((length, behind)) = rest.split_first_chunk::<4>() {
                let end = 4 + usize::try_from(u32::from_be_bytes(*length))?;
                input.extend(part(&behind[4..end]));
                rest = &behind[end..];
            }
            self.write("pack_records", &name, &input)?;
        }
        Ok(())
    }

    fn frames(&self) -> Outcome {
        let mut last = Vec::new();
        for entry in fs::read_dir(self.golden.join("delta"))? {
            let dir = entry?.path();
            let name = dir
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let body = fs::read(dir.join("body"))?;
            let news: Vec<Vec<u8>> = (0..4)
                .map_while(|index| fs::read(dir.join(format!("{index}.new"))).ok())
                .collect();
            let bases: Vec<Option<Vec<u8>>> = (0..news.len())
                .map(|index| fs::read(dir.join(format!("{index}.base"))).ok())
                .collect();
            let mut input = vec![u8::try_from(bases.len())?];
            for base in &bases {
                input.extend(part(base.as_deref().unwrap_or_default()));
            }
            input.extend(&body);
            self.write("frame_body", &name, &input)?;
            let held: Vec<_> = bases.iter().map(Option::as_deref).collect();
            if let Some(input) = fuzzing::plain_frame(&held, &body) {
                self.write("frame_streams", &name, &input)?;
            }
            let (new, base) = (&news[0], bases[0].clone().unwrap_or_default());
            self.write("beam", &name, new)?;
            self.write("gzip", &name, new)?;
            self.write("difference", &name, &[part(&base), new.clone()].concat())?;
            let pair = [vec![0], part(&base), part(new), last].concat();
            self.write("delta_round_trip", &name, &pair)?;
            last = new.clone();
        }
        Ok(())
    }

    fn wire(&self) -> Outcome {
        let mut session = vec![0];
        for (name, message) in self.golden("wire", ".bin")? {
            if !name.starts_with("agent-") {
                continue;
            }
            self.write("wire_reply", &name, &message)?;
            self.write(
                "wire_parts",
                &name,
                &[
                    part(&[&[1], &message[..]].concat()),
                    part(&[&[0], &message[..]].concat()),
                ]
                .concat(),
            )?;
            session.extend(part(&message));
        }
        self.write("hostile_target", "all", &session)?;
        let message =
            |name: &str| fs::read(self.golden.join("wire").join(format!("agent-{name}.bin")));
        let release = fs::read(self.golden.join("manifest/release.bin"))?;
        let inventory = [
            &[0x82][..],
            &field(1, &[1]),
            &field(2, &zlib(&release)),
            &field(
                3,
                &[
                    u8::try_from(release.len() & 0x7f)? | 0x80,
                    u8::try_from(release.len() >> 7)?,
                ],
            ),
        ]
        .concat();
        let greeting = part(&message("hello-least")?);
        let held = part(&message("hello-all")?);
        let answers = [
            part(&[&[0x83][..], &field(1, &[0x80, 0x80, 4])].concat()),
            part(&message("step")?),
            part(&message("output")?),
            part(&message("staged")?),
            part(&message("result-applied")?),
        ]
        .concat();
        for choice in [0, 1, 2, 4, 5, 8] {
            let known = [&[choice][..], &held, &answers].concat();
            self.write("hostile_target", &format!("held-{choice}"), &known)?;
            let first = [&[choice][..], &greeting, &part(&inventory), &answers].concat();
            self.write("hostile_target", &format!("first-{choice}"), &first)?;
        }
        Ok(())
    }

    fn distribution(&self) -> Outcome {
        let pid = b"Xw\x08app@host\0\0\0\x01\0\0\0\0\0\0\0\x07";
        let reference = b"Z\0\x03w\x07me@host\0\0\0\x07\0\0\0\x01\0\0\0\x02\0\0\0\x03";
        let terms: Vec<Vec<u8>> = vec![
            pid.to_vec(),
            reference.to_vec(),
            b"h\x02w\x07relsyncm\0\0\0\x02hi".to_vec(),
            b"l\0\0\0\x02a\x01b\xff\xff\xff\xffj".to_vec(),
            b"t\0\0\0\x01d\0\x01kF\x3f\xf0\0\0\0\0\0\0".to_vec(),
            b"k\0\x03abc".to_vec(),
            b"n\x09\x01\0\0\0\0\0\0\0\0\x01".to_vec(),
            b"l\0\0\0\x01M\0\0\0\x01\x03\xa0q".to_vec(),
        ];
        let mut stream = Vec::new();
        for (index, term) in terms.iter().enumerate() {
            self.write("erl_term", &format!("term-{index}"), term)?;
            // The numbers of SEND, EXIT, MONITOR_EXIT, SPAWN_REPLY, UNLINK_ID with what they take.
            let frames = [
                [&b"\x70\x83h\x03a\x02w\0"[..], pid, b"\x83", term].concat(),
                [&b"\x70\x83h\x04a\x03"[..], pid, pid, term].concat(),
                [&b"\x70\x83h\x03a\x18"[..], pid, pid, b"\x83", term].concat(),
                [
                    &b"\x70\x83h\x04a\x1c"[..],
                    pid,
                    pid,
                    reference,
                    b"\x83",
                    term,
                ]
                .concat(),
                [&b"\x70\x83h\x05a\x1f"[..], reference, pid, b"a\0", term].concat(),
                [&b"\x70\x83h\x04a\x23a\x07"[..], pid, pid].concat(),
            ];
            for (kind, frame) in frames.iter().enumerate() {
                self.write("erl_frame", &format!("frame-{kind}-{index}"), frame)?;
                stream.extend(u32::try_from(frame.len())?.to_be_bytes());
                stream.extend(frame);
                stream.extend([0; 4]);
            }
        }
        self.write("erl_link", "all", &stream)?;
        let challenge = b"\0\x1bN\0\0\0\x1f\xff\xff\xff\xff\0\0\0\x09\0\0\0\x01\0\x08app@host";
        for (index, status) in [
            &b"\0\x03sok"[..],
            b"\0\x06salive",
            b"\0\x13snamed:\0\x05XY@me\0\0\0\x07",
            b"\0\x04snok",
            b"\x15\x03\x03",
        ]
        .iter()
        .enumerate()
        {
            let said = [
                &[u8::try_from(index)?][..],
                status,
                challenge,
                b"\0\x11a0123456789abcdef",
            ]
            .concat();
            self.write("erl_handshake", &format!("status-{index}"), &said)?;
        }
        self.write(
            "erl_port_mapper",
            "port",
            b"w\0\x12\x34M\0\0\x06\0\x05\0\x03app\0\0",
        )?;
        self.write(
            "erl_port_mapper",
            "names",
            b"\0\0\x11\x11name app at port 4711\nname b at port 1\n",
        )?;
        self.write("erl_name", "name", b"app@host.example.org")
    }

    fn store(&self) -> Outcome {
        let (name, manifest) = &self.golden("manifest", "release.bin")?[0];
        let chunk = b"a chunk of a few bytes";
        let mut recipe = vec![7; 32];
        recipe.extend(22_u32.to_be_bytes());
        let mut taken = vec![0; 15];
        taken.extend([1, 0, 0, 0, 0, 0, 0, 0, 0]);
        taken.truncate(16);
        let event = [&taken[..], &[0, 0, 4], b"name", &[0]].concat();
        let tagged = [&[0; 15][..], &[2, 2, 3], b"tag"].concat();
        let records = [
            part(&[&[0, 0][..], chunk].concat()),
            part(&[&[1, 200][..], &recipe].concat()),
            part(&[&[2, 0][..], manifest].concat()),
            part(&[&[3, 200][..], &event].concat()),
            part(&[&[3, 200][..], &tagged].concat()),
        ]
        .concat();
        self.write("segment_records", &format!("{name}all"), &records)?;
        self.write("segment", "header", b"RSSG\x01saltsalt")?;
        for (index, value) in [recipe, event, tagged].iter().enumerate() {
            self.write("store_values", &format!("value-{index}"), value)?;
        }
        let dir = tempfile_dir()?;
        let opened = relsync_engine::store::Store::open(&dir)?;
        opened.put_manifest(manifest)?;
        drop(opened);
        self.write(
            "index_file",
            "empty-store",
            &fs::read(dir.join("index.sqlite"))?,
        )?;
        for entry in fs::read_dir(dir.join("segments"))? {
            self.write("segment", "manifest", &fs::read(entry?.path())?)?;
        }
        Ok(fs::remove_dir_all(dir)?)
    }

    fn texts(&self) -> Outcome {
        self.write(
            "exclude",
            "some",
            &[
                part(b"*.log\n/doc/\nlib/**/[a-z]?.{beam,so}\n!x"),
                b"lib/a/b.beam".to_vec(),
            ]
            .concat(),
        )?;
        for (index, text) in ["11k", "1.5MiB", "250ms", "1.5h", "300b"]
            .iter()
            .enumerate()
        {
            self.write("cli_units", &format!("value-{index}"), text.as_bytes())?;
        }
        let config = b"board\nretries = 7\nexclude = [\"*.log\"]\nbwlimit = \"11k\"\n[profiles.board]\nreload = \"hard\"\ntimeout = \"2s\"\n";
        self.write("cli_config", "profile", config)?;
        let terms = b"%% a comment\n[{kernel, [{logger_level, 'all'}, {x, <<\"b\">>, #{a => $\\n}}]}, {y, 16#ff, \"s\\\"\"}].\n";
        self.write("cli_terms", "sys-config", terms)
    }
}

fn tempfile_dir() -> Result<PathBuf, Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("relsync-seeds-{}", std::process::id()));
    fs::create_dir(&dir)?;
    Ok(dir)
}

/// A field of a message.
fn field(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut writer = relsync_engine::bytes::Writer::new();
    writer.u8(tag);
    writer.blob(value);
    writer.into_vec()
}

/// A zlib stream of stored blocks (RFC 1950, RFC 1951).
fn zlib(content: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let mut blocks = content.chunks(60_000).peekable();
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.push(u8::from(blocks.peek().is_none()));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    if content.is_empty() {
        out.extend([1, 0, 0, 0xff, 0xff]);
    }
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in content {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    out.extend((b << 16 | a).to_be_bytes());
    out
}
