//! How much a name looks made by a machine: the domain-generation algorithms of malware, which draw letters at random,
//! string syllables together, or put words of a dictionary in a row.
//!
//! A linear model over hashed n-grams of the label and its shape, read from a table that `blockremote intel fit-dns`
//! makes. Pure: the same name and table give the same bits. A score is a hint and never a proof: content networks use
//! machine-made names, too.

pub mod fit;
pub mod measure;
mod model;

use std::sync::OnceLock;

pub use model::{BadModel, Model};

/// Legitimate names against generated ones; `NOTICE` beside it says whose data it was made from.
static TABLE: &str = include_str!("model.txt");

/// How much `name` looks generated: 0 like a name that people choose, 1 like none; 0.5 stands for "cannot be said", which
/// is also the answer for what is too short or no name.
///
/// Upper case, a closing dot and `xn--` labels are understood; only the label that looks worst counts.
pub fn dns_score(name: &str) -> f32 {
    static MODEL: OnceLock<Option<Model>> = OnceLock::new();
    MODEL.get_or_init(|| Model::from_text(TABLE).ok()).as_ref().map_or(0.5, |model| model.score(name))
}
