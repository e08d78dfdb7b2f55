//! `completions` and `man`: what a package installs, made from the command line's own definition. Knows nothing else.

use std::path::Path;

use clap::{Command, CommandFactory};

use super::args::{Cli, exit};
use super::output;
use super::{Failure, Outcome};

/// Completions of one shell, to standard output.
pub(super) fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "blockremote", &mut text);
    output::to_stdout(&String::from_utf8_lossy(&text))?;
    Ok(exit::DONE)
}

/// A page for each command: `blockremote.1`, `blockremote-admin-keys.1` and so on.
pub(super) fn manual(folder: &Path) -> Outcome {
    let mut command = Cli::command();
    command.build();
    let mut written = 0;
    write_pages(&command, folder, &mut written)?;
    output::to_stdout(&format!("{written} pages in {}\n", folder.display()))?;
    Ok(exit::DONE)
}

fn write_pages(command: &Command, folder: &Path, written: &mut usize) -> Result<(), Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    // With the names of the commands above it.
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = folder.join(format!("{name}.1"));
    std::fs::write(&path, page)
        .map_err(|e| Failure::Failed(format!("{} could not be written: {e}", path.display())))?;
    *written += 1;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        write_pages(sub, folder, written)?;
    }
    Ok(())
}
