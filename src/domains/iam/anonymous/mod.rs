//! Callers without an account: who they are for a day, and how much they may ask.
//!
//! Such a caller gets a signed token that is bound to its fingerprint. The token has a window of requests, and so has
//! the network that it is used from, so dropping the token gains nothing. The network is asked first: a network that is
//! at its limit costs neither the check of a signature nor the making of one.
//!
//! Knows nothing of HTTP, headers or proxies: the caller's address is already the client's.

mod log;
mod store;
mod table;
mod windows;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::json;

pub use windows::{Bounds, WindowFigures, Windows};

use crate::crypto::keyring::KeyRing;
use crate::crypto::{JwtError, JwtPolicy, sha256, verify_jwt};
use crate::kernel::ids::{AnonymousId, TokenId};
use crate::kernel::rate::{Decision, Quota};
use crate::kernel::{Random, Result, Timestamp};
use crate::store::{Snapshot, Store};

/// Header type of an anonymous token: another one than an access token's, so that neither passes for the other.
const ANONYMOUS_JWT_TYPE: &str = "anonymous+jwt";
/// `typ` among the claims.
const ANONYMOUS_TYP: &str = "anonymous";
/// Life of an anonymous token.
pub const TOKEN_TTL: Duration = Duration::from_secs(24 * 3_600);
const LEEWAY_S: u32 = 30;
/// Tokens of one generation of the memory of checked tokens; there are two generations.
const CHECKED_PER_GENERATION: usize = 50_000;
/// Rows that one change brings up to date.
const ROWS_PER_CHANGE: usize = 2_000;

/// What the configuration says about anonymous callers.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether they are counted and limited.
    pub enabled: bool,
    /// Requests of one caller, and of one network, in a window.
    pub limit: u32,
    /// The sliding window.
    pub window: Duration,
}

/// What a request shows of an anonymous caller.
#[derive(Clone, Copy, Debug)]
pub struct AnonymousCaller<'a> {
    /// The client's, after proxies.
    pub address: IpAddr,
    /// The IPv4 address, or the first address of the IPv6 /64.
    pub network: IpAddr,
    /// As sent.
    pub user_agent: Option<&'a str>,
    /// As sent.
    pub accept_language: Option<&'a str>,
}

impl AnonymousCaller<'_> {
    /// SHA-256 over address, user agent and language. A header that is missing reads as an empty one.
    pub fn fingerprint(&self) -> [u8; 32] {
        // Unit separators: no header can hold one, so two different triples never read the same.
        let address = self.address.to_canonical();
        let (agent, language) = (self.user_agent.unwrap_or(""), self.accept_language.unwrap_or(""));
        sha256(format!("{address}\u{1f}{agent}\u{1f}{language}").as_bytes())
    }
}

/// What became of a request without an account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admission {
    /// What the windows said; `None` when the limiter is off and every request passes.
    pub decision: Option<Decision>,
    /// Who asks. [`AnonymousId::NIL`] when the network was refused, because its token is not looked at then.
    pub user: AnonymousId,
    /// To be handed to the caller in place of what it presented; only where the request was admitted.
    pub new_token: Option<String>,
}

/// For the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Of the windows.
    pub windows: WindowFigures,
    /// Signatures of presented tokens that were checked since the start.
    pub signatures_checked: u64,
}

/// What anonymous identity is built from.
pub(super) struct Parts {
    pub store: Store,
    pub keys: KeyRing,
    pub random: Random,
    pub issuer: String,
    pub audience: String,
    pub settings: Settings,
}

/// Anonymous identity. Cheap to clone.
#[derive(Clone)]
pub struct Anonymous {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    keys: KeyRing,
    random: Random,
    policy: JwtPolicy,
    settings: Settings,
    windows: Windows,
    checked: Mutex<Checked>,
    signatures_checked: AtomicU64,
    /// One change at a time, so that an older state of a row is never queued behind a newer one.
    posting: Mutex<()>,
}

/// The proven content of a token.
#[derive(Clone, Copy)]
struct Identity {
    user: AnonymousId,
    fingerprint: [u8; 32],
    /// The first moment at which it is no longer valid, the allowed clock skew included.
    expires_at: Timestamp,
}

/// Tokens whose signatures were checked, by their hashes. When the young generation is full it becomes the old one, and
/// what was not used since the last time is forgotten.
#[derive(Default)]
struct Checked {
    young: HashMap<[u8; 32], Identity>,
    old: HashMap<[u8; 32], Identity>,
}

impl Checked {
    fn get(&mut self, hash: &[u8; 32]) -> Option<Identity> {
        if let Some(found) = self.young.get(hash) {
            return Some(*found);
        }
        let found = self.old.remove(hash)?;
        self.insert(*hash, found);
        Some(found)
    }

    fn insert(&mut self, hash: [u8; 32], identity: Identity) {
        if self.young.len() >= CHECKED_PER_GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, identity);
    }
}

