//! The page by which phones come to trust the appliance: its certificate authority, the fingerprint to compare, and a code
//! to scan. Public, because what it holds is no secret, and because who needs it has no way in yet.
//!
//! The first visit is not protected by that authority, so the page says where to compare the fingerprint: with what the
//! operator was shown when the appliance was set up.

use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};

use super::docs::{Document, escape, page};
use super::{Context, Nothing, Reply};
use crate::kernel::{Error, Refusal, Result};

/// The authority that issued the certificate which is served. There is none where the administrator brought one.
#[derive(Clone, Debug)]
pub struct Authority {
    /// Its certificate.
    pub pem: String,
    /// SHA-256 of that, `AB:CD:...`.
    pub fingerprint: String,
}

/// A module of the code, in pixels; and the least that scanners want around it.
const MODULE_PIXELS: u32 = 5;
/// Characters of a host and port that are put into the code.
const HOST_CHARS_MAX: usize = 260;

/// What a phone is told: where the appliance is, and by what it knows it. Nothing of it is secret. The part behind `#`
/// stays on the phone.
fn code_text(host: &str, fingerprint: &str) -> String {
    let hex: String = fingerprint.chars().filter(|c| *c != ':').collect();
    format!("https://{host}/ca#sha256={hex}")
}

/// The host by which the client came here, if it looks like one: it stands in the page.
fn plain_host(host: Option<&str>) -> Option<&str> {
    let fits = |h: &&str| {
        (1..=HOST_CHARS_MAX).contains(&h.len())
            && h.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
    };
    host.filter(fits)
}

/// `GET /ca`
pub async fn authority(ctx: Context, _: Nothing) -> Result<Reply<Document>> {
    let ca = ctx.authority.as_deref().ok_or_else(Refusal::not_found)?;
    let host = plain_host(ctx.host()).ok_or_else(Refusal::not_found)?;
    let text = code_text(host, &ca.fingerprint);
    let code = QrCode::with_error_correction_level(&text, EcLevel::M).map_err(Error::internal)?;
    let drawing = code.render::<svg::Color<'_>>().module_dimensions(MODULE_PIXELS, MODULE_PIXELS).build();
    // Within a page the drawing has no declaration of its own.
    let drawing = drawing.split_once("?>").map_or(drawing.as_str(), |(_, svg)| svg);
    let body = format!(
        "<h1>Trust this appliance</h1>\
         <p>Install its certificate authority on the device: <a href=\"/ca.pem\">ca.pem</a>.</p>\
         <h2>Compare first</h2><p>SHA-256 of the certificate. It must be the one that was shown when the appliance was set \
         up; the operator reads it with <code>openssl x509 -in ca.pem -noout -fingerprint -sha256</code>.</p>\
         <p><code>{}</code></p>\
         <h2>Scan</h2><p>The code holds this address and the fingerprint, and no secret: <code>{}</code></p>{drawing}",
        escape(&ca.fingerprint),
        escape(&text),
    );
    Ok(page("Trust this BlockRemote appliance", &body).header("cache-control", "no-store"))
}

/// `GET /ca.pem`
pub async fn certificate(ctx: Context, _: Nothing) -> Result<Reply<Document>> {
    let ca = ctx.authority.as_deref().ok_or_else(Refusal::not_found)?;
    Ok(Reply::raw("application/x-x509-ca-cert", ca.pem.clone())
        .header("content-disposition", "attachment; filename=\"blockremote-ca.pem\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_holds_address_and_fingerprint_and_nothing_else() {
        assert_eq!(code_text("box.local:8443", "AB:CD:EF"), "https://box.local:8443/ca#sha256=ABCDEF");
        for (host, fits) in [
            (Some("192.0.2.7:8443"), true),
            (Some("[2001:db8::7]:8443"), true),
            (Some("\"><script>"), false),
            (Some("a@b"), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(plain_host(host).is_some(), fits, "{host:?}");
        }
        assert!(plain_host(Some(&"a".repeat(261))).is_none());
    }
}
