//! What an entry holds.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::kernel::context::{Origin, Source};
use crate::kernel::ids::{ApiKeyId, AuditId, DeviceId, SignalId, TenantId, TokenId, UserId};
use crate::kernel::{Timestamp, TrustScore};
use crate::store::Row;

/// What was done; the wire's `action_taken`. Names are stable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AuditAction)]
pub enum Action {
    /// The data file was made.
    ApplianceInitialized,
    /// A tenant was made.
    TenantCreated,
    /// A tenant's name or policies were changed.
    TenantUpdated,
    /// A tenant was shut out.
    TenantSuspended,
    /// A suspended tenant was let in again.
    TenantResumed,
    /// A tenant's rows were removed; its log stays.
    TenantDeleted,
    /// A user was made.
    UserCreated,
    /// A user's name, address or roles were changed.
    UserUpdated,
    /// A user was shut out.
    UserDisabled,
    /// A disabled user was let in again.
    UserEnabled,
    /// A user was removed.
    UserDeleted,
    /// A link was made by which a user sets a password.
    PasswordLinkCreated,
    /// A password was set.
    PasswordChanged,
    /// A role was made.
    RoleCreated,
    /// A role's name or permissions were changed.
    RoleUpdated,
    /// A role was removed.
    RoleDeleted,
    /// A team was made.
    TeamCreated,
    /// A team's name was changed.
    TeamUpdated,
    /// A team was removed.
    TeamDeleted,
    /// Somebody joined a team.
    TeamMemberAdded,
    /// Somebody left a team.
    TeamMemberRemoved,
    /// A second factor was set up.
    SecondFactorAdded,
    /// A second factor was taken away.
    SecondFactorRemoved,
    /// New recovery codes were made; the old ones are void.
    RecoveryCodesCreated,
    /// A recovery code was used up.
    RecoveryCodeUsed,
    /// Somebody proved themselves again within a session.
    StepUpSucceeded,
    /// A proof within a session was wrong.
    StepUpFailed,
    /// An API key was made.
    ApiKeyCreated,
    /// An API key got a new secret.
    ApiKeyRotated,
    /// An API key was revoked.
    ApiKeyRevoked,
    /// An instance token was made.
    InstanceTokenCreated,
    /// An instance token was revoked.
    InstanceTokenRevoked,
    /// A signing key was made or changed its place in the rotation.
    SigningKeyRotated,
    /// A user logged in.
    LoginSucceeded,
    /// A login was refused.
    LoginFailed,
    /// A session was ended by its holder.
    LoggedOut,
    /// A session was ended by somebody else.
    SessionRevoked,
    /// A session was given a name.
    SessionRenamed,
    /// A refresh token was exchanged.
    TokenRefreshed,
    /// An old refresh token came back: the family was revoked and the device locked.
    RefreshReused,
    /// An enrollment token was made.
    EnrollmentTokenCreated,
    /// An enrollment token was revoked.
    EnrollmentTokenRevoked,
    /// A device was enrolled.
    DeviceEnrolled,
    /// A known device was enrolled again.
    DeviceReenrolled,
    /// A device's name was changed.
    DeviceUpdated,
    /// A device was removed.
    DeviceDeleted,
    /// A device was blocked.
    DeviceBlocked,
    /// A device was released.
    DeviceUnblocked,
    /// A client certificate was issued for a device.
    CertificateIssued,
    /// A client certificate was taken back, or superseded.
    CertificateRevoked,
    /// A device's proof of its hardware holds.
    AttestationAccepted,
    /// It does not.
    AttestationRefused,
    /// A used nonce came back with another proof: the device was blocked.
    AttestationReplayed,
    /// A key of a device's TPM was bound to it.
    AttestationKeyActivated,
    /// Somebody wants a device to prove its hardware again.
    AttestationRequested,
    /// A tenant trusts another root for proofs of hardware.
    TrustRootAdded,
    /// A tenant trusts a root no longer.
    TrustRootRemoved,
    /// A list of revoked certificates was put in force.
    StatusListImported,
    /// A newer receipt of Apple's for a device's key was taken in.
    ReceiptImported,
    /// A device was cut off from everything but the appliance.
    DeviceQuarantined,
    /// The engine wants the device to prove itself.
    DeviceChallenged,
    /// The engine trusts the device again.
    DeviceTrusted,
    /// An updated engine could not continue what an older one had gathered of a device.
    EngineRestarted,
    /// Scoring became too slow: the hard rules decide, and the last decision is held.
    ScoringDegraded,
    /// Heartbeats are judged in full again.
    ScoringRecovered,
    /// The disk is nearly full: most changes are refused.
    DiskNearlyFull,
    /// There is room again.
    DiskRecovered,
    /// A command was issued.
    CommandRequested,
    /// A device carried a command out.
    CommandEnforced,
    /// A device could not carry a command out.
    CommandFailed,
    /// The billing gateway changed a device's subscription.
    SubscriptionUpdated,
    /// The billing gateway said something that changed no device.
    BillingEventReceived,
    /// A device's trial or paid time is over.
    PaymentRequired,
    /// A device is paid for again.
    PaymentSettled,
    /// A feature flag was made.
    FlagCreated,
    /// A feature flag was changed.
    FlagUpdated,
    /// A feature flag was removed.
    FlagDeleted,
    /// The operator granted or took beyond a plan.
    EntitlementsChanged,
    /// Something was refused because a limit of the company is reached; once an hour for each limit.
    QuotaExceeded,
    /// An integration was made.
    IntegrationCreated,
    /// An integration was changed.
    IntegrationUpdated,
    /// An integration got a new secret.
    IntegrationRotated,
    /// An integration was switched off, by its receiver's word that it is gone.
    IntegrationDisabled,
    /// An integration was removed.
    IntegrationDeleted,
    /// An integration was tried out.
    IntegrationTested,
    /// Events are sent to an integration again.
    IntegrationReplayed,
    /// The pages that may show the status widget were changed.
    EmbedOriginsChanged,
    /// A token for the status widget was made.
    EmbedTokenCreated,
    /// A licence was installed.
    LicenceInstalled,
    /// The kill switch of the whole tenant was engaged.
    KillSwitchEngaged,
    /// The kill switch of the whole tenant was released.
    KillSwitchReleased,
    /// A threat feed was taken in.
    IntelFeedImported,
    /// A threat feed was removed.
    IntelFeedRemoved,
    /// A device was seen with something that is listed.
    IntelMatched,
    /// A device was seen, before it was listed, with something that is listed now.
    IntelFoundInHistory,
    /// The log was signed as it stood; outside, the event `audit.checkpoint`.
    AuditCheckpointed,
    /// The appliance runs on a restored backup: the log goes on under another name.
    ApplianceRestored,
    /// The log goes on under another name, because somebody gave it one.
    AuditRenamed,
    /// A backup was written and checked.
    BackupCreated,
    /// A backup could not be written.
    BackupFailed,
    /// A backup was restored for trial, and holds what it should.
    BackupDrillPassed,
    /// A backup could not be restored for trial.
    BackupDrillFailed,
    /// No backup was restored for trial for too long.
    BackupOverdue,
}

