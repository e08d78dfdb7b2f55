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
