//! The tricky rules, as sentences.

mod listing;
mod oracle;
mod rules;
mod serving;
mod webhooks;

use serde_json::Value;

use super::reply::Reply;
use super::routes::{Inquiry, answer};
use super::*;

/// A tiny world with a stopped clock.
fn tiny() -> World {
    let mut world = World::generate(7, &Size::tiny());
    world.clock.freeze_at(EPOCH);
    world
}

fn first_project(world: &World) -> u64 {
    *world.projects.keys().next().expect("a project")
}

fn ask(world: &mut World, token: &str, target: &str) -> Reply {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let inquiry = Inquiry {
        method: "GET",
        path: &format!("/api/v4{path}"),
        query,
        body: &[],
        is_json: false,
        private_token: Some(token),
        authorization: None,
        root: "",
        link_origin: "http://elsewhere.invalid",
    };
    answer(world, &inquiry).0
}

fn body(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).expect("JSON")
}

fn get(world: &mut World, target: &str) -> Value {
    let reply = ask(world, TOKEN, target);
    assert_eq!(
        reply.status,
        200,
        "{target}: {}",
        String::from_utf8_lossy(&reply.body)
    );
    body(&reply)
}

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    reply
        .headers
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

fn ids(list: &Value, name: &str) -> Vec<u64> {
    list.as_array()
        .expect("a list")
        .iter()
        .map(|item| item[name].as_u64().expect("a number"))
        .collect()
}

/// Follows `x-next-page` to the end.
fn walk(world: &mut World, token: &str, target: &str) -> Vec<Value> {
    let mut out = Vec::new();
    let mut page = "1".to_owned();
    while !page.is_empty() {
        let glue = if target.contains('?') { '&' } else { '?' };
        let reply = ask(world, token, &format!("{target}{glue}page={page}"));
        assert_eq!(reply.status, 200, "{target}");
        page = header(&reply, "x-next-page")
            .expect("an offset page")
            .to_owned();
        out.extend(body(&reply).as_array().expect("a list").iter().cloned());
    }
    out
}
