//! Indicators, feeds, and what a lookup says.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::kernel::Timestamp;
use crate::kernel::ids::TenantId;
use crate::store::Row;

/// What an indicator is an indicator of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = IndicatorKind)]
pub enum Kind {
    /// MD5, SHA-1, SHA-256 or SHA-512 of a file.
    FileHash,
    /// The name of an app's package, or its bundle id.
    Package,
    /// MD5, SHA-1 or SHA-256 of a signing certificate.
    Certificate,
    /// A domain, all names below it included.
    Domain,
    /// An address or a network.
    Address,
}

impl Kind {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::FileHash, Self::Package, Self::Certificate, Self::Domain, Self::Address];

    /// As stored.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The kind that was stored as this code.
    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// As on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FileHash => "file_hash",
            Self::Package => "package",
            Self::Certificate => "certificate",
            Self::Domain => "domain",
            Self::Address => "address",
        }
    }
}

impl FromStr for Kind {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or("is not one of file_hash, package, certificate, domain, address")
    }
}

/// How sure a source is, 0 to 100.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Confidence(u8);

impl Confidence {
    /// What counts where nobody says: worth a note, never a lock.
    pub const UNSTATED: Self = Self(50);

    /// Clamped to 100.
    pub const fn new(percent: u8) -> Self {
        Self(if percent > 100 { 100 } else { percent })
    }

    /// 0 to 100.
    pub const fn percent(self) -> u8 {
        self.0
    }
}

/// Whose a feed is. A tenant sees its own and the appliance's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// The appliance's, for all tenants.
    Global,
    /// One tenant's.
    Tenant(TenantId),
}

impl Scope {
    /// For keys: no tenant has the id of zeros.
    pub fn to_bytes(self) -> [u8; 16] {
        match self {
            Self::Global => TenantId::NIL.to_bytes(),
            Self::Tenant(tenant) => tenant.to_bytes(),
        }
    }

    /// The scope that was stored as these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        match TenantId::from_bytes(bytes) {
            TenantId::NIL => Self::Global,
            tenant => Self::Tenant(tenant),
        }
    }

    /// As on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Tenant(_) => "tenant",
        }
    }
}

/// The name of a feed within its scope: 1 to 64 characters of `[a-z0-9._-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedName(Arc<str>);

impl FeedName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FeedName {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'));
        if fits { Ok(Self(text.into())) } else { Err("must be 1 to 64 characters of a-z 0-9 . _ -") }
    }
}

impl fmt::Display for FeedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FeedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for FeedName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for FeedName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How many indicators of each kind, in the order of [`Kind::ALL`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = IndicatorCounts)]
pub struct Counts {
    /// Of files.
    pub file_hash: u64,
    /// Of apps.
    pub package: u64,
    /// Of signing certificates.
    pub certificate: u64,
    /// Of domains.
    pub domain: u64,
    /// Of addresses and networks.
    pub address: u64,
}

impl Counts {
    /// One more of a kind.
    pub const fn add(&mut self, kind: Kind) {
        let place = match kind {
            Kind::FileHash => &mut self.file_hash,
            Kind::Package => &mut self.package,
            Kind::Certificate => &mut self.certificate,
            Kind::Domain => &mut self.domain,
            Kind::Address => &mut self.address,
        };
        *place += 1;
    }

    /// How many of a kind.
    pub const fn of(&self, kind: Kind) -> u64 {
        match kind {
            Kind::FileHash => self.file_hash,
            Kind::Package => self.package,
            Kind::Certificate => self.certificate,
            Kind::Domain => self.domain,
            Kind::Address => self.address,
        }
    }

    /// All kinds together.
    pub const fn total(&self) -> u64 {
        self.file_hash + self.package + self.certificate + self.domain + self.address
    }
}

/// A stored feed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Feed {
    /// Unique within its scope.
    pub name: FeedName,
    /// Where it is from, for people: a provider, an address, a file.
    pub source: String,
    /// When what it holds now was taken in.
    pub imported_at: Timestamp,
    /// How old it may get before it counts as stale.
    pub stale_after: Duration,
    /// What it holds.
    pub counts: Counts,
    /// Lines or members that are no indicators, and were left out.
    pub rejected: u64,
    /// Indicators of no use here (addresses of web pages, rules), left out.
    pub ignored: u64,
    /// When the last of its indicators ends; `None`: one never does.
    #[serde(default)]
    pub(super) ends_at: Option<Timestamp>,
    /// Its blocks.
    pub(super) generation: u64,
    /// The blocks that were held against the past already.
    #[serde(default)]
    pub(super) hunted: u64,
}
impl Row for Feed {}

/// How far the word of a feed can be trusted to be complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = FeedState)]
pub enum FeedState {
    /// Its silence means something.
    Fresh,
    /// It is too old, or all of it has ended: what it does not list is not known to be clean.
    Stale,
    /// It holds nothing, so it says nothing.
    Empty,
}

impl Feed {
    /// From when on its silence says nothing: it is too old, or nothing in it counts any more.
    pub fn stale_at(&self) -> Timestamp {
        let too_old = self.imported_at.plus(self.stale_after);
        self.ends_at.map_or(too_old, |ends_at| ends_at.min(too_old))
    }

    /// How far its silence can be trusted at `now`.
    pub fn state(&self, now: Timestamp) -> FeedState {
        if self.counts.total() == 0 {
            FeedState::Empty
        } else if now >= self.stale_at() {
            FeedState::Stale
        } else {
            FeedState::Fresh
        }
    }
}

/// One indicator that speaks against a value.
#[derive(Clone, Debug)]
pub struct Match {
    /// Whose feed.
    pub scope: Scope,
    /// Which.
    pub feed: Arc<Feed>,
    /// Of what.
    pub kind: Kind,
    /// What is listed: the value, a domain above it, or a network around it.
    pub listed: String,
    /// How sure the source is.
    pub confidence: Confidence,
    /// When it ends; `None`: it does not.
    pub expires_at: Option<Timestamp>,
}

/// What is known of a value.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It is listed.
    Listed {
        /// By the surest source first.
        matches: Vec<Match>,
        /// Whether less sure ones were left out.
        cut: bool,
    },
    /// It is not listed, and every feed that knows its kind (hashes of its length, addresses of its family) is fresh.
    Clean,
    /// Nobody can say: no feed knows its kind, one that does is stale or has ended, or the value is none of the kind.
    Unknown,
}

impl Verdict {
    /// As on the wire.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Listed { .. } => "listed",
            Self::Clean => "clean",
            Self::Unknown => "unknown",
        }
    }

    /// The surest match; `None` where nothing is listed.
    pub fn surest(&self) -> Option<&Match> {
        match self {
            Self::Listed { matches, .. } => matches.first(),
            Self::Clean | Self::Unknown => None,
        }
    }
}
