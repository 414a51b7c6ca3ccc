//! The program. Everything it does is in the library; see `orchestrator::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    orchestrator::cli::main(std::env::args_os())
}
