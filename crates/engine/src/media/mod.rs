//! Media before they are sent: what bytes are, whether a picture can be read, and pictures made smaller.
//!
//! Pure but for [`presend`], which takes the work off the async workers and lets one piece of it run at a time. What
//! is hostile is refused by its size as told in its head, before anything is decoded; what breaks a decoder breaks
//! only that call. Nothing here stores anything.

pub mod kind;
pub mod picture;
pub mod pieces;
pub mod presend;
