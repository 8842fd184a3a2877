//! `liuta`: arguments, then the command, then the exit code. What the commands do lies in the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    liuta::cli::main(liuta::cli::Arguments::parse())
}
