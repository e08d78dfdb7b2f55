//! Which addresses a connection that somebody else wished for may lead to. Pure.
//!
//! Machines of the operator's own network are as good as others: an appliance on premises mostly calls those. Not so what
//! answers on every machine or network: the machine itself, its link, the metadata of a cloud's machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services that lie among private or shared addresses, by their providers' manuals: Amazon (IPv6), Alibaba,
/// Oracle, Google (IPv6).
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254)),
];

/// The IPv4 address that an IPv6 address only wraps: mapped and compatible (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056),
/// ISATAP (RFC 5214).
fn wrapped(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = v6.to_bits();
    let [a, b, c, d, e, f, ..] = v6.segments();
    let low = || Ipv4Addr::from_bits(u32::try_from(bits & u128::from(u32::MAX)).unwrap_or(0));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0 | 0xffff] if bits > 1 => Some(low()),
        [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] | [_, _, _, _, 0 | 0x200, 0x5efe] => Some(low()),
        [0x2002, ..] => Some(Ipv4Addr::from_bits(u32::from(b) << 16 | u32::from(c))),
        _ => None,
    }
}

/// Whether an address stands for one and the same thing wherever it is called: this link, everybody, nobody, the metadata
/// of a cloud's machine. Nothing is ever fetched from such.
pub fn answers_everywhere(ip: IpAddr) -> bool {
    if METADATA.contains(&ip) {
        return true;
    }
    match ip {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            v4.is_link_local() || first == 0 || v4.is_multicast() || first >= 240
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            // NAT64 with a prefix of the network's own (RFC 8215), and Teredo (RFC 4380), hide where they lead to.
            let hidden = (a, b, c) == (0x64, 0xff9b, 1) || (a, b) == (0x2001, 0);
            let here = v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast();
            hidden || here || wrapped(v6).is_some_and(|v4| answers_everywhere(IpAddr::V4(v4)))
        }
    }
}

/// Whether an address is the machine that asks.
pub fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_loopback() || wrapped(v6).is_some_and(|v4| v4.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_refused_address_is_refused_in_every_disguise() {
        for (ip, refused) in [
            ("203.0.113.9", false),
            ("10.0.0.1", false),
            ("192.168.1.1", false),
            ("100.64.0.1", false),
            ("fd12:3456::1", false),
            ("2001:db8::1", false),
            ("::ffff:10.0.0.1", false),
            ("2002:0a00:0001::1", false),
            ("127.0.0.1", true),
            ("127.255.0.9", true),
            ("::1", true),
            ("::127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("64:ff9b::7f00:1", true),
            ("2002:7f00:0001::", true),
            ("fe80::5efe:127.0.0.1", true),
            ("2001:db8::200:5efe:7f00:1", true),
            ("169.254.169.254", true),
            ("::ffff:169.254.169.254", true),
            ("64:ff9b::a9fe:a9fe", true),
            ("64:ff9b:1::a9fe:a9fe", true),
            ("2002:a9fe:a9fe::1", true),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", true),
            ("fd00:ec2::254", true),
            ("100.100.100.200", true),
            ("192.0.0.192", true),
            ("fe80::1", true),
            ("0.0.0.0", true),
            ("0.1.2.3", true),
            ("::", true),
            ("224.0.0.1", true),
            ("ff02::1", true),
            ("255.255.255.255", true),
            ("240.0.0.1", true),
        ] {
            let parsed = ip.parse().unwrap();
            assert_eq!(answers_everywhere(parsed) || is_loopback(parsed), refused, "{ip}");
        }
        assert!(!answers_everywhere("127.0.0.1".parse().unwrap()), "an operator's own feed may lie there");
    }
}
