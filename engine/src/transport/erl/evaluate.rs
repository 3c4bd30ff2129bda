//! Lets a node evaluate a program, with nothing but OTP's own modules.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::super::{Channel, Meter, Program, TransportError, Variable, Vm, program};
use super::connection::Connection;
use super::control::{Call, SpawnBond};
use super::term::{self, Term};

impl Vm for Connection {
    fn evaluate<'a>(
        self: Box<Self>,
        program: &'a Program<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Channel>, TransportError>> {
        Box::pin(async move {
            let mut connection = *self;
            let arguments = arguments(program);
            let call = Call {
                module: "erl_eval",
                function: "expr",
                arguments: &arguments,
            };
            let agent = connection.spawn(&call, SpawnBond::Monitor).await?;
            let channel: Box<dyn Channel> = Box::new(connection.into_channel(agent));
            Ok(channel)
        })
    }

    fn meter(&self) -> Arc<Meter> {
        Connection::meter(self)
    }
}

/// The arguments of the call. Values that compress stand before the expressions in Erlang's text;
/// the others are bindings.
fn arguments(program: &Program<'_>) -> [Term; 2] {
    let (random, text): (Vec<&Variable<'_>>, Vec<_>) = program
        .variables
        .iter()
        .partition(|variable| variable.is_random);
    let values: Vec<_> = text
        .iter()
        .map(|variable| (variable.name, program::binary_text(variable.value)))
        .collect();
    let compressed = program::compress(&values, program.expressions);
    let random = random
        .iter()
        .map(|variable| binding(variable.name, term::binary(variable.value)));
    let mut all = vec![
        ("P", term::binary(&compressed)),
        ("B", term::list(random.collect())),
    ];
    all.extend(
        STEPS.iter().map(|(name, module, function, arity)| {
            (*name, term::function(module, function, *arity))
        }),
    );
    // Erlang looks up bindings in the order of their names.
    all.sort_by_key(|(name, _)| *name);
    let all = all.into_iter().map(|(name, value)| binding(name, value));
    [boot_expression(), term::list(all.collect())]
}

/// The steps that make a running program of compressed text. Each goes under the name of a
/// variable, which is shorter than its name in the abstract form.
const STEPS: [(&str, &str, &str, u8); 6] = [
    ("U", "zlib", "uncompress", 1),
    ("L", "erlang", "binary_to_list", 1),
    ("S", "erl_scan", "string", 1),
    ("E", "erlang", "element", 2),
    ("Q", "erl_parse", "parse_exprs", 1),
    ("X", "erl_eval", "exprs", 2),
];

/// The abstract form of `erl_eval:exprs(Program, B)`. The program's text comes compressed as `P`.
fn boot_expression() -> Term {
    let node = |kind: &'static str, rest: Vec<Term>| {
        let mut elements = vec![term::atom(kind), term::integer(0)];
        elements.extend(rest);
        term::tuple(elements)
    };
    let var = |name: &'static str| node("var", vec![term::atom(name)]);
    let call = |step: &'static str, arguments: Vec<Term>| {
        node("call", vec![var(step), term::list(arguments)])
    };
    let second = |of: Term| {
        let two = node("integer", vec![term::integer(2)]);
        call("E", vec![two, of])
    };
    let text = call("L", vec![call("U", vec![var("P")])]);
    let tokens = second(call("S", vec![text]));
    let program = second(call("Q", vec![tokens]));
    call("X", vec![program, var("B")])
}

fn binding(name: &str, value: Term) -> Term {
    term::tuple(vec![term::atom(name), value])
}
