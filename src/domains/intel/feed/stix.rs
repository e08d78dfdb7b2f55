//! STIX 2.1 bundles: indicators whose pattern is one comparison, or several of which each alone is enough (OR). What only
//! several together would show cannot be looked up by value and is left out.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::MapAccess;

use super::json::{self, Items, Members};
use super::{BadFeed, Collector, Confidence, Kind, Timestamp};

const FORMAT: &str = "a STIX bundle";

#[derive(Deserialize)]
struct Object<'t> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'t, str>,
    #[serde(default, borrow)]
    pattern: Option<Cow<'t, str>>,
    #[serde(default, borrow)]
    pattern_type: Option<Cow<'t, str>>,
    #[serde(default)]
    confidence: Option<u8>,
    #[serde(default, borrow)]
    valid_until: Option<Cow<'t, str>>,
    #[serde(default)]
    revoked: bool,
}

const PATTERN_BYTES_MAX: usize = 65_536;

pub(super) fn looks_like(text: &str) -> bool {
    // The word stands near the beginning of every bundle, whatever the order of its members.
    let end = text.char_indices().nth(4_096).map_or(text.len(), |(at, _)| at);
    text.get(..end).is_some_and(|head| head.contains("\"bundle\"") || head.contains("bundle--"))
}

/// A bundle, and what is read of it so far.
struct Bundle<'c, 'r> {
    out: &'c mut Collector<'r>,
    is_bundle: bool,
    /// Why it ended before its end.
    bad: Option<BadFeed>,
}

impl<'t> Members<'t> for Bundle<'_, '_> {
    fn member<A: MapAccess<'t>>(&mut self, name: &str, object: &mut A) -> Result<bool, A::Error> {
        match name {
            "type" => self.is_bundle = object.next_value::<Cow<'t, str>>()? == "bundle",
            "objects" => {
                let objects = Items::new(|object: Object<'t>| {
                    self.bad = take(&object, self.out).err();
                    self.bad.is_none()
                });
                object.next_value_seed(objects)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

pub(super) fn read(text: &str, out: &mut Collector<'_>) -> Result<(), BadFeed> {
    let mut bundle = Bundle { out, is_bundle: false, bad: None };
    let done = json::read(text, FORMAT, json::Object(&mut bundle));
    if let Some(bad) = bundle.bad {
        return Err(bad);
    }
    done?;
    if !bundle.is_bundle {
        return Err(BadFeed::Form { format: FORMAT, why: "its type is not bundle.".to_owned() });
    }
    Ok(())
}

fn take(object: &Object<'_>, out: &mut Collector<'_>) -> Result<(), BadFeed> {
    if object.kind != "indicator" {
        return Ok(());
    }
    let Some(pattern) = object.pattern.as_deref() else {
        out.reject("an indicator without a pattern");
        return Ok(());
    };
    let other_language = object.pattern_type.as_deref().is_some_and(|t| t != "stix");
    if object.revoked || other_language || pattern.len() > PATTERN_BYTES_MAX {
        out.ignore();
        return Ok(());
    }
    let confidence = object.confidence.map(Confidence::new);
    let ends = object.valid_until.as_deref().and_then(|t| t.parse::<Timestamp>().ok());
    match comparisons(pattern) {
        Ok(found) if found.iter().all(|(kind, _)| kind.is_none()) => out.ignore(),
        Ok(found) => {
            for (kind, value) in &found {
                match kind {
                    Some(kind) => out.take(*kind, value, confidence, ends)?,
                    None => out.ignore(),
                }
            }
        }
        Err(Pattern::Broken) => out.reject(pattern),
        Err(Pattern::Together) => out.ignore(),
    }
    Ok(())
}

/// Why a pattern gives no indicators.
#[derive(PartialEq, Eq, Debug)]
enum Pattern {
    /// It is none.
    Broken,
    /// Only several things together would show it.
    Together,
}

#[derive(PartialEq, Eq, Debug)]
enum Token {
    Open,
    Close,
    Equals,
    Text(String),
    Word(String),
}

/// The comparisons of a pattern, each of which alone is enough; without a kind where it is about something else.
fn comparisons(pattern: &str) -> Result<Vec<(Option<Kind>, String)>, Pattern> {
    let tokens = tokens(pattern)?;
    let mut found = Vec::new();
    let mut rest = tokens.as_slice();
    let mut inside = false;
    while let Some((first, tail)) = rest.split_first() {
        rest = match first {
            Token::Open if !inside => {
                inside = true;
                tail
            }
            Token::Close if inside => {
                inside = false;
                tail
            }
            Token::Word(word) if word == "OR" => tail,
            Token::Word(path) if inside => match tail {
                [Token::Equals, Token::Text(value), tail @ ..] => {
                    found.push((kind_of(path), value.clone()));
                    tail
                }
                _ => return Err(Pattern::Together),
            },
            // AND, FOLLOWEDBY, WITHIN and the like.
            Token::Word(_) => return Err(Pattern::Together),
            _ => return Err(Pattern::Broken),
        };
    }
    if inside || found.is_empty() { Err(Pattern::Broken) } else { Ok(found) }
}

fn kind_of(path: &str) -> Option<Kind> {
    let path = path.to_ascii_lowercase().replace(['\'', '"', '-'], "");
    match path.as_str() {
        "domainname:value" => Some(Kind::Domain),
        "ipv4addr:value" | "ipv6addr:value" => Some(Kind::Address),
        "file:hashes.sha256" | "file:hashes.sha1" | "file:hashes.md5" | "file:hashes.sha512" => Some(Kind::FileHash),
        "app:id" => Some(Kind::Package),
        "app:cert.sha1" | "app:cert.sha256" | "app:cert.md5" => Some(Kind::Certificate),
        "x509certificate:hashes.sha1" | "x509certificate:hashes.sha256" | "x509certificate:hashes.md5" => {
            Some(Kind::Certificate)
        }
        _ => None,
    }
}

fn tokens(pattern: &str) -> Result<Vec<Token>, Pattern> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '[' => tokens.push(Token::Open),
            ']' => tokens.push(Token::Close),
            '=' => {
                if chars.peek() == Some(&'=') {
                    chars.next();
                }
                tokens.push(Token::Equals);
            }
            '\'' => tokens.push(Token::Text(quoted(&mut chars)?)),
            '!' | '<' | '>' | '(' | ')' => return Err(Pattern::Together),
            c => {
                let mut word = String::from(c);
                while let Some(next) =
                    chars.peek().copied().filter(|n| !n.is_whitespace() && !matches!(n, '=' | ']' | '!' | '<' | '>'))
                {
                    chars.next();
                    word.push(next);
                    // A quoted step of a path: hashes.'SHA-256'.
                    if next == '\'' {
                        word.push_str(&quoted(&mut chars)?);
                        word.push('\'');
                    }
                }
                tokens.push(Token::Word(word));
            }
        }
    }
    Ok(tokens)
}

fn quoted(chars: &mut impl Iterator<Item = char>) -> Result<String, Pattern> {
    let mut text = String::new();
    loop {
        match chars.next().ok_or(Pattern::Broken)? {
            '\'' => return Ok(text),
            '\\' => text.push(chars.next().ok_or(Pattern::Broken)?),
            c => text.push(c),
        }
    }
}
