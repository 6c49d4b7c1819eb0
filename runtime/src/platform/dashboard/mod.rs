//! The dashboard: pages made here, forms that work without a script, and a short script of our own that keeps a page fresh.
//!
//! It shows and changes nothing by itself: what a form asks for goes to the same handlers as a request of the API, with the caller of the
//! session. Nothing is loaded from elsewhere, and nothing is inline, so the content policy allows only this server.

mod pages;
pub mod session;

use std::convert::Infallible;
use std::time::Duration;

use askama::Template;
use axum::extract::{Form, FromRequest as _, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Ground;
use super::api::history::Letters;
use super::api::problem::Problem;
use super::api::request::Input;
use super::api::{connections, history};
use super::keys;
use super::places::{NoPlace, Places};
use crate::digest::fingerprint;
use connector_store::platform::Page;
use pages::{Login, Nothing};
use session::Session;

/// Nothing from elsewhere, nothing inline.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";
/// Between two looks at whether something changed.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// For a whole form.
const FORM_TIME: Duration = Duration::from_secs(10);
/// Open pages of tenants that are told of changes; each has the database looked at.
const LIVE_PAGES: usize = 64;
/// Of one tenant, which would have all of them otherwise.
const LIVE_PAGES_OF_A_TENANT: usize = 8;
/// The operator's, beside those of tenants.
const LIVE_PAGES_OF_THE_OPERATOR: usize = 16;
/// How long each is told before it has to ask again.
const STREAM_FOR: Duration = Duration::from_secs(10 * 60);

/// The places for open pages that are told of changes.
#[must_use]
pub fn live_pages() -> Places {
    Places::new(LIVE_PAGES, LIVE_PAGES_OF_A_TENANT).and_for_the_operator(LIVE_PAGES_OF_THE_OPERATOR)
}

/// A page.
pub fn render(page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => {
            let headers = [
                (header::CONTENT_TYPE, "text/html; charset=utf-8"),
                (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
                (header::REFERRER_POLICY, "same-origin"),
            ];
            (headers, html).into_response()
        }
        Err(error) => Problem::internal(error.to_string()).into_response(),
    }
}

/// Routes.
pub fn router(ground: Ground) -> Router {
    Router::new()
        .route("/", get(overview))
        .route("/login", get(login_page).post(login))
        .route("/logout", post(logout))
        .route("/components", get(components))
        .route("/connections/{connection}", get(connection).post(act))
        .route("/events", get(events))
        .route("/assets/style.css", get(style))
        .route("/assets/live.js", get(script))
        .with_state(ground)
}

async fn style() -> Response {
    asset("text/css", include_str!("assets/style.css"))
}

async fn script() -> Response {
    asset("text/javascript", include_str!("assets/live.js"))
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "public, max-age=300"),
    ];
    (headers, text).into_response()
}

fn to_login() -> Response {
    Redirect::to("/login").into_response()
}

/// A problem as a page.
fn explained(problem: &Problem) -> Response {
    let page = Nothing {
        title: problem.0.title.clone(),
        detail: problem.0.detail.clone(),
    };
    let status =
        StatusCode::from_u16(problem.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = render(&page);
    *response.status_mut() = status;
    response
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct View {
    tenant: Option<String>,
}

async fn overview(
    State(ground): State<Ground>,
    headers: HeaderMap,
    Query(view): Query<View>,
) -> Response {
    let Some(session) = session::find(&ground, &headers).await else {
        return to_login();
    };
    match pages::overview(&ground, session, view.tenant.as_deref()).await {
        Ok(page) => render(&page),
        Err(problem) => explained(&problem),
    }
}

async fn components(State(ground): State<Ground>, headers: HeaderMap) -> Response {
    let Some(session) = session::find(&ground, &headers).await else {
        return to_login();
    };
    match pages::components(&ground, session).await {
        Ok(page) => render(&page),
        Err(problem) => explained(&problem),
    }
}

async fn connection(
    State(ground): State<Ground>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    let Some(session) = session::find(&ground, &headers).await else {
        return to_login();
    };
    match pages::connection(&ground, session, &id).await {
        Ok(page) => render(&page),
        Err(problem) => explained(&problem),
    }
}

async fn login_page() -> Response {
    render(&Login { failed: false })
}

#[derive(Deserialize)]
struct LoginForm {
    key: String,
}

/// A form that comes in time: whoever is slow, or sends nothing, holds a place that others need.
async fn form<T: DeserializeOwned>(request: Request) -> Result<T, Response> {
    let read = Form::<T>::from_request(request, &());
    match tokio::time::timeout(FORM_TIME, read).await {
        Ok(Ok(Form(form))) => Ok(form),
        Ok(Err(rejection)) => Err(rejection.into_response()),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT.into_response()),
    }
}

async fn login(State(ground): State<Ground>, request: Request) -> Response {
    let form: LoginForm = match form(request).await {
        Ok(form) => form,
        Err(refused) => return refused,
    };
    match keys::verify(ground.platform.as_ref(), &form.key).await {
        Ok(Some(key)) => match session::begin(&ground, &key) {
            Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response(),
            Err(problem) => explained(&problem),
        },
        Ok(None) => {
            let mut response = render(&Login { failed: true });
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            response
        }
        Err(error) => explained(&Problem::from(error)),
    }
}

#[derive(Deserialize)]
struct LogoutForm {
    csrf: String,
}

async fn logout(State(ground): State<Ground>, headers: HeaderMap, request: Request) -> Response {
    let form: LogoutForm = match form(request).await {
        Ok(form) => form,
        Err(refused) => return refused,
    };
    let checked = match session::find(&ground, &headers).await {
        Some(session) => session.check(&form.csrf),
        None => Ok(()),
    };
    match checked.and_then(|()| session::end(&ground)) {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to("/login")).into_response(),
        Err(problem) => explained(&problem),
    }
}

