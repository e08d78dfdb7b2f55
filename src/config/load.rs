//! Sources in, configuration or the list of all problems out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use serde_json::json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Config;
use super::keys::{KEYS, Key, VARIABLE_CONFIG, VARIABLE_PREFIX};
use super::report::{ConfigErrors, Effective, Place, Problem, key_of_variable};
use super::value::Value;

/// A configuration file larger than this is not read.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Where the file is looked for when nobody names one: the first that exists.
pub const SEARCH: &[&str] = &["/etc/blockremote/config.toml", "blockremote.toml"];
/// Problems that are reported at once; bounds the work on a file of garbage.
const PROBLEMS_MAX: usize = 64;

/// Everything that a configuration is made from.
#[derive(Clone, Default)]
pub struct Sources<'a> {
    /// `--config`; it must exist. `BLOCKREMOTE_CONFIG` counts as the same.
    pub config_file: Option<PathBuf>,
    /// The environment; names without our prefix are passed over.
    pub env: Vec<(String, String)>,
    /// Keys set by flags, with their values as written.
    pub flags: Vec<(&'static str, String)>,
    /// Where to look when nobody names a file, usually [`SEARCH`].
    pub defaults_search: &'a [PathBuf],
}

/// An accepted configuration and where it came from.
pub struct Loaded {
    /// What the appliance runs with.
    pub config: Config,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// One row for each key, in the table's order.
    pub rows: Vec<Effective>,
    /// Sentences about what is allowed and still unwise.
    pub notes: Vec<String>,
}

impl Loaded {
    /// For `config --json`.
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "file": self.file.as_ref().map(|f| f.display().to_string()),
            "keys": self.rows.iter().map(Effective::to_json).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

/// What was given for each key, the strongest source last.
type Given = BTreeMap<&'static str, (Value, Place)>;

impl Config {
    /// Reads the file, lays variables and flags over it, checks everything.
    ///
    /// # Errors
    /// All problems together: an unreadable, oversized or malformed file, unknown keys and variables, refused values
    /// (also those that a stronger source would have hidden), settings that contradict each other.
    pub fn load(sources: &Sources<'_>) -> Result<Loaded, ConfigErrors> {
        let mut problems = Vec::new();
        let mut given = Given::new();
        let file = read_file(sources, &mut given, &mut problems);
        read_environment(sources, &mut given, &mut problems);
        for (name, word) in &sources.flags {
            match Key::find(name) {
                Some(key) => give(key, key.kind.read_word(word), Place::Flag(key.name), &mut given, &mut problems),
                None => problems.push(Problem::unknown(Place::Flag(name), name)),
            }
        }

        let mut config = Self::default();
        for key in KEYS {
            if let Some((value, place)) = given.get(key.name)
                && let Err(why) = key.kind.accept(value, &mut config)
            {
                problems.push(Problem::refused(place.clone(), key, value, &why));
            }
        }
        contradictions(&config, &given, &mut problems);
        if !problems.is_empty() {
            let cut = problems.len() > PROBLEMS_MAX;
            problems.truncate(PROBLEMS_MAX);
            return Err(ConfigErrors { problems, cut });
        }

        let notes = notes(&config, &given);
        let rows = KEYS
            .iter()
            .map(|key| match given.remove(key.name) {
                Some((value, place)) => Effective::new(key, Some(value), place),
                None => Effective::new(key, key.default.map(|word| key.kind.read_word(word)), Place::Default),
            })
            .collect();
        config.paths.sealing_key = file.as_ref().map(|file| file.with_file_name("sealing.key"));
        Ok(Loaded { config, file, rows, notes })
    }
}

/// Keeps an acceptable value for its key. A refused one is reported here and now, so that a wrong line of the file is
/// found even when a variable hides it today.
fn give(key: &'static Key, value: Value, place: Place, given: &mut Given, problems: &mut Vec<Problem>) {
    match key.kind.accept(&value, &mut Config::default()) {
        Ok(()) => {
            given.insert(key.name, (value, place));
        }
        Err(why) => problems.push(Problem::refused(place, key, &value, &why)),
    }
}

fn read_environment(sources: &Sources<'_>, given: &mut Given, problems: &mut Vec<Problem>) {
    let mut env: Vec<_> = sources.env.iter().filter(|(name, _)| name.starts_with(VARIABLE_PREFIX)).collect();
    env.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, word) in env {
        let place = Place::Environment(name.clone());
        match key_of_variable(name) {
            Ok(Some(key)) => give(key, key.kind.read_word(word), place, given, problems),
            Ok(None) => {}
            Err(()) if problems.len() > PROBLEMS_MAX => return,
            Err(()) => {
                let dotted = name.trim_start_matches(VARIABLE_PREFIX).replace("__", ".").to_ascii_lowercase();
                problems.push(Problem::unknown(place, &dotted));
            }
        }
    }
}

