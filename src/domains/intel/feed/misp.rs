//! MISP events, alone or as an export of several: attributes that their author recommends for detection (`to_ids`).

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::MapAccess;

use super::json::{self, Items, Members, Object, Objects};
use super::{BadFeed, Collector, Kind};

const FORMAT: &str = "a MISP event";

#[derive(Deserialize)]
struct Attribute<'t> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'t, str>,
    #[serde(borrow)]
    value: Cow<'t, str>,
    #[serde(default = "yes")]
    to_ids: bool,
    #[serde(default)]
    deleted: bool,
}

const fn yes() -> bool {
    true
}

/// What is read so far.
struct Reader<'c, 'r> {
    out: &'c mut Collector<'r>,
    events: u64,
    /// Why it ended before its end.
    bad: Option<BadFeed>,
}

impl Reader<'_, '_> {
    /// Says whether it goes on.
    fn attribute(&mut self, attribute: &Attribute<'_>) -> bool {
        self.bad = take(attribute, self.out).err();
        self.bad.is_none()
    }
}

/// `{"Event": ...}`, or `{"response": [{"Event": ...}]}`.
struct Document<'d, 'c, 'r>(&'d mut Reader<'c, 'r>);
/// What stands under `Event`: attributes, and objects that have some.
struct Event<'d, 'c, 'r>(&'d mut Reader<'c, 'r>);
/// Attributes that belong together.
struct Group<'d, 'c, 'r>(&'d mut Reader<'c, 'r>);

impl<'t> Members<'t> for Document<'_, '_, '_> {
    fn member<A: MapAccess<'t>>(&mut self, name: &str, object: &mut A) -> Result<bool, A::Error> {
        match name {
            "Event" => {
                self.0.events += 1;
                object.next_value_seed(Object(&mut Event(self.0))).map(|()| true)
            }
            "response" => object.next_value_seed(Objects(&mut Holder(self.0))).map(|()| true),
            _ => Ok(false),
        }
    }
}

/// One of several events.
struct Holder<'d, 'c, 'r>(&'d mut Reader<'c, 'r>);

impl<'t> Members<'t> for Holder<'_, '_, '_> {
    fn member<A: MapAccess<'t>>(&mut self, name: &str, object: &mut A) -> Result<bool, A::Error> {
        if name == "Event" { Document(self.0).member(name, object) } else { Ok(false) }
    }
}

impl<'t> Members<'t> for Event<'_, '_, '_> {
    fn member<A: MapAccess<'t>>(&mut self, name: &str, object: &mut A) -> Result<bool, A::Error> {
        match name {
            "Object" => object.next_value_seed(Objects(&mut Group(self.0))).map(|()| true),
            _ => Group(self.0).member(name, object),
        }
    }
}

impl<'t> Members<'t> for Group<'_, '_, '_> {
    fn member<A: MapAccess<'t>>(&mut self, name: &str, object: &mut A) -> Result<bool, A::Error> {
        if name != "Attribute" {
            return Ok(false);
        }
        object.next_value_seed(Items::new(|attribute: Attribute<'t>| self.0.attribute(&attribute))).map(|()| true)
    }
}

pub(super) fn read(text: &str, out: &mut Collector<'_>) -> Result<(), BadFeed> {
    let mut reader = Reader { out, events: 0, bad: None };
    let done = if text.trim_start().starts_with('[') {
        json::read(text, FORMAT, Objects(&mut Holder(&mut reader)))
    } else {
        json::read(text, FORMAT, Object(&mut Document(&mut reader)))
    };
    if let Some(bad) = reader.bad {
        return Err(bad);
    }
    done?;
    if reader.events == 0 {
        return Err(BadFeed::Form { format: FORMAT, why: "there is no event in it.".to_owned() });
    }
    Ok(())
}

fn take(attribute: &Attribute<'_>, out: &mut Collector<'_>) -> Result<(), BadFeed> {
    if attribute.deleted || !attribute.to_ids {
        out.ignore();
        return Ok(());
    }
    let value = &*attribute.value;
    let (before, behind) = value.split_once('|').unwrap_or((value, value));
    let kind = match &*attribute.kind {
        "domain|ip" => {
            out.take(Kind::Address, behind, None, None)?;
            return out.take(Kind::Domain, before, None, None);
        }
        "domain" | "hostname" => Kind::Domain,
        "hostname|port" => return out.take(Kind::Domain, before, None, None),
        "ip-src" | "ip-dst" => Kind::Address,
        "ip-src|port" | "ip-dst|port" => return out.take(Kind::Address, before, None, None),
        "md5" | "sha1" | "sha256" | "sha512" => Kind::FileHash,
        "filename|md5" | "filename|sha1" | "filename|sha256" | "filename|sha512" => {
            return out.take(Kind::FileHash, behind, None, None);
        }
        "x509-fingerprint-md5" | "x509-fingerprint-sha1" | "x509-fingerprint-sha256" => Kind::Certificate,
        "mobile-application-id" => Kind::Package,
        _ => {
            out.ignore();
            return Ok(());
        }
    };
    out.take(kind, value, None, None)
}
