//! Asks the target's port mapper for a node's port.
//!
//! Format: "EPMD Protocol" in the ERTS documentation. The host registers nothing there.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::super::Meter;

/// `PORT_PLEASE2_REQ`.
const PORT_REQUEST: u8 = 122;

/// `PORT2_RESP`.
const PORT_ANSWER: u8 = 119;

/// `NAMES_REQ`.
const NAMES_REQUEST: u8 = 110;

/// The most bytes of a list of names that are read.
const MAX_NAMES: u64 = 16 * 1024;

/// What EPMD says of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It listens here.
    Port {
        /// Its port.
        port: u16,
        /// The newest version of the distribution protocol it speaks.
        highest_version: u16,
    },
    /// There is no such node.
    Unknown,
    /// Not an answer of EPMD.
    Garbage,
}

/// Asks for the node of this name, which is the part before the `@`.
pub(super) async fn ask_port<S>(mut stream: S, name: &str, meter: &Meter) -> io::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    send_request(&mut stream, PORT_REQUEST, name, meter).await?;
    let head: [u8; 2] = match read_array(&mut stream, meter).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Answer::Garbage),
        head => head?,
    };
    meter.message_arrived();
    match head {
        [PORT_ANSWER, 0] => {}
        [PORT_ANSWER, _] => return Ok(Answer::Unknown),
        _ => return Ok(Answer::Garbage),
    }
    // Port, node type, protocol, highest and lowest version; the name and what follows it are of no
    // use.
    let [port_high, port_low, _, _, version_high, version_low, _, _] =
        read_array(&mut stream, meter).await?;
    Ok(Answer::Port {
        port: u16::from_be_bytes([port_high, port_low]),
        highest_version: u16::from_be_bytes([version_high, version_low]),
    })
}

/// Asks which names are registered.
pub(super) async fn ask_names<S>(mut stream: S, meter: &Meter) -> io::Result<Vec<String>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    send_request(&mut stream, NAMES_REQUEST, "", meter).await?;
    let mut answer = Vec::new();
    let read = stream.take(MAX_NAMES).read_to_end(&mut answer).await;
    meter.received(answer.len());
    meter.message_arrived();
    read?;
    Ok(parse_names(answer.get(4..).unwrap_or_default()))
}

async fn send_request(
    stream: &mut (impl AsyncWrite + Unpin),
    request: u8,
    name: &str,
    meter: &Meter,
) -> io::Result<()> {
    // A node name is at most 255 bytes long.
    let length = u16::try_from(name.len() + 1).unwrap_or(u16::MAX);
    let mut message = length.to_be_bytes().to_vec();
    message.push(request);
    message.extend_from_slice(name.as_bytes());
    stream.write_all(&message).await?;
    meter.sent(message.len());
    Ok(())
}

async fn read_array<const N: usize>(
    stream: &mut (impl AsyncRead + Unpin),
    meter: &Meter,
) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    meter.received(N);
    Ok(bytes)
}

/// Reads lines of the form `name NAME at port PORT`; others are skipped.
fn parse_names(text: &[u8]) -> Vec<String> {
    let name = |line: &str| {
        Some(
            line.strip_prefix("name ")?
                .split_once(" at port ")?
                .0
                .to_owned(),
        )
    };
    let printable = |name: &String| !name.chars().any(char::is_control);
    String::from_utf8_lossy(text)
        .lines()
        .filter_map(name)
        .filter(printable)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_line_by_line() {
        let text = b"name app at port 4711\nname other at port 1\nsomething else\nname evil\x1b at port 2\n\xff\n";
        assert_eq!(parse_names(text), ["app", "other"]);
        assert!(parse_names(b"").is_empty());
    }
}
