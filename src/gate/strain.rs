//! What a row of the route table is worth when the machine runs short of memory or disk. Knows no figures: how short it
//! is, `observe::strain` says.

use super::problem::Problem;
use super::route::{Access, AuditClass, Door, RateClass, Route, Verb};
use crate::observe::strain::{Importance, Strain};

/// Rows for others without which devices cannot be judged and locked: their access tokens live for minutes.
const FOR_DEVICES: &[(Verb, &str)] = &[
    (Verb::Post, "/v1/auth/refresh"),
    (Verb::Get, "/.well-known/jwks.json"),
    (Verb::Post, "/v1/devices/{device_id}/commands"),
    (Verb::Put, "/v1/kill-switch"),
];

/// Rows that are taken even when the disk is nearly full: they lock or release devices, or let in who can make room.
const WITHOUT_ROOM: &[&str] = &[
    "/v1/auth/login",
    "/v1/auth/refresh",
    "/v1/auth/logout",
    "/v1/auth/passkey",
    "/v1/me/mfa/verify",
    "/v1/devices/{device_id}/commands",
    "/v1/devices/{device_id}/unblock",
    "/v1/kill-switch",
    // Without a certificate a device hears no command over gRPC.
    "/blockremote.v1.Signals/RenewCertificate",
];

/// How important a row is.
pub(super) fn importance(route: &Route) -> Importance {
    let health = route.path.starts_with("/health") || route.path.starts_with("/grpc.health.");
    if route.door == Door::Internal || health && matches!(route.access, Access::Public(_)) {
        return Importance::Always;
    }
    if route.verb == Verb::Ws
        || matches!(route.access, Access::Device(_))
        || FOR_DEVICES.contains(&(route.verb, route.path))
    {
        return Importance::Device;
    }
    let reads = route.verb == Verb::Get && matches!(route.rate, RateClass::Read | RateClass::Unlimited);
    if reads { Importance::List } else { Importance::Person }
}

/// Whether a row changes something that can wait until there is room on the disk.
fn can_wait_for_room(route: &Route) -> bool {
    let heartbeat = route.audit == AuditClass::Change;
    route.audit != AuditClass::Nothing && !heartbeat && !WITHOUT_ROOM.contains(&route.path)
}

/// Whether there is memory and disk for this row.
pub(super) fn admit(strain: &Strain, route: &Route) -> Result<(), Problem> {
    strain.admit(importance(route))?;
    if can_wait_for_room(route) {
        strain.admit_change()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "tests")]
    use super::*;
    use crate::gate::routes::ROUTES;

    fn row(verb: Verb, path: &str) -> &'static Route {
        let found = ROUTES.iter().find(|r| r.verb == verb && r.path == path && r.door == Door::Public);
        found.unwrap_or_else(|| panic!("{path} is no row"))
    }

    #[test]
    fn heartbeats_sockets_and_their_tokens_are_served_longest_documents_and_lists_go_first() {
        for (verb, path, expected) in [
            (Verb::Get, "/health/ready", Importance::Always),
            (Verb::Post, "/v1/signals/heartbeat", Importance::Device),
            (Verb::Ws, "/v1/security/kill-switch", Importance::Device),
            (Verb::Post, "/v1/auth/refresh", Importance::Device),
            (Verb::Get, "/.well-known/jwks.json", Importance::Device),
            (Verb::Post, "/v1/auth/login", Importance::Person),
            (Verb::Get, "/v1/status", Importance::Person),
            (Verb::Post, "/v1/devices/{device_id}/commands", Importance::Device),
            (Verb::Get, "/v1/devices/{device_id}/commands", Importance::List),
            (Verb::Get, "/v1/devices", Importance::List),
            (Verb::Get, "/openapi.json", Importance::List),
            (Verb::Get, "/docs/", Importance::List),
        ] {
            assert_eq!(importance(row(verb, path)), expected, "{path}");
        }
    }

    #[test]
    fn on_a_nearly_full_disk_people_can_still_log_in_and_lock() {
        for (verb, path, waits) in [
            (Verb::Post, "/v1/users", true),
            (Verb::Post, "/v1/auth/device", true),
            (Verb::Put, "/v1/intel/feeds/{feed}", true),
            (Verb::Post, "/v1/billing/webhook", true),
            (Verb::Post, "/v1/signals/heartbeat", false),
            (Verb::Post, "/v1/auth/login", false),
            (Verb::Post, "/v1/devices/{device_id}/commands", false),
            (Verb::Put, "/v1/kill-switch", false),
            (Verb::Get, "/v1/devices", false),
        ] {
            assert_eq!(can_wait_for_room(row(verb, path)), waits, "{path}");
        }
        for path in FOR_DEVICES.iter().map(|(_, path)| path).chain(WITHOUT_ROOM) {
            assert!(ROUTES.iter().any(|r| r.path == *path), "{path} is no row any more");
        }
    }
}
