//! Usage on the wire, as JSON and as CSV.

use serde::Serialize;
use utoipa::ToSchema;

use super::actives::EXACT_MAX;
use super::{Counts, Measure, Span, date_of, day_at, day_text, parse_day};
use crate::gate::{Context, Params, Query, Reply, Values};
use crate::kernel::error::FieldError;
use crate::kernel::{Refusal, Result};

/// Days that one answer may cover.
const DAYS_MAX: u64 = 3_660;
/// Days when the caller names none.
const DAYS_DEFAULT: u64 = 30;

/// Which days, and how they are folded.
pub struct UsageQuery {
    from: Option<u64>,
    to: Option<u64>,
    by: Span,
    csv: bool,
}

impl Params for UsageQuery {
    const NAMES: &'static [(&'static str, &'static str)] = &[
        ("from", "First day, such as 2026-01-31; 30 days before `to` when absent."),
        ("to", "Last day; today when absent."),
        ("by", "day (when absent), week or month."),
        ("format", "json (when absent) or csv."),
    ];

    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        let mut refuse = |name: &str, detail: &str| {
            wrong.push(FieldError { pointer: format!("?{name}"), detail: detail.to_owned() });
        };
        let mut day = |name: &str| {
            let text = values.text(name)?;
            let day = parse_day(text);
            if day.is_none() {
                refuse(name, "must be a day such as 2026-01-31");
            }
            day
        };
        let (from, to) = (day("from"), day("to"));
        let by = match values.text("by") {
            None | Some("day") => Span::Day,
            Some("week") => Span::Week,
            Some("month") => Span::Month,
            Some(_) => {
                refuse("by", "must be day, week or month");
                Span::Day
            }
        };
        let csv = match values.text("format") {
            None | Some("json") => false,
            Some("csv") => true,
            Some(_) => {
                refuse("format", "must be json or csv");
                false
            }
        };
        Self { from, to, by, csv }
    }
}

/// Usage of one day, week or month. Those without any are left out.
#[derive(Serialize, ToSchema)]
pub struct UsageRow {
    /// The day, the Monday of the week, or the month, such as `2026-01`.
    pub period: String,
    /// Requests over HTTPS, heartbeats among them.
    pub requests: u64,
    /// Accepted heartbeats, by whichever way they came.
    pub heartbeats: u64,
    /// Devices that were locked.
    pub locks: u64,
    /// Scans that were started.
    pub scans: u64,
    /// Reports that were made.
    pub reports: u64,
    /// Tokens that the assistant used.
    pub assistant_tokens: u64,
    /// Messages that were delivered to integrations.
    pub webhook_deliveries: u64,
    /// Different devices that sent a heartbeat.
    pub active_devices: u64,
    /// Different people who asked for something.
    pub active_users: u64,
    /// Whether a number of different ones is beyond 10,000 and therefore an estimate, with a standard error of 1.6 %.
    pub estimated: bool,
}

impl UsageRow {
    fn of(period: String, counts: &Counts) -> Self {
        let (active_devices, active_users) = (counts.get(Measure::ActiveDevices), counts.get(Measure::ActiveUsers));
        Self {
            period,
            requests: counts.get(Measure::Requests),
            heartbeats: counts.get(Measure::Heartbeats),
            locks: counts.get(Measure::Locks),
            scans: counts.get(Measure::Scans),
            reports: counts.get(Measure::Reports),
            assistant_tokens: counts.get(Measure::AssistantTokens),
            webhook_deliveries: counts.get(Measure::WebhookDeliveries),
            active_devices,
            active_users,
            estimated: active_devices.max(active_users) > EXACT_MAX as u64,
        }
    }
}

/// A company's usage.
#[derive(Serialize, ToSchema)]
pub struct Usage {
    /// First day.
    pub from: String,
    /// Last day.
    pub to: String,
    /// How days are folded.
    pub by: Span,
    /// Oldest first.
    pub data: Vec<UsageRow>,
}

fn name_of(by: Span, number: u64) -> String {
    let first = by.first_day(number);
    match by {
        Span::Day | Span::Week => day_text(first),
        Span::Month => {
            let (year, month, _) = date_of(first);
            format!("{year:04}-{month:02}")
        }
    }
}

/// `GET /v1/usage`
pub async fn usage(ctx: Context, Query(query): Query<UsageQuery>) -> Result<Reply<Usage>> {
    let to = query.to.unwrap_or_else(|| day_at(ctx.now()));
    let from = query.from.unwrap_or_else(|| to.saturating_sub(DAYS_DEFAULT - 1));
    if from > to || to - from >= DAYS_MAX {
        let detail = format!("must be before `to`, and not by more than {DAYS_MAX} days");
        return Err(Refusal::invalid("?from", detail).into());
    }
    let periods = ctx.services().metering.usage(ctx.tenant()?, from, to, query.by).await?;
    if query.csv {
        return Ok(Reply::raw("text/csv; charset=utf-8", csv(query.by, &periods))
            .header("content-disposition", "attachment; filename=\"usage.csv\""));
    }
    let data = periods.iter().map(|(number, counts)| UsageRow::of(name_of(query.by, *number), counts)).collect();
    Ok(Reply::new(Usage { from: day_text(from), to: day_text(to), by: query.by, data }))
}

/// RFC 4180; nothing in it needs quotes.
fn csv(by: Span, periods: &std::collections::BTreeMap<u64, Counts>) -> String {
    let names: Vec<&str> = Measure::ALL.iter().map(|m| m.name()).collect();
    let mut out = format!("period,{}\r\n", names.join(","));
    for (number, counts) in periods {
        let row: Vec<String> = Measure::ALL.iter().map(|m| counts.get(*m).to_string()).collect();
        out.push_str(&format!("{},{}\r\n", name_of(by, *number), row.join(",")));
    }
    out
}
