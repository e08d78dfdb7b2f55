//! Feeds as their makers publish them, and as nobody should.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

fn reading() -> Reading {
    let confidence = Confidence::new(80);
    Reading { format: Format::Auto, kind: None, confidence, expires_at: None, indicators_max: 1_000_000 }
}

fn values(parsed: &Parsed) -> Vec<(Kind, String)> {
    let text = |p: Packed<'_>| match p.kind {
        Kind::Package | Kind::Domain => String::from_utf8_lossy(p.value).into_owned(),
        Kind::Address => {
            let (bits, prefix) = p.value.split_first_chunk::<16>().unwrap();
            Value::Address(u128::from_be_bytes(*bits), *prefix.first().unwrap()).text()
        }
        Kind::FileHash | Kind::Certificate => Value::FileHash(p.value.to_vec()).text(),
    };
    parsed.pile.iter().map(|p| (p.kind, text(p))).collect()
}

fn read(text: &str) -> Parsed {
    parse(text.as_bytes(), &reading()).unwrap()
}

const HASH: &str = "d41d8cd98f00b204e9800998ecf8427e";

#[test]
fn each_maker_is_understood_without_being_named() {
    for (maker, text, expected) in [
        (
            "plain text",
            "# a remark\nevil.example # why\n\n203.0.113.0/24 ; x\nd41d8cd98f00b204e9800998ecf8427e\npackage:com.example.spy\n",
            "domain evil.example, address 203.0.113.0/24, file_hash d41d8cd98f00b204e9800998ecf8427e, package com.example.spy",
        ),
        (
            "a hosts file",
            "127.0.0.1 localhost\n127.0.0.1 local\n::1 ip6-localhost ip6-loopback\n127.0.0.1 localhost.localdomain\n0.0.0.0 evil.example worse.example\n",
            "domain evil.example, domain worse.example",
        ),
        (
            "a table of indicators",
            "type,indicator,app\ndomain,Evil.Example,Spy\nipv4,203.0.113.9,Spy\nurl,http://x,Spy\n",
            "domain evil.example, address 203.0.113.9",
        ),
        (
            "a table of apps",
            "sha256,package,certificate,version,app\n,com.example.spy,7F5C0D54A813BA9B87A91420CA2C3DE5E7948F09,9,Spy\n",
            "package com.example.spy, certificate 7f5c0d54a813ba9b87a91420ca2c3de5e7948f09",
        ),
        (
            "Feodo",
            "# Feodo Tracker\n\"first_seen_utc\",\"dst_ip\",\"dst_port\",\"c2_status\"\n\"2026-01-01 00:00:00\",\"203.0.113.9\",\"443\",\"online\"\n# END\n",
            "address 203.0.113.9",
        ),
        (
            "SSLBL",
            "# SSLBL\n# Listingdate,SHA1,Listingreason\n2026-01-01 00:00:00,7f5c0d54a813ba9b87a91420ca2c3de5e7948f09,Spy C&C\n",
            "certificate 7f5c0d54a813ba9b87a91420ca2c3de5e7948f09",
        ),
        (
            "ThreatFox",
            "# \"first_seen_utc\",\"ioc_id\",\"ioc_value\",\"ioc_type\",\"confidence_level\"\n\"2026\", \"1\", \"203.0.113.9:443\", \"ip:port\", \"75\"\n\"2026\", \"2\", \"a \"\"quoted\"\", part\", \"url\", \"75\"\n",
            "address 203.0.113.9",
        ),
        (
            "MISP",
            r#"{"Event":{"info":"x","Attribute":[{"type":"domain|ip","value":"evil.example|203.0.113.9","to_ids":true},{"type":"domain","value":"good.example","to_ids":false},{"type":"url","value":"http://x"}],"Object":[{"name":"file","Attribute":[{"type":"filename|md5","value":"a.apk|d41d8cd98f00b204e9800998ecf8427e"},{"type":"mobile-application-id","value":"com.example.spy"}]}]}}"#,
            "address 203.0.113.9, domain evil.example, file_hash d41d8cd98f00b204e9800998ecf8427e, package com.example.spy",
        ),
        (
            "a MISP export",
            r#"{"response":[{"Event":{"Attribute":[{"type":"hostname","value":"a.evil.example"}]}}]}"#,
            "domain a.evil.example",
        ),
        (
            "a list of MISP events",
            r#" [{"Event":{"info":[1,{"a":2}],"Attribute":[{"type":"hostname","value":"a.evil.example"}]}},{"Event":{"Attribute":[{"type":"md5","value":"d41d8cd98f00b204e9800998ecf8427e","Galaxy":[]}]}}]"#,
            "domain a.evil.example, file_hash d41d8cd98f00b204e9800998ecf8427e",
        ),
        (
            "STIX",
            r#"{"type":"bundle","id":"bundle--1","objects":[{"type":"malware","name":"x"},{"type":"indicator","pattern_type":"stix","pattern":"[domain-name:value = 'evil.example' OR domain-name:value='worse.example']"},{"type":"indicator","pattern":"[file:hashes.'MD5' = 'd41d8cd98f00b204e9800998ecf8427e'] OR [app:id='com.example.spy']"},{"type":"indicator","pattern":"[domain-name:value = 'both.example' AND ipv4-addr:value = '203.0.113.9']"},{"type":"indicator","revoked":true,"pattern":"[domain-name:value = 'gone.example']"}]}"#,
            "domain evil.example, domain worse.example, file_hash d41d8cd98f00b204e9800998ecf8427e, package com.example.spy",
        ),
    ] {
        let found: Vec<String> =
            values(&read(text)).iter().map(|(kind, value)| format!("{} {value}", kind.name())).collect();
        assert_eq!(found.join(", "), expected, "{maker}");
    }
}

