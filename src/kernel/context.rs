//! The facts of a request that audit entries, logs and answers need, wherever the request came from.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{ApiKeyId, TokenId};
use super::trace::TraceContext;

/// The door a request came through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// HTTPS.
    Http,
    /// The kill-switch socket.
    Ws,
    /// gRPC.
    Grpc,
    /// The appliance itself: a rule, a schedule.
    System,
    /// The command line on the box.
    Cli,
}

/// Who asked, from where, under which id.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The door.
    pub source: Source,
    /// `X-Request-Id` of the client, or one of ours.
    pub request_id: Arc<str>,
    /// The client's address, after the configured proxies.
    pub ip: Option<IpAddr>,
    /// As sent, cut to 256 bytes.
    pub user_agent: Option<Arc<str>>,
    /// The access token that the request bore.
    pub jti: Option<TokenId>,
    /// The API key or instance token that it bore instead.
    pub key: Option<ApiKeyId>,
    /// Its place in a trace.
    pub trace: Option<TraceContext>,
}

impl Origin {
    /// The appliance itself.
    pub fn system() -> Self {
        Self {
            source: Source::System,
            request_id: Arc::from("system"),
            ip: None,
            user_agent: None,
            jti: None,
            key: None,
            trace: None,
        }
    }

    /// The command line on the box.
    pub fn cli() -> Self {
        Self { source: Source::Cli, request_id: Arc::from("cli"), ..Self::system() }
    }
}
