//! Pages, orders, filters, refusals.

use super::*;

#[test]
fn ties_are_ordered_by_falling_id_even_when_the_sort_is_ascending() {
    let mut world = tiny();
    let project = first_project(&world);
    world.bulk_edit(project, 6, "bulk").expect("a bulk edit");
    for sort in ["asc", "desc"] {
        let list = get(
            &mut world,
            &format!("/projects/{project}/merge_requests?order_by=updated_at&sort={sort}"),
        );
        let got = ids(&list, "id");
        let mut falling = got.clone();
        falling.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(got, falling, "{sort}");
    }
}

#[test]
fn a_time_from_the_json_is_safe_as_updated_after_and_loses_its_row_as_updated_before() {
    let mut world = tiny();
    let project = first_project(&world);
    let now = world.now();
    world.merge_request_mut(project, 1).expect("one").updated_at = now.plus_micros(777);
    let shown =
        get(&mut world, &format!("/projects/{project}/merge_requests/1"))["updated_at"].clone();
    let shown = shown.as_str().expect("a time");
    assert_eq!(shown, now.plus_micros(777).rest());
    let list = |world: &mut World, name: &str| {
        ids(
            &get(
                world,
                &format!("/projects/{project}/merge_requests?{name}={shown}"),
            ),
            "iid",
        )
        .contains(&1)
    };
    assert!(list(&mut world, "updated_after"));
    assert!(!list(&mut world, "updated_before"));
}

#[test]
fn links_carry_every_declared_parameter_and_the_host_that_the_instance_believes_in() {
    let mut world = tiny();
    let project = first_project(&world);
    let reply = ask(
        &mut world,
        TOKEN,
        &format!("/projects/{project}/issues/1/notes?per_page=1&sort=asc&unknown=1"),
    );
    let link = header(&reply, "link").expect("a link");
    let expected = format!(
        "<http://elsewhere.invalid/api/v4/projects/{project}/issues/1/notes?activity_filter=all_notes&id={project}&\
         noteable_id=1&order_by=created_at&page=1&per_page=1&sort=asc>; rel=\"first\""
    );
    assert!(link.contains(&expected), "{link}");
    assert!(!link.contains("unknown"));
}

#[test]
fn totals_are_dropped_above_the_limit_and_clamped_pages_stay_at_a_hundred() {
    let mut world = tiny();
    let project = first_project(&world);
    let reply = ask(
        &mut world,
        TOKEN,
        &format!("/projects/{project}/merge_requests?per_page=5000"),
    );
    assert_eq!(header(&reply, "x-per-page"), Some("100"));
    assert_eq!(header(&reply, "x-total"), Some("6"));
    world.knobs.total_limit = 5;
    let reply = ask(
        &mut world,
        TOKEN,
        &format!("/projects/{project}/merge_requests?per_page=2"),
    );
    assert_eq!(
        (header(&reply, "x-total"), header(&reply, "x-total-pages")),
        (None, None)
    );
    assert!(
        !header(&reply, "link")
            .expect("a link")
            .contains("rel=\"last\"")
    );
    assert_eq!(header(&reply, "x-next-page"), Some("2"));
}

#[test]
fn wrong_parameters_are_refused_with_an_error_key() {
    let mut world = tiny();
    let project = first_project(&world);
    for (query, error) in [
        ("per_page=0", "per_page has a value not allowed"),
        ("page=0", "page does not have a valid value"),
        ("updated_after=yesterday", "updated_after is invalid"),
        ("order_by=color", "order_by does not have a valid value"),
        ("state=open", "state does not have a valid value"),
    ] {
        let reply = ask(
            &mut world,
            TOKEN,
            &format!("/projects/{project}/merge_requests?{query}"),
        );
        assert_eq!(
            (reply.status, body(&reply)["error"].as_str()),
            (400, Some(error)),
            "{query}"
        );
    }
}

