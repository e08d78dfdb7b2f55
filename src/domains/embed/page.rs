//! The page of the widget: one document without anything from elsewhere, under a policy that names its script and its style
//! by their hashes, and those who may frame it by the company's list.

use std::collections::BTreeSet;

use base64ct::{Base64, Encoding};

use crate::crypto::sha256;

const SCRIPT: &str = include_str!("widget.js");
const STYLE: &str = include_str!("widget.css");

/// A page and the policy that belongs to it.
pub(super) struct Page {
    pub html: String,
    pub policy: String,
}

fn hash(text: &str) -> String {
    format!("'sha256-{}'", Base64::encode_string(&sha256(text.as_bytes())))
}

/// The page for these origins. They are origins by their form: none holds a space, a quote or an angle bracket.
pub(super) fn page(origins: &BTreeSet<String>) -> Page {
    let listed = origins.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let framed_by = if listed.is_empty() { "'none'" } else { &listed };
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>BlockRemote status</title><style>{STYLE}</style></head><body data-origins=\"{listed}\">\
         <main><p id=\"state\" role=\"status\">Waiting for a token.</p><dl id=\"figures\"></dl></main>\
         <script>{SCRIPT}</script></body></html>"
    );
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors {framed_by}",
        hash(SCRIPT),
        hash(STYLE)
    );
    Page { html, policy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_what_is_there_and_who_may_frame_it() {
        let nobody = page(&BTreeSet::new());
        assert!(nobody.policy.ends_with("frame-ancestors 'none'"), "{}", nobody.policy);
        let listed = page(&["https://b.example".to_owned(), "https://a.example:8443".to_owned()].into());
        assert!(
            listed.policy.ends_with("frame-ancestors https://a.example:8443 https://b.example"),
            "{}",
            listed.policy
        );
        for part in [SCRIPT, STYLE] {
            // What the page holds must be what the hash says, and must not end its own element.
            assert!(listed.html.contains(&format!(">{part}</")) && !part.contains("</"));
        }
        assert!(!listed.policy.contains("unsafe") && !listed.policy.contains('*'));
        assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("eval("));
    }
}