fn read_file(sources: &Sources<'_>, given: &mut Given, problems: &mut Vec<Problem>) -> Option<PathBuf> {
    let by_variable = || sources.env.iter().find(|(n, _)| n == VARIABLE_CONFIG).map(|(_, path)| PathBuf::from(path));
    let named = sources.config_file.clone().or_else(by_variable);
    let candidates = named.as_ref().map_or(sources.defaults_search, std::slice::from_ref);
    for path in candidates {
        let place = |line| Place::File { path: Arc::new(path.clone()), line };
        match read_bounded(path) {
            Ok(bytes) => {
                if let Err((line, detail)) = read_toml(&bytes, &place, given, problems) {
                    problems.push(Problem::file(place(line), detail));
                }
                return Some(path.clone());
            }
            // Only a file that nobody named may be absent; one that is there and unreadable never passes silently.
            Err(e) if e.kind() == ErrorKind::NotFound && named.is_none() => {}
            Err(e) => {
                problems.push(Problem::file(place(0), format!("the configuration file cannot be read: {e}")));
                return None;
            }
        }
    }
    None
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The line, counted from 1, in which the byte at `offset` stands.
fn line_of(bytes: &[u8], offset: usize) -> usize {
    bytes.iter().take(offset).filter(|b| **b == b'\n').count() + 1
}

fn read_toml(
    bytes: &[u8],
    place: &dyn Fn(usize) -> Place,
    given: &mut Given,
    problems: &mut Vec<Problem>,
) -> Result<(), (usize, String)> {
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err((0, format!("the configuration file is larger than {FILE_BYTES_MAX} bytes")));
    }
    if let Some(at) = bytes.iter().position(|b| *b == 0) {
        return Err((line_of(bytes, at), "the configuration file holds a NUL byte: it is not a text".to_owned()));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|e| (line_of(bytes, e.valid_up_to()), "the configuration file is not UTF-8".to_owned()))?;
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let walk = Walk { bytes, place };
        walk.table("", table.get_ref(), given, problems);
    }
    // The parser's guess at what a broken line meant is not judged: it would bury the real mistake under others.
    // Its message is used, never its excerpt of the line, which could show a secret.
    for e in errors.iter().take(PROBLEMS_MAX) {
        let line = e.span().map_or(0, |s| line_of(bytes, s.start));
        let message: String = e.message().lines().collect::<Vec<_>>().join(", ");
        problems.push(Problem::file(place(line), format!("the line is not valid TOML: {message}")));
    }
    Ok(())
}

struct Walk<'a> {
    bytes: &'a [u8],
    place: &'a dyn Fn(usize) -> Place,
}

impl Walk<'_> {
    fn table(&self, prefix: &str, table: &DeTable<'_>, given: &mut Given, problems: &mut Vec<Problem>) {
        // By line, so that the report reads from top to bottom.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            if problems.len() > PROBLEMS_MAX {
                return;
            }
            self.entry(prefix, name, value, given, problems);
        }
    }

    fn entry(
        &self,
        prefix: &str,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        given: &mut Given,
        problems: &mut Vec<Problem>,
    ) {
        let dot = if prefix.is_empty() { "" } else { "." };
        let place = (self.place)(line_of(self.bytes, name.span().start));
        let short: String = name.get_ref().chars().take(128).collect();
        let path = format!("{prefix}{dot}{short}");
        if let Some(key) = Key::find(&path) {
            give(key, value_of(value.get_ref()), place, given, problems);
            return;
        }
        let is_section = KEYS.iter().any(|k| k.name.strip_prefix(&path).is_some_and(|rest| rest.starts_with('.')));
        match value.get_ref() {
            // Also into unknown sections, so that what stands in them is named; no key is that deep or long, though.
            DeValue::Table(inner) if is_section || (!inner.is_empty() && path.len() < 128) => {
                self.table(&path, inner, given, problems);
            }
            _ if is_section => {
                let detail = format!("{path} is a section: write [{path}] on a line of its own and its keys below");
                problems.push(Problem { place, key: Some(path), detail });
            }
            _ => problems.push(Problem::unknown(place, &path)),
        }
    }
}

