//! Listings as servers show them, and what the ledger must make of each.

use super::*;

const OURS: Ours<'_> = Ours {
    system: "gitlab",
    source_instance: "https://gitlab.example",
};

fn digest(letter: char) -> String {
    letter.to_string().repeat(DIGEST_DIGITS)
}

/// A stored document of one fragment.
fn event(event_id: &str, source_id: &str, generation: u64, letter: char) -> Listed {
    Listed {
        event_id: event_id.into(),
        labels: vec![
            source_id.into(),
            "label:priority::high".into(),
            format!("digest={}", digest(letter)),
            format!("generation={generation}"),
            "source:gitlab".into(),
            format!("instance={}", instance_mark(OURS.source_instance)),
        ],
        source_id: None,
        modality: Some("document".into()),
        marked_forgotten: false,
        shown: Shown::Text,
    }
}

fn fragment(mut event: Listed, fragment: u64, fragments: u64) -> Listed {
    event
        .labels
        .push(format!("fragment={fragment}/{fragments}"));
    event
}

fn forgotten(mut event: Listed) -> Listed {
    event.shown = Shown::Blank;
    event
}

fn observation(mut event: Listed) -> Listed {
    event.modality = Some("observation".into());
    event
}

fn rebuilt(listed: &[Listed]) -> Vec<RebuiltEntry> {
    entries(OURS, "org:acme", listed)
}

fn the_one(listed: &[Listed]) -> RebuiltEntry {
    let mut entries = rebuilt(listed);
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.remove(0)
}

fn obsolete(entry: &RebuiltEntry) -> Vec<&str> {
    entry
        .events
        .iter()
        .filter(|event| event.state == EventState::Obsolete)
        .map(|event| event.event_id.as_str())
        .collect()
}

#[test]
fn the_highest_generation_is_current_and_the_others_are_to_be_forgotten() {
    let entry = the_one(&[
        event("evt_3", "gl:issue:42/1", 3, 'c'),
        event("evt_1", "gl:issue:42/1", 1, 'a'),
        event("evt_2", "gl:issue:42/1", 2, 'b'),
    ]);
    assert_eq!((entry.status, entry.generation), (Status::Live, 3));
    assert_eq!(entry.digest, digest('c'));
    assert_eq!(entry.event_id.as_deref(), Some("evt_3"));
    assert_eq!(entry.event_type, "issue");
    assert_eq!(obsolete(&entry), ["evt_2", "evt_1"]);
}

#[test]
fn a_forgotten_version_is_no_version_but_its_generation_is_not_used_again() {
    let entry = the_one(&[
        event("evt_2", "gl:issue:42/1", 2, 'b'),
        forgotten(event("evt_1", "gl:issue:42/1", 1, 'a')),
    ]);
    assert_eq!((entry.status, entry.events.len()), (Status::Live, 1));
    let gone = the_one(&[forgotten(event("evt_4", "gl:issue:42/1", 4, 'd'))]);
    assert_eq!((gone.status, gone.generation), (Status::Retracted, 4));
    assert!(gone.event_id.is_none() && gone.events.is_empty());
}

#[test]
fn what_a_broken_off_retraction_left_behind_is_to_be_forgotten() {
    let entry = the_one(&[
        forgotten(event("evt_2", "gl:issue:42/1", 2, 'b')),
        event("evt_1", "gl:issue:42/1", 1, 'a'),
    ]);
    assert_eq!((entry.status, entry.generation), (Status::Retracted, 2));
    assert_eq!(obsolete(&entry), ["evt_1"]);
}

#[test]
fn a_listing_without_any_content_is_taken_by_its_marks_alone() {
    let bare = |mut event: Listed| {
        event.shown = Shown::Nothing;
        event
    };
    let mut marked = bare(event("evt_2", "gl:issue:42/2", 1, 'b'));
    marked.marked_forgotten = true;
    let entries = rebuilt(&[bare(event("evt_1", "gl:issue:42/1", 1, 'a')), marked]);
    assert_eq!(
        entries.iter().map(|entry| entry.status).collect::<Vec<_>>(),
        [Status::Live, Status::Retracted]
    );
    // Where others show theirs, an event without content is gone.
    let entries = rebuilt(&[
        bare(event("evt_1", "gl:issue:42/1", 1, 'a')),
        event("evt_3", "gl:issue:42/3", 1, 'c'),
    ]);
    assert_eq!(entries[0].status, Status::Retracted);
}

