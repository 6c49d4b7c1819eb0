//! HTTP around the world of the corpus: just enough of GitLab for one reading.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::collect::Record;
use super::world;

/// A running server. Dropping it stops it.
pub(crate) struct Server {
    url: String,
    task: JoinHandle<()>,
}

struct World {
    url: String,
    records: Vec<Record>,
}

impl Server {
    /// Serves the records, sorted by project, on a free port.
    pub(crate) async fn start(records: Vec<Record>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let world = Arc::new(World {
            url: url.clone(),
            records,
        });
        let router = Router::new().fallback(answer).with_state(world);
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { url, task })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Params = Query<HashMap<String, String>>;

async fn answer(State(world): State<Arc<World>>, uri: Uri, Query(params): Params) -> Response {
    let number = |key: &str| params.get(key).and_then(|value| value.parse::<u64>().ok());
    let path: Vec<&str> = uri
        .path()
        .trim_start_matches("/api/v4/")
        .split('/')
        .collect();
    match path.as_slice() {
        ["projects"] => {
            let per_page = number("per_page").and_then(|size| usize::try_from(size).ok());
            let page = world::projects(
                &world.records,
                number("id_after").unwrap_or_default(),
                per_page.unwrap_or(20),
            );
            projects(&world.url, &params, page)
        }
        ["projects", id, rest @ ..] => {
            let found = id.parse::<u64>().ok().and_then(|id| {
                world
                    .records
                    .binary_search_by_key(&id, |record| record.project)
                    .ok()
            });
            match found.and_then(|index| world::answer(&world.records[index], rest)) {
                Some(Value::Array(rows)) => {
                    let is_counted = rest != ["repository", "commits"];
                    list(
                        rows,
                        number("page").unwrap_or(1),
                        number("per_page").unwrap_or(20),
                        is_counted,
                    )
                }
                Some(object) => json_response(&object),
                None => not_found(),
            }
        }
        _ => not_found(),
    }
}

/// A keyset page. As on GitLab, only an empty one has no next.
fn projects(url: &str, params: &HashMap<String, String>, page: &[Record]) -> Response {
    let mut response = json_response(&page.iter().map(world::project).collect());
    if let Some(last) = page.last() {
        let others: String = params
            .iter()
            .filter(|(key, _)| *key != "id_after")
            .map(|(key, value)| format!("&{key}={value}"))
            .collect();
        let link = format!(
            "<{url}/api/v4/projects?id_after={}{others}>; rel=\"next\"",
            last.project
        );
        if let Ok(link) = link.parse() {
            response.headers_mut().insert(header::LINK, link);
        }
    }
    response
}

/// An offset page of a list that never fills one.
fn list(rows: Vec<Value>, page: u64, per_page: u64, is_counted: bool) -> Response {
    let total = rows.len();
    let rows = if page > 1 { Vec::new() } else { rows };
    let mut response = json_response(&Value::from(rows));
    let headers = response.headers_mut();
    headers.insert("x-page", page.into());
    headers.insert("x-per-page", per_page.into());
    headers.insert("x-next-page", header::HeaderValue::from_static(""));
    if is_counted {
        headers.insert("x-total", total.into());
    }
    response
}

fn not_found() -> Response {
    let mut response = json_response(&json!({"error": "404 Not Found"}));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// The connector takes its cursors from GitLab's clock, so every answer carries one.
fn json_response(body: &Value) -> Response {
    let date = chrono::Utc::now()
        .format("%a, %d %b %Y %H:%M:%S GMT")
        .to_string();
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::DATE, date),
    ];
    (headers, Body::from(body.to_string())).into_response()
}
