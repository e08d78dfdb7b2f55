//! Parses the command line and hands over.

use clap::Parser;

fn main() -> std::process::ExitCode {
    blockremote::cli::run(&blockremote::cli::args::Cli::parse())
}
