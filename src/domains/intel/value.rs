//! One spelling for each value, whoever wrote it: a feed, a device, or a person who looks something up.
//!
//! Pure and bounded; takes text of any length and content. What would speak against half the world is refused.

use std::net::IpAddr;

use super::model::Kind;
use super::punycode;

/// Bytes of a normal form: a name of 253 characters, or a package.
pub(super) const VALUE_BYTES_MAX: usize = 255;
const DOMAIN_BYTES_MAX: usize = 253;
/// What is longer is not even looked at.
const TEXT_BYTES_MAX: usize = 1_024;
/// A network of more addresses than this prefix leaves is no indicator.
const V4_PREFIX_BITS_MIN: u8 = 8;
const V6_PREFIX_BITS_MIN: u8 = 24;
/// Where IPv4 lies within IPv6 (RFC 4291, section 2.5.5.2).
const V4_IN_V6_BITS: u8 = 96;

/// How the bytes of an IPv4 address begin.
pub(super) const V4_IN_V6: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Why a text is no value of its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadValue {
    /// It is something else.
    #[error("is not of this kind")]
    Form,
    /// A top-level domain, a registry's suffix, or a network of a large part of the Internet.
    #[error("would speak against a large part of the Internet")]
    TooBroad,
    /// Loopback, private or reserved: it means another machine on every network.
    #[error("lies in a range that is not public")]
    NotPublic,
}

/// A value in its one spelling.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A hash of a file.
    FileHash(Vec<u8>),
    /// A package, as written: names of packages tell upper from lower case.
    Package(String),
    /// A hash of a certificate.
    Certificate(Vec<u8>),
    /// In ASCII and lower case, without a closing dot.
    Domain(String),
    /// As IPv6, with the number of leading bits that count.
    Address(u128, u8),
}

impl Value {
    /// Reads an indicator of a feed.
    ///
    /// # Errors
    /// [`BadValue`].
    pub fn indicator(kind: Kind, text: &str) -> Result<Self, BadValue> {
        match kind {
            Kind::FileHash => hash(text, &[16, 20, 32, 64]).map(Self::FileHash),
            Kind::Certificate => hash(text, &[16, 20, 32]).map(Self::Certificate),
            Kind::Package => package(text).map(Self::Package),
            Kind::Domain => {
                let name = domain(text)?;
                if is_public_suffix(&name) { Err(BadValue::TooBroad) } else { Ok(Self::Domain(name)) }
            }
            Kind::Address => network(text),
        }
    }

    /// Reads a value that somebody asks about: a domain may be any, an address is one.
    ///
    /// # Errors
    /// [`BadValue::Form`].
    pub fn asked(kind: Kind, text: &str) -> Result<Self, BadValue> {
        match kind {
            Kind::Domain => domain(text).map(Self::Domain),
            Kind::Address => address(text).map(|ip| Self::Address(bits_of(ip), 128)),
            _ => Self::indicator(kind, text),
        }
    }

    /// Reads a name that a device looked up, or an address in its place. Of a name with a label that no host may have, what
    /// lies below is taken from the right as far as it is well formed: `a+b.evil.example` still leads to `evil.example`.
    ///
    /// # Errors
    /// [`BadValue::Form`] where not even two labels are left.
    pub fn looked_up(text: &str) -> Result<Self, BadValue> {
        let of_domain = Self::asked(Kind::Domain, text);
        of_domain.or_else(|_| Self::asked(Kind::Address, text)).or_else(|_| suffix(text).map(Self::Domain))
    }

