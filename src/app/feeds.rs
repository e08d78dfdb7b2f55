//! Threat feeds from outside the API: files and addresses that the operator named, by hand or on a schedule.
//!
//! Only what stands in the operator's own file or command line is read or fetched; no request of the API leads anywhere.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::control::Operator;
use crate::config::Config;
use crate::domains::intel::{self, Asker, Confidence, FeedName, Format, Intel, Kind, NewFeed, Scope};
use crate::domains::tenants::Tenants;
use crate::kernel::context::Origin;
use crate::kernel::ids::TenantId;
use crate::kernel::{Clock, Error, Refusal, Result, Timestamp};
use crate::net::fetch::{self, Url};
use crate::store::Store;

/// How a feed is taken in.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Terms {
    /// How it is written.
    #[serde(default)]
    pub format: Format,
    /// What lines of plain text are.
    #[serde(default)]
    pub kind: Option<Kind>,
    /// Percent, where it does not say.
    #[serde(default)]
    pub confidence: Option<u8>,
    /// Days after which its indicators end, where they do not say.
    #[serde(default)]
    pub lifetime_days: Option<u32>,
    /// Days after which it is stale.
    #[serde(default)]
    pub stale_days: Option<u32>,
}

impl Terms {
    fn feed(&self, scope: Scope, name: FeedName, source: String, may_be_empty: bool) -> NewFeed {
        let days = |n: u32| Duration::from_secs(86_400) * n;
        NewFeed {
            scope,
            name,
            source: source.chars().take(intel::api::SOURCE_CHARS_MAX).collect(),
            format: self.format,
            kind: self.kind,
            confidence: self.confidence.map_or(Confidence::UNSTATED, Confidence::new),
            lifetime: self.lifetime_days.map(days),
            stale_after: self.stale_days.map(days),
            may_be_empty,
        }
    }
}

/// What an operator on the box asks of threat intelligence.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum AskIntel {
    /// Take a feed in.
    Import {
        /// Absolute.
        file: PathBuf,
        /// Under which name.
        name: FeedName,
        /// Id or name; the whole appliance when absent.
        tenant: Option<String>,
        /// How.
        terms: Terms,
    },
    /// Show the feeds.
    List {
        /// Id or name; the appliance's own feeds when absent.
        tenant: Option<String>,
    },
    /// Remove a feed.
    Remove {
        /// Which.
        name: FeedName,
        /// Id or name; the whole appliance when absent.
        tenant: Option<String>,
    },
    /// What is known of a value.
    Lookup {
        /// Of what kind it is.
        kind: Kind,
        /// The value.
        value: String,
        /// Id or name; only the appliance's own feeds when absent.
        tenant: Option<String>,
    },
}

/// Does what an operator asks.
pub(super) async fn answer(operator: &Operator, ask: AskIntel) -> Result<Value> {
    let (intel, store) = (&operator.services.intel, &operator.services.store);
    let of = |value: &dyn Fn() -> serde_json::Result<Value>| value().map_err(Error::internal);
    match ask {
        AskIntel::Import { file, name, tenant, terms } => {
            if !file.is_absolute() {
                return Err(Error::internal("the name of the file must be absolute"));
            }
            let (scope, asker) = place(store, tenant, Origin::cli()).await?;
            let content = read_file(file.clone(), operator.feed_bytes_max).await?;
            let new = terms.feed(scope, name, file.display().to_string(), true);
            let imported = intel.import(new, content, asker).await?;
            intel.hunt(scope, &imported.feed.name).await?;
            of(&|| serde_json::to_value(intel::api::view(scope, &imported.feed, intel.now(), imported.samples.clone())))
        }
        AskIntel::List { tenant } => {
            let (scope, _) = place(store, tenant, Origin::cli()).await?;
            let feeds = intel.feeds_of(scope);
            let views: Vec<_> = feeds.iter().map(|(s, f)| intel::api::view(*s, f, intel.now(), Vec::new())).collect();
            Ok(json!({ "feeds": of(&|| serde_json::to_value(&views))? }))
        }
        AskIntel::Remove { name, tenant } => {
            let (scope, asker) = place(store, tenant, Origin::cli()).await?;
            intel.remove(scope, name.clone(), asker).await?;
            Ok(json!({ "name": name, "scope": scope.name() }))
        }
        AskIntel::Lookup { kind, value, tenant } => {
            let (scope, _) = place(store, tenant, Origin::cli()).await?;
            of(&|| serde_json::to_value(intel::api::answer(intel, scope, kind, &value)))
        }
    }
}

