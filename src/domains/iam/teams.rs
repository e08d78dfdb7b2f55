//! Teams: people of a tenant under one name. A team gives nobody any rights.
//!
//! Knows nothing of HTTP.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::authority::Authority;
use super::model::{self, User};
use super::permission::Permission;
use super::{Iam, names};
use crate::domains::audit::{self, Action, NewEntry};
use crate::domains::tenants::Quota;
use crate::kernel::context::Origin;
use crate::kernel::ids::{TeamId, TenantId, UserId};
use crate::kernel::{Kind, Refusal, Result, Timestamp};
use crate::store::idempotency::{self, Once};
use crate::store::tables::{Key, TEAMS};
use crate::store::{Row, Snapshot, Tx, codec};

/// Teams of one tenant.
const TEAMS_MAX: usize = 1_000;
/// People of one team.
const MEMBERS_MAX: usize = 1_000;

/// A stored team.
#[derive(Clone, Serialize, Deserialize)]
struct TeamRow {
    id: TeamId,
    tenant: TenantId,
    name: String,
    /// In the order in which they joined.
    members: Vec<UserId>,
    created_at: Timestamp,
}
impl Row for TeamRow {}

/// A team in a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Team)]
pub struct TeamView {
    /// `tea_...`
    #[schema(value_type = String)]
    pub id: TeamId,
    /// Unique in the tenant.
    pub name: String,
    /// How many people.
    pub member_count: usize,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A team with its members.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TeamDetail {
    /// `tea_...`
    #[schema(value_type = String)]
    pub id: TeamId,
    /// Unique in the tenant.
    pub name: String,
    /// How many people.
    pub member_count: usize,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Its people in the order in which they joined, at most 1,000.
    pub members: Vec<MemberView>,
}

/// Somebody in a team.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = TeamMember)]
pub struct MemberView {
    /// `usr_...`
    #[schema(value_type = String)]
    pub id: UserId,
    /// Unique on the appliance.
    pub username: String,
    /// For people.
    pub display_name: Option<String>,
}

impl From<User> for MemberView {
    fn from(user: User) -> Self {
        Self { id: user.id, username: user.username, display_name: user.display_name }
    }
}

fn key(tenant: TenantId, team: TeamId) -> Key {
    Key::new().bytes(tenant.to_bytes()).bytes(team.to_bytes())
}

fn detail(row: TeamRow, members: Vec<MemberView>) -> TeamDetail {
    TeamDetail { id: row.id, name: row.name, member_count: row.members.len(), created_at: row.created_at, members }
}

fn load(tx: &mut Tx<'_>, tenant: TenantId, team: TeamId) -> Result<TeamRow> {
    Ok(tx.get(TEAMS, key(tenant, team))?.ok_or_else(Refusal::not_found)?)
}

fn members(snapshot: &Snapshot, row: &TeamRow) -> Result<Vec<MemberView>> {
    let found = row.members.iter().filter_map(|id| model::user(snapshot, row.tenant, *id).transpose());
    found.map(|user| user.map(MemberView::from)).collect()
}

/// 409 for a name that another team of the tenant has; otherwise how many teams there are.
fn check_name(tx: &mut Tx<'_>, tenant: TenantId, name: &str, own: Option<TeamId>) -> Result<usize> {
    names::check(name, names::GROUP_NAME_MAX).map_err(|e| Refusal::invalid("/name", e))?;
    let wanted = name.to_lowercase();
    let (mut count, mut taken) = (0, false);
    tx.visit(TEAMS, &Key::new().bytes(tenant.to_bytes()), |_, value| {
        let row: TeamRow = codec::decode(value)?;
        count += 1;
        taken |= Some(row.id) != own && row.name.to_lowercase() == wanted;
        Ok(true)
    })?;
    if taken {
        let detail = "A team of this name exists. Choose another name.";
        return Err(Refusal::new(Kind::Conflict, "name_taken", detail).into());
    }
    Ok(count)
}

/// Takes a person out of every team, in the caller's transaction.
pub(super) fn leave_all(tx: &mut Tx<'_>, tenant: TenantId, user: UserId) -> Result<()> {
    let mut left = Vec::new();
    tx.visit(TEAMS, &Key::new().bytes(tenant.to_bytes()), |_, value| {
        let mut row: TeamRow = codec::decode(value)?;
        if row.members.contains(&user) {
            row.members.retain(|member| *member != user);
            left.push(row);
        }
        Ok(true)
    })?;
    left.iter().try_for_each(|row| tx.put(TEAMS, key(tenant, row.id), row))
}

impl Iam {
    /// A page of a tenant's teams in the order of their making, and where the next one begins.
    pub async fn teams(
        &self,
        tenant: TenantId,
        after: Option<TeamId>,
        limit: usize,
    ) -> Result<(Vec<TeamView>, Option<TeamId>)> {
        self.inner
            .store
            .read_with(move |snapshot| {
                let prefix = Key::new().bytes(tenant.to_bytes());
                let after = after.map(|id| key(tenant, id));
                let (page, more) = snapshot.page(TEAMS, &prefix, after, limit, |value| {
                    let TeamRow { id, name, members, created_at, .. } = codec::decode(value)?;
                    Ok(Some(TeamView { id, name, member_count: members.len(), created_at }))
                })?;
                let next = page.last().filter(|_| more).map(|t| t.id);
                Ok((page, next))
            })
            .await
    }

