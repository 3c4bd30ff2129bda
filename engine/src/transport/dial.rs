//! Finds a host's addresses and connects to one of them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

/// The reasons why a host's name gives no address.
#[derive(Debug)]
pub(super) enum LookupFailure {
    /// The resolver took too long.
    Timeout,
    /// The name has no address.
    Unknown(io::Error),
}

/// Looks up a host. IPv4 addresses come first, because nodes listen on IPv4 by default.
pub(super) async fn resolve(host: &str, limit: Duration) -> Result<Vec<SocketAddr>, LookupFailure> {
    let looked_up = timeout(limit, lookup_host((host, 0)))
        .await
        .map_err(|_| LookupFailure::Timeout)?;
    let mut addresses: Vec<SocketAddr> = looked_up.map_err(LookupFailure::Unknown)?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.dedup();
    if addresses.is_empty() {
        let nothing = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        return Err(LookupFailure::Unknown(nothing));
    }
    Ok(addresses)
}

/// The reasons why connecting to every address failed.
#[derive(Debug)]
pub(super) enum DialFailure {
    /// Nothing listens on the port.
    Refused,
    /// No address answered in time.
    Timeout,
    /// The operating system's error.
    Io(io::Error),
}

/// Tries the addresses in turn. Each gets an equal share of the time that is left.
pub(super) async fn dial(
    addresses: &[SocketAddr],
    port: u16,
    limit: Duration,
) -> Result<TcpStream, DialFailure> {
    let deadline = Instant::now() + limit;
    let mut refused = false;
    let mut failure = DialFailure::Timeout;
    for (index, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        let mut address = *address;
        address.set_port(port);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => refused = true,
            Ok(Err(error)) => failure = DialFailure::Io(error),
            Err(_) => failure = DialFailure::Timeout,
        }
    }
    // A refusal says most: the host is up.
    Err(if refused {
        DialFailure::Refused
    } else {
        failure
    })
}
