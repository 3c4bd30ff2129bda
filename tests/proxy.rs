//! A connection to a node that breaks when a test wants it to.

use std::io::{self, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use crate::node::Node;

/// When a proxy cuts a connection.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// Not at all.
    Never,
    /// After so many bytes towards the node.
    After(u64),
    /// After so many bytes from the node.
    AfterBack(u64),
}

/// Stands between the command and a node, and cuts connections; those after the last are refused.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
}

impl Proxy {
    /// Begins to listen; the connections are cut in this order.
    ///
    /// # Panics
    /// If there is no port, or the node has none.
    pub fn start(node: &Node, cuts: &[Cut]) -> Self {
        let (name, host) = node.name().split_once('@').expect("a node name");
        let ports = format!("erl_epmd:port_please({name:?}, {host:?})");
        let port: u16 = node
            .eval(&format!("element(2, {ports})."))
            .parse()
            .expect("the node's port");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own_port = listener.local_addr().expect("an address").port();
        let cuts = cuts.to_vec();
        thread::spawn(move || {
            for cut in cuts {
                let (client, _) = listener.accept().expect("a connection");
                let node = TcpStream::connect(("127.0.0.1", port)).expect("the node");
                relay(client, node, cut);
            }
        });
        Self { port: own_port }
    }

    /// Where to connect instead of the node's own port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn relay(client: TcpStream, node: TcpStream, cut: Cut) {
    let (mut from_node, mut to_client) = (
        node.try_clone().expect("a socket"),
        client.try_clone().expect("a socket"),
    );
    let (limit, back_limit) = match cut {
        Cut::Never => (u64::MAX, u64::MAX),
        Cut::After(bytes) => (bytes, u64::MAX),
        Cut::AfterBack(bytes) => (u64::MAX, bytes),
    };
    let back = thread::spawn(move || {
        let _ = io::copy(&mut (&mut from_node).take(back_limit), &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
        let _ = from_node.shutdown(Shutdown::Both);
    });
    let _ = io::copy(&mut (&client).take(limit), &mut &node);
    let _ = client.shutdown(Shutdown::Both);
    let _ = node.shutdown(Shutdown::Both);
    let _ = back.join();
}