    /// One team with its members.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn team(&self, tenant: TenantId, team: TeamId) -> Result<TeamDetail> {
        self.inner
            .store
            .read_with(move |snapshot| {
                let row: TeamRow = snapshot.get(TEAMS, key(tenant, team))?.ok_or_else(Refusal::not_found)?;
                let members = members(snapshot, &row)?;
                Ok(detail(row, members))
            })
            .await
    }

    /// Makes a team without members.
    ///
    /// # Errors
    /// 409 `name_taken`, `too_many_teams`.
    pub async fn create_team(
        &self,
        tenant: TenantId,
        name: String,
        authority: Authority,
        once: Option<Once>,
        origin: Origin,
    ) -> Result<TeamDetail> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                authority.bound(tx, tenant, Permission::UsersWrite)?;
                if let Some(first) = idempotency::recall(tx, tenant.to_bytes(), once.as_ref(), now)? {
                    return Ok(first);
                }
                if check_name(tx, tenant, &name, None)? >= TEAMS_MAX {
                    let detail = format!("The tenant has {TEAMS_MAX} teams, which is all it takes. Remove some first.");
                    return Err(Refusal::new(Kind::Conflict, "too_many_teams", detail).into());
                }
                this.inner.billing.admit(tx, tenant, Quota::Teams, 1)?.note(tx)?;
                let id = TeamId::generate(now, &this.inner.random);
                let row = TeamRow { id, tenant, name: name.clone(), members: Vec::new(), created_at: now };
                tx.put(TEAMS, key(tenant, id), &row)?;
                this.note_team(tx, Action::TeamCreated, &row, "made", authority, &origin)?;
                let view = detail(row, Vec::new());
                idempotency::remember(tx, tenant.to_bytes(), once.as_ref(), now, &view)?;
                Ok(view)
            })
            .await
    }

    fn note_team(
        &self,
        tx: &mut Tx<'_>,
        action: Action,
        team: &TeamRow,
        what: &str,
        authority: Authority,
        origin: &Origin,
    ) -> Result<()> {
        let reason = format!("{} ({}): {what}", team.id, team.name);
        let entry = NewEntry::new(action, origin).user(authority.by).reason(reason);
        audit::append(tx, team.tenant, self.inner.clock.now(), &self.inner.random, &entry).map(drop)
    }

    /// Gives a team another name.
    ///
    /// # Errors
    /// `not_found`; 409 `name_taken`.
    pub async fn rename_team(
        &self,
        tenant: TenantId,
        team: TeamId,
        name: String,
        authority: Authority,
        origin: Origin,
    ) -> Result<TeamDetail> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                authority.bound(tx, tenant, Permission::UsersWrite)?;
                let mut row = load(tx, tenant, team)?;
                check_name(tx, tenant, &name, Some(team))?;
                if row.name != name {
                    let what = format!("was {}", row.name);
                    row.name.clone_from(&name);
                    tx.put(TEAMS, key(tenant, team), &row)?;
                    this.note_team(tx, Action::TeamUpdated, &row, &what, authority, &origin)?;
                }
                let mut members = Vec::with_capacity(row.members.len());
                for id in &row.members {
                    members.extend(Self::load_user(tx, tenant, *id)?.map(MemberView::from));
                }
                Ok(detail(row, members))
            })
            .await
    }

    /// Removes a team; its members stay.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn remove_team(
        &self,
        tenant: TenantId,
        team: TeamId,
        authority: Authority,
        origin: Origin,
    ) -> Result<()> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                authority.bound(tx, tenant, Permission::UsersWrite)?;
                let row = load(tx, tenant, team)?;
                this.inner.billing.release(tx, tenant, Quota::Teams)?;
                tx.delete(TEAMS, key(tenant, team))?;
                this.note_team(tx, Action::TeamDeleted, &row, "removed", authority, &origin)
            })
            .await
    }

    /// Puts a person into a team, or takes them out. Who is in it already stays there.
    ///
    /// # Errors
    /// `not_found` for the team, the person, and for taking out somebody who is not in it; 409 `team_full`.
    pub async fn set_member(
        &self,
        tenant: TenantId,
        team: TeamId,
        user: UserId,
        member: bool,
        authority: Authority,
        origin: Origin,
    ) -> Result<()> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                authority.bound(tx, tenant, Permission::UsersWrite)?;
                let mut row = load(tx, tenant, team)?;
                let person = Self::load_user(tx, tenant, user)?.ok_or_else(Refusal::not_found)?;
                let (is_in, before) = (row.members.contains(&user), row.members.len());
                match (member, is_in) {
                    (true, true) => return Ok(()),
                    (false, false) => return Err(Refusal::not_found().into()),
                    (true, false) if before >= MEMBERS_MAX => {
                        let detail = format!("The team has {MEMBERS_MAX} members, which is all it takes.");
                        return Err(Refusal::new(Kind::Conflict, "team_full", detail).into());
                    }
                    (true, false) => row.members.push(user),
                    (false, true) => row.members.retain(|id| *id != user),
                }
                tx.put(TEAMS, key(tenant, team), &row)?;
                let action = if member { Action::TeamMemberAdded } else { Action::TeamMemberRemoved };
                let who = format!("{user} ({})", person.username);
                this.note_team(tx, action, &row, &who, authority, &origin)
            })
            .await
    }
}
