//! The appliance's signing keys in memory: one signs, all of them verify. Swapped as a whole when a rotation commits.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::jws;
use super::{Jwk, KeyError, SigningKey, VerifyingKey};

/// One moment of the rotation.
pub struct KeySet {
    signer: Arc<SigningKey>,
    verifiers: HashMap<String, Arc<VerifyingKey>>,
    jwks: Arc<str>,
}

impl KeySet {
    /// `signer` signs; `published` (which must hold its public half) stands in the JWKS in this order.
    pub fn new(signer: SigningKey, published: Vec<Jwk>) -> Result<Self, KeyError> {
        let mut verifiers = HashMap::new();
        let mut keys = Vec::new();
        for jwk in published {
            let key = VerifyingKey::from_jwk(&jwk)?;
            let kid = key.thumbprint();
            keys.push(jwk.published_as(&kid));
            verifiers.insert(kid, Arc::new(key));
        }
        let jwks = serde_json::json!({ "keys": keys }).to_string().into();
        Ok(Self { signer: Arc::new(signer), verifiers, jwks })
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

    /// The key with this id, if it is one of ours.
    pub fn verifier(&self, kid: &str) -> Option<Arc<VerifyingKey>> {
        self.set.load().verifiers.get(kid).cloned()
    }

    /// The published set (RFC 7517).
    pub fn jwks(&self) -> Arc<str> {
        Arc::clone(&self.set.load().jwks)
    }
}
