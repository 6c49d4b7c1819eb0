//! Histories that look like a company's, from a seed.
//!
//! The same seed and size give the same world, timestamps included: [`World::generate`] places its "now" at a fixed instant,
//! which is also a clock far from the machine's, so that a client that trusts its own clock shows itself at once.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::access::{Token, TokenKind};
use super::clock::{DAY, Micros, SECOND};
use super::model::{
    Commit, Discussion, Event, Feature, Group, Issue, LastIid, MergeRequest, MergeState, Milestone,
    Note, NoteKind, Pipeline, Position, Project, Release, Repository, Role, Threads, User,
    Visibility,
};
use super::prose;
use super::size::Size;
use super::world::World;

/// Sees everything: `read_api`, Maintainer of every group.
pub const TOKEN: &str = "sim-token";
/// The same user's token with scope `api`.
pub const API_TOKEN: &str = "sim-api-token";
/// Guest of the top group: no confidential issues, no internal notes, no private code.
pub const GUEST_TOKEN: &str = "sim-guest-token";
/// Reporter of the top group.
pub const REPORTER_TOKEN: &str = "sim-reporter-token";
/// An OAuth token of the maintainer: `Authorization: Bearer` only.
pub const OAUTH_TOKEN: &str = "sim-oauth-token";
/// Revoked.
pub const REVOKED_TOKEN: &str = "sim-revoked-token";
/// Expired yesterday.
pub const EXPIRED_TOKEN: &str = "sim-expired-token";
/// Scope `read_user` only.
pub const NARROW_TOKEN: &str = "sim-narrow-token";
/// Scope `api`, Owner of every group: sees the world, and may manage hooks of groups and projects.
pub const OWNER_TOKEN: &str = "sim-owner-token";
/// Scope `api`, administrator: sees the world, and may manage system hooks, too.
pub const ADMIN_TOKEN: &str = "sim-admin-token";
/// A user who is a member of nothing.
pub const STRANGER_TOKEN: &str = "sim-stranger-token";

/// The "now" of [`World::generate`]: 2026-02-13T12:00:00Z.
pub const EPOCH: Micros = Micros(1_770_984_000 * SECOND);

/// Days of history.
const HISTORY_DAYS: i64 = 400;

const LABELS: &[&str] = &[
    "bug",
    "team::platform",
    "needs review, urgent",
    "Ümläut",
    "priority::1",
    "docs",
    "won't fix",
    "🚀 release",
];

impl World {
    /// A deterministic world whose clock starts at [`EPOCH`].
    #[must_use]
    pub fn generate(seed: u64, size: &Size) -> Self {
        Self::generate_at(seed, size, EPOCH)
    }

    /// A deterministic world whose clock starts at `now`.
    #[must_use]
    pub fn generate_at(seed: u64, size: &Size, now: Micros) -> Self {
        let mut world = Self::empty(now);
        world.seed = seed;
        let mut maker = Maker {
            world,
            rng: SmallRng::seed_from_u64(seed),
            now,
            people: Vec::new(),
        };
        maker.people();
        let groups = maker.groups();
        for index in 0..size.projects {
            let group = groups[index % groups.len()];
            let name = [
                "Backend", "Web App", "Infra", "Data", "Mobile", "Handbook", "Tools", "SDK",
            ][index % 8];
            let project = maker.project(name, index / 8, group, Visibility::Private);
            maker.fill(project, size);
        }
        if size.oddities {
            maker.oddities(&groups);
        }
        for index in 0..size.huge_texts {
            maker.huge_text(index);
        }
        // Last, so that the rest of a world is what it was before there were these two.
        maker.managers();
        maker.world
    }

    /// Ids of the groups at the top.
    #[must_use]
    pub fn top_groups(&self) -> Vec<u64> {
        self.groups
            .values()
            .filter(|group| group.parent.is_none())
            .map(|group| group.id)
            .collect()
    }
}

struct Maker {
    world: World,
    rng: SmallRng,
    now: Micros,
    people: Vec<u64>,
}