#[test]
fn an_observation_keeps_every_version() {
    let entry = the_one(&[
        observation(event("evt_2", "gl:pipeline:42/1", 2, 'b')),
        observation(event("evt_1", "gl:pipeline:42/1", 1, 'a')),
    ]);
    assert_eq!((entry.status, entry.generation), (Status::Live, 2));
    assert_eq!((entry.events.len(), obsolete(&entry).len()), (2, 0));
}

#[test]
fn an_event_of_unknown_modality_is_never_forgotten() {
    let mut old = event("evt_1", "gl:issue:42/1", 1, 'a');
    old.modality = None;
    let mut new = event("evt_2", "gl:issue:42/1", 2, 'b');
    new.modality = None;
    assert!(obsolete(&the_one(&[new, old])).is_empty());
}

#[test]
fn a_text_in_fragments_is_live_only_if_all_of_them_are_there() {
    let part = |n| fragment(event(&format!("evt_{n}"), "gl:issue:42/1", 2, 'b'), n, 3);
    let whole = the_one(&[part(2), part(1), part(0)]);
    assert_eq!(
        (whole.status, whole.event_id.as_deref()),
        (Status::Live, Some("evt_0"))
    );
    let torn = the_one(&[part(2), part(0), event("evt_9", "gl:issue:42/1", 1, 'a')]);
    assert_eq!((torn.status, torn.generation), (Status::Begun, 2));
    assert_eq!(torn.digest, "", "nothing may be taken as unchanged");
    assert_eq!(torn.event_id.as_deref(), Some("evt_9"));
    assert!(
        obsolete(&torn).is_empty(),
        "the last whole version stays until there is a next"
    );
}

#[test]
fn doubles_of_an_earlier_loss_are_healed() {
    let entry = the_one(&[
        event("evt_new", "gl:issue:42/1", 1, 'b'),
        event("evt_old", "gl:issue:42/1", 1, 'a'),
        event("evt_twin", "gl:issue:42/1", 1, 'b'),
    ]);
    assert_eq!(entry.event_id.as_deref(), Some("evt_new"));
    let mut gone = obsolete(&entry);
    gone.sort_unstable();
    assert_eq!(gone, ["evt_old", "evt_twin"]);
    let places: BTreeSet<_> = entry
        .events
        .iter()
        .map(|event| (event.generation, event.fragment))
        .collect();
    assert_eq!(places.len(), 3, "each has its own row");
}

#[test]
fn events_of_other_sources_and_other_writers_are_left_alone() {
    let mut jira = event("evt_1", "gl:issue:42/1", 1, 'a');
    jira.labels[4] = "source:jira".into();
    let mut elsewhere = event("evt_2", "gl:issue:42/2", 1, 'a');
    elsewhere.labels[5] = format!("instance={}", instance_mark("https://gitlab.com"));
    let mut strange = event("evt_3", "gl:issue:42/3", 1, 'a');
    strange.labels[2] = "digest=short".into();
    assert!(rebuilt(&[jira, elsewhere, strange]).is_empty());
}

#[test]
fn a_server_that_sorts_labels_does_not_make_a_users_label_the_source_id() {
    let sorted = |mut event: Listed| {
        event.labels.push("a:looks:like-one".into());
        event.labels.sort();
        event
    };
    let mut plain = event("evt_2", "gl:issue:42/2", 1, 'a');
    plain.labels.sort();
    let mut first = sorted(event("evt_1", "gl:issue:42/1", 1, 'a'));
    first.labels.rotate_left(1);
    let ids: Vec<_> = rebuilt(&[first, plain])
        .into_iter()
        .map(|entry| entry.source_id)
        .collect();
    assert_eq!(ids, ["gl:issue:42/1", "gl:issue:42/2"]);
}

#[test]
fn the_descriptor_is_believed_where_it_is_shown() {
    let mut shown = event("evt_1", "label:issue:misleading", 1, 'a');
    shown.source_id = Some("gl:issue:42/1".into());
    assert_eq!(the_one(&[shown]).source_id, "gl:issue:42/1");
}

#[test]
fn a_comment_remembers_the_record_that_opened_its_thread() {
    let mut note = event("evt_1", "gl:note:42/7", 1, 'a');
    note.labels.insert(1, "parent=gl:issue:42/1".into());
    assert_eq!(the_one(&[note]).root, "gl:issue:42/1");
}
