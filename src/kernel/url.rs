//! The few URLs that the appliance calls: scheme, host, port, path. Stricter than browsers, because nobody types them often.

/// Bytes of one.
pub const URL_BYTES_MAX: usize = 2_048;

/// Where something is fetched from or sent to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Url {
    secure: bool,
    host: String,
    port: u16,
    /// Path and query.
    target: String,
}

impl Url {
    /// `http://host[:port]/path` or `https://...`, without a name and password, without a fragment.
    ///
    /// # Errors
    /// A sentence on what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| Err(format!("{why}: write https://host/path or http://host:port/path"));
        if text.len() > URL_BYTES_MAX || text.bytes().any(|b| !(0x21..=0x7e).contains(&b)) {
            return bad("it is too long or has characters that belong percent-encoded");
        }
        let (secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return bad("it begins with another scheme"),
        };
        let (authority, target) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') || text.contains('#') {
            return bad("it holds a password or a fragment");
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => match port.parse() {
                Ok(port) => (host, port),
                Err(_) => return bad("its port is none"),
            },
            _ => (authority, if secure { 443 } else { 80 }),
        };
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || port == 0 {
            return bad("it names no host");
        }
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self { secure, host: host.to_owned(), port, target })
    }

    /// Whether it is `https`.
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    /// The host, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Host and port.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port)
    }
}

/// RFC 1123 host name. A last label of digits only would be a mistyped IPv4 address.
pub fn is_host_name(text: &str) -> bool {
    let label_fits = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let last_has_letter = text.rsplit('.').next().is_some_and(|l| l.bytes().any(|b| !b.is_ascii_digit()));
    text.len() <= 253 && last_has_letter && text.split('.').all(label_fits)
}

/// An origin as browsers send it (RFC 6454), `https://host` or `https://host:port` in lower case, without the scheme's own
/// port; `None` for what is none.
pub fn web_origin(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let (scheme, authority) = lower.split_once("://")?;
    let default_port = match scheme {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    // An IPv6 address stands in brackets and has colons of its own.
    let (host, port) = match authority.split_once(']') {
        Some((host, "")) => (format!("{host}]"), None),
        Some((host, rest)) => (format!("{host}]"), Some(rest.strip_prefix(':')?)),
        None => authority.split_once(':').map_or((authority.to_owned(), None), |(h, p)| (h.to_owned(), Some(p))),
    };
    let v6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).map(str::parse::<std::net::Ipv6Addr>);
    let host_fits = match v6 {
        Some(parsed) => parsed.is_ok(),
        None => host.parse::<std::net::Ipv4Addr>().is_ok() || is_host_name(&host),
    };
    let port = match port {
        None => None,
        Some(p) if p.bytes().all(|b| b.is_ascii_digit()) => Some(p.parse::<u16>().ok()?),
        Some(_) => return None,
    };
    if !host_fits || port == Some(0) {
        return None;
    }
    // Browsers leave the scheme's own port out, so an origin that names it would never match.
    Some(match port {
        Some(p) if p != default_port => format!("{scheme}://{host}:{p}"),
        _ => format!("{scheme}://{host}"),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_url_says_where_and_nothing_else() {
        for (text, secure, authority, target) in [
            ("https://feeds.example/a.csv?x=1", true, "feeds.example:443", "/a.csv?x=1"),
            ("http://127.0.0.1:8080", false, "127.0.0.1:8080", "/"),
            ("http://[2001:db8::1]:8080/a", false, "[2001:db8::1]:8080", "/a"),
            ("https://[2001:db8::1]/a", true, "[2001:db8::1]:443", "/a"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.secure, url.authority().as_str(), url.target.as_str()), (secure, authority, target));
        }
        for bad in [
            "",
            "ftp://a/b",
            "file:///etc/passwd",
            "https://",
            "https://user:pw@host/",
            "https://host/#x",
            "https://host:0/",
            "https://host:x/",
            "https://ho st/",
            "https://host/\r\nX: y",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }
}