impl Maker {
    fn people(&mut self) {
        let names = [
            ("maria.alvarez", "María Álvarez"),
            ("dev1", "Dev One"),
            ("dev2", "Zoë O'Neil"),
            ("dev3", "李小龍"),
            ("dev4", "Jürgen Groß"),
            ("dev5", "نور الهدى"),
            ("dev6", "Ada Lovelace"),
            ("blocked.bob", "Bob Blocked"),
        ];
        for (username, name) in names {
            let id = self.user(username, name, false);
            if let Some(user) = self
                .world
                .users
                .get_mut(&id)
                .filter(|user| user.username == "blocked.bob")
            {
                user.state = "blocked".to_owned();
            }
            self.people.push(id);
        }
        self.people.push(1); // the ghost writes, too
    }

    fn user(&mut self, username: &str, name: &str, bot: bool) -> u64 {
        let id = self.world.next_id();
        let user = User {
            id,
            username: username.to_owned(),
            name: name.to_owned(),
            state: "active".to_owned(),
            bot,
        };
        self.world.users.insert(id, user);
        id
    }

    fn token(&mut self, value: &str, user: u64, scopes: &[&str]) -> usize {
        let id = self.world.next_id();
        let token = Token {
            id,
            ..Token::personal(value, user, scopes)
        };
        self.world.tokens.push(token);
        self.world.tokens.len() - 1
    }

    fn groups(&mut self) -> Vec<u64> {
        let maintainer = self.user("connector", "Connector Bot", true);
        let guest = self.user("guest", "Guest", false);
        let reporter = self.user("reporter", "Reporter", false);
        let stranger = self.user("stranger", "Stranger", false);
        self.token(TOKEN, maintainer, &["read_api"]);
        self.token(API_TOKEN, maintainer, &["api"]);
        self.token(GUEST_TOKEN, guest, &["read_api"]);
        self.token(REPORTER_TOKEN, reporter, &["read_api"]);
        self.token(STRANGER_TOKEN, stranger, &["read_api"]);
        self.token(NARROW_TOKEN, maintainer, &["read_user"]);
        let oauth = self.token(OAUTH_TOKEN, maintainer, &["read_api"]);
        self.world.tokens[oauth].kind = TokenKind::OAuth;
        let revoked = self.token(REVOKED_TOKEN, maintainer, &["read_api"]);
        self.world.tokens[revoked].revoked = true;
        let expired = self.token(EXPIRED_TOKEN, maintainer, &["read_api"]);
        self.world.tokens[expired].expires_at = Some(self.now.plus_seconds(-86_400).date());
        self.world.tokens[0].expires_at = Some(self.now.plus_seconds(90 * 86_400).date());

        let acme = self.group("acme", "Acme", None);
        let platform = self.group("platform", "Platform", Some(acme));
        let core = self.group("core", "Core", Some(platform));
        let partners = self.group("partners", "Partners", None);
        for id in [acme, partners] {
            if let Some(group) = self.world.groups.get_mut(&id) {
                group.members.insert(maintainer, Role::Maintainer);
            }
        }
        if let Some(group) = self.world.groups.get_mut(&acme) {
            group.members.insert(guest, Role::Guest);
            group.members.insert(reporter, Role::Reporter);
            for &person in &self.people {
                group.members.insert(person, Role::Developer);
            }
        }
        vec![acme, platform, core]
    }

    fn managers(&mut self) {
        let owner = self.user("owner", "Olga Owner", false);
        let admin = self.user("root", "Administrator", false);
        self.token(OWNER_TOKEN, owner, &["api"]);
        self.token(ADMIN_TOKEN, admin, &["api"]);
        self.world.admins.insert(admin);
        for id in self.world.top_groups() {
            if let Some(group) = self.world.groups.get_mut(&id) {
                group.members.insert(owner, Role::Owner);
            }
        }
    }

    fn group(&mut self, path: &str, name: &str, parent: Option<u64>) -> u64 {
        let id = self.world.next_id();
        let group = Group {
            id,
            path: path.to_owned(),
            name: name.to_owned(),
            parent,
            visibility: Visibility::Private,
            created_at: Micros(self.now.0 - (HISTORY_DAYS + 30) * DAY),
            members: Default::default(),
        };
        self.world.groups.insert(id, group);
        id
    }

