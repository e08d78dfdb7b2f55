//! Who calls over mutual TLS: the certificate of the connection and the token of the call, which must be one device's.

use std::sync::Arc;

use super::authn::credential;
use super::binding::{Head, Scheme};
use super::context::{Caller, unauthenticated};
use super::facts::Facts;
use super::pipeline::Gate;
use super::problem::Problem;
use super::route::{Access, DeviceRule, Door, Route};
use crate::domains::certificates::CertificateEntry;
use crate::kernel::{Kind, Refusal};

impl Gate {
    /// Who calls. Over mutual TLS the certificate is asked first, and certificate and token must be one device's.
    pub(super) fn identify(&self, route: &Route, head: Head<'_>, facts: &Facts) -> Result<Caller, Problem> {
        if route.door != Door::Grpc {
            return self.authenticate(route.access, head, facts);
        }
        let certificate = self.certificate(facts)?;
        if route.access != Access::Device(DeviceRule::Reachable) {
            let caller = self.authenticate(route.access, head, facts)?;
            return if matches!(caller, Caller::Public) {
                Ok(caller)
            } else {
                self.check_pair(&certificate, caller, facts)
            };
        }
        let bearer = credential(head.headers, "Bearer").map(|token| (Scheme::Bearer, token));
        let bound = || credential(head.headers, "DPoP").map(|token| (Scheme::Dpop, token));
        let Some((scheme, token)) = bearer.or_else(bound) else { return Err(unauthenticated().into()) };
        let (caller, _) = self.authenticator.socket_caller(token, facts.ip)?;
        self.check_binding(&caller.session, token, Some(scheme), head, facts)?;
        self.check_pair(&certificate, Caller::Device(caller), facts)
    }

    /// The client certificate of a connection of mutual TLS, if it still counts.
    pub(super) fn certificate(&self, facts: &Facts) -> Result<Arc<CertificateEntry>, Problem> {
        let now = self.clock.now();
        let shown = facts.certificate.ok_or_else(unauthenticated)?;
        self.services.certificates.check(&shown, now).map_err(|refusal| {
            // Only who shows one that does not count pays for it: others behind the same address go on.
            let spent = self.authenticator.check_budget(facts.ip, now);
            self.limiter.auth_failed(facts.ip, now);
            spent.err().map_or_else(|| refusal.into(), Problem::from)
        })
    }

    fn check_pair(&self, certificate: &CertificateEntry, caller: Caller, facts: &Facts) -> Result<Caller, Problem> {
        let same = match &caller {
            Caller::Device(d) => (d.entry.tenant, d.entry.no) == (certificate.tenant, certificate.device_no),
            _ => false,
        };
        if same {
            return Ok(caller);
        }
        self.limiter.auth_failed(facts.ip, self.clock.now());
        let detail = "The access token is not that of the device whose certificate this connection shows.";
        Err(Refusal::new(Kind::Unauthenticated, "certificate_mismatch", detail).into())
    }
}
