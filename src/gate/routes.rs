//! Every endpoint, in one table. A path that is not here cannot be reached.
//!
//! From this table come the router, the OpenAPI document, the authorization tests, the labels of the metrics and the
//! reference page; there is no second list.

use super::route::{
    Access::{
        Anonymous, AnyUser, Device, Enrolling, FreshAnyUser, FreshUser, OptionalUser, Public, Session, Signed,
        TwoFactorUser, User, UserOrDevice,
    },
    AuditClass::{self, Change, Nothing as Unaudited, Write},
    DeviceRule::{Acting, Any},
    Door, Endpoint,
    RateClass::{
        Anonymous as PerCaller, Handshake, Login, PlanTier, Public as ByNetwork, Read, Unlimited, Write as Writes,
    },
    Route, Verb,
};
use super::{Json, Nothing, Query, Raw};
use super::{docs, ops};
use crate::domains::iam::Permission::{
    BillingRead, BillingWrite, DevicesCommand, DevicesRead, DevicesWrite, KeysRead, KeysWrite, KillSwitchEngage,
    SystemAdmin, TrustWrite, UsersRead, UsersWrite,
};
use crate::domains::{attestation, audit, billing, devices, iam, killswitch, metering, signals};
use crate::endpoint;

const KIB: usize = 1024;
/// A route that reads no body.
const NO_BODY: usize = 0;

#[expect(clippy::too_many_arguments, reason = "a row has these columns, and none has a default")]
const fn row(
    verb: Verb,
    path: &'static str,
    access: super::Access,
    rate: super::RateClass,
    body_max: usize,
    audit: AuditClass,
    endpoint: Endpoint,
    summary: &'static str,
) -> Route {
    Route { verb, path, door: Door::Public, access, rate, body_max, audit, endpoint, summary }
}

const fn internal(path: &'static str, endpoint: Endpoint, summary: &'static str) -> Route {
    Route {
        verb: Verb::Get,
        path,
        door: Door::Internal,
        access: Public("only the box itself reaches this listener"),
        rate: Unlimited,
        body_max: NO_BODY,
        audit: Unaudited,
        endpoint,
        summary,
    }
}

const PAGE: super::Access = Public("a page for people and tools");
const PROBE: super::Access = Public("load balancers and people ask without credentials");

