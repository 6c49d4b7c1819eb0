//! What only shows on a socket.

use std::time::Duration;

use reqwest::{Client, Response, StatusCode};

use super::*;

fn client() -> Client {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client")
}

async fn start(options: Options) -> Server {
    Server::start(World::generate(7, &Size::tiny()), options)
        .await
        .expect("a server")
}

async fn fetch(server: &Server, target: &str) -> Result<Response, reqwest::Error> {
    client()
        .get(format!("{}{target}", server.url()))
        .header("PRIVATE-TOKEN", TOKEN)
        .send()
        .await
}

#[tokio::test]
async fn the_date_header_shows_the_simulated_clock() {
    let server = start(Options::default()).await;
    server.world().clock.freeze_at(EPOCH);
    let reply = fetch(&server, "/api/v4/user").await.expect("an answer");
    assert_eq!(reply.headers()["date"], "Fri, 13 Feb 2026 12:00:00 GMT");
    server.shutdown().await;
}

#[tokio::test]
async fn the_rate_limit_announces_itself_and_then_refuses_in_plain_text() {
    let options = Options {
        rate_limit: Some(2),
        rate_window: Duration::from_secs(1),
        ..Options::default()
    };
    let server = start(options).await;
    let first = fetch(&server, "/api/v4/user").await.expect("an answer");
    assert_eq!(first.headers()["ratelimit-remaining"], "1");
    assert_eq!(first.headers()["ratelimit-limit"], "120");
    fetch(&server, "/api/v4/user").await.expect("an answer");
    let refused = fetch(&server, "/api/v4/user").await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.headers()["content-type"], "text/plain");
    assert_eq!(refused.text().await.expect("a body"), "Retry later\n");
    tokio::time::sleep(Duration::from_millis(1050)).await;
    assert_eq!(
        fetch(&server, "/api/v4/user")
            .await
            .expect("an answer")
            .status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_rate_limit_is_told_of_by_the_answers_that_the_options_name() {
    for (told, of_answers) in [
        (RateLimitHeaders::Always, [true, true]),
        (RateLimitHeaders::WithRefusals, [false, true]),
        (RateLimitHeaders::Never, [false, false]),
    ] {
        let server = start(Options {
            rate_limit: Some(1),
            rate_limit_headers: told,
            ..Options::default()
        })
        .await;
        for (status, is_told) in [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS]
            .into_iter()
            .zip(of_answers)
        {
            let answer = fetch(&server, "/api/v4/user").await.expect("an answer");
            assert_eq!(answer.status(), status, "{told:?}");
            let headers = answer.headers();
            assert_eq!(
                headers.contains_key("ratelimit-remaining"),
                is_told,
                "{told:?} {status}"
            );
        }
    }
}

#[tokio::test]
async fn an_endpoint_limit_refuses_in_json_and_may_hide_when_to_come_back() {
    let limit = EndpointLimit {
        class: "user".to_owned(),
        limit: 1,
        retry_after: false,
    };
    let server = start(Options {
        endpoint_limits: vec![limit],
        ..Options::default()
    })
    .await;
    fetch(&server, "/api/v4/user").await.expect("an answer");
    let refused = fetch(&server, "/api/v4/user").await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().get("retry-after").is_none());
    let body: Value = refused.json().await.expect("JSON");
    assert!(body["message"]["error"].is_string());
}

#[tokio::test]
async fn a_truncated_body_breaks_off_and_a_reset_gives_no_answer_at_all() {
    let server = start(Options::default()).await;
    server.add_fault(Rule::new("/user", Fault::Truncated { keep: 10 }).times(1));
    let reply = fetch(&server, "/api/v4/user").await.expect("a head");
    assert_eq!(reply.status(), StatusCode::OK);
    assert!(reply.content_length().is_some_and(|length| length > 10));
    assert!(reply.bytes().await.is_err());
    server.set_faults(vec![Rule::new("/user", Fault::Reset).times(1)]);
    assert!(fetch(&server, "/api/v4/user").await.is_err());
    assert_eq!(
        fetch(&server, "/api/v4/user")
            .await
            .expect("an answer")
            .status(),
        StatusCode::OK
    );
    assert_eq!(server.faults_struck(), 1);
    let statuses: Vec<u16> = server.requests().iter().map(|entry| entry.status).collect();
    assert_eq!(statuses, [200, 0, 200]);
}

