//! The values that a key can hold: how each is written, what it becomes, and how it is shown.
//!
//! Knows no key by name and no source. Every function here takes text of any length and content and never panics.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::json;
use zeroize::Zeroizing;

use super::Config;
use crate::kernel::network::Network;
use crate::kernel::url;

/// Characters of a text, a path or a list's element.
const TEXT_CHARS_MAX: usize = 1024;
/// Elements of a list.
const LIST_MAX: usize = 256;

/// A value that must not be shown: its `Debug` is three stars, and its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The bytes, for the one computation that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.as_bytes().to_vec()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Fewest bytes of a secret in a list.
const SECRET_BYTES_MIN: usize = 16;

/// `name:secret`; what is wrong with it is said without it.
fn named_secret(text: &str) -> Result<(String, Secret), String> {
    let (name, secret) = text.split_once(':').ok_or("an element has no colon")?;
    let name_fits = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
    if !name_fits {
        return Err("a name before the colon must have 1 to 64 visible characters".to_owned());
    }
    if secret.len() < SECRET_BYTES_MIN {
        return Err(format!("the secret of {} has {} bytes", quoted(name), secret.len()));
    }
    Ok((name.to_owned(), Secret::from(secret)))
}

/// What stands in place of a secret.
pub const MASK: &str = "***";

/// A further name under which clients reach the appliance; it goes into the server certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SubjectName {
    /// A host name, in lower case.
    Dns(String),
    /// An address.
    Address(IpAddr),
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl FromStr for SubjectName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address));
        }
        if url::is_host_name(text) {
            return Ok(Self::Dns(text.to_ascii_lowercase()));
        }
        Err(format!("{} is neither a host name nor an address", quoted(text)))
    }
}

/// The form of a public key of age; whether it is one is seen where it is used.
fn recipient(text: &str) -> Result<String, String> {
    let fits = (60..=100).contains(&text.len())
        && text.starts_with("age1")
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if fits { Ok(text.to_owned()) } else { Err(format!("{} is no public key of age", quoted(text))) }
}

fn web_origin(text: &str) -> Result<String, String> {
    let bad = || format!("{} is not an origin: write https://host or https://host:port, without a path", quoted(text));
    url::web_origin(text).ok_or_else(bad)
}

/// One allowed word of a choice and what choosing it does.
pub type Choice = (&'static str, fn(&mut Config));

/// What a key holds, and where in [`Config`] an accepted value goes.
#[derive(Clone, Copy)]
pub enum Kind {
    /// `address:port`.
    Address(fn(&mut Config, SocketAddr)),
    /// A whole number between two bounds, both allowed.
    Integer {
        /// Smallest allowed.
        min: u32,
        /// Largest allowed.
        max: u32,
        /// Where it goes.
        set: fn(&mut Config, u32),
    },
    /// `true` or `false`.
    Switch(fn(&mut Config, bool)),
    /// One of a few words.
    Choice(&'static [Choice]),
    /// Visible ASCII without spaces, 1 to 255 characters.
    Text(fn(&mut Config, String)),
    /// A tenant's name or id: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    Tenant(fn(&mut Config, String)),
    /// A file or directory; a relative one counts from the working directory.
    Path(fn(&mut Config, PathBuf)),
    /// Never shown; bounds are in bytes.
    Secret {
        /// Fewest bytes.
        min: usize,
        /// Most bytes.
        max: usize,
        /// Where it goes.
        set: fn(&mut Config, Secret),
    },
    /// Secrets by name, each `name:secret`; never shown.
    Secrets(fn(&mut Config, Vec<(String, Secret)>)),
    /// A list of addresses and networks.
    Networks(fn(&mut Config, Vec<Network>)),
    /// A list of public keys of age.
    Recipients(fn(&mut Config, Vec<String>)),
    /// A list of web origins.
    Origins(fn(&mut Config, Vec<String>)),
    /// A list of host names and addresses.
    Names(fn(&mut Config, Vec<SubjectName>)),
}

/// A value as it was given: typed by the file, or read from a word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A number. Wide enough that a number out of every range can still be named in the refusal.
    Integer(i128),
    /// `true` or `false`.
    Switch(bool),
    /// Anything that is written as a text.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
    /// No key takes it (a float, a time, a table, a mixed list): what it is, for the refusal.
    Other(&'static str),
}

impl Value {
    /// For `config --json`.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Integer(n) => i64::try_from(*n).map_or_else(|_| json!(n.to_string()), |n| json!(n)),
            Self::Switch(b) => json!(b),
            Self::Text(t) => json!(t),
            Self::List(l) => json!(l),
            Self::Other(what) => json!(what),
        }
    }
}

/// As in the file; control characters are escaped and long values cut.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(n) => n.fmt(f),
            Self::Switch(b) => b.fmt(f),
            Self::Text(t) => f.write_str(&quoted(t)),
            Self::List(l) => {
                let shown: Vec<String> = l.iter().take(16).map(|t| quoted(t)).collect();
                let more = if l.len() > shown.len() { ", ..." } else { "" };
                write!(f, "[{}{more}]", shown.join(", "))
            }
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// The text in quotes, escaped, and cut at 80 characters.
pub(super) fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(80).collect();
    let more = if cut.len() < text.len() { "..." } else { "" };
    format!("\"{}{more}\"", cut.escape_debug())
}

