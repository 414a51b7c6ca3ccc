//! The server over real sockets, the configuration as a program uses it, what a panic leaves behind, and sealed
//! texts exchanged with another implementation.

mod config;
mod panics;
mod seal;
mod server;
