//! GitLab's API objects, as far as they are used.
//!
//! The API has changed for ten years and instances of every age are about: fields are missing, null, a string where there
//! was a number, an object where there was a string. A page must not be lost because one field of one row has another
//! shape. So every field is optional, and one of an unexpected type counts as absent.

use crate::json::{Field, Name, Names, Object, Reader};

/// Defines an object of the API: every field is optional and [`Field`], unknown ones are ignored. `field = "name"` has another name in JSON.
macro_rules! api_object {
    ($($(#[$meta:meta])* $object:ident { $($(#[$field_meta:meta])* $field:ident $(= $name:literal)?: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Default, Clone, PartialEq)]
        pub(crate) struct $object {
            $($(#[$field_meta])* pub(crate) $field: $type,)*
        }

        const _: () = {
            #[expect(non_camel_case_types, reason = "they are called as the fields are")]
            enum Place { $($field,)* }

            impl Object for $object {
                const NAMES: &'static Names =
                    &Names::new(&const { Name::list([$(api_object!(@name $field $($name)?),)*]) });

                fn field(&mut self, place: usize, reader: &mut Reader<'_>) {
                    $(if place == Place::$field as usize {
                        return self.$field.read_loosely(reader);
                    })*
                }
            }

            #[cfg(test)]
            impl tests::Expected for $object {
                fn expected(value: &serde_json::Value) -> Self {
                    let field = |name: &str| value.get(name).unwrap_or(&serde_json::Value::Null);
                    Self {
                        $($field: tests::Expected::expected(field(api_object!(@name $field $($name)?))),)*
                    }
                }
            }
        };
    )*};
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $name:literal) => { $name };
}

api_object! {
    /// `GET /projects/:id`, and the rows of project lists.
    Project {
        id: Option<u64>,
        path_with_namespace: Option<String>,
        default_branch: Option<String>,
        empty_repo: Option<bool>,
        namespace: Option<Box<Namespace>>,
        /// Refreshed at most once an hour, by what GitLab counts as an event.
        last_activity_at: Option<String>,
        /// Moves with settings and releases.
        updated_at: Option<String>,
        /// Whether this token's user may use them, not only whether they are switched on.
        issues_enabled: Option<bool>,
        merge_requests_enabled: Option<bool>,
        permissions: Option<Box<Permissions>>,
    }

    /// What the token's user is in a project.
    Permissions {
        project_access: Option<Box<Membership>>,
        group_access: Option<Box<Membership>>,
    }

    /// A role.
    Membership {
        access_level: Option<u64>,
    }

    /// What a single record says about who may see it.
    Visibility {
        confidential: Option<bool>,
        internal: Option<bool>,
    }

    /// The group or user that a project belongs to.
    Namespace {
        id: Option<u64>,
        full_path: Option<String>,
    }

    /// `GET /groups/:id`.
    Group {
        id: Option<u64>,
        full_path: Option<String>,
    }

    /// Whoever did something. All of it may be missing: users are deleted.
    User {
        id: Option<u64>,
        username: Option<String>,
    }

    /// A milestone, as far as records mention it.
    Milestone {
        title: Option<String>,
    }

    /// `GET /projects/:id/merge_requests`.
    MergeRequest {
        id: Option<u64>,
        iid: Option<u64>,
        /// The project that it is to be merged into, to which it belongs.
        project_id: Option<u64>,
        title: Option<String>,
        description: Option<String>,
        state: Option<String>,
        draft: Option<bool>,
        /// What `draft` was called before GitLab 13.2.
        work_in_progress: Option<bool>,
        created_at: Option<String>,
        updated_at: Option<String>,
        source_branch: Option<String>,
        target_branch: Option<String>,
        author: Option<Box<User>>,
        /// The only assignee, before there could be several.
        assignee: Option<Box<User>>,
        assignees: Vec<Option<Box<User>>>,
        reviewers: Vec<Option<Box<User>>>,
        labels: Vec<Label>,
        milestone: Option<Box<Milestone>>,
        user_notes_count: Option<u64>,
    }

    /// `GET /projects/:id/issues`.
    Issue {
        id: Option<u64>,
        iid: Option<u64>,
        project_id: Option<u64>,
        title: Option<String>,
        description: Option<String>,
        state: Option<String>,
        issue_type: Option<String>,
        /// The same in capitals.
        kind = "type": Option<String>,
        created_at: Option<String>,
        updated_at: Option<String>,
        author: Option<Box<User>>,
        assignee: Option<Box<User>>,
        assignees: Vec<Option<Box<User>>>,
        labels: Vec<Label>,
        milestone: Option<Box<Milestone>>,
        user_notes_count: Option<u64>,
        confidential: Option<bool>,
        /// Instance-wide id of the issue that it became.
        moved_to_id: Option<u64>,
        weight: Option<u64>,
    }

    /// `GET …/discussions`: a thread, or one comment that stands alone.
    Discussion {
        id: Option<String>,
        notes: Vec<Option<Box<Note>>>,
    }

    /// One comment.
    Note {
        id: Option<u64>,
        /// `DiffNote`, `DiscussionNote`, or nothing for a plain comment.
        kind = "type": Option<String>,
        body: Option<String>,
        author: Option<Box<User>>,
        created_at: Option<String>,
        system: Option<bool>,
        internal: Option<bool>,
        /// What `internal` was called before GitLab 15.
        confidential: Option<bool>,
        resolved: Option<bool>,
        position: Option<Box<Position>>,
    }

    /// Where in a diff a comment stands.
    Position {
        new_path: Option<String>,
        old_path: Option<String>,
        new_line: Option<u64>,
        old_line: Option<u64>,
    }

    /// `GET /projects/:id/repository/commits`.
    Commit {
        id: Option<String>,
        title: Option<String>,
        message: Option<String>,
        author_name: Option<String>,
        committer_name: Option<String>,
        authored_date: Option<String>,
        committed_date: Option<String>,
        created_at: Option<String>,
    }

    /// `GET /projects/:id/pipelines` (without what only the detail has) and `GET /projects/:id/pipelines/:id`.
    Pipeline {
        id: Option<u64>,
        iid: Option<u64>,
        name: Option<String>,
        status: Option<String>,
        reference = "ref": Option<String>,
        sha: Option<String>,
        source: Option<String>,
        created_at: Option<String>,
        updated_at: Option<String>,
        finished_at: Option<String>,
        duration: Option<f64>,
        queued_duration: Option<f64>,
        coverage: Option<String>,
        user: Option<Box<User>>,
    }

    /// `GET /projects/:id/releases`. It has no numeric id and no `updated_at`.
    Release {
        tag_name: Option<String>,
        name: Option<String>,
        description: Option<String>,
        created_at: Option<String>,
        released_at: Option<String>,
        author: Option<Box<User>>,
        commit: Option<Box<Commit>>,
        milestones: Vec<Option<Box<Milestone>>>,
    }

    /// `GET /personal_access_tokens/self`.
    Token {
        name: Option<String>,
        revoked: Option<bool>,
        active: Option<bool>,
        scopes: Vec<Option<String>>,
        /// A date without a time.
        expires_at: Option<String>,
    }

    /// A webhook's body, as far as it says which record to look at. Its kinds have different shapes; each field is there in some.
    Delivery {
        object_kind: Option<String>,
        /// What system hooks and some hooks of groups have in its place.
        event_name: Option<String>,
        project_id: Option<u64>,
        project: Option<Box<Project>>,
        object_attributes: Option<Box<DeliverySubject>>,
        merge_request: Option<Box<DeliverySubject>>,
        issue: Option<Box<DeliverySubject>>,
        work_item: Option<Box<DeliverySubject>>,
        reference = "ref": Option<String>,
        /// Of a release.
        tag: Option<String>,
        action: Option<String>,
        /// Of a `repository_update`; other kinds have something else of this name.
        changes: Vec<Option<Box<RefChange>>>,
    }

    /// The record that a webhook tells of, or the one that this belongs to.
    DeliverySubject {
        id: Option<u64>,
        iid: Option<u64>,
        project_id: Option<u64>,
        target_project_id: Option<u64>,
        noteable_type: Option<String>,
        updated_at: Option<String>,
        /// Of a pipeline.
        status: Option<String>,
    }

    /// A branch or tag that a push moved.
    RefChange {
        reference = "ref": Option<String>,
    }

    /// `GET …/hooks`. What a kind of hook or an older GitLab does not have is absent.
    Hook {
        id: Option<u64>,
        name: Option<String>,
        url: Option<String>,
        alert_status: Option<String>,
        disabled_until: Option<String>,
        enable_ssl_verification: Option<bool>,
        token_present: Option<bool>,
        signing_token_present: Option<bool>,
        push_events_branch_filter: Option<String>,
        custom_webhook_template: Option<String>,
        push_events: Option<bool>,
        tag_push_events: Option<bool>,
        merge_requests_events: Option<bool>,
        repository_update_events: Option<bool>,
        issues_events: Option<bool>,
        confidential_issues_events: Option<bool>,
        note_events: Option<bool>,
        confidential_note_events: Option<bool>,
        pipeline_events: Option<bool>,
        releases_events: Option<bool>,
        project_events: Option<bool>,
        job_events: Option<bool>,
        wiki_page_events: Option<bool>,
        deployment_events: Option<bool>,
        feature_flag_events: Option<bool>,
        milestone_events: Option<bool>,
        emoji_events: Option<bool>,
        member_events: Option<bool>,
        subgroup_events: Option<bool>,
        resource_access_token_events: Option<bool>,
        vulnerability_events: Option<bool>,
    }

    /// `GET …/hooks/:id/events`: a call that GitLab made.
    HookCall {
        id: Option<u64>,
        /// A number, or words where there was no answer.
        response_status: Option<String>,
    }

    /// `GET /metadata`, `GET /version`.
    Metadata {
        version: Option<String>,
    }
}

/// A label of an issue or merge request: its title, whether it came as text or (`with_labels_details`) as an object.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Label(pub(crate) Option<String>);

api_object! {
    LabelDetails {
        name: Option<String>,
        title: Option<String>,
    }
}

impl Field for Label {
    fn read_loosely(&mut self, reader: &mut Reader<'_>) {
        if reader.begins_with(b'"') {
            return self.0.read_loosely(reader);
        }
        let mut details = None::<Box<LabelDetails>>;
        details.read_loosely(reader);
        self.0 = details.and_then(|details| details.name.or(details.title));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::json;

    /// What a value of `serde_json` is read as: the same by other means.
    pub(crate) trait Expected {
        fn expected(value: &Value) -> Self;
    }

    impl Expected for Option<String> {
        fn expected(value: &Value) -> Self {
            match value {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(match number.as_u64() {
                    Some(number) => number.to_string(),
                    None => number.as_f64()?.to_string(),
                }),
                _ => None,
            }
        }
    }

    impl Expected for Option<u64> {
        fn expected(value: &Value) -> Self {
            match value {
                Value::String(text) => text.parse().ok(),
                other => other.as_u64(),
            }
        }
    }

    impl Expected for Option<f64> {
        fn expected(value: &Value) -> Self {
            value.as_f64()
        }
    }

    impl Expected for Option<bool> {
        fn expected(value: &Value) -> Self {
            value.as_bool()
        }
    }

    impl<T: Expected> Expected for Option<Box<T>> {
        fn expected(value: &Value) -> Self {
            value.is_object().then(|| Box::new(T::expected(value)))
        }
    }

    impl<T: Expected> Expected for Vec<T> {
        fn expected(value: &Value) -> Self {
            let items = value.as_array().into_iter().flatten();
            items.map(T::expected).collect()
        }
    }

    impl Expected for Label {
        fn expected(value: &Value) -> Self {
            Self(match value {
                Value::String(text) => Some(text.clone()),
                other => Option::<String>::expected(&other["name"])
                    .or_else(|| Option::<String>::expected(&other["title"])),
            })
        }
    }

    pub(crate) fn read<T: json::Read>(value: &Value) -> T {
        json::from_str(&value.to_string()).expect("readable")
    }

    #[test]
    fn a_field_of_another_type_counts_as_absent_and_does_not_cost_the_page() {
        let rows: Vec<MergeRequest> = read(&json!([
            {"iid": "17", "title": ["no", "text"], "draft": "yes", "author": 5, "labels": "bug", "milestone": [1],
             "assignees": [null, {"id": 3, "username": "ada"}, 4], "updated_at": {"at": 1}, "user_notes_count": -1},
        ]));
        let row = &rows[0];
        assert_eq!(row.iid, Some(17));
        assert_eq!(
            (&row.title, row.draft, &row.author, &row.updated_at),
            (&None, None, &None, &None)
        );
        assert_eq!(row.assignees.iter().flatten().count(), 1);
        assert_eq!(row.user_notes_count, None);
    }

    #[test]
    fn labels_come_as_text_or_as_objects() {
        let issue: Issue = read(&json!({"labels": ["bug", {"id": 1, "name": "a,b"}, 7, null]}));
        let titles: Vec<_> = issue
            .labels
            .into_iter()
            .filter_map(|label| label.0)
            .collect();
        assert_eq!(titles, ["bug", "a,b"]);
    }

    #[test]
    fn ids_beyond_32_bits_are_kept() {
        let note: Note = read(&json!({"id": 9_007_199_254_740_993_u64}));
        assert_eq!(note.id, Some(9_007_199_254_740_993));
    }

    /// Any JSON value, a few levels deep, with the field names of the API among its keys.
    pub(crate) fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 40, 8, |inner| {
            let key = prop_oneof![
                prop::sample::select(vec![
                    "id",
                    "iid",
                    "title",
                    "labels",
                    "author",
                    "notes",
                    "position",
                    "username",
                    "updated_at",
                    "created_at",
                    "name",
                    "tag_name",
                    "milestone",
                    "status",
                    "ref",
                    "body",
                    "type",
                ])
                .prop_map(str::to_owned),
                "[a-z_]{1,12}",
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(key, inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