#[derive(Deserialize)]
struct Act {
    csrf: String,
    action: String,
    #[serde(default)]
    subject: String,
}

async fn act(
    State(ground): State<Ground>,
    headers: HeaderMap,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let Some(session) = session::find(&ground, &headers).await else {
        return to_login();
    };
    let form: Act = match form(request).await {
        Ok(form) => form,
        Err(refused) => return refused,
    };
    match perform(&ground, session, &id, form).await {
        Ok(()) => Redirect::to(&format!("/connections/{id}")).into_response(),
        Err(problem) => explained(&problem),
    }
}

/// What a form asks for, through the handlers of the API.
async fn perform(ground: &Ground, session: Session, id: &str, form: Act) -> Result<(), Problem> {
    session.check(&form.csrf)?;
    let caller = session.caller;
    let state = State(ground.clone());
    let path = Path(id.to_owned());
    let letters = || {
        Input(Letters {
            all: form.subject.is_empty(),
            source_ids: Some(form.subject.clone())
                .filter(|id| !id.is_empty())
                .into_iter()
                .collect(),
        })
    };
    match form.action.as_str() {
        "pause" => connections::pause(state, caller, path).await.map(drop),
        "resume" => connections::resume(state, caller, path).await.map(drop),
        "run" => connections::run_now(state, caller, path).await.map(drop),
        "replay" => {
            let path = Path((id.to_owned(), form.subject.clone()));
            let replayed: Json<_> = history::replay_one(state, caller, path).await?;
            drop(replayed);
            Ok(())
        }
        "retry" => history::retry_letters(state, caller, path, letters())
            .await
            .map(drop),
        "drop" => history::drop_letters(state, caller, path, letters())
            .await
            .map(drop),
        _ => Err(Problem::invalid("action", "there is no such action")),
    }
}

/// Why a page is not told of changes. Its script then looks for itself now and then.
fn not_told(none: NoPlace) -> Problem {
    Problem::unavailable(match none {
        NoPlace::ForTheTenant => format!(
            "as many pages of this tenant are told of changes as may be at a time ({LIVE_PAGES_OF_A_TENANT}); close one, or load the page again for what is new"
        ),
        NoPlace::AtAll => {
            "as many pages are told of changes as may be at a time; load the page again for what is new".to_owned()
        }
    })
}

/// Says when what the caller sees has changed; the page then asks for itself again. Ends with the process.
async fn events(State(ground): State<Ground>, headers: HeaderMap) -> Response {
    let Some(session) = session::find(&ground, &headers).await else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let place = match ground.live_pages.take(session.caller.tenant()) {
        Ok(place) => place,
        Err(none) => return not_told(none).into_response(),
    };
    let stop = ground.stop.clone();
    let looks = stream::unfold(String::new(), move |before| {
        let ground = ground.clone();
        let tenant = session.caller.tenant().map(str::to_owned);
        // Held for as long as the stream lives.
        let _place = &place;
        async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let page = Page {
                    after: None,
                    most: 200,
                };
                let rows = ground.platform.connections(tenant.as_deref(), &page).await;
                let rows = rows.unwrap_or_default();
                let state = json!(rows).to_string();
                let now = fingerprint(state.as_bytes());
                if now != before {
                    let event = Event::default().id(&now).event("change").data("-");
                    return Some((Ok::<_, Infallible>(event), now));
                }
            }
        }
    });
    // The page asks again, and whose key has ended by then is not answered.
    let until = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(STREAM_FOR) => {}
        }
    };
    Sse::new(looks.take_until(Box::pin(until)))
        .keep_alive(KeepAlive::default())
        .into_response()
}
