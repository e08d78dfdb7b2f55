//! The OpenAPI 3.1 document, made from the route table and the types of requests and answers.

use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};

use super::route::{Access, Doc, Door, RateClass, Route, Verb};
use super::routes::ROUTES;

/// The document.
pub fn document() -> Value {
    let mut schemas: Vec<(String, RefOr<Schema>)> = Vec::new();
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES.iter().filter(|r| r.door == Door::Public) {
        // A 204 has no body, whatever type its handler gives.
        let response = (route.endpoint.status != 204).then_some(route.endpoint.response);
        for doc in [route.endpoint.request].into_iter().chain(response) {
            // Types that stand for "nothing" or "not JSON of ours" have no place among the schemas.
            if reference(doc).is_some_and(|r| r.get("$ref").is_some()) {
                (doc.collect)(&mut schemas);
            }
        }
        let path = paths.entry(documented(route.path)).or_insert_with(|| json!({}));
        if let Some(item) = path.as_object_mut() {
            item.insert(route.verb.method().to_lowercase(), operation(route));
        }
    }
    let mut components: Map<String, Value> = Map::new();
    for (name, schema) in schemas {
        components.insert(name, serde_json::to_value(schema).unwrap_or(Value::Null));
    }
    components.insert("Problem".to_owned(), problem_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "BlockRemote Appliance",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Notices that a device was taken over from afar, and locks it. Paths under /api/v1 are the same as under /v1.",
            "license": { "name": "Proprietary", "identifier": "LicenseRef-Proprietary" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "access_token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
            },
        },
    })
}

/// Who may call, in words.
pub fn who(access: Access) -> String {
    match access {
        Access::Public(why) => format!("everybody ({why})"),
        Access::Signed(why) => format!("whoever signs the body with a shared secret ({why})"),
        Access::OptionalUser(why) => format!("everybody, or a user ({why})"),
        Access::Enrolling(why) => format!("a device, or who shows an enrollment token ({why})"),
        Access::Anonymous(why) => format!("everybody, within a quota for callers without credentials ({why})"),
        Access::User(permission) => format!("a user or an API key with {}", permission.name()),
        Access::FreshUser(permission) => {
            format!("a user with {} who proved who they are within the last five minutes", permission.name())
        }
        Access::TwoFactorUser(permission) => {
            format!("a user with {} who showed a second factor within the last five minutes", permission.name())
        }
        Access::FreshAnyUser => "any user who proved who they are within the last five minutes".to_owned(),
        Access::AnyUser => "any user".to_owned(),
        Access::UserOrDevice(permission) => {
            format!("a user or an API key with {}, or a device for itself", permission.name())
        }
        Access::Session => "any user or device".to_owned(),
        Access::Device(_) => "an enrolled device".to_owned(),
    }
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "description": format!("For {}.", who(route.access)),
        "tags": [tag(route.path)],
        "responses": responses(route),
    });
    let mut parameters: Vec<Value> = path_parameters(route.path);
    for (name, meaning) in route.endpoint.query {
        let schema = if *name == "limit" {
            json!({ "type": "integer", "minimum": 1, "maximum": 200 })
        } else {
            json!({ "type": "string" })
        };
        parameters
            .push(json!({ "name": name, "in": "query", "required": false, "description": meaning, "schema": schema }));
    }
    if let Some(members) = operation.as_object_mut() {
        if !parameters.is_empty() {
            members.insert("parameters".to_owned(), parameters.into());
        }
        if let Some(schema) = reference(route.endpoint.request) {
            let content = json!({ "application/json": { "schema": schema } });
            members.insert("requestBody".to_owned(), json!({ "required": true, "content": content }));
        }
        let security = match route.access {
            Access::Public(_) | Access::Signed(_) => json!([]),
            Access::OptionalUser(_) => json!([{}, { "access_token": [] }]),
            _ => json!([{ "access_token": [] }]),
        };
        members.insert("security".to_owned(), security);
    }
    operation
}

fn operation_id(route: &Route) -> String {
    let path = route.path.replace(['{', '}'], "");
    let words: Vec<&str> = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let tail = if route.path.ends_with('/') { "_index" } else { "" };
    format!("{}_{}{tail}", route.verb.method().to_lowercase(), words.join("_"))
}