#[tokio::test]
async fn a_hook_changes_the_world_between_two_pages() {
    let server = start(Options::default()).await;
    let project = first_project(&server.world());
    let path = format!(
        "/api/v4/projects/{project}/merge_requests?per_page=2&order_by=updated_at&sort=asc"
    );
    server.on_request("merge_requests?*&page=2", 1, move |world| {
        world.delete_merge_request(project, 1).expect("it");
    });
    let total = |reply: &Response| {
        reply.headers()["x-total"]
            .to_str()
            .expect("text")
            .to_owned()
    };
    let one = fetch(&server, &format!("{path}&page=1"))
        .await
        .expect("an answer");
    let two = fetch(&server, &format!("{path}&page=2"))
        .await
        .expect("an answer");
    assert_eq!((total(&one).as_str(), total(&two).as_str()), ("6", "5"));
    assert_eq!(server.requests_to("merge_requests").len(), 2);
    let again = fetch(&server, &format!("{path}&page=2"))
        .await
        .expect("an answer");
    assert_eq!(total(&again), "5", "a hook runs once");
}

#[tokio::test]
async fn a_relative_root_and_another_link_host_are_honoured() {
    let options = Options {
        root: "/gitlab".to_owned(),
        link_origin: Some("http://inside.invalid:8080".to_owned()),
        ..Options::default()
    };
    let server = start(options).await;
    let reply = fetch(&server, "/api/v4/projects?per_page=1")
        .await
        .expect("an answer");
    let link = reply.headers()["link"].to_str().expect("text").to_owned();
    assert!(
        link.starts_with("<http://inside.invalid:8080/gitlab/api/v4/projects?"),
        "{link}"
    );
    let outside = client()
        .get(format!("http://{}/api/v4/user", server.address()))
        .send()
        .await
        .expect("an answer");
    assert_eq!(outside.status(), StatusCode::NOT_FOUND);
    assert_eq!(server.counters()["GET projects"].requests, 1);
}

#[tokio::test]
async fn an_oauth_token_and_a_personal_one_both_pass_as_bearer() {
    let server = start(Options::default()).await;
    for token in [TOKEN, OAUTH_TOKEN] {
        let url = format!("{}/api/v4/user", server.url());
        let reply = client()
            .get(url)
            .header("Authorization", format!("Bearer {token}"))
            .send()
            .await
            .expect("an answer");
        assert_eq!(reply.status(), StatusCode::OK, "{token}");
    }
    assert!(server.requests().iter().all(|entry| entry.authorised));
}

#[tokio::test]
async fn the_control_api_changes_tells_and_breaks() {
    let server = start(Options::default()).await;
    let post = |path: &str, body: &str| {
        client()
            .post(format!("{}/_sim/{path}", server.url()))
            .body(body.to_owned())
            .send()
    };
    let made: Value = post("mutate", r#"{"seed":1,"count":5}"#)
        .await
        .expect("it")
        .json()
        .await
        .expect("JSON");
    assert_eq!(made.as_array().map(Vec::len), Some(5));
    let one: Value = post("mutate/add_note", r#"{"text":"hello"}"#)
        .await
        .expect("it")
        .json()
        .await
        .expect("JSON");
    assert_eq!(one["name"], "add_note");
    assert_eq!(
        post("mutate/nonsense", "{}").await.expect("it").status(),
        StatusCode::BAD_REQUEST
    );
    let before = server.world().now();
    post("clock", r#"{"advance_seconds":3600}"#)
        .await
        .expect("it");
    assert!(server.world().now() >= before.plus_seconds(3600));
    post(
        "faults",
        r#"[{"path":"/user","times":1,"fault":{"kind":"bad_gateway"}}]"#,
    )
    .await
    .expect("it");
    assert_eq!(
        fetch(&server, "/api/v4/user")
            .await
            .expect("an answer")
            .status(),
        StatusCode::BAD_GATEWAY
    );
    let stats: Value = fetch(&server, "/_sim/stats")
        .await
        .expect("it")
        .json()
        .await
        .expect("JSON");
    assert_eq!(stats["endpoints"]["GET user"]["requests"], 1);
    let expected: Value = fetch(&server, "/_sim/expected?count_only=true")
        .await
        .expect("it")
        .json()
        .await
        .expect("JSON");
    assert!(expected["total"].as_u64().is_some_and(|total| total > 50));
}

#[tokio::test]
async fn a_dripping_body_arrives_whole_and_wrong_shapes_are_wrong() {
    let server = start(Options::default()).await;
    server.set_faults(vec![Rule::new("/user", Fault::Drip { bytes: 100, ms: 1 })]);
    let user: Value = fetch(&server, "/api/v4/user")
        .await
        .expect("it")
        .json()
        .await
        .expect("JSON");
    assert_eq!(user["username"], "connector");
    server.set_faults(vec![Rule::new("", Fault::WrongShape)]);
    let user: Value = fetch(&server, "/api/v4/user")
        .await
        .expect("it")
        .json()
        .await
        .expect("JSON");
    assert!(user.is_array());
    let projects: Value = fetch(&server, "/api/v4/projects")
        .await
        .expect("it")
        .json()
        .await
        .expect("JSON");
    assert!(projects.is_object());
}
