//! The Erlang distribution transport against real nodes.

mod connecting;
mod contract;
mod endings;
mod link_rate;
mod messages;
mod odd_nodes;
pub(crate) mod ssh;

use std::time::Duration;

use relsync_engine::transport::erl::{self, Call, Connection, ErlChannel, Pid, SpawnBond};
use relsync_tests::node::{Node, NodeOptions};

use crate::agent::session::target;

/// Evaluates `expressions` with `Host` bound to the host's process.
const EVALUATE: &str = "
    fun(Text, Host) ->
        {ok, Tokens, _} = erl_scan:string(Text),
        {ok, Expressions} = erl_parse:parse_exprs(Tokens),
        erl_eval:exprs(Expressions, [{'Host', Host}])
    end";

/// Sends every message back until the host ends it.
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
        tokio::time::timeout(Duration::from_secs(300), future)
            .await
            .expect("it hangs")
    });
    runtime.shutdown_background();
    result
}

/// Starts a process on the node that evaluates a text. It calls a function that the node stores for
/// it.
async fn evaluate(node: &Node, connection: &mut Connection, text: &str, bond: SpawnBond) -> Pid {
    node.eval(&format!(
        "persistent_term:put(relsync_evaluate, {EVALUATE})"
    ));
    // erl_eval:exprs([{call, 1, {remote, 1, {atom, 1, persistent_term}, {atom, 1, get}}, [..]}],
    // ..) in the abstract format.
    let atom = |name| erl::tuple(vec![erl::atom("atom"), erl::integer(1), erl::atom(name)]);
    let variable = |name| erl::tuple(vec![erl::atom("var"), erl::integer(1), erl::atom(name)]);
    let call = |function, arguments| {
        erl::tuple(vec![
            erl::atom("call"),
            erl::integer(1),
            function,
            erl::list(arguments),
        ])
    };
    let get = erl::tuple(vec![
        erl::atom("remote"),
        erl::integer(1),
        atom("persistent_term"),
        atom("get"),
    ]);
    let expression = call(
        call(get, vec![atom("relsync_evaluate")]),
        vec![variable("Text"), variable("Host")],
    );
    // Bindings in the form that every release accepts: a list of pairs ordered by name.
    let host = erl::tuple(vec![
        erl::atom("Host"),
        connection.local_pid().clone().into(),
    ]);
    let characters = text.chars().map(|c| erl::integer(u32::from(c).into()));
    let text = erl::tuple(vec![erl::atom("Text"), erl::list(characters.collect())]);
    let arguments = [erl::list(vec![expression]), erl::list(vec![host, text])];
    let call = Call {
        module: "erl_eval",
        function: "exprs",
        arguments: &arguments,
    };
    connection.spawn(&call, bond).await.expect("a process")
}

async fn echo(node: &Node) -> ErlChannel {
    let mut connection = erl::connect(&target(node)).await.expect("a connection");
    let agent = evaluate(node, &mut connection, ECHO, SpawnBond::Link).await;
    connection.into_channel(agent)
}

fn start() -> Node {
    Node::start(NodeOptions::default())
}