#[test]
fn instance_lists_show_only_what_the_caller_created_unless_asked_for_all() {
    let mut world = tiny();
    assert_eq!(
        get(&mut world, "/merge_requests").as_array().map(Vec::len),
        Some(0)
    );
    assert_eq!(get(&mut world, "/issues").as_array().map(Vec::len), Some(0));
    assert!(
        !get(&mut world, "/merge_requests?scope=all")
            .as_array()
            .expect("a list")
            .is_empty()
    );
}

#[test]
fn group_lists_leave_archived_projects_out_by_default() {
    let mut world = tiny();
    let group = world.top_groups()[0];
    let default = walk(
        &mut world,
        TOKEN,
        &format!("/groups/{group}/merge_requests"),
    )
    .len();
    let all = walk(
        &mut world,
        TOKEN,
        &format!("/groups/{group}/merge_requests?non_archived=false"),
    )
    .len();
    assert!(all > default);
}

#[test]
fn keyset_pages_of_issues_cover_what_offset_pages_do_and_have_no_page_headers() {
    let mut world = tiny();
    let project = first_project(&world);
    let now = world.now();
    for iid in 1..=4 {
        world.issue_mut(project, iid).expect("an issue").updated_at = now;
    }
    let base = format!("/projects/{project}/issues?order_by=updated_at&sort=asc&per_page=2");
    let by_offset: Vec<Value> = walk(&mut world, TOKEN, &base)
        .iter()
        .map(|issue| issue["iid"].clone())
        .collect();
    let mut by_keyset = Vec::new();
    let mut target = format!("{base}&pagination=keyset");
    loop {
        let reply = ask(&mut world, TOKEN, &target);
        assert!(header(&reply, "x-page").is_none() && header(&reply, "x-total").is_none());
        by_keyset.extend(
            body(&reply)
                .as_array()
                .expect("a list")
                .iter()
                .map(|issue| issue["iid"].clone()),
        );
        let Some(link) = header(&reply, "link") else {
            break;
        };
        let query = link
            .split_once('?')
            .and_then(|(_, rest)| rest.split_once('>'))
            .expect("a query")
            .0;
        target = format!("/projects/{project}/issues?{query}");
    }
    assert_eq!(by_keyset, by_offset);
    let reply = ask(
        &mut world,
        TOKEN,
        &format!("/projects/{project}/issues?pagination=keyset&order_by=popularity"),
    );
    assert_eq!(
        header(&reply, "x-page"),
        Some("1"),
        "an unsupported order falls back without a word"
    );
    world.knobs.version = "18.2.1".to_owned();
    let reply = ask(
        &mut world,
        TOKEN,
        &format!("/projects/{project}/issues?pagination=keyset"),
    );
    assert_eq!(
        header(&reply, "x-page"),
        Some("1"),
        "so does an older version"
    );
}

#[test]
fn a_keyset_walk_over_projects_ends_with_an_empty_page() {
    let mut world = tiny();
    let mut after = String::new();
    let mut seen = 0;
    loop {
        let reply = ask(
            &mut world,
            TOKEN,
            &format!("/projects?pagination=keyset&order_by=id&sort=asc&per_page=1{after}"),
        );
        let found = ids(&body(&reply), "id");
        let Some(&last) = found.last() else {
            assert!(header(&reply, "link").is_none());
            break;
        };
        assert!(
            header(&reply, "link")
                .expect("a link")
                .contains(&format!("id_after={last}"))
        );
        after = format!("&id_after={last}");
        seen += 1;
    }
    assert_eq!(seen, world.projects.len());
    assert_eq!(
        ask(&mut world, TOKEN, "/projects?pagination=keyset").status,
        405
    );
    assert_eq!(
        ask(&mut world, TOKEN, "/projects?updated_after=2026-01-01").status,
        400
    );
}

