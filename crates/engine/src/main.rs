//! The program. Everything it does is in the library; see `engine::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    engine::sandbox::inside::run_if_asked();
    engine::cli::main(std::env::args_os())
}
