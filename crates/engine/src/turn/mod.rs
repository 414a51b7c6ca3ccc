//! The agent loop: one `/execute` is one turn, from the accepted message to the answer.
//!
//! [`machine`] decides in pure code which state follows; [`accept`] commits a new turn; [`coordinator`]
//! grants slots; [`drive`] runs a turn from slot to end; [`frame`] says which of its loops is meant; [`steps`]
//! performs the steps of any loop; [`nested`] runs one below another; [`soul`] and [`recall`] bring in what is known beyond the task; [`context`] builds what the model sees; [`model`] streams
//! one call; [`message`] stores what it said; [`once`] makes one call outside the loop; [`hooks`] asks the operator's programs; [`compact`] shortens old context; [`settle`] writes ends, [`kept`] what stays of a turn; [`answers`] carries people's answers
//! back in; [`cancel`] stops a turn wherever it is; [`delete`] removes a task; [`resume`] picks up after a kill.
//!
//! The invariant: every state change, its checkpoint and its events are one transaction.

pub mod machine;
pub mod checkpoint;
pub mod frame;
pub mod accept;
pub mod coordinator;
pub mod drive;
pub mod steps;
pub mod nested;
pub mod soul;
pub mod recall;
pub mod said;
pub mod context;
pub mod model;
pub mod message;
pub mod once;
pub mod hooks;
pub mod compact;
pub mod kept;
pub mod settle;
pub mod answers;
pub mod cancel;
pub mod delete;
pub mod resume;
