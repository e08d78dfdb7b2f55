//! Threat feeds on the wire.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Asker, Confidence, Counts, Feed, FeedName, FeedState, Format, Hunt, Kind, Link, Match, NewFeed, Scope, Sideload,
    dns_score,
};
use crate::domains::iam::Permission;
use crate::gate::{Context, Json, Nothing, Params, Query, Reply, Validate, Values};
use crate::kernel::error::FieldError;
use crate::kernel::{Refusal, Result, Timestamp};
use crate::list_of;

/// A threat feed.
#[derive(Serialize, ToSchema)]
#[schema(as = ThreatFeed)]
pub struct FeedView {
    /// Unique within its scope.
    #[schema(value_type = String)]
    pub name: FeedName,
    /// `tenant`, or `global` for the appliance's own.
    pub scope: &'static str,
    /// Where it is from.
    pub source: String,
    /// Whether its silence means something.
    pub state: FeedState,
    /// When what it holds now was taken in.
    #[schema(value_type = String, format = DateTime)]
    pub imported_at: Timestamp,
    /// Since then.
    pub age_s: u64,
    /// From when on what it does not list counts as unknown.
    #[schema(value_type = String, format = DateTime)]
    pub stale_at: Timestamp,
    /// What it holds.
    pub indicators: Counts,
    /// Lines that are no indicators, left out.
    pub rejected: u64,
    /// Indicators of no use here, left out.
    pub ignored: u64,
    /// The first lines that were left out, in the answer to an import.
    #[schema(max_items = 5)]
    pub rejected_samples: Vec<String>,
}

list_of! {
    /// Threat feeds: the tenant's own, then the appliance's, each by name.
    FeedList of FeedView
}

/// A feed as it stands at `now`.
pub fn view(scope: Scope, feed: &Feed, now: Timestamp, samples: Vec<String>) -> FeedView {
    FeedView {
        name: feed.name.clone(),
        scope: scope.name(),
        source: feed.source.clone(),
        state: feed.state(now),
        imported_at: feed.imported_at,
        age_s: now.since(feed.imported_at).as_secs(),
        stale_at: feed.stale_at(),
        indicators: feed.counts,
        rejected: feed.rejected,
        ignored: feed.ignored,
        rejected_samples: samples,
    }
}

/// A page of feeds.
pub struct FeedPage {
    limit: usize,
    cursor: Option<usize>,
}

impl Params for FeedPage {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("limit", "1 to 200, 50 when absent."), ("cursor", "next_cursor of the page before.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { limit: values.limit(wrong), cursor: values.parse("cursor", wrong) }
    }
}

/// `GET /v1/intel/feeds`
pub async fn list(ctx: Context, Query(query): Query<FeedPage>) -> Result<Reply<FeedList>> {
    let feeds = ctx.services().intel.feeds(ctx.tenant()?);
    let from = query.cursor.unwrap_or(0);
    let next = from.saturating_add(query.limit);
    let next_cursor = (next < feeds.len()).then(|| next.to_string());
    let page = feeds.iter().skip(from).take(query.limit);
    let data = page.map(|(scope, feed)| view(*scope, feed, ctx.now(), Vec::new())).collect();
    Ok(Reply::new(FeedList { data, next_cursor }))
}

/// `tenant` or `global`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = FeedScope)]
pub enum WantedScope {
    /// The caller's tenant.
    #[default]
    Tenant,
    /// The whole appliance.
    Global,
}

impl std::str::FromStr for WantedScope {
    type Err = &'static str;
    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        match text {
            "tenant" => Ok(Self::Tenant),
            "global" => Ok(Self::Global),
            _ => Err("must be tenant or global"),
        }
    }
}

impl WantedScope {
    fn of(self, ctx: &Context) -> Result<Scope> {
        Ok(match self {
            Self::Tenant => Scope::Tenant(ctx.tenant()?),
            Self::Global => Scope::Global,
        })
    }

    /// As [`Self::of`], for a change: the appliance's feeds are its administrator's.
    fn to_change(self, ctx: &Context) -> Result<Scope> {
        if self == Self::Global && !ctx.caller().may(Permission::SystemAdmin) {
            let detail = "Feeds of the whole appliance are changed by its administrator. Leave scope out for your own.";
            return Err(Refusal::new(crate::kernel::Kind::Forbidden, "forbidden", detail).into());
        }
        self.of(ctx)
    }
}

/// Which scope.
pub struct ScopeQuery {
    scope: WantedScope,
}

impl Params for ScopeQuery {
    const NAMES: &'static [(&'static str, &'static str)] = &[("scope", "tenant (the default) or global.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { scope: values.parse("scope", wrong).unwrap_or_default() }
    }
}