fn tag(path: &str) -> &str {
    let path = path.strip_prefix("/v1").unwrap_or(path);
    match path.split('/').nth(1) {
        Some("") | None => "pages",
        Some("docs" | "redoc" | "openapi.json") => "pages",
        Some(".well-known") => "keys",
        Some(first) => first,
    }
}

/// The path as it stands in the document, which knows no parameter of several parts.
fn documented(path: &str) -> String {
    path.replace("{*", "{")
}

fn path_parameters(path: &str) -> Vec<Value> {
    let names = path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'));
    names
        .map(|name| name.trim_start_matches('*'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect()
}

fn reference(doc: Doc) -> Option<Value> {
    let name = doc.name?();
    match name.as_str() {
        "NoBody" | "Ended" => None,
        "Document" => Some(json!({})),
        name => Some(json!({ "$ref": format!("#/components/schemas/{name}") })),
    }
}

fn responses(route: &Route) -> Value {
    let mut out = Map::new();
    let mut success = json!({ "description": "Success." });
    let body = reference(route.endpoint.response).filter(|_| route.endpoint.status != 204);
    if let (Some(schema), Some(members)) = (body, success.as_object_mut()) {
        let is_document = (route.endpoint.response.name).is_some_and(|name| name() == "Document");
        let media = if is_document { "*/*" } else { "application/json" };
        members.insert("content".to_owned(), json!({ media: { "schema": schema } }));
    }
    out.insert(route.endpoint.status.to_string(), success);
    for (status, what) in problems(route) {
        let content = json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } });
        out.insert(status.to_string(), json!({ "description": what, "content": content }));
    }
    Value::Object(out)
}

/// Every refusal that the route can give.
fn problems(route: &Route) -> Vec<(u16, &'static str)> {
    let mut out = Vec::new();
    let public = matches!(route.access, Access::Public(_));
    // The widget's figures bring a credential of their own.
    if !public || route.path.contains("/auth/") || route.path == "/v1/embed/status" {
        out.push((401, "No credentials, or bad ones."));
        out.push((403, "Known, and not allowed."));
    }
    if route.body_max > 0 {
        out.push((400, "Not JSON."));
        out.push((408, "The body did not arrive in time."));
        out.push((413, "The body is too large."));
        out.push((415, "Not application/json."));
    }
    if route.body_max > 0 || matches!(route.verb, Verb::Post | Verb::Put | Verb::Delete) {
        out.push((409, "Against the present state."));
    }
    if route.body_max > 0 || !route.endpoint.query.is_empty() {
        out.push((422, "Members or parameters that are not acceptable; see errors."));
    }
    // A licence, an authority and a log's first checkpoint need not be there.
    let may_be_absent = ["logout", "/ca", "/licence", "/v1/audit/"].iter().any(|part| route.path.contains(part));
    let removes = route.verb == Verb::Delete;
    if route.path.contains('{') || !route.endpoint.query.is_empty() || may_be_absent || removes {
        out.push((404, "Absent, or another tenant's."));
    }
    if matches!(route.access, Access::Device(_)) || route.path == "/v1/billing/status" {
        out.push((402, "Trial over and nothing paid."));
    }
    if matches!(route.access, Access::Device(_)) {
        out.push((423, "The device is blocked."));
    }
    if route.verb == Verb::Ws {
        out.push((426, "Send a WebSocket upgrade."));
    }
    if route.rate != RateClass::Unlimited || !public {
        out.push((429, "Too often; see Retry-After."));
    }
    out.push((500, "A defect; the operator's log has the cause."));
    out.push((503, "Not now; see Retry-After."));
    out
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457.",
        "required": ["type", "title", "status", "detail", "code", "request_id"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "code": { "type": "string", "description": "Stable; branch on it." },
            "request_id": { "type": "string" },
            "retry_after": { "type": "integer", "description": "Seconds." },
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["pointer", "detail"],
                    "properties": { "pointer": { "type": "string" }, "detail": { "type": "string" } },
                },
            },
        },
    })
}
