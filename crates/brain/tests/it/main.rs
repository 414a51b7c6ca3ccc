//! The brain from outside: what a caller, an operator and a kill -9 may rely on.

mod child;
mod house;
mod memories;

mod connections;
mod copying;
mod crashing;
mod erasing;
mod forgetting;
mod full_disk;
mod indexing;
mod learning;
mod locking;
mod migrating;
mod opening;
mod remembering;
mod restoring;
mod skills;
mod soul;
mod verifying;
mod writing;