/// `GET /v1/intel/feeds/{feed}`
pub async fn get(ctx: Context, Query(query): Query<ScopeQuery>) -> Result<Reply<FeedView>> {
    let scope = query.scope.of(&ctx)?;
    let feed = ctx.services().intel.feed(scope, &ctx.path("feed")?).ok_or_else(Refusal::not_found)?;
    Ok(Reply::new(view(scope, &feed, ctx.now(), Vec::new())))
}

/// A feed that is to be taken in. The bytes of its maker stand in `content`, as a text.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedRequest {
    /// The feed itself: a MISP event, a STIX 2.1 bundle, CSV, a hosts file, or one indicator a line.
    content: String,
    /// Absent: found out by its beginning.
    #[serde(default)]
    format: Format,
    /// What lines of plain text are; absent: hashes, addresses and domains, by their form.
    #[serde(default)]
    kind: Option<Kind>,
    /// Where it is from, for people.
    #[serde(default)]
    #[schema(max_length = 256)]
    source: Option<String>,
    /// How sure its source is where it does not say, in percent; absent: 50, which never locks a device.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 100)]
    confidence: Option<u8>,
    /// After how many days its indicators end where they do not say; absent: never.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 3650)]
    lifetime_days: Option<u32>,
    /// After how many days it counts as stale; absent: as configured.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 365)]
    stale_days: Option<u32>,
    /// `global` for all tenants, which takes the appliance's administrator.
    #[serde(default)]
    scope: WantedScope,
}

/// Characters of a feed's source.
pub const SOURCE_CHARS_MAX: usize = 256;

impl Validate for FeedRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        let mut check = |fits: bool, name: &str, detail: &str| {
            if !fits {
                wrong.push(FieldError { pointer: format!("/{name}"), detail: detail.to_owned() });
            }
        };
        let source = self.source.as_ref().is_none_or(|s| s.chars().count() <= SOURCE_CHARS_MAX);
        check(source, "source", "must have at most 256 characters");
        check(self.confidence.is_none_or(|c| c <= 100), "confidence", "must be 0 to 100");
        check(self.lifetime_days.is_none_or(|d| (1..=3_650).contains(&d)), "lifetime_days", "must be 1 to 3650");
        check(self.stale_days.is_none_or(|d| (1..=365).contains(&d)), "stale_days", "must be 1 to 365");
    }
}

fn days(n: u32) -> Duration {
    Duration::from_secs(86_400) * n
}

/// `PUT /v1/intel/feeds/{feed}`
pub async fn put(ctx: Context, Json(request): Json<FeedRequest>) -> Result<Reply<FeedView>> {
    let scope = request.scope.to_change(&ctx)?;
    let new = NewFeed {
        scope,
        name: ctx.path("feed")?,
        source: request.source.unwrap_or_else(|| "the API".to_owned()),
        format: request.format,
        kind: request.kind,
        confidence: request.confidence.map_or(Confidence::UNSTATED, Confidence::new),
        lifetime: request.lifetime_days.map(days),
        stale_after: request.stale_days.map(days),
        may_be_empty: true,
    };
    let intel = &ctx.services().intel;
    let imported = intel.import(new, request.content.into_bytes(), asker(&ctx)?).await?;
    // The past may be long: its report stands in the log and under /v1/intel/hunts.
    intel.hunt_soon(scope, &imported.feed.name);
    Ok(Reply::new(view(scope, &imported.feed, ctx.now(), imported.samples)))
}

fn asker(ctx: &Context) -> Result<Asker> {
    Ok(Asker { by: Some(ctx.actor()?), log: ctx.tenant()?, origin: ctx.origin().clone() })
}

/// Nothing.
#[derive(Serialize, ToSchema)]
#[schema(as = FeedRemoved)]
pub struct Removed {}

/// `DELETE /v1/intel/feeds/{feed}`
pub async fn remove(ctx: Context, Query(query): Query<ScopeQuery>) -> Result<Reply<Removed>> {
    let scope = query.scope.to_change(&ctx)?;
    ctx.services().intel.remove(scope, ctx.path("feed")?, asker(&ctx)?).await?;
    Ok(Reply::empty())
}

/// What is asked about.
pub struct LookupQuery {
    kind: Option<Kind>,
    value: Option<String>,
}

impl Params for LookupQuery {
    const NAMES: &'static [(&'static str, &'static str)] = &[
        ("kind", "file_hash, package, certificate, domain or address; required."),
        ("value", "The value, in any usual spelling; required."),
    ];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        for name in ["kind", "value"] {
            if values.text(name).is_none() {
                wrong.push(FieldError { pointer: format!("?{name}"), detail: "is required".to_owned() });
            }
        }
        Self { kind: values.parse("kind", wrong), value: values.text("value").map(str::to_owned) }
    }
}