    /// Of what.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::FileHash(_) => Kind::FileHash,
            Self::Package(_) => Kind::Package,
            Self::Certificate(_) => Kind::Certificate,
            Self::Domain(_) => Kind::Domain,
            Self::Address(..) => Kind::Address,
        }
    }

    /// Its bytes, for storing.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::FileHash(bytes) | Self::Certificate(bytes) => bytes.clone(),
            Self::Package(text) | Self::Domain(text) => text.as_bytes().to_vec(),
            Self::Address(bits, prefix) => [&bits.to_be_bytes()[..], &[*prefix]].concat(),
        }
    }

    /// As people write it.
    pub fn text(&self) -> String {
        match self {
            Self::FileHash(bytes) | Self::Certificate(bytes) => hexadecimal(bytes),
            Self::Package(text) | Self::Domain(text) => text.clone(),
            Self::Address(bits, prefix) => text_of_network(*bits, *prefix),
        }
    }
}

/// The address or network as people write it.
pub(super) fn text_of_network(bits: u128, prefix: u8) -> String {
    let v6 = std::net::Ipv6Addr::from_bits(bits);
    match v6.to_ipv4_mapped() {
        Some(v4) if prefix == 128 => v4.to_string(),
        Some(v4) if prefix >= V4_IN_V6_BITS => format!("{v4}/{}", prefix - V4_IN_V6_BITS),
        _ if prefix == 128 => v6.to_string(),
        _ => format!("{v6}/{prefix}"),
    }
}

/// IPv4 as it lies in IPv6, so that each address has one spelling.
pub(super) fn bits_of(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn trimmed(text: &str) -> Result<&str, BadValue> {
    let text = text.trim();
    if text.is_empty() || text.len() > TEXT_BYTES_MAX { Err(BadValue::Form) } else { Ok(text) }
}

/// Hexadecimal in either case, with or without colons.
fn hash(text: &str, lengths: &[usize]) -> Result<Vec<u8>, BadValue> {
    let mut bytes = Vec::with_capacity(64);
    let mut high = None;
    for c in trimmed(text)?.bytes().filter(|b| *b != b':') {
        let digit = char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or(BadValue::Form)?;
        match high.take() {
            None => high = Some(digit << 4),
            Some(high) => bytes.push(high | digit),
        }
    }
    if high.is_none() && lengths.contains(&bytes.len()) { Ok(bytes) } else { Err(BadValue::Form) }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|b| [b >> 4, b & 15]);
    digits.filter_map(|d| char::from_digit(d.into(), 16)).collect()
}

/// The name of an Android package or the bundle id of an iOS app: two parts at least.
fn package(text: &str) -> Result<String, BadValue> {
    let text = trimmed(text)?;
    let part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    let fits = text.len() <= VALUE_BYTES_MAX && text.contains('.') && text.split('.').all(part);
    if fits { Ok(text.to_owned()) } else { Err(BadValue::Form) }
}

/// A domain in ASCII and lower case. Takes what feeds and people write: upper case, a closing dot, `*.` or a dot in front,
/// `[.]` for a dot, full-width letters, the dots of East Asian scripts, and any script's letters (RFC 3492). Letters with
/// a separate accent behind them have no spelling of their own here and are refused.
fn domain(text: &str) -> Result<String, BadValue> {
    let plain = plain(text)?;
    let name = plain.strip_suffix('.').unwrap_or(&plain);
    let name = name.strip_prefix("*.").or_else(|| name.strip_prefix('.')).unwrap_or(name);
    let name = if name.is_ascii() {
        name.to_owned()
    } else {
        let encoded = |label: &str| if label.is_ascii() { Some(label.to_owned()) } else { punycode::label(label) };
        name.split('.').map(encoded).collect::<Option<Vec<_>>>().ok_or(BadValue::Form)?.join(".")
    };
    if is_numeric(&name) || name.len() > DOMAIN_BYTES_MAX || !name.split('.').all(fits) {
        Err(BadValue::Form)
    } else {
        Ok(name)
    }
}

