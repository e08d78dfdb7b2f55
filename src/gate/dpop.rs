//! Whether the DPoP proof of a request is admitted (RFC 9449): one header, a verified proof, a nonce of ours where one is
//! due, and never the same proof twice.
//!
//! Proofs that were used are remembered in this process only. A restart forgets them, so a proof that could have been
//! used before it must show by a nonce of this process that it was made afterwards.
//!
//! Knows nothing of what tokens mean, nor of routes: it is told the request, the token's text and the key it is bound to.

mod nonce;
mod replay;
#[cfg(test)]
mod tests;

pub use nonce::NonceMaker;
pub use replay::{REPLAYS_MAX, ReplayCache, ReplayError};

use hyper::header::HeaderValue;

use crate::crypto::dpop::{DpopError, Expect, PROOF_BYTES_MAX, Proof, verify_proof};
use crate::crypto::{JwsError, KeyError};
use crate::kernel::{Kind, Random, Refusal, Timestamp};

/// How far a proof's `iat` may lie from now, before or behind.
pub const IAT_WINDOW_S: u32 = 60;

/// The code of a refusal that a fresh nonce cures; the answer bears it in `DPoP-Nonce` (RFC 9449, section 8).
pub const USE_DPOP_NONCE: &str = "use_dpop_nonce";
/// The code of a refusal that only another proof cures (RFC 9449, section 5).
pub const INVALID_DPOP_PROOF: &str = "invalid_dpop_proof";

/// Decides on proofs. One for each process; shared by all threads.
pub struct ProofPolicy {
    replays: ReplayCache,
    nonces: NonceMaker,
    nonce_required: bool,
    /// A proof made up to here may have been used before this process started.
    doubtful_until_s: i64,
}

impl ProofPolicy {
    /// With an empty memory and a new key for nonces. `nonce_required`: a proof without a nonce is always refused.
    pub fn new(nonce_required: bool, started_at: Timestamp, random: &Random) -> Self {
        Self {
            replays: ReplayCache::new(REPLAYS_MAX, IAT_WINDOW_S, random),
            nonces: NonceMaker::new(random),
            nonce_required,
            // A client whose clock is ahead could have used a proof before the `iat` that it states. Whoever fears that
            // sets tokens.dpop_nonce to required; a whole minute of refusals after each start would serve nobody else.
            doubtful_until_s: started_at.as_secs(),
        }
    }