impl std::str::FromStr for Action {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_value(text.into()).map_err(|_| "is no action; see AuditAction in /openapi.json")
    }
}

/// How much an entry matters to an analyst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThreatLevel {
    /// Everyday work.
    None,
    /// Worth a look.
    Low,
    /// Unusual.
    Medium,
    /// A takeover is likely.
    High,
    /// A takeover or theft is certain.
    Critical,
}

impl ThreatLevel {
    /// All of them, the least first.
    pub const ALL: [Self; 5] = [Self::None, Self::Low, Self::Medium, Self::High, Self::Critical];
}

impl std::str::FromStr for ThreatLevel {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_value(text.into()).map_err(|_| "must be none, low, medium, high or critical")
    }
}

/// Everything of an entry but its place in the tree.
#[derive(Clone, Debug)]
pub struct NewEntry {
    pub(super) action: Action,
    pub(super) level: ThreatLevel,
    pub(super) source: Source,
    pub(super) request_id: String,
    pub(super) ip: Option<IpAddr>,
    pub(super) user_agent: Option<String>,
    pub(super) user_id: Option<UserId>,
    pub(super) device_id: Option<DeviceId>,
    pub(super) jti: Option<TokenId>,
    pub(super) key_id: Option<ApiKeyId>,
    pub(super) signal_id: Option<SignalId>,
    pub(super) score: Option<TrustScore>,
    pub(super) reason: Option<String>,
    pub(super) attestation: Option<String>,
}

impl NewEntry {
    /// An entry about `action`, asked for by `origin`.
    pub fn new(action: Action, origin: &Origin) -> Self {
        Self {
            action,
            level: ThreatLevel::None,
            source: origin.source,
            request_id: origin.request_id.to_string(),
            ip: origin.ip,
            user_agent: origin.user_agent.as_deref().map(str::to_owned),
            user_id: None,
            device_id: None,
            jti: origin.jti,
            key_id: origin.key,
            signal_id: None,
            score: None,
            reason: None,
            attestation: None,
        }
    }

    /// How much it matters.
    #[must_use]
    pub fn level(mut self, level: ThreatLevel) -> Self {
        self.level = level;
        self
    }

    /// The user who did it, or whom it concerns.
    #[must_use]
    pub fn user(mut self, user: UserId) -> Self {
        self.user_id = Some(user);
        self
    }

