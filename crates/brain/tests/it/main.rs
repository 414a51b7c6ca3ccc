//! The brain from outside: what a caller, an operator and a kill -9 may rely on.

mod child;
mod house;

mod connections;
mod copying;
mod crashing;
mod forgetting;
mod full_disk;
mod locking;
mod migrating;
mod opening;
mod restoring;
mod skills;
mod soul;
mod verifying;
mod writing;