    fn project(&mut self, name: &str, round: usize, group: u64, visibility: Visibility) -> u64 {
        let id = self.world.next_id();
        let name = if round == 0 {
            name.to_owned()
        } else {
            format!("{name} {}", round + 1)
        };
        let created_at = Micros(self.now.0 - HISTORY_DAYS * DAY - 5 * DAY + 123_457);
        let creator = self.people[0];
        let project = Project {
            id,
            path: name.to_lowercase().replace(' ', "-"),
            description: Some(format!("The {name} of Acme")),
            name,
            group,
            shared_with: Default::default(),
            visibility,
            archived: false,
            marked_for_deletion_at: None,
            disabled: Default::default(),
            members: Default::default(),
            created_at,
            updated_at: created_at,
            last_activity_at: created_at,
            creator,
            merge_requests: Default::default(),
            issues: Default::default(),
            pipelines: Default::default(),
            releases: Default::default(),
            milestones: Default::default(),
            repository: Repository {
                exists: true,
                default_branch: "main".to_owned(),
                ..Repository::default()
            },
            events: Vec::new(),
            last_iid: LastIid::default(),
        };
        self.world.projects.insert(id, project);
        id
    }

    /// A moment `part/whole` of the way through the history, with some noise in it.
    fn moment(&mut self, part: usize, whole: usize) -> Micros {
        let span = HISTORY_DAYS * DAY - DAY;
        let step = span / i64::try_from(whole.max(1)).unwrap_or(i64::MAX);
        let start = self.now.0 - HISTORY_DAYS * DAY + step * i64::try_from(part).unwrap_or(0);
        Micros(start + self.rng.random_range(0..step.max(2)))
    }

    fn person(&mut self) -> u64 {
        self.people.choose(&mut self.rng).copied().unwrap_or(1)
    }

    fn some_people(&mut self, most: usize) -> Vec<u64> {
        let count = self.rng.random_range(0..=most);
        self.people
            .choose_multiple(&mut self.rng, count)
            .copied()
            .collect()
    }

    fn fill(&mut self, id: u64, size: &Size) {
        let Some(mut project) = self.world.projects.remove(&id) else {
            return;
        };
        self.milestones(&mut project);
        self.commits(&mut project, size.commits);
        self.merge_requests(&mut project, size);
        self.issues(&mut project, size);
        self.pipelines(&mut project, size.pipelines);
        self.releases(&mut project, size.releases);
        let activity = project
            .merge_requests
            .values()
            .map(|found| found.updated_at);
        let activity = activity
            .chain(project.issues.values().map(|found| found.updated_at))
            .max();
        project.last_activity_at = activity.unwrap_or(project.created_at);
        self.events(&mut project);
        self.world.projects.insert(id, project);
    }

    fn milestones(&mut self, project: &mut Project) {
        for (index, title) in ["v1.0", "v2.0 – Größeres", "Backlog"].iter().enumerate() {
            let id = self.world.next_id();
            let iid = u64::try_from(index).unwrap_or(0) + 1;
            let milestone = Milestone {
                id,
                iid,
                title: (*title).to_owned(),
                created_at: project.created_at,
            };
            project.milestones.insert(id, milestone);
        }
    }

    fn commit(
        &mut self,
        repository: &mut Repository,
        parents: Vec<String>,
        at: Micros,
        message: String,
    ) -> String {
        let sha = self.world.next_object();
        let author = self.person();
        let name = self
            .world
            .users
            .get(&author)
            .map_or("Somebody", |user| user.name.as_str())
            .to_owned();
        let authored_at = Micros(at.0 - self.rng.random_range(0..3 * 3600) * SECOND);
        let commit = Commit {
            sha: sha.clone(),
            parents,
            message,
            author_email: format!("user{author}@example.com"),
            author_name: name.clone(),
            authored_at,
            committer_name: name,
            committed_at: Micros(at.unix() * SECOND),
            offset_minutes: [0, 60, 120, -300, 330][self.rng.random_range(0..5)],
        };
        repository.commits.insert(sha.clone(), commit);
        sha
    }

