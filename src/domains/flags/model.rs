//! A flag, and what it says to whom. Pure: a flag, what is known of the caller and the time in, a variant and the reason
//! out. The same caller always falls into the same part of a rollout, on every appliance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::crypto::sha256;
use crate::kernel::Timestamp;
use crate::kernel::error::FieldError;
use crate::kernel::ids::UserId;
use crate::store::Row;

/// Characters of a key, a variant's name and an attribute's name.
pub const NAME_MAX: usize = 64;
const VARIANTS_MAX: usize = 20;
const VARIANT_BYTES_MAX: usize = 4_096;
const RULES_MAX: usize = 20;
const CONDITIONS_MAX: usize = 10;
const VALUES_MAX: usize = 100;
/// Characters of a text or pattern that is compared with.
const TEXT_MAX: usize = 256;
/// Bytes of a text of the context that a pattern may fit: with 256 characters of pattern it costs what it may.
const MATCHED_MAX: usize = 4_096;
/// Parts of a whole in which rollouts are reckoned: thousandths of a percent.
const WHOLE: u64 = 100_000;

/// What a flag is to say.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FlagRequest)]
pub struct Definition {
    /// For people.
    #[serde(default)]
    #[schema(max_length = 500)]
    pub description: String,
    /// Off: everybody gets `off_variant`.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The emergency brake: as off, whatever else is changed, until somebody releases it. Absent or null: as it stands.
    #[serde(default)]
    pub killed: Option<bool>,
    /// What it can say, by name. All values are of one type.
    #[schema(value_type = std::collections::HashMap<String, Value>)]
    pub variants: BTreeMap<String, Value>,
    /// What everybody gets while it is off, killed or out of its time.
    pub off_variant: String,
    /// The first that fits decides.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// What everybody else gets.
    pub otherwise: Serve,
    /// When it counts; absent: always.
    #[serde(default)]
    pub schedule: Option<Schedule>,
}

const fn yes() -> bool {
    true
}

/// Some callers, and what they get.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FlagRule)]
pub struct Rule {
    /// All of them must hold.
    pub when: Vec<Condition>,
    /// What they get.
    pub serve: Serve,
}

/// One variant, or a share of callers for each of several; exactly one of both.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FlagServe)]
pub struct Serve {
    /// One for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Percentages that add up to 100, by variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::HashMap<String, f64>>)]
    pub percent: Option<BTreeMap<String, f64>>,
}

/// What must be true of a caller.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FlagCondition)]
pub struct Condition {
    /// Which member of the caller's context.
    pub attribute: String,
    /// How it is compared.
    pub is: Comparison,
    /// With what; any of them will do. For `matches`, `*` stands for any characters.
    #[serde(default)]
    #[schema(value_type = Vec<Value>)]
    pub values: Vec<Value>,
}

/// How an attribute is compared. A caller without the attribute never fits, but for `absent`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = FlagComparison)]
pub enum Comparison {
    /// Equal to one of the values.
    In,
    /// Equal to none of them.
    NotIn,
    /// A text that fits one of the patterns.
    Matches,
    /// A number above the value.
    Above,
    /// A number below the value.
    Below,
    /// There is such a member.
    Present,
    /// There is none.
    Absent,
}

/// When a flag counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FlagSchedule)]
pub struct Schedule {
    /// From then on.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// Until then.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
}

/// A stored flag.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Flag {
    /// Unique in its tenant.
    pub key: String,
    /// What it says.
    pub definition: Definition,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed, and by whom.
    pub updated_at: Timestamp,
    /// Who changed it.
    pub updated_by: UserId,
}
impl Row for Flag {}

/// Why a caller got what it got, in OpenFeature's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = FlagReason)]
pub enum Reason {
    /// Off, killed or out of its time.
    Disabled,
    /// A rule fits.
    TargetingMatch,
    /// It fell into a share of a rollout.
    Split,
    /// No rule was asked for.
    Static,
    /// No rule fits.
    Default,
}

/// What a caller gets.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Evaluation<'f> {
    /// By name.
    pub variant: &'f str,
    /// Its value.
    pub value: &'f Value,
    /// Why.
    pub reason: Reason,
}

/// Why a flag says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CannotTell {
    /// A rollout needs something to tell callers apart by.
    #[error("the flag is rolled out by percentages, and the context has no targetingKey")]
    TargetingKeyMissing,
    /// The evaluation has looked at as many values as it may.
    #[error("the flags have more rules than one request may look at; ask for this flag by its name")]
    TooMuchWork,
}

/// How much an evaluation may still look at, in comparisons of a short value. One flag at its limits, asked with a
/// context at its limits, stays below [`Work::REQUEST`]; all flags of a company at once need not.
#[derive(Clone, Copy, Debug)]
pub struct Work(usize);

