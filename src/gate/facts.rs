//! What a request says of itself before anything is decided: who asks from where, under which id and trace, with which
//! cookie. Believes nothing that a stranger could have made up, and decides nothing.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Request, Uri};

use super::context::RefreshCookie;
use super::pipeline::Gate;
use crate::kernel::context::{Origin, Source};
use crate::kernel::ids::RequestId;
use crate::kernel::limits;
use crate::kernel::trace::TraceContext;
use crate::net::Peer;

/// A request's facts before anything is decided.
pub(super) struct Facts {
    pub origin: Origin,
    pub ip: IpAddr,
    /// SHA-256 of the certificate whose key the client holds.
    pub certificate: Option<[u8; 32]>,
}

/// The trace that the client is in, by its one `traceparent`.
fn caller_trace(headers: &HeaderMap) -> Option<TraceContext> {
    let mut given = headers.get_all("traceparent").iter();
    let (Some(only), None) = (given.next(), given.next()) else { return None };
    TraceContext::parse(only.to_str().ok()?)
}

/// The host and port that the client means: of the target in HTTP/2, of the header in HTTP/1.1.
pub(super) fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    uri.authority().map(|a| a.as_str()).or_else(|| headers.get(hyper::header::HOST)?.to_str().ok())
}

impl Gate {
    pub(super) fn facts(&self, request: &Request<Incoming>, peer: Peer) -> Facts {
        let headers = request.headers();
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let request_id = match text("x-request-id").filter(|id| is_request_id(id)) {
            Some(id) => Arc::from(id),
            None => Arc::from(RequestId::generate(self.clock.now(), &self.random).to_string()),
        };
        let ip = self.client_ip(peer.address.ip(), headers);
        let user_agent = text("user-agent").map(|ua| Arc::from(ua.get(..256).unwrap_or(ua)));
        let trace = caller_trace(headers);
        let origin = Origin { source: Source::Http, request_id, ip: Some(ip), user_agent, jti: None, key: None, trace };
        Facts { origin, ip, certificate: peer.certificate_sha256 }
    }

    /// The last address that no proxy of ours wrote. Without configured proxies the header means nothing.
    fn client_ip(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let trusted = |ip: IpAddr| self.settings.trusted_proxies.iter().any(|n| n.contains(ip));
        let mut ip = peer.to_canonical();
        if !trusted(ip) {
            return ip;
        }
        let values: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
        for hop in values.iter().flat_map(|v| v.split(',')).rev() {
            let Ok(hop) = hop.trim().parse::<IpAddr>() else { break };
            ip = hop.to_canonical();
            if !trusted(ip) {
                break;
            }
        }
        ip
    }

    /// The refresh token that a browser sent by itself, and whether a page of ours made it do so. Browsers name the page
    /// in `Sec-Fetch-Site` or `Origin`; who names neither is no browser, and no other site can make it send anything.
    pub(super) fn refresh_cookie(&self, uri: &Uri, headers: &HeaderMap) -> RefreshCookie {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let mut cookies = headers.get_all("cookie").iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
        let mut found = cookies.by_ref().filter_map(|c| c.trim().strip_prefix("__Host-refresh="));
        let (Some(value), None) = (found.next(), found.next()) else { return RefreshCookie::None };
        let site = text("sec-fetch-site");
        let same_site = matches!(site, None | Some("same-origin" | "none"));
        let origin_fits = match headers.get("origin").map(|o| o.to_str().unwrap_or("")) {
            None => true,
            Some(origin) => {
                let own = host_of(uri, headers).is_some_and(|host| origin.strip_prefix("https://") == Some(host));
                own || self.settings.allowed_origins.iter().any(|allowed| allowed == origin)
            }
        };
        let allowed_page = headers.contains_key("origin") && origin_fits;
        if origin_fits && (same_site || allowed_page) {
            RefreshCookie::Genuine(value.to_owned())
        } else {
            RefreshCookie::CrossSite
        }
    }
}

fn is_request_id(id: &str) -> bool {
    (1..=limits::REQUEST_ID_LEN_MAX).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