impl Kind {
    /// Whether the value must not be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self, Self::Secret { .. } | Self::Secrets(_))
    }

    /// What may be written, as the end of "allowed is ...".
    pub fn allowed(&self) -> String {
        match self {
            Self::Address(_) => "an address with a port, such as 0.0.0.0:8443 or [::]:8443".to_owned(),
            Self::Integer { min, max, .. } => format!("a whole number from {min} to {max}"),
            Self::Switch(_) => "true or false".to_owned(),
            Self::Choice(words) => {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                format!("one of {}", words.join(", "))
            }
            Self::Text(_) => "a text of 1 to 255 visible ASCII characters without spaces".to_owned(),
            Self::Tenant(_) => "a tenant's name or id: 1 to 64 characters of A-Z a-z 0-9 . _ -".to_owned(),
            Self::Path(_) => "a path".to_owned(),
            Self::Secret { min, max, .. } => format!("a text of {min} to {max} bytes"),
            Self::Secrets(_) => format!("a list of name:secret, the secrets of {SECRET_BYTES_MIN} bytes or more"),
            Self::Networks(_) => "a list of addresses and networks, such as 10.0.0.5 or 10.0.0.0/8".to_owned(),
            Self::Recipients(_) => "a list of public keys that begin with age1".to_owned(),
            Self::Origins(_) => "a list of origins, such as https://console.example.org".to_owned(),
            Self::Names(_) => "a list of host names and addresses".to_owned(),
        }
    }

    /// Reads the untyped text of a variable or flag; lists are separated by commas.
    pub fn read_word(&self, text: &str) -> Value {
        match self {
            Self::Integer { .. } => match text.strip_prefix('-').unwrap_or(text) {
                digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                    text.parse().map_or_else(|_| Value::Text(text.to_owned()), Value::Integer)
                }
                _ => Value::Text(text.to_owned()),
            },
            Self::Switch(_) if text == "true" => Value::Switch(true),
            Self::Switch(_) if text == "false" => Value::Switch(false),
            Self::Networks(_) | Self::Origins(_) | Self::Names(_) | Self::Secrets(_) | Self::Recipients(_)
                if text.trim().is_empty() =>
            {
                Value::List(Vec::new())
            }
            Self::Networks(_) | Self::Origins(_) | Self::Names(_) | Self::Secrets(_) | Self::Recipients(_) => {
                Value::List(text.split(',').map(|t| t.trim().to_owned()).collect())
            }
            _ => Value::Text(text.to_owned()),
        }
    }

    /// Checks `value` and puts it into `config`; on a refusal `config` is as before.
    ///
    /// # Errors
    /// What is wrong beyond "not of the allowed form"; empty where that says it all. Never contains a secret.
    pub fn accept(&self, value: &Value, config: &mut Config) -> Result<(), String> {
        match (self, value) {
            (Self::Address(set), Value::Text(t)) => set(config, t.parse().map_err(|_| String::new())?),
            (Self::Integer { min, max, set }, Value::Integer(n)) => match u32::try_from(*n) {
                Ok(n) if (*min..=*max).contains(&n) => set(config, n),
                _ => return Err(String::new()),
            },
            (Self::Switch(set), Value::Switch(b)) => set(config, *b),
            (Self::Choice(words), Value::Text(t)) => {
                let (_, choose) = words.iter().find(|(word, _)| word == t).ok_or_else(String::new)?;
                choose(config);
            }
            (Self::Text(set), Value::Text(t)) => {
                let fits = (1..=255).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_graphic());
                set(config, fits.then(|| t.clone()).ok_or_else(String::new)?);
            }
            (Self::Tenant(set), Value::Text(t)) => {
                let fits = (1..=64).contains(&t.len())
                    && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
                set(config, fits.then(|| t.clone()).ok_or_else(String::new)?);
            }
            (Self::Path(set), Value::Text(t)) => {
                if t.is_empty() {
                    return Err("it is empty".to_owned());
                }
                if t.len() > TEXT_CHARS_MAX || t.chars().any(char::is_control) {
                    return Err("it is too long or holds control characters".to_owned());
                }
                set(config, PathBuf::from(t));
            }
            (Self::Secret { min, max, set }, Value::Text(t)) => {
                if !(*min..=*max).contains(&t.len()) {
                    return Err(format!("it has {} bytes", t.len()));
                }
                set(config, Secret::from(t.as_str()));
            }
            (Self::Secrets(set), Value::List(l)) => set(config, each(l, named_secret)?),
            (Self::Recipients(set), Value::List(l)) => set(config, each(l, recipient)?),
            (Self::Networks(set), Value::List(l)) => {
                set(config, each(l, |t: &str| Network::from_str(t).map_err(|e| format!("{} {e}", quoted(t))))?)
            }
            (Self::Origins(set), Value::List(l)) => set(config, each(l, web_origin)?),
            (Self::Names(set), Value::List(l)) => set(config, each(l, SubjectName::from_str)?),
            (
                Self::Networks(_) | Self::Origins(_) | Self::Names(_) | Self::Secrets(_) | Self::Recipients(_),
                Value::Text(_),
            ) => {
                return Err("it is a single text: put it into brackets".to_owned());
            }
            (Self::Secret { .. }, _) => return Err("it is not a text: put it into quotes".to_owned()),
            (_, Value::Other(_)) => return Err("it is of another type".to_owned()),
            _ => return Err(String::new()),
        }
        Ok(())
    }
}

fn each<T>(list: &[String], parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    if list.len() > LIST_MAX {
        return Err(format!("it has {} elements and at most {LIST_MAX} are allowed", list.len()));
    }
    list.iter()
        .map(|t| if t.len() > TEXT_CHARS_MAX { Err("an element is too long".to_owned()) } else { parse(t) })
        .collect()
}
