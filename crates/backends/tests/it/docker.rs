//! The Docker backend: the conformance suite on volumes and on directories, and what only a daemon can do to us.

mod daemon;
mod place;
mod scripted;

pub use place::{OnDirectories, OnVolumes};

/// The suite on named volumes.
mod volumes {
    crate::conformance::conformance_suite!(crate::docker::OnVolumes);
}

/// The suite on directories.
mod directories {
    crate::conformance::conformance_suite!(crate::docker::OnDirectories);
}