fn value_of(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Integer(n) => {
            i128::from_str_radix(n.as_str(), n.radix()).map_or(Value::Other("a very large number"), Value::Integer)
        }
        DeValue::Boolean(b) => Value::Switch(*b),
        DeValue::Array(items) => {
            let texts: Option<Vec<String>> =
                items.iter().map(|i| i.get_ref().as_str().map(ToOwned::to_owned)).collect();
            texts.map_or(Value::Other("a list that does not hold texts only"), Value::List)
        }
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a time"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

/// Settings of which each is fine and which do not go together.
fn contradictions(config: &Config, given: &Given, problems: &mut Vec<Problem>) {
    let mut contradict = |key: &'static str, other: &'static str, detail: String| {
        let place = given.get(key).or_else(|| given.get(other)).map_or(Place::Default, |(_, p)| p.clone());
        problems.push(Problem { place, key: Some(key.to_owned()), detail });
    };
    let tls = &config.tls;
    if tls.certificate.is_some() != tls.key.is_some() {
        let (set, missing) =
            if tls.key.is_some() { ("tls.key", "tls.certificate") } else { ("tls.certificate", "tls.key") };
        contradict(set, missing, format!("{set} is set and {missing} is not: set both or none"));
    }
    if config.tokens.refresh_ttl > config.tokens.refresh_absolute {
        contradict(
            "tokens.refresh_ttl_days",
            "tokens.refresh_absolute_days",
            "tokens.refresh_ttl_days is above tokens.refresh_absolute_days: a session cannot outlive its absolute limit"
                .to_owned(),
        );
    }
    let secrets = [
        ("billing.webhook_secret", &config.billing.webhook_secret),
        ("billing.webhook_secret_next", &config.billing.webhook_secret_next),
        ("billing.webhook_secret_previous", &config.billing.webhook_secret_previous),
    ];
    let named = config.billing.provider_secrets.iter().map(|(_, secret)| ("billing.provider_secrets", secret));
    for (name, secret) in secrets.into_iter().filter_map(|(name, s)| s.as_ref().map(|s| (name, s))).chain(named) {
        if !is_webhook_secret(secret.expose()) {
            let detail = format!("{name}: behind whsec_ there must be 24 to 64 bytes in base64");
            contradict(name, name, detail);
        }
    }
    let listeners = [
        ("http.listen", config.http.listen),
        ("grpc.listen", config.grpc.listen),
        ("internal.listen", config.internal.listen),
    ];
    for (i, (name, address)) in listeners.iter().enumerate() {
        for (earlier, taken) in listeners.iter().take(i) {
            let same_address =
                address.ip() == taken.ip() || address.ip().is_unspecified() || taken.ip().is_unspecified();
            if address.port() != 0 && address.port() == taken.port() && same_address {
                contradict(
                    name,
                    earlier,
                    format!("{name} and {earlier} both want port {}: give one another port", taken.port()),
                );
            }
        }
    }
}

/// A secret of Standard Webhooks is base64 behind its prefix; any other text is a secret as it stands.
fn is_webhook_secret(secret: &[u8]) -> bool {
    let Some(encoded) = secret.strip_prefix(b"whsec_") else { return true };
    let encoded = std::str::from_utf8(encoded).unwrap_or("");
    Base64::decode_vec(encoded).is_ok_and(|key| (24..=64).contains(&key.len()))
}

fn notes(config: &Config, given: &Given) -> Vec<String> {
    let mut notes = Vec::new();
    if !config.internal.listen.ip().is_loopback() {
        notes.push(format!(
            "internal.listen is {}: metrics and internal endpoints are open to the network, without TLS and a login",
            config.internal.listen
        ));
    }
    for key in KEYS.iter().filter(|k| k.kind.is_secret()) {
        if let Some((_, Place::File { path, .. })) = given.get(key.name)
            && readable_by_all(path)
        {
            notes.push(format!(
                "{} holds {} and every user of this machine can read it: chmod 640 it",
                path.display(),
                key.name
            ));
        }
    }
    notes
}

fn readable_by_all(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o004 != 0)
}