/// The longest end of a name that is a domain, of two labels at least.
fn suffix(text: &str) -> Result<String, BadValue> {
    let plain = plain(text)?;
    let name = plain.strip_suffix('.').unwrap_or(&plain);
    let (mut labels, mut bytes) = (Vec::new(), 0);
    for label in name.rsplit('.') {
        let label = if label.is_ascii() { Some(label.to_owned()) } else { punycode::label(label) };
        let Some(label) = label.filter(|l| fits(l) && bytes + l.len() <= DOMAIN_BYTES_MAX) else { break };
        bytes += label.len() + 1;
        labels.push(label);
    }
    labels.reverse();
    let name = labels.join(".");
    if labels.len() < 2 || is_numeric(&name) { Err(BadValue::Form) } else { Ok(name) }
}

/// In lower case, with plain letters and dots.
fn plain(text: &str) -> Result<String, BadValue> {
    let text = trimmed(text)?;
    let plain = if text.is_ascii() { text.to_ascii_lowercase() } else { folded(text) };
    Ok(if plain.contains('[') { plain.replace("[.]", ".") } else { plain })
}

fn fits(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
}

/// A last label of digits only is an address, or part of one.
fn is_numeric(name: &str) -> bool {
    name.rsplit('.').next().is_none_or(|last| last.bytes().all(|b| b.is_ascii_digit()))
}

/// In lower case, with plain letters and dots in the place of those that only look different. What has no spelling here
/// becomes a character that no label may have.
fn folded(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{3002}' | '\u{ff0e}' | '\u{ff61}' => plain.push('.'),
            // Full-width forms lie in the order of ASCII.
            '\u{ff01}'..='\u{ff5e}' => {
                let ascii = u32::from(c) - 0xff01 + 0x21;
                plain.extend(char::from_u32(ascii).into_iter().flat_map(char::to_lowercase));
            }
            '\u{0300}'..='\u{036f}' => plain.push('\0'),
            // Zero-width characters hide in names and are no part of them.
            '\u{00ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' => {}
            c => plain.extend(c.to_lowercase()),
        }
    }
    plain
}

/// Whether a name belongs to a registry and not to a registrant: a top level, or one like `co.uk` below a country's.
fn is_public_suffix(name: &str) -> bool {
    const SECOND_LEVELS: &[&str] = &[
        "ac", "co", "com", "edu", "gob", "gouv", "gov", "gv", "id", "in", "info", "ltd", "me", "mil", "ne", "net",
        "nom", "or", "org", "plc", "sch",
    ];
    match name.split_once('.') {
        None => true,
        Some((second, top)) => !top.contains('.') && top.len() == 2 && SECOND_LEVELS.contains(&second),
    }
}

fn address(text: &str) -> Result<IpAddr, BadValue> {
    let text = trimmed(text)?.replace("[.]", ".");
    let text = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(&text);
    text.parse().map_err(|_| BadValue::Form)
}

/// An address or a network. Bits behind the prefix are cut off, as routers do.
fn network(text: &str) -> Result<Value, BadValue> {
    let text = trimmed(text)?;
    let (lone, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
    let ip = address(lone)?;
    let mut bits = bits_of(ip);
    let prefix = match prefix {
        None => 128,
        Some(digits) if !digits.is_empty() && digits.len() <= 3 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            let short: u8 = digits.parse().map_err(|_| BadValue::Form)?;
            match ip {
                IpAddr::V4(_) if short <= 32 => short + V4_IN_V6_BITS,
                IpAddr::V6(_) if short <= 128 => short,
                _ => return Err(BadValue::Form),
            }
        }
        Some(_) => return Err(BadValue::Form),
    };
    bits &= mask(prefix);
    // IPv4 lies in a corner of IPv6: a prefix that ends above it has all of it.
    let touches_v4 = bits & mask(V4_IN_V6_BITS) == v4([0; 4], 0).0 & mask(prefix);
    let bits_min = if touches_v4 { V4_IN_V6_BITS + V4_PREFIX_BITS_MIN } else { V6_PREFIX_BITS_MIN };
    if prefix < bits_min {
        return Err(BadValue::TooBroad);
    }
    if is_public(bits, prefix) { Ok(Value::Address(bits, prefix)) } else { Err(BadValue::NotPublic) }
}

