//! What a row of the route table says. There are no defaults: a row that leaves something out does not compile.

use std::future::Future;
use std::pin::Pin;

use utoipa::openapi::{RefOr, Schema};

use super::answer::Answer;
use super::body::Input;
use super::context::Context;
use crate::domains::iam::Permission;
use crate::kernel::Result;

/// The method, or the protocol that a GET is upgraded to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Reads.
    Get,
    /// Does.
    Post,
    /// Puts in place.
    Put,
    /// Changes the members that are sent.
    Patch,
    /// Removes.
    Delete,
    /// Opens a WebSocket.
    Ws,
    /// A method of gRPC, whose path names it.
    Grpc,
}

impl Verb {
    /// The HTTP method on the wire.
    pub const fn method(self) -> &'static str {
        match self {
            Self::Get | Self::Ws => "GET",
            Self::Post | Self::Grpc => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// Which listener a route is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// The LAN.
    Public,
    /// Loopback, for the operator's tools.
    Internal,
    /// The LAN by gRPC, where every connection shows a client certificate.
    Grpc,
}

/// What must be true of the device that calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceRule {
    /// Not blocked, trial not over: for everything by which a device acts.
    Acting,
    /// Anything: for what a blocked device still needs.
    Any,
    /// Anything, by a token that was genuine: for receiving commands and answering them. See
    /// [`Authenticator::socket_caller`](super::authn::Authenticator::socket_caller).
    Reachable,
}

/// Who may call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Everybody, and why.
    Public(&'static str),
    /// Everybody; a user's or enrollment credential is looked at by the handler, and why.
    OptionalUser(&'static str),
    /// A device: with its own token, or with `Authorization: Enrollment ...`, which the handler looks at, and why.
    Enrolling(&'static str),
    /// Whoever signs the body with a secret that it shares with the appliance, which the handler checks, and why.
    Signed(&'static str),
    /// Everybody: a caller without credentials gets a token and a quota of its own, and why.
    Anonymous(&'static str),
    /// A person with this permission, or a program whose scopes include it.
    User(Permission),
    /// Any person.
    AnyUser,
    /// A person with this permission who proved who they are within the last five minutes, by a second factor where
    /// they have one.
    FreshUser(Permission),
    /// A person with this permission who showed a second factor within the last five minutes.
    TwoFactorUser(Permission),
    /// Any person who proved who they are within the last five minutes, by a second factor where they have one.
    FreshAnyUser,
    /// A person or a program as for `User`, or a device for itself.
    UserOrDevice(Permission),
    /// A person or a device, for their own session.
    Session,
    /// An enrolled device.
    Device(DeviceRule),
}

impl Access {
    /// The permission that a person needs, or the scope that a program needs, where the row names one.
    pub const fn permission(self) -> Option<Permission> {
        match self {
            Self::User(p) | Self::FreshUser(p) | Self::TwoFactorUser(p) | Self::UserOrDevice(p) => Some(p),
            _ => None,
        }
    }

    /// Whether programs are let in.
    pub const fn admits_programs(self) -> bool {
        matches!(self, Self::User(_) | Self::UserOrDevice(_) | Self::Anonymous(_) | Self::Public(_) | Self::Signed(_))
    }
}

/// Which counter a request moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RateClass {
    /// None: health, documents.
    Unlimited,
    /// By network address.
    Public,
    /// By anonymous caller and by network; a caller with credentials as for `Read`.
    Anonymous,
    /// Failures, by account and address; the handler counts them.
    Login,
    /// By caller.
    Read,
    /// By caller.
    Write,
    /// By the device's subscription.
    PlanTier,
    /// Sockets opened, by device.
    Handshake,
}

/// What the audit log holds of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuditClass {
    /// Nothing: it changes nothing.
    Nothing,
    /// An entry for each success, in the commit of the change.
    Write,
    /// An entry when a decision changes.
    Change,
}

/// A boxed handler's future.
pub type Handling = Pin<Box<dyn Future<Output = Result<Answer>> + Send>>;

/// A schema, by name, and whatever it refers to.
#[derive(Clone, Copy)]
pub struct Doc {
    /// `None` where there is no body.
    pub name: Option<fn() -> String>,
    /// The schema itself.
    pub schema: fn() -> RefOr<Schema>,
    /// What it refers to.
    pub collect: fn(&mut Vec<(String, RefOr<Schema>)>),
}

/// What a row leads to.
#[derive(Clone, Copy)]
pub struct Endpoint {
    /// Parses, checks the device, calls the handler.
    pub call: fn(Context, Input, Access) -> Handling,
    /// The body that is expected.
    pub request: Doc,
    /// Query parameters: name and meaning.
    pub query: &'static [(&'static str, &'static str)],
    /// The body that is answered.
    pub response: Doc,
    /// The status of success.
    pub status: u16,
}

/// One row.
#[derive(Clone, Copy)]
pub struct Route {
    /// Method or protocol.
    pub verb: Verb,
    /// Path, with parameters in braces; also a label of the metrics.
    pub path: &'static str,
    /// Which listener.
    pub door: Door,
    /// Who may call.
    pub access: Access,
    /// Which counter it moves.
    pub rate: RateClass,
    /// Largest body in bytes; 0: none is read.
    pub body_max: usize,
    /// What the audit log holds of it.
    pub audit: AuditClass,
    /// What it leads to.
    pub endpoint: Endpoint,
    /// One line for the documents.
    pub summary: &'static str,
}

/// Makes an [`Endpoint`] of a handler `async fn(Context, Request) -> Result<Reply<Response>>`.
#[macro_export]
macro_rules! endpoint {
    ($handler:path, $request:ty => $status:literal $response:ty) => {
        $crate::gate::Endpoint {
            call: |context, input, access| {
                Box::pin(async move {
                    let request = <$request as $crate::gate::FromRequest>::from_request(&input)?;
                    context.check_device(&request, access)?;
                    let reply: $crate::gate::Reply<$response> = $handler(context, request).await?;
                    reply.into_answer($status)
                })
            },
            request: <$request as $crate::gate::FromRequest>::DOC,
            query: <$request as $crate::gate::FromRequest>::QUERY,
            response: <$response as $crate::gate::Body>::DOC,
            status: $status,
        }
    };
}