    /// A main line with merged side branches, some of them far older than their merge.
    fn commits(&mut self, project: &mut Project, count: usize) {
        let repository = &mut project.repository;
        let mut line: Vec<String> = Vec::new();
        let mut made = 0;
        while made < count {
            let at = self.moment(made, count);
            let head = line.last().cloned();
            let merge = line.len() > 3 && made + 3 <= count && self.rng.random_ratio(1, 6);
            if !merge {
                let message = prose::commit_message(&mut self.rng);
                line.push(self.commit(repository, head.into_iter().collect(), at, message));
                made += 1;
                continue;
            }
            let fork = line[self.rng.random_range(line.len() / 2..line.len())].clone();
            let age = if self.rng.random_ratio(1, 3) {
                60 * DAY
            } else {
                3600 * SECOND
            };
            let mut tip = fork;
            for _ in 0..self.rng.random_range(1..3) {
                let message = prose::commit_message(&mut self.rng);
                tip = self.commit(repository, vec![tip], Micros(at.0 - age), message);
                made += 1;
            }
            let message = format!(
                "Merge branch 'topic-{made}' into 'main'\n\n{}\n",
                prose::title(&mut self.rng)
            );
            line.push(self.commit(
                repository,
                head.into_iter().chain([tip]).collect(),
                at,
                message,
            ));
            made += 1;
        }
        if let Some(head) = line.last() {
            repository.branches.insert("main".to_owned(), head.clone());
            for index in 0..2 {
                let at = Micros(self.now.0 - (index + 1) * DAY);
                let message = prose::commit_message(&mut self.rng);
                let tip = self.commit(repository, vec![head.clone()], at, message);
                repository
                    .branches
                    .insert(format!("feature/{index}-näme"), tip);
            }
        }
    }

    fn merge_requests(&mut self, project: &mut Project, size: &Size) {
        let bulk = Micros(self.now.0 - 20 * DAY + 654_321);
        for index in 0..size.merge_requests {
            let created_at = self.moment(index, size.merge_requests);
            let (id, iid) = (self.world.next_id(), u64::try_from(index).unwrap_or(0) + 1);
            let threads = if index % 5 == 4 {
                Threads::default()
            } else {
                self.threads(project, created_at, size.discussions, true)
            };
            let author = if index % 17 == 11 {
                None
            } else {
                Some(self.person())
            };
            let last_note = threads
                .notes()
                .map(|note| note.created_at)
                .max()
                .unwrap_or(created_at);
            let state = [
                MergeState::Merged,
                MergeState::Opened,
                MergeState::Merged,
                MergeState::Closed,
            ][index % 4];
            let ended = Micros((last_note.0 + 3600 * SECOND).min(self.now.0 - 600 * SECOND));
            let mut updated_at = if state == MergeState::Opened {
                last_note
            } else {
                ended
            };
            if index % 5 == 0 && updated_at < bulk {
                updated_at = bulk; // a bulk edit: many rows, one timestamp
            } else if index % 7 == 3
                && last_note > created_at.plus_seconds(30)
                && state == MergeState::Opened
            {
                updated_at = last_note.plus_seconds(-30); // its last note fell into the throttle
            }
            let who = Some(self.person());
            let sha = project
                .repository
                .default_head()
                .cloned()
                .filter(|_| index % 19 != 13);
            let merge_request = MergeRequest {
                id,
                iid,
                title: prose::title(&mut self.rng),
                description: prose::description(&mut self.rng),
                state,
                created_at,
                updated_at,
                merged: (state == MergeState::Merged).then_some((ended, who)),
                closed: (state == MergeState::Closed).then_some((ended, who)),
                source_branch: format!("topic-{iid}"),
                target_branch: "main".to_owned(),
                source_project: (index % 13 != 7).then_some(project.id),
                author,
                assignees: self.some_people(2),
                reviewers: self.some_people(3),
                labels: self.labels(),
                milestone: self.milestone(project),
                merge_commit: sha.clone().filter(|_| state == MergeState::Merged),
                sha,
                upvotes: self.rng.random_range(0..4),
                threads,
            };
            project.merge_requests.insert(iid, merge_request);
            project.last_iid.merge_request = iid;
        }
    }