/// The scope that is meant, and in whose log a change of it stands.
async fn place(store: &Store, tenant: Option<String>, origin: Origin) -> Result<(Scope, Asker)> {
    let wanted = tenant.clone();
    let found = store.read_with(move |s| Tenants::find(s, wanted.as_deref())).await;
    let first = store.read_with(Tenants::first).await?.map(|t| t.id);
    let (scope, log) = match tenant {
        None => (Scope::Global, first),
        Some(name) => {
            let id = found?.map(|t| t.id).ok_or_else(|| Error::Internal(format!("there is no tenant {name:?}")))?;
            (Scope::Tenant(id), Some(id))
        }
    };
    let log: TenantId = log.ok_or_else(|| Error::internal("there is no tenant yet"))?;
    Ok((scope, Asker { by: None, log, origin }))
}

async fn read_file(path: PathBuf, bytes_max: usize) -> Result<Vec<u8>> {
    let read = move || {
        let cannot = |e: std::io::Error| Error::Internal(format!("{} could not be read: {e}", path.display()));
        let file = std::fs::File::open(&path).map_err(cannot)?;
        let mut content = Vec::new();
        file.take(bytes_max as u64 + 1).read_to_end(&mut content).map_err(cannot)?;
        if content.len() > bytes_max {
            let detail = format!("{} has more than {bytes_max} bytes (intel.feed_mib).", path.display());
            return Err(Refusal::new(crate::kernel::Kind::Invalid, "feed_too_large", detail).into());
        }
        Ok(content)
    };
    tokio::task::spawn_blocking(read).await.map_err(Error::internal)?
}

/// A feed that is fetched on a schedule.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceRow {
    name: FeedName,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    file: Option<PathBuf>,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default = "a_day")]
    every_hours: u32,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    kind: Option<Kind>,
    #[serde(default)]
    confidence: Option<u8>,
    #[serde(default)]
    lifetime_days: Option<u32>,
    #[serde(default)]
    stale_days: Option<u32>,
}

