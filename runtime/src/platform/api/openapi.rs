//! The description of the API, and a page that shows it without asking anybody.
//!
//! The document is made of the handlers. What all of them share (the key, the problems) is put in here once. The page is rendered from the
//! document: the usual viewers are a megabyte of JavaScript that needs `unsafe-inline`, and this one needs nothing.

use std::collections::BTreeMap;

use askama::Template;
use axum::Json;
use axum::response::Response;
use serde_json::Value;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, OpenApi, Ref, RefOr, Response as Described,
    ResponseBuilder,
};
use utoipa::{PartialSchema as _, ToSchema as _};

use super::problem::{CONTENT_TYPE, Details, FieldProblem};
use crate::platform::dashboard::render;

/// The document, OpenAPI 3.1.
#[must_use]
pub fn document() -> OpenApi {
    let (_, mut document) = super::described().split_for_parts();
    document.info = InfoBuilder::new()
        .title("Connector runtime")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "The managed platform: tenants, keys, components, connections, runs, deliveries. Every request carries `Authorization: Bearer cr_…`. Errors are problem details (RFC 9457). Lists come in pages: pass `next` as `after`. Creations take an `Idempotency-Key`; changes want `If-Match` with the ETag that was read.",
        ))
        .build();
    let components = document.components.get_or_insert_with(Components::new);
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("cr_<id>_<secret>")
        .build();
    components.add_security_scheme("key", SecurityScheme::Http(key));
    let mut schemas = Vec::new();
    Details::schemas(&mut schemas);
    FieldProblem::schemas(&mut schemas);
    schemas.push((Details::name().into_owned(), Details::schema()));
    schemas.push((FieldProblem::name().into_owned(), FieldProblem::schema()));
    components.schemas.extend(schemas);
    document.security = Some(vec![SecurityRequirement::new("key", Vec::<String>::new())]);
    let problem = || -> RefOr<Described> {
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name(Details::name())))
            .build();
        ResponseBuilder::new()
            .description("What went wrong")
            .content(CONTENT_TYPE, content)
            .build()
            .into()
    };
    let paths = std::mem::take(&mut document.paths.paths);
    for (path, mut item) in paths {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.patch,
            &mut item.delete,
        ];
        for operation in operations.into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            responses.insert("default".to_owned(), problem());
        }
        document.paths.paths.insert(format!("/api/v1{path}"), item);
    }
    document
}

pub(super) async fn json() -> Json<OpenApi> {
    Json(document())
}

/// The page, made of the document.
#[derive(Template)]
#[template(path = "dashboard/docs.html")]
struct Docs {
    version: String,
    description: String,
    tags: Vec<(String, Vec<Operation>)>,
    schemas: Vec<(String, String, String)>,
}

struct Operation {
    method: String,
    path: String,
    summary: String,
    description: String,
    parameters: Vec<(String, String, String, bool)>,
    /// Content type, and the name of the schema.
    bodies: Vec<(String, String)>,
    /// Status, words, and the name of the schema.
    responses: Vec<(String, String, String)>,
}

pub(super) async fn page() -> Response {
    let document = serde_json::to_value(document()).unwrap_or_default();
    render(&docs(&document))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn docs(document: &Value) -> Docs {
    let mut tags: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
    for (path, item) in members(&document["paths"]) {
        for (method, operation) in members(item) {
            if operation.get("responses").is_some() {
                let tag = text(&operation["tags"][0]);
                tags.entry(tag)
                    .or_default()
                    .push(Operation::new(path, method, operation));
            }
        }
    }
    Docs {
        version: text(&document["info"]["version"]),
        description: text(&document["info"]["description"]),
        tags: tags.into_iter().collect(),
        schemas: members(&document["components"]["schemas"])
            .map(|(name, schema)| {
                let pretty = serde_json::to_string_pretty(schema).unwrap_or_default();
                (name.clone(), text(&schema["description"]), pretty)
            })
            .collect(),
    }
}

impl Operation {
    fn new(path: &str, method: &str, operation: &Value) -> Self {
        let parameters = operation["parameters"].as_array();
        Self {
            method: method.to_uppercase(),
            path: path.to_owned(),
            summary: text(&operation["summary"]),
            description: text(&operation["description"]),
            parameters: parameters
                .into_iter()
                .flatten()
                .map(|one| {
                    let needed = one["required"] == true;
                    (
                        text(&one["name"]),
                        text(&one["in"]),
                        text(&one["description"]),
                        needed,
                    )
                })
                .collect(),
            bodies: members(&operation["requestBody"]["content"])
                .map(|(kind, media)| (kind.clone(), schema_name(&media["schema"])))
                .collect(),
            responses: members(&operation["responses"])
                .map(|(status, response)| {
                    let media = members(&response["content"]).next();
                    let schema = media.map(|(_, media)| schema_name(&media["schema"]));
                    (
                        status.clone(),
                        text(&response["description"]),
                        schema.unwrap_or_default(),
                    )
                })
                .collect(),
        }
    }
}

/// Of a schema that is named elsewhere; empty for others.
fn schema_name(schema: &Value) -> String {
    let reference = schema["$ref"].as_str().or(schema["items"]["$ref"].as_str());
    let name = reference.and_then(|reference| reference.rsplit('/').next());
    name.unwrap_or_default().to_owned()
}
