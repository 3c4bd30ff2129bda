//! Pushes the release in a directory to a node: `push NODE COOKIE DESTINATION DIRECTORY STORE`.
#![expect(clippy::print_stdout, reason = "it is what an example is for")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use relsync_engine::{
    Address, CancellationToken, Cookie, ErlTarget, Event, Greeting, NodeName, Patience, Release,
    ScanOptions, SnapshotMeta, Store, Target, Update, update_target,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [node, cookie, destination, dir, store] = arguments.as_slice() else {
        return Err("push NODE COOKIE DESTINATION DIRECTORY STORE".into());
    };
    let store = Arc::new(Store::open(Path::new(store))?);
    let (options, meta) = (ScanOptions::default(), SnapshotMeta::default());
    let (_, manifest, _) = store.take_snapshot(Path::new(dir), &options, &meta, &|_| {})?;

    let address = Address::Erl(ErlTarget::new(NodeName::parse(node)?, Cookie::new(cookie)?));
    let greeting = Greeting::new("example", destination.as_str());
    let mut target = Target::new(address, greeting, Patience::default());
    let mut update = Update::new(store, Release::new(manifest));
    update.new_destination = true;
    let mut say = |event: Event<'_>| println!("{event:?}");
    let outcome = update_target(&mut target, update, &CancellationToken::new(), &mut say).await;

    println!("{}: {:?}", target.address.name(), outcome.ending);
    match outcome.ending.into_error() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}