impl Work {
    /// For one request: a tenth of a second at the very most.
    pub const REQUEST: Self = Self(1_000_000);
    /// For what every heartbeat asks.
    pub const SWITCH: Self = Self(20_000);
    /// Bytes of a text that cost as much as a short value.
    const BYTES: usize = 128;

    fn spend(&mut self, units: usize) -> Result<(), CannotTell> {
        self.0 = self.0.checked_sub(units).ok_or(CannotTell::TooMuchWork)?;
        Ok(())
    }
}

/// Whether a text may be a key or a name: 1 to 64 of `A-Z a-z 0-9 . _ -`.
pub fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

impl Definition {
    /// Says everything that is wrong with it.
    pub fn check(&self, wrong: &mut Vec<FieldError>) {
        let mut refuse = |pointer: String, detail: &str| wrong.push(FieldError { pointer, detail: detail.to_owned() });
        if self.description.chars().count() > 500 {
            refuse("/description".to_owned(), "must have at most 500 characters");
        }
        if !(1..=VARIANTS_MAX).contains(&self.variants.len()) {
            refuse("/variants".to_owned(), "must have 1 to 20 members");
        }
        let kind = |value: &Value| match value {
            Value::Bool(_) => 0,
            Value::String(_) => 1,
            Value::Number(_) => 2,
            Value::Object(_) | Value::Array(_) => 3,
            Value::Null => 4,
        };
        let first = self.variants.values().next().map(kind);
        for (name, value) in &self.variants {
            if !is_name(name) {
                refuse("/variants".to_owned(), "names have 1 to 64 characters of A-Z a-z 0-9 . _ -");
            } else if Some(kind(value)) != first || value.is_null() {
                refuse(format!("/variants/{name}"), "must be of the same type as the others, and not null");
            } else if value.to_string().len() > VARIANT_BYTES_MAX {
                refuse(format!("/variants/{name}"), "must have at most 4096 bytes");
            }
        }
        if !self.variants.contains_key(&self.off_variant) {
            refuse("/off_variant".to_owned(), "is none of the variants");
        }
        if self.rules.len() > RULES_MAX {
            refuse("/rules".to_owned(), "must have at most 20 rules");
        }
        self.check_serve(&self.otherwise, "/otherwise", &mut refuse);
        for (i, rule) in self.rules.iter().enumerate().take(RULES_MAX) {
            self.check_serve(&rule.serve, &format!("/rules/{i}/serve"), &mut refuse);
            if !(1..=CONDITIONS_MAX).contains(&rule.when.len()) {
                refuse(format!("/rules/{i}/when"), "must have 1 to 10 conditions");
            }
            for (j, condition) in rule.when.iter().enumerate().take(CONDITIONS_MAX) {
                if let Err(detail) = condition.check() {
                    refuse(format!("/rules/{i}/when/{j}"), detail);
                }
            }
        }
        if self.schedule.is_some_and(|s| s.from.zip(s.until).is_some_and(|(from, until)| from >= until)) {
            refuse("/schedule/until".to_owned(), "must be after from");
        }
    }

    fn check_serve(&self, serve: &Serve, at: &str, refuse: &mut impl FnMut(String, &str)) {
        match (&serve.variant, &serve.percent) {
            (Some(variant), None) if self.variants.contains_key(variant) => {}
            (Some(_), None) => refuse(format!("{at}/variant"), "is none of the variants"),
            (None, Some(shares)) => {
                if shares.keys().any(|variant| !self.variants.contains_key(variant)) {
                    refuse(format!("{at}/percent"), "names what is none of the variants");
                }
                let parts: Option<Vec<u64>> = shares.values().map(|share| parts_of(*share)).collect();
                match parts {
                    None => refuse(format!("{at}/percent"), "must hold 0 to 100, with three digits behind the point"),
                    Some(parts) if parts.iter().sum::<u64>() != WHOLE => {
                        refuse(format!("{at}/percent"), "must add up to 100");
                    }
                    Some(_) => {}
                }
            }
            _ => refuse(at.to_owned(), "must have either variant or percent"),
        }
    }
}

/// A percentage in thousandths; `None` for what is no percentage, or finer than that.
fn parts_of(percent: f64) -> Option<u64> {
    let parts = percent * 1_000.0;
    let fits = (0.0..=100_000.0).contains(&parts) && (parts - parts.round()).abs() < 1e-6;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be a whole number in range"
    )]
    fits.then_some(parts.round() as u64)
}