/// One indicator that speaks against a value.
#[derive(Serialize, ToSchema)]
#[schema(as = IntelMatch)]
pub struct MatchView {
    /// The feed.
    #[schema(value_type = String)]
    pub feed: FeedName,
    /// `tenant` or `global`.
    pub scope: &'static str,
    /// Where the feed is from.
    pub source: String,
    /// What is listed: the value, a domain above it, or a network around it.
    pub listed: String,
    /// In percent.
    pub confidence: u8,
    /// When the indicator ends; null: it does not.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Whether it is sure enough to lock a device at once.
    pub critical: bool,
}

/// What is known of a value.
#[derive(Serialize, ToSchema)]
pub struct LookupResponse {
    /// `listed`; `clean` where every feed that knows this kind (hashes of this length, addresses of this family) is fresh;
    /// else `unknown`.
    pub verdict: &'static str,
    /// What speaks against it, the surest first.
    #[schema(max_items = 64)]
    pub matches: Vec<MatchView>,
    /// Whether there are more, less sure ones, that are not shown.
    pub more_matches: bool,
    /// How much a domain looks made by a machine, 0 to 1; null for other kinds.
    pub dns_score: Option<f32>,
}

/// A match as it is shown.
pub fn match_view(found: &Match, critical: bool) -> MatchView {
    MatchView {
        feed: found.feed.name.clone(),
        scope: found.scope.name(),
        source: found.feed.source.clone(),
        listed: found.listed.clone(),
        confidence: found.confidence.percent(),
        expires_at: found.expires_at,
        critical,
    }
}

/// `GET /v1/intel/lookup`
pub async fn look_up(ctx: Context, Query(query): Query<LookupQuery>) -> Result<Reply<LookupResponse>> {
    let (Some(kind), Some(value)) = (query.kind, query.value) else { return Err(Refusal::not_found().into()) };
    Ok(Reply::new(answer(&ctx.services().intel, Scope::Tenant(ctx.tenant()?), kind, &value)))
}

/// What a lookup says, for a tenant or for the appliance's own feeds alone.
pub fn answer(intel: &super::Intel, scope: Scope, kind: Kind, value: &str) -> LookupResponse {
    let tenant = match scope {
        Scope::Tenant(tenant) => tenant,
        Scope::Global => crate::kernel::ids::TenantId::NIL,
    };
    let verdict = intel.look_up(tenant, kind, value);
    let (matches, more_matches) = match &verdict {
        super::Verdict::Listed { matches, cut } => {
            (matches.iter().map(|m| match_view(m, intel.is_critical(m))).collect(), *cut)
        }
        super::Verdict::Clean | super::Verdict::Unknown => (Vec::new(), false),
    };
    let dns_score = (kind == Kind::Domain).then(|| dns_score(value));
    LookupResponse { verdict: verdict.name(), matches, more_matches, dns_score }
}

list_of! {
    /// What feeds found in the past, newest first.
    HuntList of Hunt
}

/// A page of reports.
pub struct HuntPage {
    limit: usize,
    cursor: Option<u64>,
}

impl Params for HuntPage {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("limit", "1 to 200, 50 when absent."), ("cursor", "next_cursor of the page before.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { limit: values.limit(wrong), cursor: values.parse("cursor", wrong) }
    }
}

/// `GET /v1/intel/hunts`
pub async fn hunts(ctx: Context, Query(query): Query<HuntPage>) -> Result<Reply<HuntList>> {
    let (mut data, next) = ctx.services().intel.hunts(ctx.tenant()?, query.cursor, query.limit).await?;
    for hunt in &mut data {
        hunt.finds.retain(|find| ctx.sees_device(&find.device_id));
    }
    Ok(Reply::new(HuntList { data, next_cursor: next.map(|n| n.to_string()) }))
}

/// Packages from outside the store that a device was seen with.
#[derive(Serialize, ToSchema)]
pub struct SideloadHistory {
    /// By name.
    pub data: Vec<Sideload>,
}

/// `GET /v1/devices/{device_id}/sideloads`
pub async fn sideloads(ctx: Context, _: Nothing) -> Result<Reply<SideloadHistory>> {
    let entry = ctx.device_entry(&ctx.path("device_id")?)?;
    Ok(Reply::new(SideloadHistory { data: ctx.services().intel.sideloads(&entry).await? }))
}

/// Devices that have something telling in common with one.
#[derive(Serialize, ToSchema)]
pub struct DeviceLinks {
    /// Those with most in common first.
    pub data: Vec<Link>,
}

/// `GET /v1/devices/{device_id}/links`
pub async fn links(ctx: Context, _: Nothing) -> Result<Reply<DeviceLinks>> {
    let entry = ctx.device_entry(&ctx.path("device_id")?)?;
    let mut data = ctx.services().intel.links(&ctx.services().devices, &entry).await?;
    data.retain(|link| ctx.sees_device(&link.device_id));
    Ok(Reply::new(DeviceLinks { data }))
}