#[test]
fn pages_of_notes_come_short_because_they_are_filtered_after_they_were_cut() {
    let mut world = tiny();
    let project = first_project(&world);
    let issue = Target::issue(project, 1);
    for _ in 0..3 {
        world.add_internal_note(issue, "internal").expect("a note");
    }
    world.add_note(issue, "public").expect("a note");
    let target =
        format!("/projects/{project}/issues/1/notes?order_by=created_at&sort=desc&per_page=2");
    let full = ask(&mut world, TOKEN, &format!("{target}&page=2"));
    assert_eq!(body(&full).as_array().map(Vec::len), Some(2));
    let empty = ask(&mut world, GUEST_TOKEN, &format!("{target}&page=2"));
    assert_eq!(body(&empty).as_array().map(Vec::len), Some(0));
    assert_eq!(header(&empty, "x-page"), Some("2"));
    assert_eq!(header(&empty, "x-total"), header(&full, "x-total"));
}

#[test]
fn features_that_are_off_answer_each_in_their_own_way() {
    let mut world = tiny();
    let project = first_project(&world);
    for feature in [
        Feature::Issues,
        Feature::MergeRequests,
        Feature::Builds,
        Feature::Releases,
        Feature::Repository,
    ] {
        world
            .set_feature(project, feature, false)
            .expect("a project");
    }
    let status = |world: &mut World, path: &str| {
        ask(world, TOKEN, &format!("/projects/{project}{path}")).status
    };
    assert_eq!(
        get(&mut world, &format!("/projects/{project}/issues")),
        serde_json::json!([])
    );
    assert_eq!(status(&mut world, "/issues/1"), 404);
    assert_eq!(status(&mut world, "/merge_requests"), 403);
    assert_eq!(status(&mut world, "/pipelines"), 403);
    assert_eq!(status(&mut world, "/releases"), 403);
    let reply = ask(
        &mut world,
        TOKEN,
        &format!("/projects/{project}/repository/commits"),
    );
    assert_eq!(body(&reply)["message"], "404 Repository Not Found");
    assert_eq!(status(&mut world, ""), 200);
}

#[test]
fn what_a_token_may_not_see_is_not_found() {
    let mut world = tiny();
    let project = first_project(&world);
    let reply = ask(&mut world, STRANGER_TOKEN, &format!("/projects/{project}"));
    assert_eq!(
        (reply.status, body(&reply)["message"].as_str()),
        (404, Some("404 Project Not Found"))
    );
    assert_eq!(
        ask(
            &mut world,
            GUEST_TOKEN,
            &format!("/projects/{project}/repository/commits")
        )
        .status,
        403
    );
    let issues = |world: &mut World, token: &str| {
        walk(world, token, &format!("/projects/{project}/issues")).len()
    };
    assert!(issues(&mut world, GUEST_TOKEN) < issues(&mut world, TOKEN));
}

#[test]
fn tokens_are_refused_by_kind_scope_revocation_and_date() {
    let mut world = tiny();
    let project = first_project(&world);
    let path = format!("/projects/{project}");
    assert_eq!(ask(&mut world, "unknown", &path).status, 401);
    assert_eq!(
        ask(&mut world, OAUTH_TOKEN, &path).status,
        401,
        "OAuth tokens are for Bearer only"
    );
    let revoked = ask(&mut world, REVOKED_TOKEN, &path);
    assert_eq!(
        (revoked.status, body(&revoked)["error"].as_str()),
        (401, Some("invalid_token"))
    );
    assert!(header(&revoked, "www-authenticate").is_some());
    assert_eq!(ask(&mut world, EXPIRED_TOKEN, &path).status, 401);
    let narrow = ask(&mut world, NARROW_TOKEN, &path);
    assert_eq!(
        (narrow.status, body(&narrow)["error"].as_str()),
        (403, Some("insufficient_scope"))
    );
    assert_eq!(ask(&mut world, NARROW_TOKEN, "/user").status, 200);
    assert_eq!(
        ask(&mut world, NARROW_TOKEN, "/personal_access_tokens/self").status,
        200
    );
}

