//! What can be typed after `blockremote intel` about threat feeds and names. Names, defaults and help; does nothing.

use std::path::PathBuf;

use clap::{Args, Subcommand, value_parser};

use crate::domains::intel::{FeedName, Format, Kind};

const IMPORT_HELP: &str = "\
FILE is a MISP event, a STIX 2.1 bundle, CSV with names of columns (abuse.ch,
stalkerware indicators), a hosts file, or one indicator a line. It replaces what
the feed held; nothing is changed when it is refused. A line that is no indicator
is left out and counted; one like 0.0.0.0/0 or `com` refuses the file.

Only a feed that is surer than intel.critical_confidence (90) locks devices.

Examples:
  blockremote intel import samples.csv --name stalkerware --confidence 95
  blockremote intel import packages.txt --name own --kind package --tenant default";

/// `intel`, as far as it is about feeds.
#[derive(Subcommand, Clone, Debug)]
pub enum FeedsCommand {
    /// Take a threat feed in from a file, on a running or a stopped appliance
    #[command(after_help = IMPORT_HELP)]
    Import(ImportArgs),
    /// Show the feeds, their age and what they hold
    #[command(after_help = "Example:\n  blockremote intel list --json")]
    List(FeedListArgs),
    /// Remove a feed
    #[command(after_help = "Example:\n  blockremote intel remove stalkerware")]
    Remove(RemoveArgs),
    /// What is known of a package, hash, certificate, domain or address
    #[command(after_help = "Example:\n  blockremote intel lookup domain client.example.org --json")]
    Lookup(LookupArgs),
    /// Make the table by which names are judged that no feed lists
    #[command(
        after_help = "The same files give the same table. src/domains/intel/dns/NOTICE says what the shipped one was made \
                      from.\n\nExample:\n  blockremote intel fit-dns --names names.txt --words words.txt --out model.txt"
    )]
    FitDns(FitArgs),
    /// Measure that table on names whose origin is known
    #[command(after_help = "FILE is CSV with the columns kind (legit or dga), family, domain.\n\nExample:\n  \
                      blockremote intel score-dns domains.csv --json")]
    ScoreDns(ScoreArgs),
}

/// `intel import`.
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    /// The feed
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What it is called here
    #[arg(long, value_name = "NAME")]
    pub name: FeedName,
    /// Whose it is, by name or id [default: all tenants']
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// How it is written: auto, misp, stix, csv, text
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub format: Format,
    /// What lines of plain text are: file_hash, package, certificate, domain, address
    #[arg(long, value_name = "KIND")]
    pub kind: Option<Kind>,
    /// How sure its source is where it does not say, in percent [default: 50]
    #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(0..=100))]
    pub confidence: Option<u8>,
    /// Days after which indicators end that do not say so [default: never]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=3_650))]
    pub lifetime_days: Option<u32>,
    /// Days after which the feed is stale [default: intel.stale_days]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=365))]
    pub stale_days: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `intel list`.
#[derive(Args, Clone, Debug)]
pub struct FeedListArgs {
    /// A tenant's own, by name or id [default: those of all tenants]
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `intel remove`.
#[derive(Args, Clone, Debug)]
pub struct RemoveArgs {
    /// As `intel list` shows it
    #[arg(value_name = "NAME")]
    pub name: FeedName,
    /// Whose it is, by name or id [default: all tenants']
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `intel lookup`.
#[derive(Args, Clone, Debug)]
pub struct LookupArgs {
    /// file_hash, package, certificate, domain or address
    #[arg(value_name = "KIND")]
    pub kind: Kind,
    /// The value, in any usual spelling
    #[arg(value_name = "VALUE")]
    pub value: String,
    /// Also ask this tenant's own feeds, by name or id
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `intel fit-dns`.
#[derive(Args, Clone, Debug)]
pub struct FitArgs {
    /// Legitimate domain names, one a line
    #[arg(long, value_name = "FILE")]
    pub names: PathBuf,
    /// Words of a dictionary, one a line
    #[arg(long, value_name = "FILE")]
    pub words: PathBuf,
    /// Where the table goes; must not exist yet
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// The same seed gives the same table
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `intel score-dns`.
#[derive(Args, Clone, Debug)]
pub struct ScoreArgs {
    /// Names whose origin is known
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
