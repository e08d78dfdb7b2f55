//! What a company has bought: a plan, a licence, and what the operator granted beyond it. What a plan holds stands in the
//! catalogue of billing; here are only the names and what is stored.
//!
//! Not to be taken for a device's subscription, which is about trial, paywall and rate of that one device.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::kernel::Timestamp;

/// A plan of the catalogue, from least to most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanTier {
    /// Nothing is paid.
    Trial,
    /// Small plan.
    PaidBasic,
    /// Full plan.
    Paid,
    /// By contract.
    Enterprise,
}

impl PlanTier {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Trial, Self::PaidBasic, Self::Paid, Self::Enterprise];

    /// As on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::PaidBasic => "paid_basic",
            Self::Paid => "paid",
            Self::Enterprise => "enterprise",
        }
    }
}

/// When what was used counts anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuotaPeriod {
    /// Never: it counts what exists, and what is removed makes room.
    Standing,
    /// Each day at midnight UTC.
    Day,
    /// On the first of each month at midnight UTC.
    Month,
}

macro_rules! quotas {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $period:ident;)+) => {
        /// What is limited.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Quota { $($(#[$doc])* $name,)+ }

        impl Quota {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// As on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// When what was used counts anew.
            pub const fn period(self) -> QuotaPeriod {
                match self { $(Self::$name => QuotaPeriod::$period,)+ }
            }
        }
    };
}

quotas! {
    /// Enrolled devices.
    Devices = "devices", Standing;
    /// People.
    Users = "users", Standing;
    /// Teams.
    Teams = "teams", Standing;
    /// Boards of cases.
    Boards = "boards", Standing;
    /// Cards on all boards together.
    Cards = "cards", Standing;
    /// Hosts that are watched for weaknesses.
    Targets = "targets", Standing;
    /// Scans that are started.
    ScansPerDay = "scans_per_day", Day;
    /// Reports that are made.
    ReportsPerMonth = "reports_per_month", Month;
    /// API keys and instance tokens that are alive.
    ApiKeys = "api_keys", Standing;
    /// Integrations.
    Integrations = "integrations", Standing;
    /// Messages to the assistant.
    AssistantMessagesPerDay = "assistant_messages_per_day", Day;
    /// Days for which the forensic log may be kept.
    AuditDays = "audit_days", Standing;
}

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)+) => {
        /// A part of the appliance that a plan has or has not.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Feature { $($(#[$doc])* $name,)+ }

        impl Feature {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// As on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }

        impl std::str::FromStr for Feature {
            type Err = &'static str;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|f| f.name() == text).ok_or("is no feature; GET /v1/entitlements shows them all")
            }
        }
    };
}

features! {
    /// Cases on boards.
    Kanban = "kanban";
    /// Figures over time.
    Analytics = "analytics";
    /// The assistant.
    Assistant = "assistant";
    /// Watching the company's own hosts for weaknesses.
    Exposure = "exposure";
    /// Reports.
    Reports = "reports";
    /// Webhooks, chat, syslog and mail.
    Integrations = "integrations";
}

/// Limits by name; `None`: unlimited. What is not named stays as the plan says.
pub type Limits = BTreeMap<Quota, Option<u64>>;

/// What the vendor signed for a site, once it was verified.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Licence {
    /// The vendor's own name for it.
    pub id: String,
    /// The plan while it lasts.
    pub plan: PlanTier,
    /// Limits that differ from the plan's.
    #[serde(default)]
    pub quotas: Limits,
    /// Whether it also pays for every device of the tenant.
    pub covers_devices: bool,
    /// When it was signed: an older one never takes the place of a newer one.
    pub issued_at: Timestamp,
    /// From when on the tenant is back on the plan that it had.
    pub expires_at: Timestamp,
    /// The signed text, for whoever wants to verify it again.
    pub jws: String,
}

/// What the operator grants or takes beyond the plan.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    /// Limits by name; null: unlimited.
    #[serde(default)]
    #[schema(value_type = std::collections::HashMap<String, Option<u64>>)]
    pub quotas: Limits,
    /// Features by name, on or off.
    #[serde(default)]
    #[schema(value_type = std::collections::HashMap<String, bool>)]
    pub features: BTreeMap<Feature, bool>,
}

/// Everything that a company has bought.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Purchase {
    /// Its plan.
    pub plan: PlanTier,
    /// Its licence, in force or not.
    #[serde(default)]
    pub licence: Option<Licence>,
    /// What it has beyond both.
    #[serde(default)]
    pub overrides: Overrides,
}

impl Default for Purchase {
    /// What the first tenant starts with: the machine's limits and no others.
    fn default() -> Self {
        Self { plan: PlanTier::Enterprise, licence: None, overrides: Overrides::default() }
    }
}

impl Purchase {
    /// The licence while it lasts. `now` is the time that licences run by, which no clock set back makes longer
    /// (`Billing::licence_time`).
    pub fn licence_at(&self, now: Timestamp) -> Option<&Licence> {
        self.licence.as_ref().filter(|licence| now < licence.expires_at)
    }

    /// The plan at this moment of that time.
    pub fn plan_at(&self, now: Timestamp) -> PlanTier {
        self.licence_at(now).map_or(self.plan, |licence| licence.plan)
    }
}