#[test]
fn an_old_path_answers_301_with_a_text_and_the_id_never_does() {
    let mut world = tiny();
    let project = first_project(&world);
    let old = call::encode(&world.project_path(&world.projects[&project]));
    world.rename_project(project, "renamed").expect("a project");
    let reply = ask(
        &mut world,
        TOKEN,
        &format!("/projects/{old}/issues?state=all"),
    );
    assert_eq!((reply.status, reply.content_type), (301, "text/plain"));
    let to = format!("http://elsewhere.invalid/api/v4/projects/{project}/issues?state=all");
    assert_eq!(header(&reply, "location"), Some(to.as_str()));
    assert!(
        String::from_utf8_lossy(&reply.body)
            .starts_with("This resource has been moved permanently to ")
    );
    assert_eq!(
        ask(&mut world, TOKEN, &format!("/projects/{project}")).status,
        200
    );
    assert_eq!(
        ask(&mut world, TOKEN, "/projects/acme%2Frenamed").status,
        200
    );
    assert_eq!(
        ask(&mut world, TOKEN, "/projects/acme/renamed").status,
        404,
        "a path must be encoded"
    );
}

#[test]
fn commits_have_no_total_and_promise_a_page_after_every_full_one() {
    let mut world = tiny();
    let project = first_project(&world);
    let path = format!("/projects/{project}/repository/commits");
    let head = world.projects[&project]
        .repository
        .default_head()
        .cloned()
        .expect("a head");
    let count = world.projects[&project].repository.reachable(&[head]).len();
    assert_eq!(walk(&mut world, TOKEN, &path).len(), count);
    let reply = ask(&mut world, TOKEN, &format!("{path}?per_page={count}"));
    assert_eq!(header(&reply, "x-next-page"), Some("2"));
    assert_eq!(header(&reply, "x-total"), None);
    assert_eq!(
        get(&mut world, &format!("{path}?per_page={count}&page=2")),
        serde_json::json!([])
    );
    let (one, two) = (
        format!("{path}?all=true&per_page=3"),
        format!("{path}?all=true&per_page=3&page=2"),
    );
    assert_eq!(
        get(&mut world, &one),
        get(&mut world, &two),
        "`all=true` ignores the page"
    );
}

#[test]
fn empty_repositories_and_missing_ones_differ() {
    let mut world = tiny();
    let find = |world: &World, name: &str| {
        world
            .projects
            .values()
            .find(|p| p.name == name)
            .map(|p| p.id)
    };
    let (empty, never) = (
        find(&world, "Empty").expect("it"),
        find(&world, "Never Pushed").expect("it"),
    );
    assert_eq!(
        get(&mut world, &format!("/projects/{empty}/repository/commits")),
        serde_json::json!([])
    );
    assert_eq!(
        get(&mut world, &format!("/projects/{empty}"))["empty_repo"],
        true
    );
    assert_eq!(
        ask(
            &mut world,
            TOKEN,
            &format!("/projects/{never}/repository/commits")
        )
        .status,
        404
    );
}

#[test]
fn child_pipelines_hide_unless_asked_for_and_equal_times_shuffle() {
    let mut world = tiny();
    let project = first_project(&world);
    for pipeline in world
        .projects
        .get_mut(&project)
        .expect("it")
        .pipelines
        .values_mut()
    {
        pipeline.updated_at = Some(EPOCH);
    }
    let path = format!("/projects/{project}/pipelines");
    let visible = walk(&mut world, TOKEN, &path).len();
    let children = walk(&mut world, TOKEN, &format!("{path}?source=parent_pipeline")).len();
    assert_eq!(visible + children, world.projects[&project].pipelines.len());
    assert!(children > 0);
    let orders: std::collections::BTreeSet<Vec<u64>> = (0..6)
        .map(|_| {
            ids(
                &get(&mut world, &format!("{path}?order_by=updated_at")),
                "id",
            )
        })
        .collect();
    assert!(orders.len() > 1);
}