impl Condition {
    fn check(&self) -> Result<(), &'static str> {
        if !is_name(&self.attribute) {
            return Err("the attribute's name must have 1 to 64 characters of A-Z a-z 0-9 . _ -");
        }
        let texts = self.values.iter().all(Value::is_string);
        let fits = match self.is {
            Comparison::Present | Comparison::Absent => self.values.is_empty(),
            Comparison::Above | Comparison::Below => self.values.len() == 1 && self.values.iter().all(Value::is_number),
            Comparison::Matches => (1..=VALUES_MAX).contains(&self.values.len()) && texts,
            Comparison::In | Comparison::NotIn => {
                let plain = |v: &Value| matches!(v, Value::String(_) | Value::Number(_) | Value::Bool(_));
                (1..=VALUES_MAX).contains(&self.values.len()) && self.values.iter().all(plain)
            }
        };
        if !fits {
            return Err("needs values that its comparison can use, 100 at most");
        }
        if self.values.iter().filter_map(Value::as_str).any(|text| text.chars().count() > TEXT_MAX) {
            return Err("a text or pattern must have at most 256 characters");
        }
        Ok(())
    }

    fn holds(&self, context: &Map<String, Value>, work: &mut Work) -> Result<bool, CannotTell> {
        let found = context.get(&self.attribute).filter(|v| !v.is_null());
        let Some(found) = found else {
            work.spend(1)?;
            return Ok(self.is == Comparison::Absent);
        };
        let each = match self.is {
            Comparison::Matches => 1 + found.as_str().map_or(0, str::len).min(MATCHED_MAX) / Work::BYTES,
            _ => 1,
        };
        work.spend(1 + self.values.len() * each)?;
        let number = || found.as_f64().zip(self.values.first().and_then(Value::as_f64));
        Ok(match self.is {
            Comparison::In => self.values.iter().any(|v| same(v, found)),
            Comparison::NotIn => !self.values.iter().any(|v| same(v, found)),
            Comparison::Matches => {
                let patterns = self.values.iter().filter_map(Value::as_str);
                found
                    .as_str()
                    .filter(|text| text.len() <= MATCHED_MAX)
                    .is_some_and(|text| patterns.into_iter().any(|pattern| matches(pattern, text)))
            }
            Comparison::Above => number().is_some_and(|(found, bound)| found > bound),
            Comparison::Below => number().is_some_and(|(found, bound)| found < bound),
            Comparison::Present => true,
            Comparison::Absent => false,
        })
    }
}

/// Numbers by value: a client may write 1 as 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// Whether a text fits a pattern in which `*` stands for any characters. Looks at each character a bounded number of
/// times: unlike a regular expression it cannot be made to run for ever.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl Flag {
    /// What a caller gets. Reads no clock and waits for nobody.
    ///
    /// # Errors
    /// [`CannotTell`].
    pub fn evaluate(
        &self,
        context: &Map<String, Value>,
        now: Timestamp,
        work: &mut Work,
    ) -> Result<Evaluation<'_>, CannotTell> {
        let definition = &self.definition;
        let in_time = definition
            .schedule
            .is_none_or(|s| s.from.is_none_or(|from| now >= from) && s.until.is_none_or(|until| now < until));
        if !definition.enabled || definition.killed == Some(true) || !in_time {
            return Ok(self.say(&definition.off_variant, Reason::Disabled));
        }
        let mut fitting = None;
        for rule in &definition.rules {
            let mut all = true;
            for condition in &rule.when {
                all = condition.holds(context, work)?;
                if !all {
                    break;
                }
            }
            if all {
                fitting = Some(rule);
                break;
            }
        }
        let (serve, reason) = match fitting {
            Some(rule) => (&rule.serve, Reason::TargetingMatch),
            None if definition.rules.is_empty() => (&definition.otherwise, Reason::Static),
            None => (&definition.otherwise, Reason::Default),
        };
        if let Some(variant) = &serve.variant {
            return Ok(self.say(variant, reason));
        }
        let caller = context.get("targetingKey").and_then(Value::as_str).filter(|key| !key.is_empty());
        let mut place = self.bucket(caller.ok_or(CannotTell::TargetingKeyMissing)?);
        for (variant, share) in serve.percent.iter().flatten() {
            let parts = parts_of(*share).unwrap_or(0);
            if place < parts {
                return Ok(self.say(variant, Reason::Split));
            }
            place -= parts;
        }
        Ok(self.say(&definition.off_variant, Reason::Default))
    }

    /// Where a caller stands among all, in thousandths of a percent: another place for each flag.
    fn bucket(&self, caller: &str) -> u64 {
        let hash = sha256(&[self.key.as_bytes(), &[0], caller.as_bytes()].concat());
        hash.first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b)) % WHOLE
    }

    fn say<'f>(&'f self, variant: &'f str, reason: Reason) -> Evaluation<'f> {
        const NOTHING: &Value = &Value::Null;
        Evaluation { variant, value: self.definition.variants.get(variant).unwrap_or(NOTHING), reason }
    }
}

#[cfg(test)]
mod tests;
