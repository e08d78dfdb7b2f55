//! The plan catalogue: four plans, their defaults in `plans.toml`, and what a file of the operator changes in them.
//!
//! A plan has two sides that are never mixed: what a DEVICE gets by its subscription (price, rate, life of its refresh
//! tokens), and what a COMPANY gets by its plan (features, quotas). Rows name a plan and never copy it, so a changed
//! catalogue counts at the next request of everyone on it. Pure: text in, catalogue or the reason why not out.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use crate::domains::tenants::{Feature, Limits, PlanTier, Quota};

/// The catalogue that the program brings.
pub const DEFAULTS: &str = include_str!("plans.toml");

/// Bounds of what a file may say.
const PRICE_CENTS_MAX: u32 = 100_000_000;
const HEARTBEATS_PER_MINUTE_MAX: u32 = 1_000_000;
const REFRESH_DAYS_MAX: u32 = 365;

/// One plan.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// For one device and month, in hundredths of the currency.
    pub price_cents: u32,
    /// ISO 4217.
    pub currency: String,
    /// Of a device.
    pub heartbeats_per_minute: u32,
    /// How long a refresh token of a device lives after its last use; `None`: as the configuration says.
    pub refresh: Option<Duration>,
    /// Of a company.
    pub features: BTreeSet<Feature>,
    /// Of a company; every quota is named.
    pub quotas: Limits,
}

/// All four plans.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Catalogue([Plan; 4]);

