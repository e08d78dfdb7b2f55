//! The appliance's signing keys in memory: one signs, all of them verify. Swapped as a whole when a rotation commits.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::jws;
use super::{Jwk, KeyError, SigningKey, VerifyingKey};
use crate::kernel::Timestamp;

/// A public key that is published.
#[derive(Clone, Debug)]
pub struct Published {
    /// The public half.
    pub jwk: Jwk,
    /// Whether access tokens of this key are accepted, whatever they say of themselves.
    pub access: Access,
}

/// Whether access tokens of a key are accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It signs.
    Open,
    /// It has signed; from this moment on nothing genuine of it is left.
    Until(Timestamp),
    /// It has not signed yet: what bears its signature was made by somebody else.
    NotYet,
}

struct Verifier {
    key: Arc<VerifyingKey>,
    access: Access,
}

/// One moment of the rotation.
pub struct KeySet {
    signer: Arc<SigningKey>,
    verifiers: HashMap<String, Verifier>,
    jwks: Arc<str>,
}

impl KeySet {
    /// `signer` signs; `published` (which must hold its public half) stands in the JWKS in this order.
    pub fn new(signer: Arc<SigningKey>, published: Vec<Published>) -> Result<Self, KeyError> {
        let mut verifiers = HashMap::new();
        let mut keys = Vec::new();
        for Published { jwk, access } in published {
            let key = VerifyingKey::from_jwk(&jwk)?;
            let kid = key.thumbprint();
            keys.push(jwk.published_as(&kid));
            verifiers.insert(kid, Verifier { key: Arc::new(key), access });
        }
        let jwks = serde_json::json!({ "keys": keys }).to_string().into();
        Ok(Self { signer, verifiers, jwks })
    }
}

/// The keys that are valid now. Cheap to clone, readable without a lock.
#[derive(Clone)]
pub struct KeyRing {
    set: Arc<ArcSwap<KeySet>>,
}

impl KeyRing {
    /// Starts with `set`.
    pub fn new(set: KeySet) -> Self {
        Self { set: Arc::new(ArcSwap::from_pointee(set)) }
    }

    /// Puts another moment of the rotation in place.
    pub fn replace(&self, set: KeySet) {
        self.set.store(Arc::new(set));
    }

    /// A compact JWS over `payload` with the header type `typ`.
    pub fn sign(&self, typ: &str, payload: &[u8]) -> String {
        jws::sign_compact(typ, payload, &self.set.load().signer)
    }

    /// The key with this id, if it is one of ours: also one that is retired and only published still.
    pub fn verifier(&self, kid: &str) -> Option<Arc<VerifyingKey>> {
        self.set.load().verifiers.get(kid).map(|v| Arc::clone(&v.key))
    }

    /// As [`KeyRing::verifier`], but only while access tokens of the key are accepted, and until when they are.
    pub fn access_verifier(&self, kid: &str, now: Timestamp) -> Option<(Arc<VerifyingKey>, Option<Timestamp>)> {
        let set = self.set.load();
        let found = set.verifiers.get(kid)?;
        let until = match found.access {
            Access::Open => None,
            Access::Until(until) if now < until => Some(until),
            Access::Until(_) | Access::NotYet => return None,
        };
        Some((Arc::clone(&found.key), until))
    }

    /// The published set (RFC 7517).
    pub fn jwks(&self) -> Arc<str> {
        Arc::clone(&self.set.load().jwks)
    }
}
