//! MISP events, alone or as an export of several: attributes that their author recommends for detection (`to_ids`).

use std::borrow::Cow;

use serde::Deserialize;

use super::{BadFeed, Collector, Kind, json};

#[derive(Deserialize)]
#[serde(untagged)]
enum Document<'t> {
    #[serde(borrow)]
    One(Holder<'t>),
    Many(Vec<Holder<'t>>),
    Export {
        #[serde(borrow)]
        response: Vec<Holder<'t>>,
    },
}

#[derive(Deserialize)]
struct Holder<'t> {
    #[serde(rename = "Event", borrow)]
    event: Event<'t>,
}

#[derive(Deserialize)]
struct Event<'t> {
    #[serde(rename = "Attribute", default, borrow)]
    attributes: Vec<Attribute<'t>>,
    #[serde(rename = "Object", default, borrow)]
    objects: Vec<Object<'t>>,
}

#[derive(Deserialize)]
struct Object<'t> {
    #[serde(rename = "Attribute", default, borrow)]
    attributes: Vec<Attribute<'t>>,
}

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

pub(super) fn read(text: &str, out: &mut Collector<'_>) -> Result<(), BadFeed> {
    let holders = match json::<Document<'_>>(text, "a MISP event")? {
        Document::One(one) => vec![one],
        Document::Many(many) | Document::Export { response: many } => many,
    };
    for holder in holders {
        let of_objects = holder.event.objects.into_iter().flat_map(|o| o.attributes);
        for attribute in holder.event.attributes.into_iter().chain(of_objects) {
            take(&attribute, out)?;
        }
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
