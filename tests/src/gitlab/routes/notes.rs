//! Notes and discussions: pages are cut first and filtered by visibility afterwards, so they come short, or empty in the middle.

use crate::gitlab::access::Viewer;
use crate::gitlab::call::{Call, Totals};
use crate::gitlab::model::{Discussion, Feature, Note, Project, Threads};
use crate::gitlab::reply::{Answer, Reply};
use crate::gitlab::world::{Noteable, Target, World};

pub(super) fn route(
    world: &World,
    call: &Call,
    capture: &str,
    target: Target,
    rest: &[&str],
) -> Answer {
    let parent = parent(world, call.viewer, target)?;
    match *rest {
        ["notes"] => parent.notes(world, call, capture),
        ["notes", id] => parent.note(world, call, super::number(id, "note_id")?),
        ["discussions"] => parent.discussions(world, call, capture),
        ["discussions", id] => parent.discussion(world, call, id),
        ["discussions", id, "notes", note] => {
            parent.discussion_note(world, call, id, super::number(note, "note_id")?)
        }
        _ => Err(Reply::no_route()),
    }
}

/// A readable merge request or issue with its threads.
struct Parent<'w> {
    target: Target,
    project: &'w Project,
    id: u64,
    threads: &'w Threads,
}

fn parent(world: &World, viewer: Viewer, target: Target) -> Result<Parent<'_>, Reply> {
    let project = &world.projects[&target.project];
    let (id, threads) = match target.kind {
        Noteable::MergeRequest => {
            if !world.sees_feature(viewer, project, Feature::MergeRequests) {
                return Err(Reply::forbidden());
            }
            project
                .merge_requests
                .get(&target.iid)
                .map(|found| (found.id, &found.threads))
        }
        Noteable::Issue => project
            .issues
            .get(&target.iid)
            .filter(|found| {
                world.sees_feature(viewer, project, Feature::Issues)
                    && world.sees_issue(viewer, project, found)
            })
            .map(|found| (found.id, &found.threads)),
    }
    .ok_or_else(Reply::missing)?;
    Ok(Parent {
        target,
        project,
        id,
        threads,
    })
}

impl<'w> Parent<'w> {
    fn shows(&self, world: &World, call: &Call, note: &Note) -> bool {
        world.sees_note(call.viewer, self.project, note) && !world.is_hidden_by_knob(note)
    }

    fn notes(&self, world: &World, call: &Call, capture: &str) -> Answer {
        let order_by = call
            .params
            .word("order_by", &["created_at", "updated_at"], "created_at")?;
        let descending = call.params.descending("desc")?;
        let activities = ["all_notes", "only_comments", "only_activity"];
        let filter = call
            .params
            .word("activity_filter", &activities, "all_notes")?;
        let keep = |note: &&Note| match filter {
            "only_comments" => !note.system,
            "only_activity" => note.system,
            _ => true,
        };
        let mut notes: Vec<&Note> = self.threads.notes().filter(keep).collect();
        // "created_at" is the order of the ids, so that a back-dated note still comes last.
        match order_by {
            "updated_at" => notes.sort_by_key(|note| (note.updated_at, note.id)),
            _ => notes.sort_by_key(|note| note.id),
        }
        if descending {
            notes.reverse();
        }
        let iid = self.target.iid.to_string();
        let declared = call.declared(
            &[("id", capture), ("noteable_id", &iid)],
            &[
                ("activity_filter", "all_notes"),
                ("order_by", "created_at"),
                ("sort", "desc"),
            ],
        );
        let paged = call.offset(world, notes, &declared, Totals::Counted)?;
        Ok(paged.reply(|note| {
            self.shows(world, call, note)
                .then(|| world.note_json(self.target, self.id, note))
        }))
    }

    fn note(&self, world: &World, call: &Call, id: u64) -> Answer {
        let found = self
            .threads
            .notes()
            .find(|note| note.id == id && self.shows(world, call, note));
        let note = found.ok_or_else(|| Reply::no_such("Note"))?;
        Ok(Reply::ok(&world.note_json(self.target, self.id, note)))
    }

    fn visible(&self, world: &World, call: &Call, discussion: &'w Discussion) -> Vec<&'w Note> {
        discussion
            .notes
            .iter()
            .filter(|note| self.shows(world, call, note))
            .collect()
    }

    fn discussions(&self, world: &World, call: &Call, capture: &str) -> Answer {
        let mut all: Vec<&Discussion> = self.threads.discussions.iter().collect();
        all.sort_by_key(|discussion| {
            discussion
                .notes
                .first()
                .map(|note| (note.created_at, note.id))
        });
        let iid = self.target.iid.to_string();
        let declared = call.declared(&[("id", capture), ("noteable_id", &iid)], &[]);
        let paged = call.offset(world, all, &declared, Totals::Counted)?;
        Ok(paged.reply(|discussion| {
            let notes = self.visible(world, call, discussion);
            (!notes.is_empty())
                .then(|| world.discussion_json(self.target, self.id, discussion, &notes))
        }))
    }

    fn find(
        &self,
        world: &World,
        call: &Call,
        id: &str,
    ) -> Result<(&'w Discussion, Vec<&'w Note>), Reply> {
        let discussion = self
            .threads
            .discussions
            .iter()
            .find(|discussion| discussion.id == id);
        let discussion = discussion.ok_or_else(|| Reply::no_such("Discussion"))?;
        let notes = self.visible(world, call, discussion);
        if notes.is_empty() {
            Err(Reply::no_such("Discussion"))
        } else {
            Ok((discussion, notes))
        }
    }

    fn discussion(&self, world: &World, call: &Call, id: &str) -> Answer {
        let (discussion, notes) = self.find(world, call, id)?;
        Ok(Reply::ok(&world.discussion_json(
            self.target,
            self.id,
            discussion,
            &notes,
        )))
    }

    fn discussion_note(&self, world: &World, call: &Call, id: &str, note: u64) -> Answer {
        let (_, notes) = self.find(world, call, id)?;
        let note = notes
            .into_iter()
            .find(|found| found.id == note)
            .ok_or_else(|| Reply::no_such("Note"))?;
        Ok(Reply::ok(&world.note_json(self.target, self.id, note)))
    }
}
