//! `config`: the configuration that counts, and where each value came from.

use super::Outcome;
use super::args::exit;
use super::output::{self, Cell, Style};
use crate::config::Loaded;

pub(super) fn run(loaded: &Loaded, as_json: bool) -> Outcome {
    if as_json {
        output::to_stdout(&output::json(&loaded.to_json()))?;
        return Ok(exit::DONE);
    }
    let rows = loaded
        .rows
        .iter()
        .map(|row| vec![Cell::from(row.key.name), Cell::from(row.shown()), Cell::from(row.place.to_string())])
        .collect();
    output::to_stdout(&output::table(Style::stdout(), &["key", "value", "from"], rows))?;
    for note in &loaded.notes {
        output::to_stderr(&format!("note: {note}\n"))?;
    }
    Ok(exit::DONE)
}
