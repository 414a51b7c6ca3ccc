//! The orchestrator: creates, finds, watches and removes Engines.