#[test]
fn a_source_that_says_how_sure_it_is_and_until_when_is_believed() {
    let table = "indicator,type,confidence,valid_until\na.example,domain,95,2030-01-01T00:00:00Z\nb.example,domain,,\n";
    let bundle = r#"{"type":"bundle","objects":[{"type":"indicator","confidence":95,"valid_until":"2030-01-01T00:00:00Z","pattern":"[domain-name:value='a.example']"},{"type":"indicator","pattern":"[domain-name:value='b.example']"}]}"#;
    for text in [table, bundle] {
        let parsed = read(text);
        let told: Vec<_> = parsed.pile.iter().map(|p| (p.confidence.percent(), p.expires_s)).collect();
        assert_eq!(told, [(95, 1_893_456_000), (80, 0)]);
    }
}

#[test]
fn what_is_broken_hostile_or_packed_is_refused_as_a_whole() {
    let zip = b"PK\x03\x04 and then forty terabytes of zeros".to_vec();
    for (about, bytes, expected) in [
        ("a zip bomb", zip, "compressed"),
        ("gzip", b"\x1f\x8b\x08".to_vec(), "compressed"),
        ("not UTF-8", b"\xff\xfe\x00".to_vec(), "UTF-8"),
        ("all of IPv4", b"evil.example\n0.0.0.0/0\n".to_vec(), "large part of the Internet"),
        ("all of IPv6", b"::/0".to_vec(), "large part of the Internet"),
        ("a top level", b"evil.example\ncom\n".to_vec(), "large part of the Internet"),
        (
            "a top level in a bundle",
            br#"{"type":"bundle","objects":[{"type":"indicator","pattern":"[domain-name:value='com']"}]}"#.to_vec(),
            "large part",
        ),
        ("half a bundle", br#"{"type":"bundle","objects":[{"type":"indicator","pat"#.to_vec(), "line 1"),
        ("a bundle of another type", br#"{"type":"bundle--","id":1}"#.to_vec(), "type is not bundle"),
        (
            "a broken pattern",
            br#"{"type":"bundle","objects":[{"type":"indicator","pattern":"[domain-name:value='x"}]}"#.to_vec(),
            "no indicators",
        ),
        ("an error page", b"<html>\n<body>not found</body>\n</html>\n".to_vec(), "no indicators"),
        ("JSON of another kind", br#"{"hello":1}"#.to_vec(), "MISP event"),
        ("deep nesting", vec![b'['; 100_000], "MISP event"),
        ("no event", b"[]".to_vec(), "no event"),
        ("a list of numbers", b"[1,1,1]".to_vec(), "column 2"),
        ("numbers in the place of events", br#"{"response":[1,1,1]}"#.to_vec(), "column 14"),
        ("numbers in the place of objects", br#"{"type":"bundle","objects":[1,1,1]}"#.to_vec(), "column 29"),
        (
            "a top level in an event",
            br#"{"Event":{"Attribute":[{"type":"domain","value":"com"}]}}"#.to_vec(),
            "large part",
        ),
    ] {
        let refused = parse(&bytes, &reading()).unwrap_err().to_string();
        assert!(refused.contains(expected), "{about}: {refused}");
    }
    let few = Reading { indicators_max: 2, ..reading() };
    assert_eq!(parse(b"a.example\nb.example\nc.example\n", &few), Err(BadFeed::TooMany { max: 2 }));
    assert_eq!(read("").pile.counts().total(), 0, "nothing is nothing, not an error");
    let long = format!("evil.example\n{}\n", "a".repeat(1 << 20));
    assert_eq!(read(&long).rejected, 1);
}

/// Ten million lines, most of them the same: no line costs more than itself, and the limit holds.
#[test]
fn a_feed_of_ten_million_lines_ends_at_the_limit() {
    let lines = "a.example\n".repeat(10_000_000);
    let bounded = Reading { indicators_max: 100_000, ..reading() };
    assert_eq!(parse(lines.as_bytes(), &bounded), Err(BadFeed::TooMany { max: 100_000 }));
    let remarks = "#\n".repeat(10_000_000);
    assert_eq!(parse(remarks.as_bytes(), &bounded).unwrap().pile.counts().total(), 0);
}

/// That a list of numbers is no list of events was found out when all of it stood in memory as a tree: 64 MiB of `[1,1,1`
/// took a gigabyte. What is read as it comes ends where it is wrong, whatever follows.
#[test]
fn a_document_of_json_is_read_as_it_comes() {
    let cut_off = |start: &str| parse(start.as_bytes(), &Reading { indicators_max: 1, ..reading() });
    let event = r#"{"Event":{"Object":[{},{"Attribute":[{"type":"md5","value":"d41d8cd98f00b204e9800998ecf8427e"},{"type":"domain","value":"a.example"},"#;
    let bundle = r#"{"type":"bundle","objects":[{"type":"x"},{"type":"indicator","pattern":"[domain-name:value='a.example' OR domain-name:value='b.example']"},"#;
    for start in [event.to_owned(), format!(r#"[{event}"#), format!(r#"{{"response":[{event}"#), bundle.to_owned()] {
        assert_eq!(cut_off(&start), Err(BadFeed::TooMany { max: 1 }), "{start}");
    }
    let numbers = format!("[{}", "1,".repeat(1 << 20));
    let refused = parse(numbers.as_bytes(), &reading()).unwrap_err().to_string();
    assert!(refused.contains("line 1, column 2"), "{refused}");
}

#[test]
fn pieces_are_cut_between_indicators() {
    let text: String = (0..1_000).map(|i| format!("host-{i}.example\n")).collect();
    let parsed = read(&text);
    let pieces = parsed.pile.pieces(512);
    assert!(pieces.len() > 20);
    let again: Vec<Packed<'_>> = pieces.into_iter().flat_map(unpack).collect();
    assert_eq!(again, parsed.pile.iter().collect::<Vec<_>>());
    assert_eq!(unpack(b"\xff\x00\x00\x00\x00\x00\x00").count(), 0, "a code that no kind has");
    assert_eq!(unpack(&[0, 0, 0, 0, 0, 0, 9, 1]).count(), 0, "cut off");
    assert_eq!(values(&read(HASH)).len(), 1);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_a_feed_or_none(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        for format in [Format::Auto, Format::Misp, Format::Stix, Format::Csv, Format::Text] {
            let _ = parse(&bytes, &Reading { format, ..reading() });
            let _ = unpack(&bytes).count();
        }
    }

    #[test]
    fn any_text_is_a_feed_or_none(text in "([\\[\\]{}\"'=:,.#| a-z0-9-]|OR|AND|\n|type|bundle|domain|sha256|pattern){0,120}") {
        for format in [Format::Auto, Format::Misp, Format::Stix, Format::Csv, Format::Text] {
            let _ = parse(text.as_bytes(), &Reading { format, ..reading() });
        }
    }
}
