//! Tokens that are worth nothing without a key: whether a request proves to have it. DPoP (RFC 9449) and certificates of
//! mutual TLS (RFC 8705). Knows nothing of what the token allows.

use base64ct::{Base64UrlUnpadded, Encoding};
use hyper::Uri;
use hyper::header::HeaderMap;

use super::context::unauthenticated;
use super::facts::{Facts, host_of};
use super::pipeline::Gate;
use crate::domains::iam::{Binding, SessionEntry};
use crate::kernel::{Kind, Refusal};

/// The head of a request.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub method: &'a str,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
}

impl Head<'_> {
    /// Whether the client shows a DPoP proof.
    pub fn bears_proof(&self) -> bool {
        self.headers.contains_key("dpop")
    }

    /// The URL as the client sees it, without its query.
    fn url(&self) -> String {
        format!("https://{}{}", host_of(self.uri, self.headers).unwrap_or_default(), self.uri.path())
    }
}

/// How a token was presented.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scheme {
    /// `Authorization: Bearer`, or as a subprotocol.
    Bearer,
    /// `Authorization: DPoP`.
    Dpop,
}

impl Gate {
    /// Whether the request proves the key that the session's tokens are bound to, where they are bound to one. `scheme`
    /// is `None` where the token came without one, as a subprotocol of a WebSocket.
    ///
    /// # Errors
    /// 401 `unauthenticated`, `invalid_dpop_proof` or `use_dpop_nonce`.
    pub(super) fn check_binding(
        &self,
        session: &SessionEntry,
        token: &str,
        scheme: Option<Scheme>,
        head: Head<'_>,
        facts: &Facts,
    ) -> Result<(), Refusal> {
        match (&session.binding, scheme) {
            (None, Some(Scheme::Bearer) | None) => Ok(()),
            (Some(Binding::Certificate(_)), Some(Scheme::Bearer) | None) => {
                let shown = facts.certificate.map(|hash| Binding::Certificate(Base64UrlUnpadded::encode_string(&hash)));
                if shown == session.binding { Ok(()) } else { Err(unauthenticated()) }
            }
            (Some(Binding::Dpop(thumbprint)), Some(Scheme::Dpop) | None) => {
                let proofs = head.headers.get_all("dpop");
                let now = self.clock.now();
                self.proofs.check(proofs, head.method, &head.url(), Some(token), Some(thumbprint), now).map(drop)
            }
            // A token is presented as what it is, or not at all (RFC 9449, section 7.2).
            (Some(Binding::Dpop(_)), Some(Scheme::Bearer)) => {
                let detail = "This token is bound to a key: present it as DPoP, with a proof.";
                Err(Refusal::new(Kind::Unauthenticated, super::dpop::INVALID_DPOP_PROOF, detail))
            }
            (None | Some(Binding::Certificate(_)), Some(Scheme::Dpop)) => Err(unauthenticated()),
        }
    }

    /// The key that a request without a token proves to have: tokens that it asks for are bound to it.
    ///
    /// # Errors
    /// 401 `invalid_dpop_proof` or `use_dpop_nonce` when it shows a proof that does not hold; 429 when its network has
    /// failed too often, before the signature is checked.
    pub(super) fn proven_key(&self, head: Head<'_>, facts: &Facts) -> crate::kernel::Result<Option<Binding>> {
        if head.bears_proof() {
            let (proofs, now) = (head.headers.get_all("dpop"), self.clock.now());
            self.authenticator.check_budget(facts.ip, now)?;
            let proof =
                self.proofs.check(proofs, head.method, &head.url(), None, None, now).inspect_err(|refusal| {
                    if refusal.code == super::dpop::INVALID_DPOP_PROOF {
                        self.limiter.auth_failed(facts.ip, now);
                    }
                })?;
            return Ok(Some(Binding::Dpop(proof.thumbprint)));
        }
        Ok(facts.certificate.map(|hash| Binding::Certificate(Base64UrlUnpadded::encode_string(&hash))))
    }
}