    /// Who did it, when it was a person; as [`Self::user`].
    #[must_use]
    pub fn by(mut self, user: Option<UserId>) -> Self {
        self.user_id = user.or(self.user_id);
        self
    }

    /// The device it concerns.
    #[must_use]
    pub fn device(mut self, device: &DeviceId) -> Self {
        self.device_id = Some(device.clone());
        self
    }

    /// The access token that was used, where the origin does not say.
    #[must_use]
    pub fn token(mut self, jti: Option<TokenId>) -> Self {
        self.jti = jti.or(self.jti);
        self
    }

    /// The heartbeat behind it, and the score that it led to.
    #[must_use]
    pub fn signal(mut self, signal: SignalId, score: TrustScore) -> Self {
        self.signal_id = Some(signal);
        self.score = Some(score);
        self
    }

    /// Why, in words that an analyst reads; cut to 1,000 characters.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        let reason: String = reason.into();
        self.reason = Some(reason.chars().take(1_000).collect());
        self
    }

    /// The device's attestation state at the time.
    #[must_use]
    pub fn attestation(mut self, state: &str) -> Self {
        self.attestation = Some(state.to_owned());
        self
    }
}

/// An entry as the API shows it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = AuditEntry)]
pub struct Entry {
    /// `aud_...`
    #[schema(value_type = String)]
    pub id: AuditId,
    /// Place in the tenant's tree, from 0.
    pub seq: u64,
    /// Whose log.
    #[schema(value_type = String)]
    pub tenant: TenantId,
    /// The user who did it, or whom it concerns.
    #[schema(value_type = Option<String>)]
    pub user_id: Option<UserId>,
    /// The device it concerns.
    #[schema(value_type = Option<String>)]
    pub device_id: Option<DeviceId>,
    /// The access token that was used.
    #[schema(value_type = Option<String>)]
    pub jti: Option<TokenId>,
    /// The API key or instance token that was used.
    #[schema(value_type = Option<String>)]
    pub key_id: Option<ApiKeyId>,
    /// The caller's address; null when unknown or erased.
    pub ip: Option<String>,
    /// The caller's program; null when unknown or erased.
    pub user_agent: Option<String>,
    /// `http`, `ws`, `grpc`, `system` or `cli`.
    #[schema(value_type = String)]
    pub source: Source,
    /// How much it matters.
    pub threat_level: ThreatLevel,
    /// The trust score behind the decision, where there was one.
    #[schema(value_type = Option<u8>)]
    pub threat_score: Option<TrustScore>,
    /// Why, in words.
    pub decision_reason: Option<String>,
    /// The device's attestation state at the time.
    pub attestation_state: Option<String>,
    /// What was done.
    pub action_taken: Action,
    /// The heartbeat behind it.
    #[schema(value_type = Option<String>)]
    pub signal_id: Option<SignalId>,
    /// The request that caused it.
    pub request_id: String,
    /// When, by the appliance's clock.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// What the leaf hashes, before it is made canonical. Members are never renamed: old leaves must hash the same.
#[derive(Serialize, Deserialize)]
pub(super) struct Leaf {
    pub id: AuditId,
    pub seq: u64,
    pub tenant: TenantId,
    pub user_id: Option<UserId>,
    pub device_id: Option<DeviceId>,
    pub jti: Option<TokenId>,
    /// Absent in most leaves, and then not hashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<ApiKeyId>,
    pub source: Source,
    pub threat_level: ThreatLevel,
    pub threat_score: Option<TrustScore>,
    pub decision_reason: Option<String>,
    pub attestation_state: Option<String>,
    pub action_taken: Action,
    pub signal_id: Option<SignalId>,
    pub request_id: String,
    pub created_at: Timestamp,
    /// Base64url of SHA-256 over salt and canonical personal data; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personal_sha256: Option<String>,
}

/// What may be erased: the leaf only commits to it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Personal {
    /// 16 random bytes in base64url: without it the few billion addresses could be tried out.
    pub salt: String,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
}

/// A stored entry: its content, or, once its time is over, the hash of its leaf and nothing else.
#[derive(Serialize, Deserialize)]
pub(super) struct EntryRow {
    /// Exactly the bytes that the leaf hashes; `None` once they were erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf: Option<String>,
    #[serde(default)]
    pub personal: Option<Personal>,
    /// Of an erased entry: the leaf's hash in base64url, so that the tree stands and every proof still verifies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}
impl Row for EntryRow {}

/// Size and right edge of a tree: what the next append needs.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct HeadRow {
    pub size: u64,
    /// Hashes of the complete subtrees from left to right, in base64url.
    pub edge: Vec<String>,
}
impl Row for HeadRow {}
