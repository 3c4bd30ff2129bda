//! The Erlang distribution transport against real nodes.

use std::net::TcpListener;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use relsync_engine::transport::erl::{
    self, Call, ConnectError, Connection, Cookie, ErlTarget, ErlTransport, Event, LocalName,
    NodeName, Pid, SpawnBond, Term,
};
use relsync_engine::transport::{MAX_SENT_MESSAGE, RateLimiter, Transport, TransportError};
use relsync_tests::node::{Node, NodeOptions, unique_name};

use crate::session::target;

/// Evaluates `expressions` with `Host` bound to the host's process.
const EVALUATE: &str = "
    fun(Text, Host) ->
        {ok, Tokens, _} = erl_scan:string(Text),
        {ok, Expressions} = erl_parse:parse_exprs(Tokens),
        erl_eval:exprs(Expressions, [{'Host', Host}])
    end";

/// Sends every message back until the host says otherwise.
const ECHO: &str = "
    Loop = fun Loop() ->
        receive
            {relsync, <<\"exit\">>} -> exit({shutdown, <<\"asked to\">>});
            {relsync, Message} -> Host ! {relsync, Message}, Loop()
        end
    end,
    Loop().";

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let result = runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), future)
            .await
            .expect("it hangs")
    });
    runtime.shutdown_background();
    result
}

async fn refused(target: &ErlTarget) -> ConnectError {
    match erl::connect(target).await {
        Ok(connection) => panic!("connected as {}", connection.local_name()),
        Err(error) => error,
    }
}

/// Starts a process on the node that evaluates a text, by way of a function that the node keeps for
/// it.
async fn evaluate(node: &Node, connection: &mut Connection, text: &str, bond: SpawnBond) -> Pid {
    node.eval(&format!(
        "persistent_term:put(relsync_evaluate, {EVALUATE})"
    ));
    // erl_eval:exprs([{call, 1, {remote, 1, {atom, 1, persistent_term}, {atom, 1, get}}, [..]}],
    // ..) in the abstract format.
    let atom = |name| Term::Tuple(vec![Term::atom("atom"), Term::Integer(1), Term::atom(name)]);
    let variable = |name| Term::Tuple(vec![Term::atom("var"), Term::Integer(1), Term::atom(name)]);
    let call = |function, arguments| {
        Term::Tuple(vec![
            Term::atom("call"),
            Term::Integer(1),
            function,
            Term::List(arguments),
        ])
    };
    let get = Term::Tuple(vec![
        Term::atom("remote"),
        Term::Integer(1),
        atom("persistent_term"),
        atom("get"),
    ]);
    let expression = call(
        call(get, vec![atom("relsync_evaluate")]),
        vec![variable("Text"), variable("Host")],
    );
    // Bindings as every release takes them: a list of pairs ordered by name.
    let host = Term::Tuple(vec![
        Term::atom("Host"),
        Term::Pid(connection.local_pid().clone()),
    ]);
    let text = Term::Tuple(vec![Term::atom("Text"), Term::string(text)]);
    let arguments = [Term::List(vec![expression]), Term::List(vec![host, text])];
    let call = Call {
        module: "erl_eval",
        function: "exprs",
        arguments: &arguments,
    };
    connection.spawn(&call, bond).await.expect("a process")
}

async fn echo(node: &Node) -> ErlTransport {
    let mut connection = erl::connect(&target(node)).await.expect("a connection");
    let agent = evaluate(node, &mut connection, ECHO, SpawnBond::Link).await;
    connection.into_transport(agent)
}

fn start() -> Node {
    Node::start(NodeOptions::default())
}

#[test]
fn the_host_is_hidden_and_leaves_nothing_behind() {
    let node = start();
    block_on(async {
        let before = node.eval("{length(processes()), lists:sort(registered()), ets:all() -- []}");
        let mut transport = echo(&node).await;
        let local = transport.connection().local_name().clone();
        assert_eq!(local.host(), "relsync");
        assert_eq!(
            node.eval("{nodes(), nodes(hidden)}"),
            format!("{{[],['{local}']}}")
        );
        transport.send(b"hello").await.unwrap();
        assert_eq!(transport.recv().await.unwrap(), b"hello");
        transport.close().await.unwrap();
        node.wait_for("nodes(hidden)", "[]");
        node.eval("persistent_term:erase(relsync_evaluate)");
        node.wait_for(
            "{length(processes()), lists:sort(registered()), ets:all() -- []}",
            &before,
        );
    });
}

