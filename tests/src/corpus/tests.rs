//! Classification, expectations, serving and judging, without a run.

use serde_json::{Value, json};

use super::collect::Corpus;
use super::expect::{Fate, fates};
use super::kind::Kind;
use super::observe::{Observed, Source};
use super::report::Report;
use super::world::{self, Parent};

const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

fn corpus(lines: &[(&str, Value)]) -> Corpus {
    let mut corpus = Corpus::default();
    for ((file, value), line) in lines.iter().zip(1..) {
        corpus.add_line(file, line, value.clone());
    }
    corpus
}

fn one_of_each() -> Corpus {
    corpus(&[
        (
            "merge_requests/a.jsonl",
            json!({"iid": 17, "source_branch": "b", "title": "A", "description": "why"}),
        ),
        (
            "issues/a.jsonl",
            json!({"iid": "3", "title": "It fails", "description": null}),
        ),
        (
            "notes/a.jsonl",
            json!({"id": 5, "body": "Yes.", "noteable_type": "MergeRequest"}),
        ),
        (
            "discussions/a.jsonl",
            json!({"id": SHA, "individual_note": false, "notes": [
                {"id": 6, "body": "One", "noteable_type": "Commit"}, {"id": 7, "body": "assigned", "system": true}, {"id": 8, "body": " "},
            ]}),
        ),
        (
            "commits/a.jsonl",
            json!({"id": SHA, "short_id": "01234567", "title": "A long…", "message": "A long title\n"}),
        ),
        (
            "pipelines/a.jsonl",
            json!({"id": 9, "ref": "main", "sha": SHA, "status": "success"}),
        ),
        (
            "releases/a.jsonl",
            json!({"tag_name": "v1", "name": "First"}),
        ),
    ])
}

/// What a connector without faults makes of [`one_of_each`].
fn well_done() -> Observed {
    let written = [
        ("gl:merge_request:1000000/17", "A\n\nwhy"),
        ("gl:issue:1000001/3", "It fails"),
        ("gl:merge_request:1000002/1", "Parent"),
        ("gl:note:1000002/5", "Yes."),
        ("gl:issue:1000003/1", "Parent"),
        ("gl:note:1000003/6", "One"),
        (
            "gl:commit:1000004/0123456789abcdef0123456789abcdef01234567",
            "A long title\n",
        ),
        (
            "gl:pipeline:1000005/9",
            "success on main 0123456789abcdef0123456789abcdef01234567",
        ),
        ("gl:release:1000006/v1", "First (v1)"),
    ];
    let source = |text: &str| Source {
        text: text.to_owned(),
        defects: Vec::new(),
    };
    Observed {
        sources: written
            .map(|(id, text)| (id.to_owned(), source(text)))
            .into(),
        skipped: [
            ("blank-comment".to_owned(), 1),
            ("system-note".to_owned(), 1),
        ]
        .into(),
        ..Observed::default()
    }
}

fn printed(report: &Report) -> String {
    let mut out = Vec::new();
    report.print(&mut out, true).expect("printed");
    String::from_utf8(out).expect("text")
}

#[test]
fn a_record_is_known_by_its_fields() {
    for record in one_of_each().records {
        assert_eq!(
            record.place.file.split('/').next(),
            Some(folder(record.kind))
        );
    }
    let simple =
        json!({"iid": 2, "title": "T", "web_url": "https://gitlab.com/a/b/-/merge_requests/2"});
    assert_eq!(Kind::of(&simple, false), Some(Kind::MergeRequest));
    let old = json!({"id": SHA, "message": "m"});
    assert_eq!(Kind::of(&old, false), Some(Kind::Commit));
}

fn folder(kind: Kind) -> &'static str {
    match kind {
        Kind::MergeRequest => "merge_requests",
        Kind::Issue => "issues",
        Kind::Note => "notes",
        Kind::Discussion => "discussions",
        Kind::Commit => "commits",
        Kind::Pipeline => "pipelines",
        Kind::Release => "releases",
    }
}

#[test]
fn what_is_no_record_is_passed_over() {
    for value in [
        json!({"message": "404 Not found"}),
        json!({"count": 632}),
        json!({"iid": 1, "sha": SHA}),
        json!({"id": 1, "ref": "main", "sha": SHA, "status": "success", "stage": "test"}),
        json!({"id": 1, "ref": "main", "sha": SHA, "status": "success", "allow_failure": false}),
        json!({"note": "on a commit", "author": {"id": 1}}),
        json!({"body": {"message": "hello"}, "author": null}),
        json!({"iid": null, "title": "T"}),
        json!("text"),
        Value::Null,
    ] {
        assert_eq!(Kind::of(&value, true), None, "{value}");
    }
}

#[test]
fn a_milestone_is_no_issue_though_it_has_an_iid_and_a_title() {
    let milestone = json!({"id": 1, "iid": 1, "title": "18.9"});
    let corpus = corpus(&[
        ("milestones/a.jsonl", milestone.clone()),
        ("issues/a.jsonl", milestone),
    ]);
    assert_eq!(corpus.records.len(), 1);
    assert_eq!(corpus.passed_over["milestones/a.jsonl"], 1);
}

