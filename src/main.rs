//! Parses the command line and hands over.

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    blockremote::cli::run(&blockremote::cli::args::Cli::parse())
}