    fn issues(&mut self, project: &mut Project, size: &Size) {
        let bulk = Micros(self.now.0 - 12 * DAY + 111_999);
        for index in 0..size.issues {
            let created_at = self.moment(index, size.issues);
            let (id, iid) = (self.world.next_id(), u64::try_from(index).unwrap_or(0) + 1);
            let threads = self.threads(project, created_at, size.discussions, false);
            let last_note = threads
                .notes()
                .map(|note| note.created_at)
                .max()
                .unwrap_or(created_at);
            let open = index % 3 != 0;
            let ended = Micros((last_note.0 + 1800 * SECOND).min(self.now.0 - 600 * SECOND));
            let mut updated_at = if open { last_note } else { ended };
            if index % 4 == 0 && updated_at < bulk {
                updated_at = bulk;
            }
            let closer = Some(self.person());
            let issue = Issue {
                id,
                iid,
                title: prose::title(&mut self.rng),
                description: prose::description(&mut self.rng),
                open,
                created_at,
                updated_at,
                closed: (!open).then_some((ended, closer)),
                author: Some(self.person()),
                assignees: self.some_people(1),
                labels: self.labels(),
                milestone: self.milestone(project),
                confidential: index % 5 == 2,
                issue_type: if index % 9 == 8 { "incident" } else { "issue" }.to_owned(),
                due_date: (index % 6 == 1).then(|| self.now.date().to_string()),
                moved_to: None,
                upvotes: self.rng.random_range(0..4),
                threads,
            };
            project.issues.insert(iid, issue);
            project.last_iid.issue = iid;
        }
    }

    fn labels(&mut self) -> std::collections::BTreeSet<String> {
        let count = self.rng.random_range(0..4);
        LABELS
            .choose_multiple(&mut self.rng, count)
            .map(|&label| label.to_owned())
            .collect()
    }

    fn milestone(&mut self, project: &Project) -> Option<u64> {
        let all: Vec<u64> = project.milestones.keys().copied().collect();
        all.choose(&mut self.rng)
            .copied()
            .filter(|_| self.rng.random_bool(0.5))
    }

    fn threads(&mut self, project: &Project, start: Micros, mean: usize, code: bool) -> Threads {
        let count = if self.rng.random_ratio(1, 12) {
            mean * 6
        } else {
            self.rng.random_range(0..=mean * 2)
        };
        let limit = self.now.0 - 600 * SECOND;
        let mut at = start.0;
        let mut discussions = Vec::with_capacity(count);
        for _ in 0..count {
            at =
                (at + self.rng.random_range(5..40_000) * SECOND + self.rng.random_range(0..SECOND))
                    .min(limit);
            let id = self.world.next_object();
            let die = self.rng.random_range(0..100);
            let (individual, kind, replies) = match die {
                0..60 => (true, NoteKind::Plain, 0),
                60..75 => (true, NoteKind::Plain, 0),
                75..92 => (false, NoteKind::Discussion, self.rng.random_range(1..5)),
                _ if code => (false, NoteKind::Diff, self.rng.random_range(0..4)),
                _ => (true, NoteKind::Plain, 0),
            };
            let system = (60..75).contains(&die);
            let head = project
                .repository
                .default_head()
                .cloned()
                .unwrap_or_default();
            let position = (kind == NoteKind::Diff).then(|| Position {
                path: "src/main.rs".to_owned(),
                line: self.rng.random_range(1..400),
                base_sha: head.clone(),
                head_sha: head.clone(),
            });
            let mut notes = Vec::new();
            let mut time = at;
            for reply in 0..=replies {
                if reply > 0 {
                    time = (time + self.rng.random_range(5..20_000) * SECOND).min(limit);
                }
                let hidden = system && self.rng.random_ratio(1, 6);
                let body = if hidden {
                    "mentioned in issue secret/project#7".to_owned()
                } else if system {
                    "changed the description".to_owned()
                } else {
                    prose::remark(&mut self.rng)
                };
                let created_at = Micros(time);
                notes.push(Note {
                    id: 0,
                    kind,
                    body,
                    author: Some(self.person()),
                    created_at,
                    updated_at: created_at,
                    system,
                    internal: !code && !system && replies == 0 && self.rng.random_ratio(1, 12),
                    hidden,
                    resolved: None,
                    position: position.clone(),
                });
            }
            discussions.push(Discussion {
                id,
                individual,
                notes,
            });
        }
        let mut all: Vec<&mut Note> = discussions
            .iter_mut()
            .flat_map(|d| d.notes.iter_mut())
            .collect();
        all.sort_by_key(|note| note.created_at);
        for note in all {
            note.id = self.world.next_note_id();
        }
        Threads { discussions }
    }

