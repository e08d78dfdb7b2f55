//! The one way in: every endpoint in one table, every check in one order.
//!
//! Order: route, the address's budget for failed authentication, authentication, rate, permission, body limit and parse,
//! device match, blocked, paywall, handler, answer, metrics. A handler receives a [`Context`] that only this module can
//! make: one that skips authentication does not compile.
//!
//! Policy only: what a request does is decided in the domains.

mod answer;
mod authn;
mod authority;
mod authorize;
mod binding;
pub mod body;
mod context;
mod cors;
mod device_socket;
mod docs;
mod dpop;
mod facts;
mod grpc;
mod limiter;
mod lockout;
mod mutual;
mod openapi;
mod ops;
mod params;
mod pipeline;
mod problem;
mod render;
mod route;
mod router;
pub mod routes;
mod schema;
mod socket;
mod spans;
mod strain;

pub use answer::{Answer, Reply};
pub use authority::Authority;
pub use body::{Body, FromRequest, Json, Nothing, Raw, parse};
pub use context::{Caller, Context, DeviceCaller, MachineCaller, SignatureHeaders, UserCaller};
pub use docs::Document;
pub use grpc::{GrpcBody, GrpcSettings};
pub use limiter::Quotas;
pub use params::{Params, Query, Values};
pub use pipeline::{Gate, GateSettings};
pub use route::{Access, AuditClass, DeviceRule, Door, Endpoint, RateClass, Route, Verb};
pub use schema::Validate;