#[test]
fn a_long_named_node_and_a_direct_port_work() {
    let node = Node::start(NodeOptions::long_name());
    block_on(async {
        let transport = echo(&node).await;
        transport.close().await.unwrap();

        let mut direct = target(&node);
        direct.epmd_port = 1;
        assert!(matches!(
            refused(&direct).await,
            ConnectError::EpmdRefused { port: 1, .. }
        ));
        direct.dist_port = Some(node.dist_port());
        let connection = erl::connect(&direct).await.unwrap();
        assert_eq!(connection.counters().round_trips, 2, "the handshake's");
        connection.close().await.unwrap();

        direct.dist_port = Some(1);
        assert!(matches!(
            refused(&direct).await,
            ConnectError::NodeRefused { port: 1, .. }
        ));
    });
}

#[test]
fn each_reason_for_no_connection_is_told_apart() {
    let node = start();
    block_on(async {
        let good = target(&node);
        let wrong_cookie = ErlTarget {
            cookie: Cookie::new("wrong").unwrap(),
            ..good.clone()
        };
        assert!(matches!(
            refused(&wrong_cookie).await,
            ConnectError::WrongCookie { .. }
        ));

        let unknown = ErlTarget {
            node: NodeName::parse("relsync_test_nobody@localhost").unwrap(),
            ..good.clone()
        };
        let error = refused(&unknown).await;
        let ConnectError::NotRegistered {
            registered,
            port: 4369,
            ..
        } = &error
        else {
            panic!("{error:?}")
        };
        let name = node.name().split('@').next().unwrap();
        assert!(
            registered.iter().any(|known| known == name),
            "{registered:?}"
        );

        let nowhere = ErlTarget {
            node: NodeName::parse("app@no-such-host.invalid").unwrap(),
            ..good.clone()
        };
        assert!(matches!(
            refused(&nowhere).await,
            ConnectError::HostUnknown { .. }
        ));

        let other_host = ErlTarget {
            node: NodeName::parse(&format!("{name}@127.0.0.1")).unwrap(),
            ..good.clone()
        };
        let error = refused(&other_host).await;
        assert!(
            matches!(&error, ConnectError::OtherNode { actual, .. } if actual.as_str() == node.name()),
            "{error:?}"
        );

        // A port that accepts connections and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let stalled = ErlTarget {
            dist_port: Some(port),
            connect_timeout: Duration::from_millis(300),
            ..good.clone()
        };
        assert!(matches!(
            refused(&stalled).await,
            ConnectError::HandshakeTimeout { .. }
        ));
        let no_mapper = ErlTarget {
            epmd_port: port,
            connect_timeout: Duration::from_millis(300),
            ..good
        };
        assert!(matches!(
            refused(&no_mapper).await,
            ConnectError::EpmdTimeout { .. }
        ));
    });
    node.wait_for("{nodes(hidden), nodes(connected)}", "{[],[]}");
}

#[test]
fn a_node_that_allows_only_others_says_so() {
    let node = start();
    node.eval("net_kernel:allow(['somebody@else'])");
    block_on(async {
        let named = ErlTarget {
            local: LocalName::short("me", "localhost").unwrap(),
            ..target(&node)
        };
        assert!(matches!(
            refused(&named).await,
            ConnectError::NotAllowed { .. }
        ));
    });
}