    /// Admits the proof of one request, once.
    ///
    /// `proofs`: every value of the request's `DPoP` header, `headers.get_all("dpop")`. `url`: absolute, as the client
    /// sees it. `access_token`: the token that the request bears, `None` where it asks for one. `thumbprint`: the key
    /// that the token is bound to, `None` where any key will do.
    ///
    /// # Errors
    /// 401 [`INVALID_DPOP_PROOF`]; 401 [`USE_DPOP_NONCE`], to be answered with [`ProofPolicy::nonce`]; 503 `overloaded`
    /// when the memory is full.
    pub fn check<'a>(
        &self,
        proofs: impl IntoIterator<Item = &'a HeaderValue>,
        method: &str,
        url: &str,
        access_token: Option<&str>,
        thumbprint: Option<&str>,
        now: Timestamp,
    ) -> Result<Proof, Refusal> {
        let mut proofs = proofs.into_iter();
        let presented = proofs.next().ok_or_else(|| {
            invalid("This needs a DPoP proof in the DPoP header, made for this request with the key that the token is bound to.")
        })?;
        if proofs.next().is_some() {
            return Err(invalid("The request has more than one DPoP header. Send exactly one."));
        }
        if presented.len() > PROOF_BYTES_MAX {
            return Err(invalid("The DPoP proof is longer than 8 KiB."));
        }
        let presented = presented.to_str().map_err(|_| invalid(sentence(DpopError::Jws(JwsError::Encoding))))?;
        let expected = Expect { method, url, access_token, thumbprint, iat_window_s: IAT_WINDOW_S };
        let proof = verify_proof(presented, &expected, now).map_err(|e| invalid(sentence(e)))?;
        self.check_nonce(&proof, now)?;
        // Last, so that a proof that is refused for anything else is not used up.
        self.replays.admit(&proof.thumbprint, &proof.jti, proof.iat_s, now).map_err(|e| match e {
            ReplayError::Replayed => {
                invalid("This DPoP proof was used before. Make a new one, with a jti of its own, for every request.")
            }
            ReplayError::Full | ReplayError::ClockSetBack => {
                let detail = "The appliance cannot remember more DPoP proofs at the moment. Try again with a new one.";
                Refusal::new(Kind::Unavailable, "overloaded", detail).retry_after_s(u64::from(IAT_WINDOW_S))
            }
        })?;
        Ok(proof)
    }

    fn check_nonce(&self, proof: &Proof, now: Timestamp) -> Result<(), Refusal> {
        let wanted = |detail: &'static str| Err(Refusal::new(Kind::Unauthenticated, USE_DPOP_NONCE, detail));
        match &proof.nonce {
            Some(nonce) if self.nonces.accepts(nonce, now) => Ok(()),
            Some(_) => {
                wanted("The nonce of the DPoP proof has expired. Make a new proof with that of the DPoP-Nonce header.")
            }
            None if self.nonce_required || proof.iat_s <= self.doubtful_until_s => {
                wanted("The DPoP proof needs a nonce. Make a new proof with that of the DPoP-Nonce header.")
            }
            None => Ok(()),
        }
    }

    /// What clients are to put into their next proofs: for the header `DPoP-Nonce`. Good for two to four minutes.
    pub fn nonce(&self, now: Timestamp) -> String {
        self.nonces.current(now)
    }

    /// Forgets proofs that nobody can use any more; run from time to time.
    pub fn sweep(&self, now: Timestamp) {
        self.replays.sweep(now);
    }
}

fn invalid(detail: &'static str) -> Refusal {
    Refusal::new(Kind::Unauthenticated, INVALID_DPOP_PROOF, detail)
}

/// What the caller is told: which rule, and nothing of the proof.
fn sentence(error: DpopError) -> &'static str {
    match error {
        DpopError::Jws(JwsError::Algorithm) => "The DPoP proof is not signed with ES256.",
        DpopError::Jws(JwsError::Typ) => "The header of the DPoP proof does not state the typ dpop+jwt.",
        DpopError::Jws(JwsError::Member) => {
            "The header of the DPoP proof has no jwk, or has a member that is not accepted, such as crit or x5c."
        }
        DpopError::Jws(_) => "The DPoP proof is not a compact JWS of at most 8 KiB.",
        DpopError::Key(
            KeyError::Jwk(_) | KeyError::NotOnCurve | KeyError::Form | KeyError::Pem | KeyError::PublicPem,
        ) => "The jwk of the DPoP proof is not a public P-256 key. Send the public key alone.",
        DpopError::Signature => "The DPoP proof is not signed by the key in its header.",
        DpopError::Payload => "The payload of the DPoP proof is not a JSON object without repeated members.",
        DpopError::Claim("ath") => "The DPoP proof lacks ath, the hash of the access token.",
        DpopError::Claim(_) => "The DPoP proof lacks one of jti, htm, htu and iat, or a claim is not of its type.",
        DpopError::Method => "The DPoP proof is for another method than this request's.",
        DpopError::Url => "The DPoP proof is for another URL than this request's.",
        DpopError::TooOld | DpopError::Ahead => {
            "The DPoP proof was not made within a minute of now. Set the clock and make a new one for every request."
        }
        DpopError::AccessToken => "The DPoP proof is for another access token.",
        DpopError::OtherKey => "The DPoP proof was made with another key than the one that the token is bound to.",
    }
}
