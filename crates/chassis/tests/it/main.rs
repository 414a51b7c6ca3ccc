//! The server over real sockets, the configuration as a program uses it, and what a panic leaves behind.

mod config;
mod panics;
mod server;