/// The bits of an address that a prefix of this length fixes.
pub(super) const fn mask(prefix: u8) -> u128 {
    match u128::MAX.checked_shl(128 - prefix as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

/// Where an address means another machine on every network, or none (RFC 6890).
const RESERVED: &[(u128, u8)] = &[
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v4([224, 0, 0, 0], 3),
    (0, 127),
    (0xfc << 120, 7),
    (0xfe80 << 112, 10),
    (0xff << 120, 8),
];

const fn v4(octets: [u8; 4], prefix: u8) -> (u128, u8) {
    (0xffff_0000_0000 | u32::from_be_bytes(octets) as u128, V4_IN_V6_BITS + prefix)
}

/// Whether a network has no address in common with a reserved one.
fn is_public(bits: u128, prefix: u8) -> bool {
    RESERVED.iter().all(|(reserved, length)| {
        let common = mask(prefix.min(*length));
        bits & common != reserved & common
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn each_value_has_one_spelling_whoever_wrote_it() {
        for (kind, written, spelling) in [
            (Kind::Domain, "EVIL.Example", "evil.example"),
            (Kind::Domain, " evil.example. ", "evil.example"),
            (Kind::Domain, "*.evil.example", "evil.example"),
            (Kind::Domain, "evil[.]example", "evil.example"),
            (Kind::Domain, "ｅｖｉｌ．example", "evil.example"),
            (Kind::Domain, "evil。example", "evil.example"),
            (Kind::Domain, "e\u{200b}vil.example", "evil.example"),
            (Kind::Domain, "BÜCHER.example", "xn--bcher-kva.example"),
            (Kind::Domain, "xn--bcher-kva.example", "xn--bcher-kva.example"),
            (Kind::Domain, "пример.рф", "xn--e1afmkfd.xn--p1ai"),
            (Kind::Address, "::ffff:203.0.113.9", "203.0.113.9"),
            (Kind::Address, "::ffff:203.0.113.0/120", "203.0.113.0/24"),
            (Kind::Address, "203.0.113.77/24", "203.0.113.0/24"),
            (Kind::Address, "2001:DB8:0:0::1", "2001:db8::1"),
            (Kind::Address, "[2001:db8::1]", "2001:db8::1"),
            (
                Kind::Certificate,
                "7F:5C:0D:54:A8:13:BA:9B:87:A9:14:20:CA:2C:3D:E5:E7:94:8F:09",
                "7f5c0d54a813ba9b87a91420ca2c3de5e7948f09",
            ),
            (Kind::FileHash, "D41D8CD98F00B204E9800998ECF8427E", "d41d8cd98f00b204e9800998ecf8427e"),
            (Kind::Package, "com.Example.App", "com.Example.App"),
        ] {
            assert_eq!(Value::indicator(kind, written).map(|v| v.text()), Ok(spelling.to_owned()), "{written}");
        }
    }

    /// A feed of one such line would lock every phone of the company.
    #[test]
    fn what_speaks_against_half_the_world_is_no_indicator() {
        for (kind, text, why) in [
            (Kind::Domain, "com", BadValue::TooBroad),
            (Kind::Domain, "COM.", BadValue::TooBroad),
            (Kind::Domain, "*.com", BadValue::TooBroad),
            (Kind::Domain, "co.uk", BadValue::TooBroad),
            (Kind::Domain, "com.br", BadValue::TooBroad),
            (Kind::Domain, "203.0.113.1", BadValue::Form),
            (Kind::Domain, "a..b", BadValue::Form),
            (Kind::Domain, "a b.example", BadValue::Form),
            (Kind::Domain, "e\u{301}.example", BadValue::Form),
            (Kind::Domain, "", BadValue::Form),
            (Kind::Address, "0.0.0.0/0", BadValue::TooBroad),
            (Kind::Address, "128.0.0.0/1", BadValue::TooBroad),
            (Kind::Address, "::/0", BadValue::TooBroad),
            (Kind::Address, "::ffff:0.0.0.0/96", BadValue::TooBroad),
            (Kind::Address, "::ffff:0:0/90", BadValue::TooBroad),
            (Kind::Address, "2000::/3", BadValue::TooBroad),
            (Kind::Address, "127.0.0.1", BadValue::NotPublic),
            (Kind::Address, "10.0.0.0/8", BadValue::NotPublic),
            (Kind::Address, "192.168.1.1", BadValue::NotPublic),
            (Kind::Address, "::ffff:192.168.1.1", BadValue::NotPublic),
            (Kind::Address, "fe80::1", BadValue::NotPublic),
            (Kind::Address, "203.0.113.0/33", BadValue::Form),
            (Kind::Address, "203.0.113.0/", BadValue::Form),
            (Kind::Address, "203.0.113.0/+8", BadValue::Form),
            (Kind::Address, "203.0.113", BadValue::Form),
            (Kind::Package, "com", BadValue::Form),
            (Kind::Package, "com..app", BadValue::Form),
            (Kind::FileHash, "d41d8cd9", BadValue::Form),
            (Kind::FileHash, "z41d8cd98f00b204e9800998ecf8427e", BadValue::Form),
        ] {
            assert_eq!(Value::indicator(kind, text), Err(why), "{text:?}");
        }
        let long = "a.".repeat(100_000);
        assert!(Kind::ALL.iter().all(|kind| Value::indicator(*kind, &long).is_err()));
        assert_eq!(Value::asked(Kind::Domain, "com").unwrap().text(), "com", "anything may be asked about");
    }

    /// A resolver asks for whatever it is told to; `a+b.evil.example` was no domain, so the device that looked it up had
    /// looked up nothing, and a wildcard record answers it all the same.
    #[test]
    fn a_strange_label_does_not_hide_the_domain_that_it_stands_below() {
        for (looked_up, expected) in [
            ("a+b.evil.example", "evil.example"),
            ("A B.www.EVIL.example.", "www.evil.example"),
            ("a..evil.example", "evil.example"),
            ("e\u{301}.evil.example", "evil.example"),
            ("\u{0}.evil.example", "evil.example"),
            ("b\u{fc}cher.a/b.b\u{fc}cher.example", "xn--bcher-kva.example"),
            ("evil.example", "evil.example"),
            ("203.0.113.9", "203.0.113.9"),
        ] {
            assert_eq!(Value::looked_up(looked_up).unwrap().text(), expected, "{looked_up:?}");
        }
        let long = format!("{}.{}evil.example", "a".repeat(64), "b.".repeat(100));
        assert_eq!(Value::looked_up(&long).unwrap().text(), format!("{}evil.example", "b.".repeat(100)));
        let longer = format!("{}evil.example", "b.".repeat(200));
        let taken = Value::looked_up(&longer).unwrap().text();
        assert!(taken.len() <= 253 && taken.ends_with(".b.evil.example"), "{taken}");
        for none in ["a+b.example", "", ".", "a+b.203.0.113.9", "\u{301}", &"+.".repeat(300)] {
            assert!(Value::looked_up(none).is_err(), "{none:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken_or_refused_and_its_spelling_stays_itself(text in "\\PC{0,80}") {
            if let Ok(value) = Value::looked_up(&text) {
                proptest::prop_assert!(value.to_bytes().len() <= VALUE_BYTES_MAX);
                proptest::prop_assert_eq!(Value::looked_up(&value.text()), Ok(value));
            }
            for kind in Kind::ALL {
                if let Ok(value) = Value::indicator(kind, &text) {
                    proptest::prop_assert!(value.to_bytes().len() <= VALUE_BYTES_MAX);
                    proptest::prop_assert_eq!(Value::indicator(kind, &value.text()), Ok(value));
                }
            }
        }
    }
}
