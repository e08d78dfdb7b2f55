//! The documents: OpenAPI, Swagger UI, a plain reference page, a home page. All of them work without the Internet.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use base64ct::{Base64, Encoding};
use hyper::body::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use super::routes::ROUTES;
use super::{Context, Door, Nothing, Reply, Verb, openapi};
use crate::crypto::sha256;
use crate::kernel::{Error, Refusal, Result};

/// Not JSON of ours: a page, a file, a document of another standard.
#[derive(Serialize, ToSchema)]
pub struct Document(String);

/// Nothing.
#[derive(Serialize, ToSchema)]
pub struct NoBody {}

/// Never called: the gate answers upgrades itself. The row exists so that the socket stands in the one table.
pub async fn socket(_: Context, _: Nothing) -> Result<Reply<NoBody>> {
    Err(Refusal::not_found().into())
}

/// Never called: the gate answers streams of gRPC itself. The row exists so that they stand in the one table.
pub async fn stream(_: Context, _: Nothing) -> Result<Reply<NoBody>> {
    Err(Refusal::not_found().into())
}

/// `GET /openapi.json`
pub async fn openapi(_: Context, _: Nothing) -> Result<Reply<Document>> {
    static TEXT: OnceLock<String> = OnceLock::new();
    Ok(Reply::raw("application/json", TEXT.get_or_init(|| openapi::document().to_string()).as_str()))
}

/// `GET /docs`
pub async fn to_docs(_: Context, _: Nothing) -> Result<Reply<NoBody>> {
    Ok(Reply::empty().header("location", "/docs/"))
}

/// Scripts and styles from here alone; Swagger UI draws its icons from data URLs.
const SWAGGER_CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                           frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// `GET /docs/` and `GET /docs/{file}`
pub async fn swagger(ctx: Context, _: Nothing) -> Result<Reply<Document>> {
    let file: String = ctx.path("file").unwrap_or_default();
    let config = utoipa_swagger_ui::Config::from("/openapi.json").validator_url("none");
    let found = utoipa_swagger_ui::serve(&file, Arc::new(config)).map_err(|e| Error::Internal(e.to_string()))?;
    let found = found.ok_or_else(Refusal::not_found)?;
    // Of the program's own image: a copy for each request would be memory at a stranger's disposal.
    let bytes = match found.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    let reply = Reply::raw(found.content_type, bytes)
        .header("content-security-policy", SWAGGER_CSP)
        .header("cache-control", "public, max-age=3600");
    Ok(if found.gzpipped { reply.header("content-encoding", "gzip") } else { reply })
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}\
h1{font-size:1.6rem}h2{font-size:1.05rem;margin:1.6rem 0 .3rem;font-family:ui-monospace,monospace}\
code{font-family:ui-monospace,monospace}table{border-collapse:collapse}td,th{text-align:left;padding:.15rem .8rem .15rem 0;vertical-align:top}\
@media (prefers-color-scheme:dark){body{color:#e6e8eb;background:#14171a}a{color:#7db7ff}}";

pub(super) fn page(title: &str, body: &str) -> Reply<Document> {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head><body>{body}</body></html>"
    );
    let hash = Base64::encode_string(&sha256(STYLE.as_bytes()));
    let csp = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    );
    Reply::raw("text/html; charset=utf-8", html).header("content-security-policy", csp)
}

/// `GET /`
pub async fn home(_: Context, _: Nothing) -> Result<Reply<Document>> {
    let body = "<h1>BlockRemote Appliance</h1><p>It notices that a device was taken over from afar, and locks it.</p>\
                <ul><li><a href=\"/docs/\">Try the API</a></li><li><a href=\"/redoc\">Read about the API</a></li>\
                <li><a href=\"/openapi.json\">The OpenAPI document</a></li><li><a href=\"/health\">Health</a></li>\
                <li><a href=\"/ca\">Trust this appliance</a></li></ul>";
    Ok(page("BlockRemote Appliance", body))
}

/// `GET /redoc`
pub async fn reference(_: Context, _: Nothing) -> Result<Reply<Document>> {
    static BODY: OnceLock<String> = OnceLock::new();
    Ok(page("BlockRemote API", BODY.get_or_init(reference_body)))
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn reference_body() -> String {
    let mut out = String::from(
        "<h1>BlockRemote API</h1><p>Errors are RFC 9457 problem documents. The schemas stand in \
         <a href=\"/openapi.json\">/openapi.json</a>; to try a call, use <a href=\"/docs/\">Swagger UI</a>.</p>",
    );
    for route in ROUTES.iter().filter(|r| r.door == Door::Public) {
        let verb = if route.verb == Verb::Ws { "WebSocket" } else { route.verb.method() };
        let _ = write!(out, "<h2>{verb} {}</h2><p>{}.</p><table>", escape(route.path), escape(route.summary));
        let mut line = |name: &str, value: String| {
            let _ = write!(out, "<tr><th>{name}</th><td>{}</td></tr>", escape(&value));
        };
        line("Who", openapi::who(route.access));
        if route.body_max > 0 {
            line("Body", format!("JSON, at most {} KiB", route.body_max / 1024));
        }
        for (name, meaning) in route.endpoint.query {
            line(&format!("<code>?{}</code>", escape(name)), (*meaning).to_owned());
        }
        line("Success", route.endpoint.status.to_string());
        out.push_str("</table>");
    }
    out
}
