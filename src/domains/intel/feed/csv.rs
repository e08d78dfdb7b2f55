//! Tables (RFC 4180, with comment lines): what a column holds is said by its name. Known are the names that abuse.ch and
//! the lists of stalkerware use.

use super::{BadFeed, Collector, Confidence, Kind, Timestamp};

const LINE_BYTES_MAX: usize = 16_384;
const COLUMNS_MAX: usize = 64;
/// Lines before the names of the columns must have come.
const HEAD_LINES_MAX: usize = 64;

/// What a column is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Column {
    /// An indicator of one kind.
    Of(Kind),
    /// An indicator of the kind that another column names.
    Value,
    /// The kind of the indicator beside it.
    Type,
    Confidence,
    Expiry,
    Other,
}

fn column(name: &str, sslbl: bool) -> Column {
    match name.to_ascii_lowercase().as_str() {
        "sha1" if sslbl => Column::Of(Kind::Certificate),
        "sha256" | "sha256_hash" | "md5" | "md5_hash" | "sha1" | "sha1_hash" | "sha512" | "file_hash" => {
            Column::Of(Kind::FileHash)
        }
        "package" | "package_name" | "bundle_id" | "app_id" => Column::Of(Kind::Package),
        "certificate" | "certificate_sha1" | "cert_sha1" | "cert_sha256" => Column::Of(Kind::Certificate),
        "domain" | "hostname" | "host" | "fqdn" => Column::Of(Kind::Domain),
        "ip" | "dst_ip" | "dstip" | "src_ip" | "ip_address" | "address" | "network" | "cidr" => {
            Column::Of(Kind::Address)
        }
        "indicator" | "ioc" | "ioc_value" | "value" => Column::Value,
        "type" | "ioc_type" | "indicator_type" | "kind" => Column::Type,
        "confidence" | "confidence_level" => Column::Confidence,
        "expires_at" | "valid_until" | "expiration" => Column::Expiry,
        _ => Column::Other,
    }
}

/// The columns, where these are names of columns that say what to do.
fn columns(cells: &[String]) -> Option<Vec<Column>> {
    let sslbl = cells.iter().any(|c| c.eq_ignore_ascii_case("listingreason"));
    let columns: Vec<Column> = cells.iter().map(|name| column(name, sslbl)).collect();
    let pair = columns.contains(&Column::Value) && columns.contains(&Column::Type);
    (pair || columns.iter().any(|c| matches!(c, Column::Of(_)))).then_some(columns)
}

pub(super) fn looks_like(text: &str) -> bool {
    head(text).is_some_and(|(columns, _)| columns.len() > 1)
}

/// The columns and what follows them. abuse.ch writes the names into the last line of its comment.
fn head(text: &str) -> Option<(Vec<Column>, usize)> {
    let mut at = 0;
    for line in text.split_inclusive('\n').take(HEAD_LINES_MAX) {
        at += line.len();
        let names = line.trim().trim_start_matches('#').trim();
        if names.len() <= LINE_BYTES_MAX
            && let Some(found) = columns(&cells(names))
        {
            return Some((found, at));
        }
        if !line.trim().is_empty() && !line.starts_with('#') {
            return None;
        }
    }
    None
}

pub(super) fn read(text: &str, out: &mut Collector<'_>) -> Result<(), BadFeed> {
    let no_columns = || BadFeed::Form {
        format: "CSV",
        why:
            "there is no line with names of columns that are known, such as sha256, domain, ip, or indicator and type."
                .to_owned(),
    };
    let (columns, start) = head(text).ok_or_else(no_columns)?;
    for line in text.get(start..).unwrap_or_default().lines() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if line.len() > LINE_BYTES_MAX {
            out.reject(line);
            continue;
        }
        row(&columns, &cells(line), out)?;
    }
    Ok(())
}

fn row(columns: &[Column], cells: &[String], out: &mut Collector<'_>) -> Result<(), BadFeed> {
    let under = |wanted: Column| {
        columns.iter().zip(cells).find(|(c, cell)| **c == wanted && !cell.is_empty()).map(|(_, cell)| cell.as_str())
    };
    let confidence = under(Column::Confidence).and_then(|c| c.parse::<u8>().ok()).map(Confidence::new);
    let ends = under(Column::Expiry).and_then(|t| t.parse::<Timestamp>().ok());
    for (column, cell) in columns.iter().zip(cells) {
        let empty = cell.is_empty() || matches!(cell.as_str(), "n/a" | "None" | "-");
        match column {
            Column::Of(kind) if !empty => out.take(*kind, cell, confidence, ends)?,
            Column::Value if !empty => match under(Column::Type).map(kind_of) {
                Some(Some(kind)) => out.take(kind, without_port(kind, cell), confidence, ends)?,
                Some(None) => out.ignore(),
                None => out.reject(cell),
            },
            _ => {}
        }
    }
    Ok(())
}

/// `None` for types of no use here, such as `url`.
fn kind_of(name: &str) -> Option<Kind> {
    match name.to_ascii_lowercase().as_str() {
        "domain" | "hostname" | "domain-name" | "fqdn" => Some(Kind::Domain),
        "ipv4" | "ipv6" | "ip" | "ip:port" | "ip-dst" | "ip-src" | "ipv4-addr" | "ipv6-addr" | "address" | "cidr" => {
            Some(Kind::Address)
        }
        "md5" | "sha1" | "sha256" | "sha512" | "md5_hash" | "sha1_hash" | "sha256_hash" | "file_hash" => {
            Some(Kind::FileHash)
        }
        "package" | "app" | "mobile-application-id" => Some(Kind::Package),
        "certificate" | "x509-fingerprint-sha1" | "x509-fingerprint-sha256" => Some(Kind::Certificate),
        _ => None,
    }
}

/// `203.0.113.1:443` names a server; its address is the indicator.
fn without_port(kind: Kind, cell: &str) -> &str {
    match cell.rsplit_once(':') {
        Some((host, port))
            if kind == Kind::Address
                && !port.is_empty()
                && port.bytes().all(|b| b.is_ascii_digit())
                && (host.starts_with('[') || !host.contains(':')) =>
        {
            host
        }
        _ => cell,
    }
}

/// The cells of a line; quotes may hold commas and doubled quotes. No cell goes on in the next line.
fn cells(line: &str) -> Vec<String> {
    let mut cells = Vec::new();
    let mut rest = line;
    while cells.len() < COLUMNS_MAX {
        rest = rest.trim_start();
        let cell;
        (cell, rest) = match rest.strip_prefix('"') {
            Some(quoted) => in_quotes(quoted),
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (cell, tail) = rest.split_at(end);
                (cell.trim().to_owned(), tail)
            }
        };
        cells.push(cell);
        match rest.split_once(',') {
            Some((_, tail)) => rest = tail,
            None => break,
        }
    }
    cells
}

fn in_quotes(text: &str) -> (String, &str) {
    let mut cell = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                cell.push('"');
                chars.next();
            }
            '"' => return (cell.trim().to_owned(), text.get(at + 1..).unwrap_or_default()),
            c => cell.push(c),
        }
    }
    (cell.trim().to_owned(), "")
}