/// Why a catalogue was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadCatalogue(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    trial: Option<PlanFile>,
    paid_basic: Option<PlanFile>,
    paid: Option<PlanFile>,
    enterprise: Option<PlanFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    price_cents: Option<u32>,
    currency: Option<String>,
    heartbeats_per_minute: Option<u32>,
    refresh_days: Option<u32>,
    features: Option<BTreeSet<Feature>>,
    #[serde(default)]
    quotas: std::collections::BTreeMap<Quota, Limit>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Limit {
    Most(u64),
    Word(Unlimited),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unlimited {
    Unlimited,
}

impl Catalogue {
    /// The defaults with `changes` (TOML) laid over them.
    ///
    /// # Errors
    /// What is wrong with it, in words that name the place.
    pub fn with(changes: &str) -> Result<Self, BadCatalogue> {
        let mut catalogue = Self(Default::default());
        catalogue.lay(DEFAULTS)?;
        catalogue.lay(changes)?;
        Ok(catalogue)
    }

    /// One plan.
    pub fn plan(&self, tier: PlanTier) -> &Plan {
        let [trial, paid_basic, paid, enterprise] = &self.0;
        match tier {
            PlanTier::Trial => trial,
            PlanTier::PaidBasic => paid_basic,
            PlanTier::Paid => paid,
            PlanTier::Enterprise => enterprise,
        }
    }

    fn lay(&mut self, text: &str) -> Result<(), BadCatalogue> {
        let file: File = toml::from_str(text).map_err(|e| BadCatalogue(e.message().to_owned()))?;
        let sections = [file.trial, file.paid_basic, file.paid, file.enterprise];
        for ((plan, section), tier) in self.0.iter_mut().zip(sections).zip(PlanTier::ALL) {
            if let Some(section) = section {
                section.lay_over(plan).map_err(|why| BadCatalogue(format!("[{}] {why}", tier.name())))?;
            }
        }
        Ok(())
    }
}

impl PlanFile {
    fn lay_over(self, plan: &mut Plan) -> Result<(), String> {
        let within = |name: &str, value: Option<u32>, min: u32, max: u32| match value {
            Some(n) if !(min..=max).contains(&n) => Err(format!("{name} must be {min} to {max}, not {n}")),
            _ => Ok(()),
        };
        within("price_cents", self.price_cents, 0, PRICE_CENTS_MAX)?;
        within("heartbeats_per_minute", self.heartbeats_per_minute, 1, HEARTBEATS_PER_MINUTE_MAX)?;
        within("refresh_days", self.refresh_days, 1, REFRESH_DAYS_MAX)?;
        if let Some(currency) = &self.currency
            && !(currency.len() == 3 && currency.bytes().all(|b| b.is_ascii_uppercase()))
        {
            return Err("currency must be three capital letters, such as EUR".to_owned());
        }
        plan.price_cents = self.price_cents.unwrap_or(plan.price_cents);
        plan.currency = self.currency.unwrap_or_else(|| std::mem::take(&mut plan.currency));
        plan.heartbeats_per_minute = self.heartbeats_per_minute.unwrap_or(plan.heartbeats_per_minute);
        if let Some(days) = self.refresh_days {
            plan.refresh = Some(Duration::from_secs(u64::from(days) * 86_400));
        }
        plan.features = self.features.unwrap_or_else(|| std::mem::take(&mut plan.features));
        for (quota, limit) in self.quotas {
            let limit = match limit {
                Limit::Most(most) => Some(most),
                Limit::Word(Unlimited::Unlimited) => None,
            };
            plan.quotas.insert(quota, limit);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_defaults_name_every_quota_of_every_plan_and_no_plan_gives_less_than_the_one_below() {
        let catalogue = Catalogue::with("").unwrap();
        for tier in PlanTier::ALL {
            let plan = catalogue.plan(tier);
            assert_eq!(plan.quotas.len(), Quota::ALL.len(), "{}", tier.name());
            assert_eq!((plan.currency.as_str(), plan.refresh), ("EUR", None));
        }
        for pair in PlanTier::ALL.windows(2) {
            let [less, more] = [0, 1].map(|i| catalogue.plan(*pair.get(i).unwrap()));
            assert!(less.heartbeats_per_minute < more.heartbeats_per_minute);
            assert!(less.features.is_subset(&more.features));
            for quota in Quota::ALL {
                let of = |plan: &Plan| plan.quotas.get(quota).copied().flatten().unwrap_or(u64::MAX);
                assert!(of(less) < of(more), "{} of {:?}", quota.name(), pair);
            }
        }
    }

    #[test]
    fn a_file_changes_what_it_names_and_nothing_else() {
        let defaults = Catalogue::with("").unwrap();
        let changed = Catalogue::with(
            "[paid]\nheartbeats_per_minute = 2400\nrefresh_days = 14\n[paid.quotas]\nusers = \"unlimited\"\nteams = 0",
        )
        .unwrap();
        let expected = {
            let mut plan = defaults.plan(PlanTier::Paid).clone();
            plan.heartbeats_per_minute = 2400;
            plan.refresh = Some(Duration::from_secs(14 * 86_400));
            plan.quotas.insert(Quota::Users, None);
            plan.quotas.insert(Quota::Teams, Some(0));
            plan
        };
        assert_eq!(*changed.plan(PlanTier::Paid), expected);
        for tier in [PlanTier::Trial, PlanTier::PaidBasic, PlanTier::Enterprise] {
            assert_eq!(changed.plan(tier), defaults.plan(tier));
        }
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        for (text, says) in [
            ("[gold]\nprice_cents = 1", "gold"),
            ("[paid]\nprice = 1", "price"),
            ("[paid]\ncurrency = \"euro\"", "[paid] currency"),
            ("[trial]\nheartbeats_per_minute = 0", "[trial] heartbeats_per_minute must be 1 to 1000000, not 0"),
            ("[trial]\nrefresh_days = 366", "refresh_days"),
            ("[trial]\nprice_cents = -1", "invalid value"),
            ("[trial.quotas]\ndevice = 1", "device"),
            ("[trial.quotas]\ndevices = \"many\"", "did not match"),
            ("[trial]\nfeatures = [\"flying\"]", "flying"),
            ("[trial", ""),
        ] {
            let said = Catalogue::with(text).unwrap_err().to_string();
            assert!(said.contains(says), "{text:?} says {said:?}");
        }
    }
}