const fn a_day() -> u32 {
    24
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceFile {
    #[serde(default)]
    feed: Vec<SourceRow>,
}

#[derive(Clone, Debug)]
enum From {
    Url(Url, String),
    File(PathBuf),
}

#[derive(Clone, Debug)]
struct Source {
    name: FeedName,
    from: From,
    tenant: Option<String>,
    every: Duration,
    terms: Terms,
}

impl Source {
    /// A name is one feed's within a tenant only.
    fn place(&self) -> (Option<String>, FeedName) {
        (self.tenant.clone(), self.name.clone())
    }
}

/// How often it is looked whether a feed is due.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// After a failure it is tried again after this time, or when it is due anyway, whichever comes first.
const RETRY_AFTER: Duration = Duration::from_secs(900);
const SOURCES_BYTES_MAX: u64 = 1 << 20;

/// Fetches what is due, for ever.
pub(super) struct Fetcher {
    sources: Vec<Source>,
    intel: Intel,
    store: Store,
    clock: Clock,
    tls: Option<Arc<ClientConfig>>,
    bytes_max: usize,
    /// By the tenant as the list names it, and the feed.
    failed_at: HashMap<(Option<String>, FeedName), Timestamp>,
}

impl Fetcher {
    /// Reads the operator's list; `None` where there is none.
    ///
    /// # Errors
    /// A sentence that names the key and the file: the appliance does not start with half a list.
    pub(super) fn new(config: &Config, intel: Intel, store: Store, clock: Clock) -> Result<Option<Self>> {
        let Some(path) = &config.intel.sources else { return Ok(None) };
        let sources = sources(path).map_err(|e| Error::Internal(format!("intel.sources: {}: {e}", path.display())))?;
        let secure = |s: &Source| matches!(&s.from, From::Url(_, text) if text.starts_with("https:"));
        let tls = if sources.iter().any(secure) {
            let trusted = fetch::trust(&config.intel.ca_certificates);
            Some(trusted.map_err(|e| Error::Internal(format!("intel.ca_certificates: {e}")))?)
        } else {
            None
        };
        let bytes_max = config.intel.feed_bytes;
        Ok(Some(Self { sources, intel, store, clock, tls, bytes_max, failed_at: HashMap::new() }))
    }

    pub(super) async fn run(mut self) {
        loop {
            for source in self.sources.clone() {
                if let Err(e) = self.refresh(&source).await {
                    self.failed_at.insert(source.place(), self.clock.now());
                    tracing::warn!(feed = %source.name, error = %e, "a threat feed was not taken in; what it held still counts");
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn refresh(&mut self, source: &Source) -> Result<()> {
        let now = self.clock.now();
        let (scope, asker) = place(&self.store, source.tenant.clone(), Origin::system()).await?;
        let imported_at = self.intel.feed(scope, &source.name).map(|feed| feed.imported_at);
        let retry = source.every.min(RETRY_AFTER);
        let waits = |since: Option<Timestamp>, time| since.is_some_and(|at| now.since(at) < time);
        if waits(imported_at, source.every) || waits(self.failed_at.get(&source.place()).copied(), retry) {
            return Ok(());
        }
        let (content, from) = match &source.from {
            From::File(path) => (read_file(path.clone(), self.bytes_max).await?, path.display().to_string()),
            From::Url(url, text) => {
                let fetched = fetch::get(url, self.tls.clone(), self.bytes_max).await;
                (fetched.map_err(Error::Internal)?, text.clone())
            }
        };
        let new = source.terms.feed(scope, source.name.clone(), from, false);
        let imported = self.intel.import(new, content, asker).await?;
        self.intel.hunt_soon(scope, &source.name);
        self.failed_at.remove(&source.place());
        tracing::info!(feed = %source.name, indicators = imported.feed.counts.total(), "a threat feed was taken in");
        Ok(())
    }
}

fn sources(path: &Path) -> std::result::Result<Vec<Source>, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    file.take(SOURCES_BYTES_MAX).read_to_string(&mut text).map_err(|e| e.to_string())?;
    let list: SourceFile = toml::from_str(&text).map_err(|e| e.to_string())?;
    of_rows(list.feed)
}

fn of_rows(rows: Vec<SourceRow>) -> std::result::Result<Vec<Source>, String> {
    let sources: Vec<Source> = rows.into_iter().map(source).collect::<std::result::Result<_, _>>()?;
    let mut places = std::collections::HashSet::new();
    match sources.iter().find(|source| !places.insert(source.place())) {
        Some(twice) => Err(format!("feed {}: it is listed twice; each would replace the other", twice.name)),
        None => Ok(sources),
    }
}

fn source(row: SourceRow) -> std::result::Result<Source, String> {
    let about = |why: String| format!("feed {}: {why}", row.name);
    let from = match (&row.url, &row.file) {
        (Some(url), None) => From::Url(Url::parse(url).map_err(|e| about(format!("url: {e}")))?, url.clone()),
        (None, Some(file)) => From::File(file.clone()),
        _ => return Err(about("write exactly one of url and file".to_owned())),
    };
    if !(1..=8_760).contains(&row.every_hours) || row.confidence.is_some_and(|c| c > 100) {
        return Err(about("every_hours is 1 to 8760, confidence 0 to 100".to_owned()));
    }
    let terms = Terms {
        format: row.format,
        kind: row.kind,
        confidence: row.confidence,
        lifetime_days: row.lifetime_days,
        stale_days: row.stale_days,
    };
    let every = Duration::from_secs(3_600) * row.every_hours;
    Ok(Source { name: row.name, from, tenant: row.tenant, every, terms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_sources_is_right_or_refused() {
        let parse = |text: &str| {
            let file: SourceFile = toml::from_str(text).map_err(|e| e.to_string())?;
            of_rows(file.feed)
        };
        let good =
            "[[feed]]\nname = \"spy\"\nurl = \"https://feeds.example/a.csv\"\nconfidence = 95\nkind = \"domain\"\n";
        assert!(parse(good).is_ok_and(|list| list.len() == 1));
        assert!(parse(&[good, &good.replace("kind", "tenant = \"default\"\nkind")].concat()).is_ok());
        let twice = [good, good].concat();
        for bad in [
            twice.as_str(),
            "[[feed]]\nname = \"spy\"\n",
            "[[feed]]\nname = \"spy\"\nurl = \"https://a/\"\nfile = \"b\"\n",
            "[[feed]]\nname = \"spy\"\nurl = \"file:///etc/shadow\"\n",
            "[[feed]]\nname = \"Spy!\"\nurl = \"https://a/\"\n",
            "[[feed]]\nname = \"spy\"\nurl = \"https://a/\"\nevery_hours = 0\n",
            "[[feed]]\nname = \"spy\"\nurl = \"https://a/\"\nevery = 1\n",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