    fn pipelines(&mut self, project: &mut Project, count: usize) {
        let shas: Vec<String> = {
            let mut all: Vec<&Commit> = project.repository.commits.values().collect();
            all.sort_by(|a, b| (a.committed_at, &a.sha).cmp(&(b.committed_at, &b.sha)));
            all.iter().map(|commit| commit.sha.clone()).collect()
        };
        let statuses = [
            "success", "failed", "success", "running", "canceled", "skipped", "success", "manual",
            "pending", "success",
        ];
        let bulk = Micros(self.now.0 - 3 * DAY + 42);
        for index in 0..count {
            let Some(sha) = shas.get(index * shas.len() / count.max(1)).cloned() else {
                return;
            };
            let created_at = self.moment(index, count);
            let (id, iid) = (self.world.next_id(), u64::try_from(index).unwrap_or(0) + 1);
            let status = statuses[index % statuses.len()].to_owned();
            let duration = self.rng.random_range(20..4000);
            let seconds = i64::try_from(duration).unwrap_or(0);
            let finished = matches!(status.as_str(), "success" | "failed" | "canceled");
            let finished_at = finished.then(|| created_at.plus_seconds(seconds + 4));
            let updated_at = if index % 6 == 5 {
                bulk
            } else {
                finished_at.unwrap_or(created_at)
            };
            let child = index % 8 == 7;
            let pipeline = Pipeline {
                id,
                iid,
                sha,
                reference: if index % 5 == 3 {
                    format!("refs/merge-requests/{}/head", index % 3 + 1)
                } else {
                    "main".to_owned()
                },
                source: if child {
                    "parent_pipeline"
                } else {
                    ["push", "schedule", "web"][index % 3]
                }
                .to_owned(),
                name: (index % 4 == 0).then(|| "Build pipeline".to_owned()),
                created_at,
                updated_at: (index % 23 != 22).then_some(updated_at),
                started_at: (status != "skipped" && status != "pending")
                    .then(|| created_at.plus_seconds(4)),
                finished_at,
                duration: finished.then_some(duration),
                coverage: (status == "success" && index % 2 == 0)
                    .then(|| format!("{}.29", 60 + index % 40)),
                user: Some(self.person()),
                status,
            };
            project.pipelines.insert(id, pipeline);
            project.last_iid.pipeline = iid;
        }
    }

    fn releases(&mut self, project: &mut Project, count: usize) {
        let head = project.repository.default_head().cloned();
        for index in 0..count {
            let created_at = self.moment(index, count);
            let tag = if index % 4 == 3 {
                format!("release/2026.{index}+ü")
            } else {
                format!("v1.{index}.0")
            };
            if let Some(head) = &head {
                project.repository.tags.insert(tag.clone(), head.clone());
            }
            let released_at = match index % 5 {
                3 => self.now.plus_seconds(30 * 86_400),
                4 => created_at.plus_seconds(-100 * 86_400),
                _ => created_at,
            };
            let release = Release {
                name: if index % 3 == 0 {
                    tag.clone()
                } else {
                    format!("Release {index} 🎉")
                },
                description: (index % 6 != 5).then(|| prose::paragraphs(&mut self.rng, 3)),
                created_at,
                updated_at: created_at,
                released_at,
                author: Some(self.person()),
                sha: head.clone(),
                links: vec![(
                    "binary".to_owned(),
                    format!("https://downloads.example.com/{index}"),
                )],
                tag: tag.clone(),
            };
            project.releases.insert(tag, release);
        }
    }

