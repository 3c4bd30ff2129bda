//! The integration tests in one binary, in folders by what they promise.

mod agent;
mod cli;
mod crash;
mod docs;
mod probation;
mod products;
mod security;
mod tidy;
mod transport;
mod update;
mod ways;
