//! Integration tests, in folders by what they promise; one binary.

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
