//! Random changes, from a seed: an afternoon of a busy team.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::model::MergeState;
use super::mutate::{Done, Mutation, refused};
use super::prose;
use super::world::{Noteable, Target, World};

impl World {
    /// Makes `count` random changes to records (never to projects, features or tokens) and tells what they were.
    pub fn mutate_some(&mut self, seed: u64, count: usize) -> Vec<Mutation> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut out = Vec::with_capacity(count);
        for _ in 0..count.saturating_mul(20) {
            if out.len() == count {
                break;
            }
            out.extend(self.mutate_once(&mut rng));
        }
        out
    }

    fn mutate_once(&mut self, rng: &mut SmallRng) -> Done {
        let active = |p: &&super::model::Project| !self.is_archived(p) && !p.repository.is_empty();
        let ids: Vec<u64> = self
            .projects
            .values()
            .filter(active)
            .map(|project| project.id)
            .collect();
        let Some(&project) = ids.choose(rng) else {
            return refused("no project");
        };
        let die = rng.random_range(0..100);
        let parent = self.random_target(rng, project);
        match (die, parent) {
            (0..6, _) => {
                let (title, text) = (prose::title(rng), prose::description(rng));
                self.new_merge_request(project, &title, text.as_deref())
            }
            (6..12, _) => {
                let (title, text) = (prose::title(rng), prose::description(rng));
                let confidential = rng.random_ratio(1, 5);
                self.new_issue(project, &title, text.as_deref(), confidential)
            }
            (12..34, Some(target)) => self.add_note(target, &prose::remark(rng)),
            (34..40, Some(target)) => self.start_thread(target, &prose::remark(rng)),
            (40..48, Some(target)) => match self.random_note(rng, target) {
                Some(note) => self.reply(target, note, &prose::remark(rng)),
                None => refused("no note"),
            },
            (48..56, Some(target)) => match self.random_note(rng, target) {
                Some(note) => self.edit_note(target, note, &prose::remark(rng)),
                None => refused("no note"),
            },
            (56..60, Some(target)) => match self.random_note(rng, target) {
                Some(note) => self.delete_note(target, note),
                None => refused("no note"),
            },
            (60..64, Some(target)) => match self.random_note(rng, target) {
                Some(note) => self.resolve_thread(target, note, true),
                None => refused("no note"),
            },
            (64..70, Some(target)) => self.add_label(target, "triaged, later"),
            (70..78, Some(target)) => {
                let (title, text) = (prose::title(rng), prose::description(rng));
                match target.kind {
                    Noteable::MergeRequest => {
                        self.edit_merge_request(project, target.iid, Some(&title), text.as_deref())
                    }
                    Noteable::Issue => {
                        self.edit_issue(project, target.iid, Some(&title), text.as_deref())
                    }
                }
            }
            (78..83, Some(target)) => match target.kind {
                Noteable::MergeRequest => {
                    let state = [MergeState::Merged, MergeState::Closed, MergeState::Opened]
                        [rng.random_range(0..3)];
                    self.set_merge_request_state(project, target.iid, state)
                }
                Noteable::Issue => {
                    let open = rng.random_bool(0.4);
                    self.set_issue_open(project, target.iid, open)
                }
            },
            (83..85, Some(target)) => match target.kind {
                Noteable::MergeRequest => self.bump(target),
                Noteable::Issue => {
                    let confidential = rng.random_bool(0.5);
                    self.set_confidential(project, target.iid, confidential)
                }
            },
            (85, Some(target)) => match target.kind {
                Noteable::MergeRequest => self.delete_merge_request(project, target.iid),
                Noteable::Issue => self.delete_issue(project, target.iid),
            },
            (86..90, _) => self.push_commits(project, "main", rng.random_range(1..4), 0),
            (90, _) => self.push_commits(project, "main", 2, 30 * 86_400),
            (91, _) => self.push_merge(project, "Merge branch 'late' into 'main'\n", 90 * 86_400),
            (92..95, _) => {
                let status = ["success", "failed", "running"][rng.random_range(0..3)];
                self.new_pipeline(project, status, "push")
            }
            (95..97, _) => {
                let pipelines: Vec<u64> =
                    self.projects[&project].pipelines.keys().copied().collect();
                let status = ["running", "success", "failed", "canceled"][rng.random_range(0..4)];
                match pipelines.choose(rng) {
                    Some(&id) => self.set_pipeline_status(project, id, status),
                    None => refused("no pipeline"),
                }
            }
            (97, _) => {
                let tag = format!("v9.{}.{}", self.ids.record, rng.random_range(0..99));
                let text = prose::paragraphs(rng, 2);
                self.new_release(project, &tag, &text, 0)
            }
            (_, _) => {
                let tags: Vec<String> = self.projects[&project].releases.keys().cloned().collect();
                let text = prose::paragraphs(rng, 2);
                match tags.choose(rng) {
                    Some(tag) => self.edit_release(project, tag, &text),
                    None => refused("no release"),
                }
            }
        }
    }

    fn random_target(&self, rng: &mut SmallRng, project: u64) -> Option<Target> {
        let project = self.projects.get(&project)?;
        let requests = project
            .merge_requests
            .keys()
            .map(|&iid| Target::merge_request(project.id, iid));
        let issues = project
            .issues
            .keys()
            .map(|&iid| Target::issue(project.id, iid));
        let all: Vec<Target> = requests.chain(issues).collect();
        all.choose(rng).copied()
    }

    fn random_note(&self, rng: &mut SmallRng, target: Target) -> Option<u64> {
        let notes: Vec<u64> = self
            .threads(target)?
            .notes()
            .filter(|n| !n.system)
            .map(|n| n.id)
            .collect();
        notes.choose(rng).copied()
    }
}