    /// The activity feed that such a history would have left.
    fn events(&mut self, project: &mut Project) {
        let mut rows: Vec<Event> = Vec::new();
        let blank = |action: &str, at: Micros, author: Option<u64>| Event {
            id: 0,
            action: action.to_owned(),
            target_type: None,
            target_id: None,
            target_iid: None,
            target_title: None,
            author,
            created_at: at,
            push: None,
        };
        for found in project.merge_requests.values() {
            let opened = Event {
                target_type: Some("MergeRequest".to_owned()),
                target_id: Some(found.id),
                target_iid: Some(found.iid),
                target_title: Some(found.title.clone()),
                ..blank("opened", found.created_at, found.author)
            };
            rows.push(opened);
            rows.extend(
                found
                    .threads
                    .notes()
                    .filter(|note| !note.system)
                    .map(|note| comment(found.iid, &found.title, note)),
            );
        }
        for found in project.issues.values() {
            let opened = Event {
                target_type: Some("Issue".to_owned()),
                target_id: Some(found.id),
                target_iid: Some(found.iid),
                target_title: Some(found.title.clone()),
                ..blank("opened", found.created_at, found.author)
            };
            rows.push(opened);
            rows.extend(
                found
                    .threads
                    .notes()
                    .filter(|note| !note.system)
                    .map(|note| comment(found.iid, &found.title, note)),
            );
        }
        rows.sort_by_key(|row| row.created_at);
        for row in &mut rows {
            row.id = self.world.next_event_id();
        }
        project.events = rows;
    }

    fn oddities(&mut self, groups: &[u64]) {
        self.project("Empty", 0, groups[0], Visibility::Private);

        let small = Size {
            discussions: 1,
            oddities: false,
            ..Size::tiny()
        };
        let quiet = self.project("Issues Only", 0, groups[1], Visibility::Private);
        self.fill(quiet, &small);
        if let Some(project) = self.world.projects.get_mut(&quiet) {
            project.disabled.extend([
                Feature::MergeRequests,
                Feature::Builds,
                Feature::Releases,
                Feature::Repository,
            ]);
        }
        let code = self.project("No Issues", 0, groups[0], Visibility::Internal);
        self.fill(code, &small);
        if let Some(project) = self.world.projects.get_mut(&code) {
            project.disabled.insert(Feature::Issues);
        }
        let old = self.project("Old Site", 0, groups[0], Visibility::Private);
        self.fill(old, &small);
        if let Some(project) = self.world.projects.get_mut(&old) {
            project.archived = true;
        }
        let never = self.project("Never Pushed", 0, groups[2], Visibility::Private);
        if let Some(project) = self.world.projects.get_mut(&never) {
            project.repository.exists = false;
        }
        let partners = self.world.top_groups().last().copied().unwrap_or(groups[0]);
        let shared = self.project("Shared Spec", 0, partners, Visibility::Private);
        self.fill(shared, &small);
        if let Some(project) = self.world.projects.get_mut(&shared) {
            project.shared_with.insert(groups[0]);
        }
    }

    fn huge_text(&mut self, index: usize) {
        let text = prose::huge(&mut self.rng, 120_000);
        let all = self
            .world
            .projects
            .values_mut()
            .flat_map(|project| project.merge_requests.values_mut());
        if let Some(found) = all
            .filter(|found| found.state == MergeState::Opened)
            .nth(index)
        {
            found.description = Some(text);
        }
    }
}

/// The feed's row for a comment.
pub(crate) fn comment(parent_iid: u64, parent_title: &str, note: &Note) -> Event {
    let kind = match note.kind {
        NoteKind::Plain => "Note",
        NoteKind::Discussion => "DiscussionNote",
        NoteKind::Diff => "DiffNote",
    };
    Event {
        id: 0,
        action: "commented on".to_owned(),
        target_type: Some(kind.to_owned()),
        target_id: Some(note.id),
        target_iid: Some(parent_iid),
        target_title: Some(parent_title.to_owned()),
        author: note.author,
        created_at: note.created_at,
        push: None,
    }
}
