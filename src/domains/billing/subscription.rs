//! A device's subscription: what the billing gateway last said of it. Pure.
//!
//! Of everything that was ever said of one device of one person, the latest word counts, by the gateway's own time
//! ([`Word::is_after`]). That is a total order, so repeats and any order of arrival lead to the same state.

use serde::{Deserialize, Serialize};

use crate::domains::devices::Paid;
use crate::domains::tenants::PlanTier;
use crate::kernel::Timestamp;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::store::Row;

/// How a subscription stands, in the gateway's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SubscriptionStatus)]
pub enum Status {
    /// Nothing is paid yet.
    Trial,
    /// It is paid.
    Active,
    /// A payment is late, and the gateway has not given up.
    PastDue,
    /// Ended by its owner.
    Cancelled,
    /// Ended by its time.
    Expired,
}

/// One event of the gateway, once its signature was found genuine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Word {
    /// The gateway's own id of the event.
    pub event_id: String,
    /// Which gateway.
    pub provider: String,
    /// Who pays; an id of ours or a name that we do not know yet.
    pub user_id: String,
    /// For which device.
    pub device_id: DeviceId,
    /// The gateway's name of the plan.
    pub plan_code: String,
    /// Our plan.
    pub tier: PlanTier,
    /// How it stands.
    pub status: Status,
    /// When it happened; where the gateway does not say, when it signed the event.
    pub occurred_at: Timestamp,
    /// Until when it is paid; `None`: until further notice.
    pub expires_at: Option<Timestamp>,
    /// Whether it goes on by itself.
    pub auto_renew: bool,
}

impl Word {
    /// Whether this was said after `other`; never true in both directions, and false for the same event.
    pub fn is_after(&self, other: &Self) -> bool {
        (self.occurred_at, &self.event_id, &self.provider) > (other.occurred_at, &other.event_id, &other.provider)
    }

    /// What is paid for by it. A late payment still counts until its time is over: the gateway says when it gives up.
    pub fn paid(&self) -> Option<Paid> {
        let pays = matches!(self.status, Status::Active | Status::PastDue) && self.tier != PlanTier::Trial;
        pays.then_some(Paid { tier: self.tier, until: self.expires_at })
    }
}

/// A stored subscription: of one person for one device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Subscription {
    /// Whose the device is; `None` while nobody has enrolled it.
    pub tenant: Option<TenantId>,
    /// The latest word.
    pub word: Word,
}
impl Row for Subscription {}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn word(occurred_s: i64, id: u8, provider: u8, status: Status) -> Word {
        Word {
            event_id: format!("evt_{id}"),
            provider: format!("p{provider}"),
            user_id: "usr".to_owned(),
            device_id: "BR-1".parse().unwrap(),
            plan_code: "p".to_owned(),
            tier: PlanTier::Paid,
            status,
            occurred_at: Timestamp::from_millis(occurred_s * 1_000),
            expires_at: None,
            auto_renew: true,
        }
    }

    fn last_of(words: &[Word]) -> Option<Word> {
        words.iter().fold(None, |last: Option<Word>, word| match last {
            Some(last) if !word.is_after(&last) => Some(last),
            _ => Some(word.clone()),
        })
    }

    fn statuses() -> impl Strategy<Value = Status> {
        prop_oneof![
            Just(Status::Trial),
            Just(Status::Active),
            Just(Status::PastDue),
            Just(Status::Cancelled),
            Just(Status::Expired)
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        /// A gateway sends again what it got no answer to, and its messages overtake each other.
        #[test]
        fn repeats_and_any_order_lead_to_the_same_state(
            (words, arrivals) in proptest::collection::vec((0_i64..5, 0_u8..4, 0_u8..2, statuses()), 1..8).prop_flat_map(|made| {
                // One event of one provider says one thing.
                let mut words: Vec<Word> = made.into_iter().map(|(s, id, p, status)| word(s, id, p, status)).collect();
                words.sort_by(|a, b| (&a.event_id, &a.provider).cmp(&(&b.event_id, &b.provider)));
                words.dedup_by(|a, b| (&a.event_id, &a.provider) == (&b.event_id, &b.provider));
                let twice: Vec<Word> = words.iter().chain(words.iter()).cloned().collect();
                (Just(words), Just(twice).prop_shuffle())
            }),
        ) {
            prop_assert_eq!(last_of(&arrivals), last_of(&words));
        }
    }

    #[test]
    fn only_a_paid_tier_that_is_not_ended_pays() {
        for (status, tier, pays) in [
            (Status::Active, PlanTier::PaidBasic, true),
            (Status::Active, PlanTier::Trial, false),
            (Status::PastDue, PlanTier::Paid, true),
            (Status::Trial, PlanTier::Paid, false),
            (Status::Cancelled, PlanTier::Paid, false),
            (Status::Expired, PlanTier::Enterprise, false),
        ] {
            let word = Word { tier, ..word(0, 0, 0, status) };
            assert_eq!(word.paid().is_some(), pays, "{status:?} {tier:?}");
        }
    }
}
