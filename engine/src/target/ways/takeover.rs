//! The command that makes a channel of somebody else's SSH daemon one of a session.
//!
//! The daemon evaluates Erlang or Elixir, so this is a VM. The command brings one module of the agent
//! along, loads it, and lets it take over the very channel that the command runs on. Nothing is
//! written to a file, and the daemon's configuration stays as it is.

use std::io::Read as _;

use base64ct::{Base64, Encoding as _};

use super::probe::Language;
use crate::bytes;
use crate::target::agent::Variant;
use crate::transport::erl::{self, Term};

/// The module that takes the channel over.
const MODULE: &str = "relsync_agent_ssh_channel";

/// The maximum size of a variant's modules, uncompressed. They are our own.
const MAX_MODULES_BYTES: u64 = 8 << 20;

/// Returns the command for a VM that loads a variant of the agent.
pub(super) fn command(language: Language, variant: &Variant) -> Option<String> {
    let beam = Base64::encode_string(&bytes::deflate(&channel_module(variant)?));
    Some(match language {
        Language::Erlang => format!(
            "begin M = {MODULE}, B = zlib:uncompress(base64:decode(\"{beam}\")), \
             {{ok, {{M, H}}}} = beam_lib:md5(B), \
             (erlang:module_loaded(M) andalso erlang:get_module_info(M, md5) =:= H) orelse begin \
             true = code:soft_purge(M), {{module, M}} = code:load_binary(M, \"relsync\", B) end, \
             M:take_over(<<\"relsync-ready\\n\">>) end."
        ),
        Language::Elixir => format!(
            "m = :{MODULE}; b = :zlib.uncompress(:base64.decode(\"{beam}\")); \
             {{:ok, {{^m, h}}}} = :beam_lib.md5(b); \
             (:erlang.module_loaded(m) and :erlang.get_module_info(m, :md5) == h) or \
             (true = :code.soft_purge(m); {{:module, ^m}} = :code.load_binary(m, ~c\"relsync\", b); true); \
             m.take_over(\"relsync-ready\\n\")"
        ),
    })
}

/// Finds the module in a variant of the agent.
fn channel_module(variant: &Variant) -> Option<Vec<u8>> {
    // The external form's version, the tag of a compressed term, and its size.
    let compressed = variant.modules().strip_prefix(&[131, 80])?.get(4..)?;
    let mut term = vec![131];
    flate2::read::ZlibDecoder::new(compressed)
        .take(MAX_MODULES_BYTES)
        .read_to_end(&mut term)
        .ok()?;
    let (Term::List(modules), _) = erl::decode(&term[1..]).ok()? else {
        return None;
    };
    modules.elements.into_iter().find_map(|module| {
        let Term::Tuple(pair) = module else {
            return None;
        };
        match <[Term; 2]>::try_from(pair.elements).ok()? {
            [Term::Atom(name), Term::Binary(beam)] if name.name == MODULE => Some(beam.bytes),
            _ => None,
        }
    })
}