/// The table.
#[rustfmt::skip]
pub static ROUTES: &[Route] = &[
    //  method        path                                               who may call                                  rate        body      audit      handler
    row(Verb::Post,   "/v1/auth/login",                                  Public("this is the way in"),                 Login,      4 * KIB,  Write,     endpoint!(iam::api::login, Json<iam::api::LoginRequest> => 200 iam::api::LoginResponse),                          "Log a person in"),
    row(Verb::Post,   "/v1/auth/device",                                 OptionalUser("a device has no token yet"),    ByNetwork,  16 * KIB, Write,     endpoint!(iam::api::enroll, Json<iam::api::EnrollRequest> => 201 iam::api::EnrollResponse),                       "Enroll a device"),
    row(Verb::Post,   "/v1/auth/refresh",                                Public("the refresh token is the credential"), ByNetwork, 4 * KIB,  Write,     endpoint!(iam::api::refresh, Json<iam::api::RefreshRequest> => 200 iam::api::RefreshResponse),                    "Exchange a refresh token for a new pair"),
    row(Verb::Post,   "/v1/auth/logout",                                 Session,                                      Writes,     NO_BODY,  Write,     endpoint!(iam::api::logout, Nothing => 204 iam::api::Ended),                                                     "End the caller's session"),
    row(Verb::Get,    "/v1/me",                                          AnyUser,                                      Read,       NO_BODY,  Unaudited, endpoint!(iam::api::me, Nothing => 200 iam::api::UserView),                                                      "The person who calls"),
    row(Verb::Get,    "/v1/me/sessions",                                 AnyUser,                                      Read,       NO_BODY,  Unaudited, endpoint!(iam::api::sessions, Query<iam::api::SessionQuery> => 200 iam::api::SessionList),                        "The caller's living sessions"),
    row(Verb::Delete, "/v1/me/sessions",                                 AnyUser,                                      Writes,     NO_BODY,  Write,     endpoint!(iam::api::end_other_sessions, Query<iam::api::OthersQuery> => 200 iam::api::EndedSessions),             "End all of the caller's sessions but this one"),
    row(Verb::Patch,  "/v1/me/sessions/{session_id}",                    AnyUser,                                      Writes,     4 * KIB,  Write,     endpoint!(iam::api::name_session, Json<iam::api::SessionPatch> => 204 iam::api::Ended),                          "Give one of the caller's sessions a name"),
    row(Verb::Delete, "/v1/me/sessions/{session_id}",                    AnyUser,                                      Writes,     NO_BODY,  Write,     endpoint!(iam::api::end_session, Nothing => 204 iam::api::Ended),                                                "End one of the caller's sessions"),
    row(Verb::Get,    "/v1/me/mfa",                                      AnyUser,                                      Read,       NO_BODY,  Unaudited, endpoint!(iam::api::mfa::show, Nothing => 200 iam::api::mfa::MfaView),                                            "The caller's second factors"),
    row(Verb::Post,   "/v1/me/mfa/totp",                                 FreshAnyUser,                                 Writes,     NO_BODY,  Write,     endpoint!(iam::api::mfa::begin_totp, Nothing => 201 iam::api::mfa::TotpSecret),                                   "Begin to set up an authenticator app"),
    row(Verb::Post,   "/v1/me/mfa/totp/confirm",                         AnyUser,                                      Writes,     4 * KIB,  Write,     endpoint!(iam::api::mfa::confirm_totp, Json<iam::api::mfa::CodeRequest> => 200 iam::api::mfa::RecoveryCodes),     "Show the first code of an authenticator app"),
    row(Verb::Delete, "/v1/me/mfa/totp",                                 FreshAnyUser,                                 Writes,     NO_BODY,  Write,     endpoint!(iam::api::mfa::remove_totp, Nothing => 204 iam::api::Ended),                                            "Take the authenticator app away"),
    row(Verb::Post,   "/v1/me/mfa/recovery-codes",                       FreshAnyUser,                                 Writes,     NO_BODY,  Write,     endpoint!(iam::api::mfa::replace_recovery_codes, Nothing => 201 iam::api::mfa::RecoveryCodes),                    "Make new recovery codes; the old ones are void"),
    row(Verb::Post,   "/v1/me/mfa/passkeys/options",                     FreshAnyUser,                                 Read,       NO_BODY,  Unaudited, endpoint!(iam::api::mfa::passkey_options, Nothing => 200 iam::api::mfa::Options),                                 "What a browser needs to make a passkey"),
    row(Verb::Post,   "/v1/me/mfa/passkeys",                             AnyUser,                                      Writes,     64 * KIB, Write,     endpoint!(iam::api::mfa::add_passkey, Json<iam::api::mfa::NewPasskeyRequest> => 201 iam::api::mfa::NewPasskey),   "Register a passkey"),
    row(Verb::Delete, "/v1/me/mfa/passkeys/{passkey_id}",                FreshAnyUser,                                 Writes,     NO_BODY,  Write,     endpoint!(iam::api::mfa::remove_passkey, Nothing => 204 iam::api::Ended),                                         "Take a passkey away"),
    row(Verb::Post,   "/v1/me/mfa/verify/options",                       AnyUser,                                      Read,       NO_BODY,  Unaudited, endpoint!(iam::api::mfa::verify_options, Nothing => 200 iam::api::mfa::Options),                                  "What a browser needs to prove by a passkey who its user is"),
    row(Verb::Post,   "/v1/me/mfa/verify",                               AnyUser,                                      Writes,     64 * KIB, Write,     endpoint!(iam::api::mfa::verify, Json<iam::api::mfa::VerifyRequest> => 200 iam::api::mfa::Verified),              "Prove again who the caller is, for what demands it"),
    row(Verb::Post,   "/v1/auth/passkey/options",                        Public("a person has no token yet"),          ByNetwork,  NO_BODY,  Unaudited, endpoint!(iam::api::mfa::login_options, Nothing => 200 iam::api::mfa::Options),                                   "What a browser needs to log in by a passkey"),
    row(Verb::Post,   "/v1/auth/passkey",                                Public("the passkey is the credential"),      ByNetwork,  64 * KIB, Write,     endpoint!(iam::api::mfa::login, Json<iam::api::mfa::PasskeyLoginRequest> => 200 iam::api::LoginResponse),         "Log a person in by a passkey"),
    row(Verb::Get,    "/v1/status",                                      Anonymous("it tells name, version and health"), PerCaller, NO_BODY, Unaudited, endpoint!(ops::status, Nothing => 200 ops::Status),                                                              "Name, version and health in one word"),
    row(Verb::Get,    "/v1/api-keys",                                    User(KeysRead),                               Read,       NO_BODY,  Unaudited, endpoint!(iam::api::keys::list, Query<iam::api::keys::PageQuery> => 200 iam::api::keys::ApiKeyList),              "API keys of the tenant, newest first"),
    row(Verb::Post,   "/v1/api-keys",                                    FreshUser(KeysWrite),                         Writes,     16 * KIB, Write,     endpoint!(iam::api::keys::create_key, Json<iam::api::keys::ApiKeyRequest> => 201 iam::api::keys::IssuedApiKey),   "Make an API key; its secret is shown this once"),
    row(Verb::Get,    "/v1/api-keys/{key_id}",                           User(KeysRead),                               Read,       NO_BODY,  Unaudited, endpoint!(iam::api::keys::get, Nothing => 200 iam::ApiKeyView),                                                   "One API key"),
    row(Verb::Delete, "/v1/api-keys/{key_id}",                           User(KeysWrite),                              Writes,     NO_BODY,  Write,     endpoint!(iam::api::keys::revoke_key, Nothing => 204 iam::api::Ended),                                            "Revoke an API key at once"),
    row(Verb::Post,   "/v1/api-keys/{key_id}/rotate",                    FreshUser(KeysWrite),                         Writes,     4 * KIB,  Write,     endpoint!(iam::api::keys::rotate, Json<iam::api::keys::RotateRequest> => 200 iam::api::keys::IssuedApiKey),       "Give an API key a new secret; the old one works on for a while"),
    row(Verb::Get,    "/v1/instance-tokens",                             User(KeysRead),                               Read,       NO_BODY,  Unaudited, endpoint!(iam::api::keys::list_tokens, Query<iam::api::keys::PageQuery> => 200 iam::api::keys::ApiKeyList),       "Instance tokens of the tenant, newest first"),
    row(Verb::Post,   "/v1/instance-tokens",                             FreshUser(KeysWrite),                         Writes,     96 * KIB, Write,     endpoint!(iam::api::keys::create_token, Json<iam::api::keys::InstanceTokenRequest> => 201 iam::api::keys::IssuedApiKey),"Make an instance token; its secret is shown this once"),
    row(Verb::Delete, "/v1/instance-tokens/{key_id}",                    User(KeysWrite),                              Writes,     NO_BODY,  Write,     endpoint!(iam::api::keys::revoke_token, Nothing => 204 iam::api::Ended),                                          "Revoke an instance token at once"),
    row(Verb::Post,   "/v1/auth/password",                               Public("the link is the credential"),         ByNetwork,  4 * KIB,  Write,     endpoint!(iam::api::passwords::by_link, Json<iam::api::passwords::LinkPasswordRequest> => 204 iam::api::Ended),  "Set a password by an invitation or a reset"),
    row(Verb::Post,   "/v1/me/password",                                 AnyUser,                                      Writes,     4 * KIB,  Write,     endpoint!(iam::api::passwords::own, Json<iam::api::passwords::OwnPasswordRequest> => 204 iam::api::Ended),       "Set the caller's password, and end their other sessions"),
    row(Verb::Get,    "/v1/users",                                       User(UsersRead),                              Read,       NO_BODY,  Unaudited, endpoint!(iam::api::users::list, Query<iam::api::users::PageQuery> => 200 iam::api::users::UserList),            "People of the tenant"),
    row(Verb::Post,   "/v1/users",                                       User(UsersWrite),                             Writes,     16 * KIB, Write,     endpoint!(iam::api::users::create, Json<iam::api::users::UserRequest> => 201 iam::CreatedUser),                  "Make a person, or invite one"),
    row(Verb::Get,    "/v1/users/{user_id}",                             User(UsersRead),                              Read,       NO_BODY,  Unaudited, endpoint!(iam::api::users::get, Nothing => 200 iam::UserDetail),                                                 "One person"),
    row(Verb::Patch,  "/v1/users/{user_id}",                             User(UsersWrite),                             Writes,     16 * KIB, Write,     endpoint!(iam::api::users::patch, Json<iam::api::users::UserPatch> => 200 iam::UserDetail),                      "Change a person, or shut them out"),
    row(Verb::Delete, "/v1/users/{user_id}",                             FreshUser(UsersWrite),                        Writes,     NO_BODY,  Write,     endpoint!(iam::api::users::delete, Nothing => 204 iam::api::Ended),                                              "Remove a person; the log stays"),
    row(Verb::Post,   "/v1/users/{user_id}/password-reset",              FreshUser(UsersWrite),                        Writes,     NO_BODY,  Write,     endpoint!(iam::api::users::reset_password, Nothing => 201 iam::OneTimeLink),                                     "Make a link by which a person sets another password"),
    row(Verb::Get,    "/v1/users/{user_id}/sessions",                    User(UsersRead),                              Read,       NO_BODY,  Unaudited, endpoint!(iam::api::users::sessions, Query<iam::api::SessionQuery> => 200 iam::api::SessionList),                "A person's living sessions"),
    row(Verb::Delete, "/v1/users/{user_id}/sessions",                    User(UsersWrite),                             Writes,     NO_BODY,  Write,     endpoint!(iam::api::users::end_sessions, Query<iam::api::OthersQuery> => 200 iam::api::EndedSessions),           "End all of a person's sessions"),
    row(Verb::Get,    "/v1/teams",                                       User(UsersRead),                              Read,       NO_BODY,  Unaudited, endpoint!(iam::api::teams::list, Query<iam::api::teams::PageQuery> => 200 iam::api::teams::TeamList),            "Teams of the tenant"),
    row(Verb::Post,   "/v1/teams",                                       User(UsersWrite),                             Writes,     4 * KIB,  Write,     endpoint!(iam::api::teams::create, Json<iam::api::teams::TeamRequest> => 201 iam::TeamDetail),                   "Make a team"),
    row(Verb::Get,    "/v1/teams/{team_id}",                             User(UsersRead),                              Read,       NO_BODY,  Unaudited, endpoint!(iam::api::teams::get, Nothing => 200 iam::TeamDetail),                                                 "One team with its members"),
    row(Verb::Patch,  "/v1/teams/{team_id}",                             User(UsersWrite),                             Writes,     4 * KIB,  Write,     endpoint!(iam::api::teams::patch, Json<iam::api::teams::TeamRequest> => 200 iam::TeamDetail),                    "Give a team another name"),
    row(Verb::Delete, "/v1/teams/{team_id}",                             User(UsersWrite),                             Writes,     NO_BODY,  Write,     endpoint!(iam::api::teams::delete, Nothing => 204 iam::api::Ended),                                              "Remove a team; its members stay"),
    row(Verb::Put,    "/v1/teams/{team_id}/members/{user_id}",           User(UsersWrite),                             Writes,     NO_BODY,  Write,     endpoint!(iam::api::teams::add_member, Nothing => 204 iam::api::Ended),                                          "Put a person into a team"),
    row(Verb::Delete, "/v1/teams/{team_id}/members/{user_id}",           User(UsersWrite),                             Writes,     NO_BODY,  Write,     endpoint!(iam::api::teams::remove_member, Nothing => 204 iam::api::Ended),                                       "Take a person out of a team"),
    row(Verb::Get,    "/v1/roles",                                       User(UsersRead),                              Read,       NO_BODY,  Unaudited, endpoint!(iam::api::roles::list, Nothing => 200 iam::api::roles::RoleList),                                      "Roles, and what roles can be made of"),
    row(Verb::Post,   "/v1/roles",                                       FreshUser(UsersWrite),                        Writes,     16 * KIB, Write,     endpoint!(iam::api::roles::create, Json<iam::api::roles::RoleRequest> => 201 iam::RoleView),                     "Make a role"),
    row(Verb::Get,    "/v1/roles/{role_id}",                             User(UsersRead),                              Read,       NO_BODY,  Unaudited, endpoint!(iam::api::roles::get, Nothing => 200 iam::RoleView),                                                   "One role"),
    row(Verb::Patch,  "/v1/roles/{role_id}",                             FreshUser(UsersWrite),                        Writes,     16 * KIB, Write,     endpoint!(iam::api::roles::patch, Json<iam::api::roles::RolePatch> => 200 iam::RoleView),                        "Change a role, for everybody who bears it"),
    row(Verb::Delete, "/v1/roles/{role_id}",                             FreshUser(UsersWrite),                        Writes,     NO_BODY,  Write,     endpoint!(iam::api::roles::delete, Nothing => 204 iam::api::Ended),                                              "Remove a role that nobody bears"),
    row(Verb::Get,    "/v1/enrollment-tokens",                           User(DevicesWrite),                           Read,       NO_BODY,  Unaudited, endpoint!(iam::api::enrollment_tokens::list, Query<iam::api::enrollment_tokens::PageQuery> => 200 iam::api::enrollment_tokens::EnrollmentTokenList), "Enrollment tokens, without their secrets"),
    row(Verb::Post,   "/v1/enrollment-tokens",                           User(DevicesWrite),                           Writes,     4 * KIB,  Write,     endpoint!(iam::api::enrollment_tokens::create, Json<iam::api::enrollment_tokens::EnrollmentTokenRequest> => 201 iam::CreatedEnrollmentToken), "Make an enrollment token"),
    row(Verb::Delete, "/v1/enrollment-tokens/{token_id}",                User(DevicesWrite),                           Writes,     NO_BODY,  Write,     endpoint!(iam::api::enrollment_tokens::revoke, Nothing => 204 iam::api::Ended),                                  "Revoke an enrollment token"),
    row(Verb::Get,    "/v1/devices",                                     User(DevicesRead),                            Read,       NO_BODY,  Unaudited, endpoint!(devices::api::list, Query<devices::api::PageQuery> => 200 devices::api::DeviceList),                   "Devices of the tenant"),
    row(Verb::Get,    "/v1/devices/{device_id}",                         UserOrDevice(DevicesRead),                    Read,       NO_BODY,  Unaudited, endpoint!(devices::api::get, Nothing => 200 devices::api::DeviceView),                                           "One device"),
    row(Verb::Patch,  "/v1/devices/{device_id}",                         User(DevicesWrite),                           Writes,     4 * KIB,  Write,     endpoint!(devices::api::update, Json<devices::api::DevicePatch> => 200 devices::api::DeviceView),                 "Give a device another name"),
    row(Verb::Delete, "/v1/devices/{device_id}",                         User(DevicesWrite),                           Writes,     NO_BODY,  Write,     endpoint!(devices::api::remove, Nothing => 204 devices::api::Removed),                                           "Remove a device, its commands and its session"),
    row(Verb::Post,   "/v1/devices/{device_id}/commands",                User(DevicesCommand),                         Writes,     4 * KIB,  Write,     endpoint!(killswitch::api::command, Json<killswitch::api::CommandRequest> => 202 killswitch::CommandView),       "Tell a device to do something"),
    row(Verb::Get,    "/v1/devices/{device_id}/commands",                UserOrDevice(DevicesRead),                    Read,       NO_BODY,  Unaudited, endpoint!(killswitch::api::list, Query<killswitch::api::PageQuery> => 200 killswitch::api::CommandList),         "A device's commands and what became of them"),
    row(Verb::Get,    "/v1/devices/{device_id}/commands/{command_id}",   UserOrDevice(DevicesRead),                    Read,       NO_BODY,  Unaudited, endpoint!(killswitch::api::get, Nothing => 200 killswitch::CommandView),                                         "One command and what became of it"),
    row(Verb::Post,   "/v1/devices/{device_id}/unblock",                 User(DevicesCommand),                         Writes,     4 * KIB,  Write,     endpoint!(killswitch::api::unblock, Json<killswitch::api::UnblockRequest> => 200 killswitch::CommandView),       "Release a blocked device"),
    row(Verb::Get,    "/v1/devices/{device_id}/attestation",             UserOrDevice(DevicesRead),                    Read,       NO_BODY,  Unaudited, endpoint!(attestation::api::show, Nothing => 200 attestation::AttestationView),                                   "What a device proved of its hardware"),
    row(Verb::Post,   "/v1/devices/{device_id}/attestation",             Device(Any),                                  Writes,     256 * KIB, Write,    endpoint!(attestation::api::attest, Json<attestation::EvidenceRequest> => 200 attestation::AttestationView), "Prove the device's hardware"),
    row(Verb::Post,   "/v1/devices/{device_id}/attestation/request",     User(DevicesCommand),                         Writes,     NO_BODY,  Write,     endpoint!(attestation::api::ask, Nothing => 202 attestation::api::Asked),                                          "Ask a device to prove its hardware again"),
    row(Verb::Get,    "/v1/devices/{device_id}/attestation/receipt",     FreshUser(DevicesWrite),                      Read,       NO_BODY,  Unaudited, endpoint!(attestation::api::receipt, Nothing => 200 attestation::ReceiptView),                                     "Apple's newest receipt for a device's key, to be exchanged with Apple"),
    row(Verb::Put,    "/v1/devices/{device_id}/attestation/receipt",     User(DevicesWrite),                           Writes,     80 * KIB, Write,     endpoint!(attestation::api::import_receipt, Json<attestation::api::ReceiptRequest> => 200 attestation::ReceiptView), "Bring Apple's next receipt for a device's key, with its risk metric"),
    row(Verb::Get,    "/v1/intel/roots",                                 User(DevicesRead),                            Read,       NO_BODY,  Unaudited, endpoint!(attestation::api::trust::roots, Nothing => 200 attestation::api::trust::RootList),                       "Roots of trust for proofs of hardware"),
    row(Verb::Post,   "/v1/intel/roots",                                 FreshUser(TrustWrite),                        Writes,     20 * KIB, Write,     endpoint!(attestation::api::trust::add_root, Json<attestation::api::trust::RootRequest> => 201 attestation::RootView), "Trust another root, or a bundled one again"),
    row(Verb::Delete, "/v1/intel/roots/{root_id}",                       FreshUser(TrustWrite),                        Writes,     NO_BODY,  Write,     endpoint!(attestation::api::trust::remove_root, Nothing => 204 attestation::api::trust::Removed),                   "Trust a root no longer"),
    row(Verb::Get,    "/v1/intel/status-lists",                          User(DevicesRead),                            Read,       NO_BODY,  Unaudited, endpoint!(attestation::api::trust::status_lists, Nothing => 200 attestation::api::trust::StatusLists),              "Lists of revoked certificates in force"),
    row(Verb::Put,    "/v1/intel/status-lists/android-key",              FreshUser(SystemAdmin),                       Writes,     9 * 1024 * KIB, Write, endpoint!(attestation::api::trust::import_status_list, Json<attestation::api::trust::StatusListRequest> => 200 attestation::StatusListView), "Put Google's list of revoked Android keys in force, for all tenants"),
    row(Verb::Post,   "/v1/attestation/nonce",                           Enrolling("a new device has no token"),       ByNetwork, 4 * KIB, Unaudited, endpoint!(attestation::api::nonce, Json<attestation::api::NonceRequest> => 201 attestation::api::NonceResponse), "A nonce to prove hardware by"),
    row(Verb::Post,   "/v1/attestation/tpm/activate",                    Enrolling("a new device has no token"),       ByNetwork, 64 * KIB, Change,   endpoint!(attestation::api::tpm::activate, Json<attestation::api::tpm::ActivationRequest> => 200 attestation::api::tpm::ActivationResponse), "Bind an attestation key to a TPM"),
    row(Verb::Post,   "/v1/signals/heartbeat",                           Device(Acting),                               PlanTier,   64 * KIB, Change,    endpoint!(signals::api::heartbeat, Json<signals::api::HeartbeatRequest> => 200 signals::api::HeartbeatResponse), "Send readings; the answer comes when they are durable"),
    row(Verb::Get,    "/v1/security/trust-score",                        UserOrDevice(DevicesRead),                    Read,       NO_BODY,  Unaudited, endpoint!(signals::api::trust_score, Query<signals::api::DeviceQuery> => 200 signals::api::TrustScoreResponse),  "How far a device is trusted, and why"),
    row(Verb::Ws,     "/v1/security/kill-switch",                        Device(Any),                                  Handshake,  NO_BODY,  Change,    endpoint!(docs::socket, Nothing => 101 docs::NoBody),                                                            "The kill-switch socket (WebSocket)"),
    row(Verb::Ws,     "/v1/signals",                                     Device(Any),                                  Handshake,  NO_BODY,  Change,    endpoint!(docs::socket, Nothing => 101 docs::NoBody),                                                            "The kill-switch socket, for older clients"),
    row(Verb::Get,    "/v1/plans",                                       Public("prices are no secret"),               ByNetwork,  NO_BODY,  Unaudited, endpoint!(billing::api::plans, Nothing => 200 billing::api::PlanList),                                            "The plans, with what they hold"),
    row(Verb::Post,   "/v1/billing/webhook",                             Signed("the billing gateway has no account"),  ByNetwork,  64 * KIB, Write,     endpoint!(billing::api::webhook, Raw<billing::api::EventRequest> => 200 billing::api::SubscriptionView),  "What the billing gateway says of a device's subscription; 202 while the device is not known"),
    row(Verb::Get,    "/v1/billing/events",                              User(BillingRead),                            Read,       NO_BODY,  Unaudited, endpoint!(billing::api::events, Query<billing::api::EventQuery> => 200 billing::api::BillingEventList),           "What the billing gateway said, newest first"),
    row(Verb::Get,    "/v1/billing/subscription",                        UserOrDevice(BillingRead),                    Read,       NO_BODY,  Unaudited, endpoint!(billing::api::subscription, Query<billing::api::WhichDevice> => 200 billing::api::SubscriptionView),    "A device's subscription"),
    row(Verb::Get,    "/v1/billing/status",                              UserOrDevice(BillingRead),                    Read,       NO_BODY,  Unaudited, endpoint!(billing::api::status, Query<billing::api::WhichDevice> => 200 billing::BillingStatus),                  "Whether a device may act, and until when; 402 once it must be paid for"),
    row(Verb::Get,    "/v1/billing/licence",                             User(BillingRead),                            Read,       NO_BODY,  Unaudited, endpoint!(billing::api::licence, Nothing => 200 billing::api::LicenceView),                                       "The company's licence"),
    row(Verb::Put,    "/v1/billing/licence",                             User(BillingWrite),                           Writes,     16 * KIB, Write,     endpoint!(billing::api::install_licence, Json<billing::api::LicenceRequest> => 200 billing::api::LicenceView),    "Install a licence that the vendor signed"),
    row(Verb::Get,    "/v1/usage",                                       User(BillingRead),                            Read,       NO_BODY,  Unaudited, endpoint!(metering::api::usage, Query<metering::api::UsageQuery> => 200 metering::api::Usage),                    "How much the company used, by day, week or month"),
    row(Verb::Get,    "/v1/audit/logs",                                  UserOrDevice(DevicesRead),                    Read,       NO_BODY,  Unaudited, endpoint!(audit::api::logs, Query<audit::api::LogQuery> => 200 audit::api::AuditList),                           "The forensic log, newest first"),
    row(Verb::Get,    "/v1/tenants",                                     User(SystemAdmin),                            Read,       NO_BODY,  Unaudited, endpoint!(iam::api::tenants::list, Query<iam::api::tenants::PageQuery> => 200 iam::api::tenants::TenantList),     "Tenants of the appliance"),
    row(Verb::Post,   "/v1/tenants",                                     User(SystemAdmin),                            Writes,     16 * KIB, Write,     endpoint!(iam::api::tenants::create, Json<iam::api::tenants::TenantRequest> => 201 iam::api::tenants::TenantView), "Make a tenant and its first administrator"),
    row(Verb::Get,    "/v1/tenants/{tenant_id}",                         User(SystemAdmin),                            Read,       NO_BODY,  Unaudited, endpoint!(iam::api::tenants::get, Nothing => 200 iam::api::tenants::TenantView),                                 "One tenant"),
    row(Verb::Patch,  "/v1/tenants/{tenant_id}",                         User(SystemAdmin),                            Writes,     4 * KIB,  Write,     endpoint!(iam::api::tenants::update, Json<iam::api::tenants::TenantPatch> => 200 iam::api::tenants::TenantView),  "Change, suspend or resume a tenant"),
    row(Verb::Delete, "/v1/tenants/{tenant_id}",                         FreshUser(SystemAdmin),                       Writes,     NO_BODY,  Write,     endpoint!(iam::api::tenants::remove, Nothing => 204 iam::api::Ended),                                            "Delete a tenant; its log stays"),
    row(Verb::Get,    "/v1/kill-switch",                                 User(DevicesRead),                            Read,       NO_BODY,  Unaudited, endpoint!(killswitch::api::switch, Nothing => 200 killswitch::api::SwitchState),                                  "Whether all devices of the tenant are locked"),
    row(Verb::Put,    "/v1/kill-switch",                                 TwoFactorUser(KillSwitchEngage),              Writes,     4 * KIB,  Write,     endpoint!(killswitch::api::turn, Json<killswitch::api::SwitchRequest> => 200 killswitch::api::SwitchState),       "Lock or release all devices of the tenant"),
    row(Verb::Get,    "/.well-known/jwks.json",                          Public("public keys are public"),             Unlimited,  NO_BODY,  Unaudited, endpoint!(ops::jwks, Nothing => 200 docs::Document),                                                            "Keys that tokens and commands are signed with"),
    row(Verb::Get,    "/health/live",                                    PROBE,                                        Unlimited,  NO_BODY,  Unaudited, endpoint!(ops::live, Nothing => 200 ops::Health),                                                          "Whether the process runs"),
    row(Verb::Get,    "/health/ready",                                   PROBE,                                        Unlimited,  NO_BODY,  Unaudited, endpoint!(ops::ready, Nothing => 200 ops::Health),                                                         "Whether it can do its work; 503 names the failing part"),
    row(Verb::Get,    "/health",                                         PROBE,                                        Unlimited,  NO_BODY,  Unaudited, endpoint!(ops::ready, Nothing => 200 ops::Health),                                                         "As /health/ready"),
    row(Verb::Get,    "/health/deep",                                    User(SystemAdmin),                            Read,       NO_BODY,  Unaudited, endpoint!(ops::deep, Nothing => 200 ops::DeepHealth),                                                      "Every part with its figures"),
    row(Verb::Get,    "/openapi.json",                                   PAGE,                                         Unlimited,  NO_BODY,  Unaudited, endpoint!(docs::openapi, Nothing => 200 docs::Document),                                                         "This document"),
    row(Verb::Get,    "/docs",                                           PAGE,                                         Unlimited,  NO_BODY,  Unaudited, endpoint!(docs::to_docs, Nothing => 308 docs::NoBody),                                                           "Swagger UI"),
    row(Verb::Get,    "/docs/",                                          PAGE,                                         Unlimited,  NO_BODY,  Unaudited, endpoint!(docs::swagger, Nothing => 200 docs::Document),                                                         "Swagger UI"),
    row(Verb::Get,    "/docs/{file}",                                    PAGE,                                         Unlimited,  NO_BODY,  Unaudited, endpoint!(docs::swagger, Nothing => 200 docs::Document),                                                         "Files of Swagger UI"),
    row(Verb::Get,    "/redoc",                                          PAGE,                                         Unlimited,  NO_BODY,  Unaudited, endpoint!(docs::reference, Nothing => 200 docs::Document),                                                       "A plain reference page"),
    row(Verb::Get,    "/",                                               PAGE,                                         Unlimited,  NO_BODY,  Unaudited, endpoint!(docs::home, Nothing => 200 docs::Document),                                                            "What this is and where to go"),
    internal("/metrics",                        endpoint!(ops::metrics, Nothing => 200 docs::Document), "Metrics for Prometheus"),
    internal("/internal/.well-known/jwks.json", endpoint!(ops::jwks, Nothing => 200 docs::Document),                          "Keys that tokens and commands are signed with"),
    internal("/health/live",                    endpoint!(ops::live, Nothing => 200 ops::Health),                        "Whether the process runs"),
    internal("/health/ready",                   endpoint!(ops::ready, Nothing => 200 ops::Health),                       "Whether it can do its work"),
];
