//! Vectors as a caller sees them: the built-in table, the endpoint over real TCP, and the memory of queries.

mod endpoint;
mod pieces;
mod quality;
mod queries;
mod table;