#[test]
fn a_fixed_name_is_used_once_and_can_be_taken_over() {
    let node = start();
    block_on(async {
        let name = unique_name("localhost");
        let mut named = ErlTarget {
            local: LocalName::short(&name, "ignored").unwrap(),
            ..target(&node)
        };
        let mut first = erl::connect(&named).await.unwrap();
        assert_eq!(
            node.eval("[atom_to_list(Node) || Node <- nodes(hidden)]"),
            format!("[\"{name}\"]")
        );
        assert_eq!(first.local_name().as_str(), name);

        let error = refused(&named).await;
        assert!(
            matches!(&error, ConnectError::NameInUse { local, .. } if *local == name),
            "{error:?}"
        );
        evaluate(&node, &mut first, "ok.", SpawnBond::Link).await;

        named.take_over = true;
        match erl::connect(&named).await {
            Ok(second) => {
                let lost = async { while first.receive().await.is_ok() {} };
                let lost = tokio::time::timeout(Duration::from_secs(5), lost).await;
                lost.expect("the first connection is still up");
                second.close().await.unwrap();
            }
            // OTP 23 waits for the first connection to end by itself.
            Err(error) => {
                assert!(matches!(error, ConnectError::NameInUse { .. }), "{error:?}");
                let release: u32 = node
                    .eval("list_to_integer(erlang:system_info(otp_release))")
                    .parse()
                    .unwrap();
                assert!(
                    release < 25,
                    "OTP {release} lets a connection be taken over"
                );
                first.close().await.unwrap();
                erl::connect(&named).await.unwrap().close().await.unwrap();
            }
        }
    });
}

#[test]
fn large_messages_go_both_ways_and_counters_agree() {
    let node = start();
    block_on(async {
        let mut transport = echo(&node).await;
        let before = transport.counters();
        let message: Vec<u8> = (0..MAX_SENT_MESSAGE)
            .map(|index| u8::try_from(index % 251).unwrap())
            .collect();
        for _ in 0..3 {
            transport.send(&message).await.unwrap();
        }
        for _ in 0..3 {
            assert_eq!(transport.recv().await.unwrap(), message);
        }
        let after = transport.counters();
        let content = u64::try_from(3 * MAX_SENT_MESSAGE).unwrap();
        for bytes in [
            after.sent_bytes - before.sent_bytes,
            after.received_bytes - before.received_bytes,
        ] {
            assert!(
                (content..content + 600).contains(&bytes),
                "{bytes} for {content}"
            );
        }
        let too_large = transport.send(&vec![0; MAX_SENT_MESSAGE + 1]).await;
        assert!(matches!(
            too_large,
            Err(TransportError::MessageTooLarge { .. })
        ));
        transport.send(b"still there").await.unwrap();
        assert_eq!(transport.recv().await.unwrap(), b"still there");
        transport.close().await.unwrap();
    });
}

#[test]
fn a_message_beyond_the_limit_is_refused() {
    let node = start();
    block_on(async {
        let mut connection = erl::connect(&target(&node)).await.unwrap();
        evaluate(
            &node,
            &mut connection,
            "Host ! {relsync, <<0:(1024 * 1024 * 8)>>}, receive after infinity -> ok end.",
            SpawnBond::Link,
        )
        .await;
        assert!(
            matches!(connection.receive().await, Ok(Event::Message(message)) if message.len() == 1024 * 1024)
        );
        evaluate(
            &node,
            &mut connection,
            "Host ! {relsync, <<0:(1024 * 1024 * 8 + 8)>>}, receive after infinity -> ok end.",
            SpawnBond::Link,
        )
        .await;
        assert!(matches!(
            connection.receive().await,
            Err(TransportError::Oversized { .. })
        ));
    });
    node.wait_for("nodes(hidden)", "[]");
}

