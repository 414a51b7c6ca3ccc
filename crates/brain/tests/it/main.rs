//! The brain from outside: what a caller, an operator and a kill -9 may rely on.

mod house;
mod child;

mod opening;
mod locking;
mod writing;
mod crashing;
mod full_disk;
mod migrating;
mod copying;
mod restoring;
mod verifying;
mod forgetting;
