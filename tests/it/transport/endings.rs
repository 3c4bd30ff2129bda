//! The ends of processes, nodes and connections.

use relsync_engine::transport::erl::{self, Call, Event, SpawnBond};

use super::{block_on, evaluate, start};
use crate::agent::session::target;

#[test]
fn the_end_of_a_process_comes_with_its_reason() {
    let node = start();
    block_on(async {
        let mut connection = erl::connect(&target(&node)).await.unwrap();
        let cases = [
            ("ok.", "normal"),
            ("exit({no, \"way\"}).", "{no,\"way\"}"),
            ("exit(list_to_atom([233])).", "\u{e9}"),
            (
                "exit({<<1:3>>, 1 bsl 70, -1 bsl 40, fun lists:map/2, 1.5, [1|2], hd(erlang:ports())}).",
                "{#bitstring,#Bignum,-1099511627776,#fun,1.5,[1|2],#port}",
            ),
            (
                "link(Host), unlink(Host), link(Host), exit(again).",
                "again",
            ),
            (
                "exit(lists:duplicate(100000, <<\"long\">>)).",
                "unreadable reason (term has more than 16384 parts)",
            ),
        ];
        for bond in [SpawnBond::Link, SpawnBond::Monitor] {
            for (text, wanted) in cases {
                let pid = evaluate(&node, &mut connection, text, bond).await;
                let Event::Ended { process, reason } = connection.receive().await.unwrap() else {
                    panic!("a message")
                };
                assert_eq!((process, reason.as_str()), (pid, wanted), "{text} {bond:?}");
                // A link made in addition to the monitor reports too.
                if bond == SpawnBond::Monitor && text.contains("link") {
                    assert!(matches!(
                        connection.receive().await,
                        Ok(Event::Ended { .. })
                    ));
                }
            }
        }
        let missing = Call {
            module: "no_such_module",
            function: "f",
            arguments: &[],
        };
        connection.spawn(&missing, SpawnBond::Link).await.unwrap();
        let Event::Ended { reason, .. } = connection.receive().await.unwrap() else {
            panic!("a message")
        };
        assert_eq!(reason, "{undef,[{no_such_module,f,[],[]}]}");
        connection.close().await.unwrap();
    });
}