#[test]
fn the_end_of_a_process_comes_with_its_reason() {
    let node = start();
    block_on(async {
        let mut connection = erl::connect(&target(&node)).await.unwrap();
        let cases = [
            ("ok.", "normal"),
            ("exit({no, \"way\"}).", "{no,\"way\"}"),
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
                // A link made beside the monitor reports too.
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

        let mut transport = echo(&node).await;
        transport.send(b"exit").await.unwrap();
        let error = transport.recv().await.unwrap_err();
        assert!(
            matches!(&error, TransportError::AgentEnded { reason } if reason == "{shutdown,<<\"asked to\">>}"),
            "{error:?}"
        );
        transport.close().await.unwrap();
    });
}

#[test]
fn messages_of_another_shape_are_ignored() {
    let node = start();
    block_on(async {
        let mut connection = erl::connect(&target(&node)).await.unwrap();
        let text = "[Host ! M || M <- [hello, {relsync, \"text\"}, {relsync, <<1>>, <<2>>}, #{}, {relsync, <<1:3>>},
                     fun() -> ok end, {other, <<3>>}, {relsync, <<4>>}]], {nobody, node(Host)} ! {relsync, <<5>>},
                     monitor(process, Host), Host ! {relsync, <<6>>}, receive after infinity -> ok end.";
        evaluate(&node, &mut connection, text, SpawnBond::Link).await;
        assert_eq!(connection.receive().await.unwrap(), Event::Message(vec![4]));
        assert_eq!(connection.receive().await.unwrap(), Event::Message(vec![6]));
        connection.close().await.unwrap();
    });
}

#[test]
fn a_killed_node_is_noticed_at_once() {
    let mut node = start();
    block_on(async {
        let mut transport = echo(&node).await;
        node.kill();
        let start = Instant::now();
        assert!(matches!(
            transport.recv().await,
            Err(TransportError::Closed)
        ));
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
        assert!(matches!(
            transport.send(b"x").await,
            Err(TransportError::Closed)
        ));

        node.restart();
        let transport = echo(&node).await;
        transport.close().await.unwrap();
    });
}

#[test]
fn a_frozen_node_counts_as_lost_and_a_busy_session_stays_connected() {
    // The node drops a connection over which nothing came for 4 to 5 s, and ticks every second.
    let mut options = NodeOptions::default();
    options
        .args
        .extend(["-kernel", "net_ticktime", "4"].map(Into::into));
    let node = Node::start(options);
    block_on(async {
        let mut patient = target(&node);
        patient.timing.silence = Duration::from_secs(3);
        let mut connection = erl::connect(&patient).await.unwrap();
        let agent = evaluate(&node, &mut connection, ECHO, SpawnBond::Link).await;
        let mut transport = connection.into_transport(agent);
        // Nobody receives, nothing is sent: only ticks keep the connection.
        tokio::time::sleep(Duration::from_secs(6)).await;
        transport.send(b"still there").await.unwrap();
        assert_eq!(transport.recv().await.unwrap(), b"still there");

        node.signal("-STOP");
        let start = Instant::now();
        assert!(matches!(
            transport.recv().await,
            Err(TransportError::Silent { .. })
        ));
        assert!(
            (2..6).contains(&start.elapsed().as_secs()),
            "{:?}",
            start.elapsed()
        );
        node.signal("-CONT");
    });
}

#[test]
fn a_cancelled_receive_loses_nothing() {
    let node = start();
    block_on(async {
        let mut transport = echo(&node).await;
        for round in 0..50_u8 {
            transport.send(&[round; 3000]).await.unwrap();
            loop {
                match tokio::time::timeout(Duration::from_micros(50), transport.recv()).await {
                    Ok(message) => break assert_eq!(message.unwrap(), [round; 3000]),
                    Err(_) => continue,
                }
            }
        }
        transport.close().await.unwrap();
    });
}

#[test]
fn the_bandwidth_limit_holds() {
    let node = start();
    block_on(async {
        let limiter = RateLimiter::new(NonZeroU64::new(100_000).unwrap());
        let limited = ErlTarget {
            limiter: Some(limiter),
            ..target(&node)
        };
        let mut connection = erl::connect(&limited).await.unwrap();
        let agent = evaluate(&node, &mut connection, ECHO, SpawnBond::Link).await;
        let mut transport = connection.into_transport(agent);
        let start = Instant::now();
        transport.send(&[0; 50_000]).await.unwrap();
        transport.recv().await.unwrap();
        assert!(
            (440..1500).contains(&start.elapsed().as_millis()),
            "{:?}",
            start.elapsed()
        );
        transport.close().await.unwrap();
    });
}