#[test]
fn examples_and_exchanges_are_unwrapped_and_a_repeated_record_counts_once() {
    let issue = json!({"iid": 3, "title": "It fails"});
    let corpus = corpus(&[
        (
            "doc-examples/rest/issues.jsonl",
            json!({"heading": "List", "request": "GET /issues", "body": [issue, {"count": 1}]}),
        ),
        (
            "http/a.jsonl",
            json!({"method": "GET", "url": "https://gitlab.com/api/v4/projects/1/issues?state=all", "body": issue}),
        ),
        (
            "http/a.jsonl",
            json!({"method": "GET", "url": "https://gitlab.com/api/v4/projects/1/epics", "body": {"iid": 3, "title": "Epic"}}),
        ),
    ]);
    assert_eq!(corpus.records.len(), 1);
    assert_eq!(
        corpus.records[0].place.to_string(),
        "doc-examples/rest/issues.jsonl:1 [1]"
    );
    assert_eq!((corpus.repeated, corpus.passed_over.len()), (1, 2));
}

#[test]
fn a_record_is_the_only_one_of_its_project() {
    let records = one_of_each().records;
    for record in &records {
        let rows: usize = [
            "merge_requests",
            "issues",
            "repository/commits",
            "pipelines",
            "releases",
        ]
        .iter()
        .filter_map(|list| world::answer(record, &list.split('/').collect::<Vec<_>>()))
        .map(|rows| rows.as_array().map_or(0, Vec::len))
        .sum();
        assert_eq!(rows, 1, "{}", record.place);
    }
    assert_eq!(Parent::of(&records[2]), Some(Parent::MergeRequest));
    assert_eq!(Parent::of(&records[3]), Some(Parent::Issue));
    let discussions =
        world::answer(&records[2], &["merge_requests", "1", "discussions"]).expect("served");
    assert_eq!(discussions[0]["id"].as_str().map(str::len), Some(40));
    assert_eq!(discussions[0]["notes"][0], records[2].value);
    assert_eq!(world::answer(&records[0], &["pipelines", "9"]), None);
}

#[test]
fn pages_of_projects_go_on_behind_the_last_id() {
    let records = one_of_each().records;
    assert_eq!(world::projects(&records, 0, 100).len(), 7);
    assert_eq!(
        world::projects(&records, 1_000_004, 1)[0].project,
        1_000_005
    );
    assert!(world::projects(&records, 1_000_006, 100).is_empty());
}

#[test]
fn a_shortened_title_of_a_commit_need_not_be_found_again() {
    let records = one_of_each().records;
    let [Fate::Written { texts, .. }] = &fates(&records[4])[..] else {
        panic!("one commit");
    };
    assert_eq!(texts[..], [("message", "A long title\n".to_owned())]);
}

#[test]
fn a_run_in_which_everything_came_out_is_clean() {
    let report = Report::new(&one_of_each(), well_done());
    assert!(report.is_clean(), "{}", printed(&report));
}

#[test]
fn whatever_is_missing_wrong_or_too_much_is_said() {
    let mut observed = well_done();
    observed.sources.remove("gl:issue:1000001/3");
    observed.sources.remove("gl:release:1000006/v1");
    observed
        .dead_letters
        .insert("gl:release:1000006/v1".to_owned(), "too odd".to_owned());
    observed
        .sources
        .insert("gl:note:1000002/99".to_owned(), Source::default());
    observed.skipped.insert("without-id".to_owned(), 1);
    if let Some(source) = observed.sources.get_mut("gl:merge_request:1000000/17") {
        source.text = "A\n\nwh".to_owned();
        source.defects.push("scope: bad".to_owned());
    }
    let report = Report::new(&one_of_each(), observed);
    assert!(!report.is_clean());
    let printed = printed(&report);
    for words in [
        "issues/a.jsonl:2: issue: gl:issue:1000001/3: not seen",
        "releases/a.jsonl:7: release: gl:release:1000006/v1: dead letter: too odd",
        "gl:merge_request:1000000/17: text lost: `description`",
        "gl:merge_request:1000000/17: invalid envelope: scope: bad",
        "gl:note:1000002/99 was written, and no record asks for it",
        "system-note 1, without-id 1; the records ask for: blank-comment 1, system-note 1",
    ] {
        assert!(printed.contains(words), "{words}\n{printed}");
    }
}

#[test]
fn a_corpus_without_a_kind_is_not_clean() {
    let report = Report::new(&Corpus::default(), Observed::default());
    assert!(!report.is_clean());
    assert!(printed(&report).contains("no pipeline was read"));
}

#[test]
fn a_run_that_fails_or_ends_without_a_receipt_is_not_clean() {
    let mut observed = Observed::default();
    observed.read_events("thread 'main' panicked\n");
    assert_eq!(observed.troubles.len(), 2);
    let mut observed = Observed::default();
    observed.read_events(
        r#"{"event":"receipt","outcome":"failed","reason":"1 stream failed","dead_lettered":0,"skipped":{"system-note":2},"streams_off":{},"streams_failed":{"1000000/issues":"GitLab answers 500"}}"#,
    );
    assert_eq!(
        observed.troubles,
        ["the run ended as failed: 1 stream failed"]
    );
    assert_eq!(
        observed.streams["1000000/issues"],
        "stream failed: GitLab answers 500"
    );
    assert_eq!(observed.skipped["system-note"], 2);
}
