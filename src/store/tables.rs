//! Every table of the data file and the layout of its keys, in one list. A table that is not here does not exist.
//!
//! Keys are byte strings that sort as they are read: a tenant first (16 bytes), numbers big-endian, a text closed by a
//! zero byte (no text of ours may hold one). Values are versioned JSON rows (`codec`), except where "raw" is said.

use redb::TableDefinition;

/// A table: keys and values are byte strings; what they mean stands beside each name.
pub type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Whose the rows of a table are, and so what becomes of them when a tenant is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The appliance's, or of all tenants together: they stay.
    Appliance,
    /// The forensic log: it stays, whatever becomes of the tenant.
    Audit,
    /// A tenant's, whose 16 bytes begin the key: they go with it.
    Key,
    /// A tenant's, whose 16 bytes begin the value: they go with it.
    Value,
    /// A tenant's, whom the member `tenant` of the row names: they go with it.
    Member,
}

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $owner:ident;)+) => {
        $($(#[$doc])* pub const $name: Table = TableDefinition::new($text);)+
        /// All of them, for backup, verification and the first opening.
        pub const ALL: &[Table] = &[$($name),+];
        /// Whose rows each of them holds, for the deletion of a tenant.
        pub const OWNERS: &[(Table, Owner)] = &[$(($name, Owner::$owner)),+];
    };
}

tables! {
    /// name -> raw: schema version, counters, the mark behind which the journal is folded.
    META = "meta", Appliance;
    /// kid -> signing key (private part sealed) and its place in the rotation.
    SIGNING_KEYS = "signing_keys", Appliance;
    /// tenant -> tenant. A deleted tenant's row says so and stays.
    TENANTS = "tenants", Appliance;
    /// tenant, user -> user.
    USERS = "users", Key;
    /// lower-case user name, 0 -> raw tenant, user. Names are unique on the appliance.
    USER_NAMES = "user_names", Value;
    /// tenant, role -> role that the tenant made for itself.
    ROLES = "roles", Key;
    /// tenant, team -> team with its members.
    TEAMS = "teams", Key;
    /// tenant, user -> second factors: TOTP secret (sealed), recovery codes (hashed), passkeys.
    SECOND_FACTORS = "second_factors", Key;
    /// SHA-256 of a passkey's credential id -> raw tenant, user.
    PASSKEY_OWNERS = "passkey_owners", Value;
    /// SHA-256 of the token -> invitation or password reset, with its tenant.
    LINKS = "links", Member;
    /// tenant, key -> API key or instance token (hashed).
    API_KEYS = "api_keys", Key;
    /// tenant, session -> session with its refresh family.
    SESSIONS = "sessions", Key;
    /// tenant, user, session -> nothing: the sessions of one person and of the devices they own.
    SESSIONS_BY_USER = "sessions_by_user", Key;
    /// SHA-256 of the token -> enrollment token, with its tenant.
    ENROLLMENT_TOKENS = "enrollment_tokens", Member;
    /// tenant, enrollment token's id -> raw SHA-256 of the token.
    ENROLLMENT_TOKEN_IDS = "enrollment_token_ids", Key;
    /// tenant, device id, 0 -> device.
    DEVICES = "devices", Key;
    /// tenant, device id, 0 -> what stays of a removed device, so that its return is no new beginning.
    DEVICE_TOMBSTONES = "device_tombstones", Key;
    /// tenant, device id, 0, serial number, 0 -> client certificate of a device.
    CLIENT_CERTIFICATES = "client_certificates", Key;
    /// tenant, device id, 0, SHA-256 of the nonce -> nonce, and what it led to.
    ATTESTATION_NONCES = "attestation_nonces", Key;
    /// tenant, device id, 0 -> how the device's attestation stands.
    ATTESTATION_STATES = "attestation_states", Key;
    /// tenant, device id, 0, number -> verdict.
    ATTESTATION_VERDICTS = "attestation_verdicts", Key;
    /// tenant, device id, 0 -> attestation key of the device's TPM, its chip and the chip's counters.
    TPM_KEYS = "tpm_keys", Key;
    /// tenant, SHA-256 of an attested key or of a TPM's endorsement key in base64url, 0 -> raw device id.
    /// tenant, the same hash, 0, device id, 0 -> nothing: each device that proved itself by the attested key.
    ATTESTED_KEYS = "attested_keys", Key;
    /// tenant, root's id, 0 -> root of trust that the tenant added, or bundled one that it distrusts.
    TRUST_ROOTS = "trust_roots", Key;
    /// name, 0 -> what is known of a list of revoked certificates.
    STATUS_LISTS = "status_lists", Appliance;
    /// name, 0 -> raw: the list's file as it was imported.
    STATUS_LIST_FILES = "status_list_files", Appliance;
    /// user, 0, device id, 0 -> subscription, with its tenant once the device is known.
    SUBSCRIPTIONS = "subscriptions", Member;
    /// tenant, key, 0 -> feature flag.
    FLAGS = "flags", Key;
    /// tenant, span byte, number -> counts of usage: of a day, or the different ones of a week or month.
    USAGE_COUNTS = "usage_counts", Key;
    /// tenant, kind byte, span byte, number -> raw: which devices or people were active.
    USAGE_ACTIVES = "usage_actives", Key;
    /// tenant, quota, 0, period (0 for what exists) -> raw: how much is used.
    QUOTA_USAGE = "quota_usage", Key;
    /// provider, 0, its event id, 0 -> billing event, with its tenant once the device is known.
    BILLING_EVENTS = "billing_events", Member;
    /// user, 0, device id, 0, number -> raw key of the billing event: what waits for its device.
    BILLING_WAITING = "billing_waiting", Appliance;
    /// tenant, number -> raw key of the billing event; zeros for the tenant while it is not known.
    BILLING_EVENT_LOG = "billing_event_log", Key;
    /// tenant, device id, 0, seq -> kill-switch command with the exact bytes of its frame.
    COMMANDS = "commands", Key;
    /// tenant, device id, 0, command id -> raw seq.
    COMMAND_IDS = "command_ids", Key;
    /// tenant, SHA-256 of caller, route and Idempotency-Key -> the first answer.
    IDEMPOTENCY = "idempotency", Key;
    /// tenant, seq -> audit entry: the bytes that the leaf hashes, and the personal data they commit to.
    AUDIT = "audit", Audit;
    /// tenant, level, index -> raw 32 bytes: the complete subtrees of the tenant's Merkle tree (RFC 6962).
    AUDIT_NODES = "audit_nodes", Audit;
    /// tenant, device id, 0, seq -> nothing: the entries of one device.
    AUDIT_BY_DEVICE = "audit_by_device", Audit;
    /// tenant -> size and right edge of the Merkle tree.
    AUDIT_HEADS = "audit_heads", Audit;
    /// tenant -> raw: every entry below this sequence number holds only its hash, because its time was over.
    AUDIT_ERASED = "audit_erased", Audit;
    /// tenant, number -> name under which the tenant's log is signed, from which entry on.
    AUDIT_EPOCHS = "audit_epochs", Audit;
    /// tenant, number of the name, size -> signed checkpoint.
    AUDIT_CHECKPOINTS = "audit_checkpoints", Audit;
    /// name, 0 -> key that checkpoints are signed with (private part sealed).
    LOG_SIGNER = "log_signer", Appliance;
    /// kind byte, key -> raw: times of the admitted requests of an anonymous caller or of its network.
    ANONYMOUS_WINDOWS = "anonymous_windows", Appliance;
    /// block number -> raw: the readings of one commit, in the order of their arrival.
    SIGNAL_JOURNAL = "signal_journal", Appliance;
    /// tenant, device number -> raw: rings and engine state as of a journal block.
    SIGNAL_RINGS = "signal_rings", Key;
    /// device number -> raw tenant, journal block: a removed device with heartbeats that no checkpoint has counted yet.
    REMOVED_DEVICES = "removed_devices", Value;
    /// tenant, device number, journal block -> raw: the same as it was once a day, for replays of what came after.
    SIGNAL_ANCHORS = "signal_anchors", Key;
    /// tenant, signal id -> raw: state and heartbeat behind a decision other than allow, kept with the audit entry.
    DECISION_STATES = "decision_states", Key;
    /// tenant, seq -> raw: an audit entry that is an event for integrations and that none of them has taken yet.
    OUTBOX = "outbox", Key;
    /// tenant -> raw: how many integrations there are; no row, no outbox.
    INTEGRATION_COUNTS = "integration_counts", Key;
    /// tenant, integration -> integration, its secrets sealed.
    INTEGRATIONS = "integrations", Key;
    /// tenant, integration, seq -> what became of an event that was to be sent there.
    DELIVERIES = "deliveries", Key;
    /// tenant, integration, seq -> raw: when it is due (ms), what keeps its order; only for what is still to be sent.
    DELIVERIES_DUE = "deliveries_due", Key;
    /// tenant, quota's name, 0 -> raw: when it was last noted that the limit is reached.
    QUOTA_NOTICES = "quota_notices", Key;
    /// tenant -> who may show the status widget in a page.
    EMBED_ORIGINS = "embed_origins", Key;
    /// tenant, name, 0 -> threat feed; the appliance's own stand under the id of zeros.
    INTEL_FEEDS = "intel_feeds", Key;
    /// tenant, device id, 0, kind byte, value, 0 -> when a device was seen with a value. Under fd and fe: which make room.
    SIGHTINGS = "sightings", Key;
    /// tenant, kind byte, value, 0, device id, 0 -> nothing: the devices that were seen with it.
    SIGHTED_BY = "sighted_by", Key;
    /// tenant, number -> what a feed found in the past.
    INTEL_HUNTS = "intel_hunts", Key;
    /// tenant, generation, number -> raw: some indicators of one import; those of the appliance's feeds under the id of zeros.
    INTEL_BLOCKS = "intel_blocks", Key;
}

/// Builds a key piece by piece in the order of the layout.
#[derive(Clone, Debug, Default)]
pub struct Key(Vec<u8>);

impl Key {
    /// An empty key: what every range starts from.
    pub fn new() -> Self {
        Self(Vec::with_capacity(64))
    }

    /// Appends an id's 16 bytes, or any other fixed-width piece.
    #[must_use]
    pub fn bytes(mut self, piece: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(piece.as_ref());
        self
    }

    /// Appends a text and the zero that closes it.
    #[must_use]
    pub fn text(mut self, piece: &str) -> Self {
        self.0.extend_from_slice(piece.as_bytes());
        self.0.push(0);
        self
    }

    /// Appends a big-endian number.
    #[must_use]
    pub fn number(mut self, n: u64) -> Self {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }

    /// Appends one byte.
    #[must_use]
    pub fn byte(mut self, b: u8) -> Self {
        self.0.push(b);
        self
    }

    /// The first key after every key that starts with this one; `None` when there is no such key.
    pub fn end_of_prefix(&self) -> Option<Self> {
        let mut end = self.0.clone();
        while let Some(last) = end.pop() {
            if let Some(next) = last.checked_add(1) {
                end.push(next);
                return Some(Self(end));
            }
        }
        None
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The number that ends a key, such as the seq of a command or an audit entry.
pub fn trailing_number(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|b| u64::from_be_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layouts that stand beside the names, and what is done by them, must not drift apart.
    #[test]
    fn a_table_whose_keys_start_with_the_tenant_says_so() {
        use redb::TableHandle;
        let mut seen = 0;
        let mut layout = "";
        for line in include_str!("tables.rs").lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("/// ") {
                layout = text;
            }
            let Some((table, owner)) =
                OWNERS.iter().find(|(t, _)| line.contains(&format!("= {:?}, ", t.name())) && !line.contains("format!"))
            else {
                continue;
            };
            let by_tenant = layout.starts_with("tenant,") || layout.starts_with("tenant ->");
            let expected = match table.name() {
                "tenants" => *owner == Owner::Appliance,
                name if name.starts_with("audit") => *owner == Owner::Audit,
                _ => by_tenant == (*owner == Owner::Key),
            };
            assert!(expected, "{} is {owner:?}, its layout is {layout}", table.name());
            seen += 1;
        }
        assert_eq!(seen, ALL.len());
    }

    #[test]
    fn names_of_one_prefix_stay_together_and_apart_from_longer_names() {
        let a = Key::new().text("dev");
        let b = Key::new().text("dev-1");
        let under_a = a.clone().number(u64::MAX);
        assert!(a.as_ref() < under_a.as_ref());
        let end = a.end_of_prefix().unwrap_or_default();
        assert!(under_a.as_ref() < end.as_ref(), "every number lies within the prefix");
        assert!(end.as_ref() <= b.as_ref(), "a longer name lies outside");
        assert!(Key::new().bytes([0xff, 0xff]).end_of_prefix().is_none());
    }
}