impl Anonymous {
    /// Reads the counters of the data file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn rebuild(parts: Parts, snapshot: &Snapshot, now: Timestamp) -> Result<Self> {
        let quota = Quota { limit: parts.settings.limit, window: parts.settings.window };
        let windows = Windows::new(quota, Bounds::default());
        windows.restore(store::load(snapshot)?, now);
        let policy = JwtPolicy {
            issuer: parts.issuer,
            audience: parts.audience,
            typ: ANONYMOUS_JWT_TYPE.to_owned(),
            leeway_s: LEEWAY_S,
            max_lifetime_s: u32::try_from(TOKEN_TTL.as_secs()).unwrap_or(u32::MAX),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                store: parts.store,
                keys: parts.keys,
                random: parts.random,
                policy,
                settings: parts.settings,
                windows,
                checked: Mutex::default(),
                signatures_checked: AtomicU64::new(0),
                posting: Mutex::default(),
            }),
        })
    }

    /// Decides about one request, and counts it if it may pass.
    ///
    /// A presented token that is bad, expired or from another fingerprint is treated like none: the caller becomes
    /// somebody new. With the limiter off every request passes, and a bad token costs a signature each time.
    pub fn admit(&self, presented: Option<&str>, caller: &AnonymousCaller<'_>, now: Timestamp) -> Admission {
        let inner = &self.inner;
        if inner.settings.enabled {
            let decision = inner.windows.look_at_network(caller.network, now);
            if !decision.admitted {
                return Admission { decision: Some(decision), user: AnonymousId::NIL, new_token: None };
            }
        }
        let fingerprint = caller.fingerprint();
        let known = presented
            .and_then(|token| self.identify(token, now).ok())
            .filter(|i| i.fingerprint == fingerprint)
            .map(|i| i.user);
        let user = known.unwrap_or_else(|| AnonymousId::generate(now, &inner.random));
        let decision = inner.settings.enabled.then(|| inner.windows.admit(user.to_bytes(), caller.network, now));
        let admitted = decision.is_none_or(|d| d.admitted);
        let new_token = (admitted && known.is_none()).then(|| self.mint(user, fingerprint, now));
        Admission { decision, user, new_token }
    }

    fn mint(&self, user: AnonymousId, fingerprint: [u8; 32], now: Timestamp) -> String {
        let inner = &self.inner;
        let expires_at = now.plus(TOKEN_TTL);
        let claims = json!({
            "iss": inner.policy.issuer,
            "aud": inner.policy.audience,
            "sub": user,
            "user_id": user,
            "jti": TokenId::generate(now, &inner.random),
            "iat": now.as_secs(),
            "nbf": now.as_secs(),
            "exp": expires_at.as_secs(),
            "typ": ANONYMOUS_TYP,
            "fingerprint": Base64UrlUnpadded::encode_string(&fingerprint),
            "quota_limit": inner.settings.limit,
        });
        let token = inner.keys.sign(ANONYMOUS_JWT_TYPE, claims.to_string().as_bytes());
        let expires_at = until(expires_at.as_secs());
        lock(&inner.checked).insert(sha256(token.as_bytes()), Identity { user, fingerprint, expires_at });
        token
    }

    /// Checks a token; its signature only where that was not done before.
    fn identify(&self, token: &str, now: Timestamp) -> Result<Identity, JwtError> {
        let inner = &self.inner;
        let hash = sha256(token.as_bytes());
        if let Some(known) = lock(&inner.checked).get(&hash) {
            return if now < known.expires_at { Ok(known) } else { Err(JwtError::Expired) };
        }
        inner.signatures_checked.fetch_add(1, Ordering::Relaxed);
        let claims = verify_jwt(token, &|kid| inner.keys.verifier(kid), &inner.policy, now)?;
        if claims.text("typ") != Some(ANONYMOUS_TYP) {
            return Err(JwtError::Claim("typ"));
        }
        if claims.text("user_id") != Some(&claims.sub) {
            return Err(JwtError::Claim("user_id"));
        }
        let user = claims.sub.parse().map_err(|_| JwtError::Claim("sub"))?;
        let mut fingerprint = [0; 32];
        let text = claims.text("fingerprint").ok_or(JwtError::Claim("fingerprint"))?;
        let whole = Base64UrlUnpadded::decode(text, &mut fingerprint).is_ok_and(|f| f.len() == 32);
        if !whole {
            return Err(JwtError::Claim("fingerprint"));
        }
        let identity = Identity { user, fingerprint, expires_at: until(claims.exp_s) };
        lock(&inner.checked).insert(hash, identity);
        Ok(identity)
    }

    /// Forgets what is over and writes down what changed, [`Anonymous::persist`]; run from time to time.
    pub fn sweep(&self, now: Timestamp) {
        self.inner.windows.sweep(now);
        {
            let mut checked = lock(&self.inner.checked);
            checked.young.retain(|_, i| now < i.expires_at);
            checked.old.retain(|_, i| now < i.expires_at);
        }
        if let Err(cause) = self.persist() {
            tracing::warn!(%cause, "counters of anonymous callers could not be written down; tried again soon");
        }
    }

    /// Queues one change with up to 2,000 rows that differ from the data file, and says how many: at the shutdown it is
    /// called until there are none. Does not wait for the commit.
    ///
    /// # Errors
    /// When the store takes no change; the rows are due again then.
    pub fn persist(&self) -> Result<usize> {
        let inner = &self.inner;
        let _one_at_a_time = lock(&inner.posting);
        let changes = inner.windows.take_changes(ROWS_PER_CHANGE);
        if changes.is_empty() {
            return Ok(0);
        }
        let posted = store::post(&inner.store, &changes);
        if posted.is_err() {
            inner.windows.put_back(changes.iter().map(|(key, _)| *key));
        }
        posted.map(|()| changes.len())
    }

    /// For the metrics.
    pub fn figures(&self) -> Figures {
        Figures {
            windows: self.inner.windows.figures(),
            signatures_checked: self.inner.signatures_checked.load(Ordering::Relaxed),
        }
    }
}

/// When a token with this `exp` is no longer valid.
fn until(exp_s: i64) -> Timestamp {
    Timestamp::from_millis(exp_s.saturating_add(LEEWAY_S.into()).saturating_mul(1_000))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
