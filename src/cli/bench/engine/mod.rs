//! `bench engine`: the threat engine against recordings of real devices, class by class, and the fitting of its
//! population.
//!
//! The protocol: subjects that the population was fitted with are left out (the table says which, by content); genuine
//! classes are never pooled; splits are contiguous in time; no attack teaches anybody; intervals are bootstrapped over
//! subjects; a rate of 0.1 % is not printed unless 3,000 genuine windows stand behind it. Each row says whether the
//! whole engine was measured or one feature.

mod attacks;
mod data;
mod figures;
mod fit;
mod hand;
mod linear;
mod outside;
mod people;
mod report;
mod runs;
mod touches;

use std::path::Path;

use clap::Args;

use crate::cli::args::exit;
use crate::cli::{Failure, Outcome, output};

/// `bench engine`.
#[derive(Args, Clone, Debug)]
pub struct EngineArgs {
    /// Print a population table made from half of the subjects in place of measuring
    #[arg(long)]
    pub fit: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Measures, or fits. `data` is the folder of recordings, laid out like the evaluation data.
pub(super) fn run(data: Option<&str>, args: &EngineArgs) -> Outcome {
    let data = Path::new(data.ok_or_else(|| Failure::Usage("name the folder of recordings: --data DIR".to_owned()))?);
    let text = if args.fit { fit::table(data) } else { measure(data, args.json) };
    output::to_stdout(&text.map_err(|fault| Failure::Failed(fault.to_string()))?)?;
    Ok(exit::DONE)
}

fn measure(root: &Path, json: bool) -> Result<String, data::Fault> {
    let report = report::of(root)?;
    if json { Ok(serde_json::to_string_pretty(&report)? + "\n") } else { Ok(report.table()) }
}
