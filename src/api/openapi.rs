//! `/api/openapi.json`: the API's contract, made from the handlers' annotations and the table of routes.
//!
//! A handler's own answers stand with the handler. What every route may answer because of the door in front of it, and
//! who may ask at all, is added here, out of [`super::routes`].

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::http::Method;
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder, path::Parameter};

use super::door::{Answer, Asked, COOKIE, Need, Routes, SECURE_COOKIE};
use super::media::typed;
use super::{
    channels, completeness, events, evidence, media, people, playback, problem, rest, session, settings,
    timeline, transitions,
};
use crate::events::{CameraState, OnAirNow, Reset, SubjectState};

/// The handlers, each with its annotation: a new one is one line here.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Liuta",
        description = "Video surveillance: cameras, recordings, alerts. Errors are RFC 9457 problems with a stable `type`.",
    ),
    components(schemas(
        problem::Body, CameraState, OnAirNow<'static>, SubjectState<'static>, Reset,
    )),
    paths(
        document,
        rest::healthz,
        rest::metrics,
        rest::cameras,
        channels::channels,
        channels::channel,
        channels::switch,
        events::events,
        rest::alerts,
        rest::alert,
        rest::snapshot,
        transitions::transitions,
        transitions::transition,
        rest::detections,
        evidence::signing_key,
        media::hls,
        media::hls_sub,
        media::hls_channel,
        media::frame,
        media::list,
        completeness::completeness,
        media::get,
        media::clip,
        playback::playlist,
        playback::frame,
        playback::file,
        timeline::timeline,
        session::session,
        session::sign_in,
        session::sign_out,
        session::change_password,
        session::new_stream_key,
        session::set_up,
        people::users,
        people::add_user,
        people::user,
        people::change_user,
        people::remove_user,
        people::new_stream_key,
        people::tokens,
        people::add_token,
        people::revoke_token,
        people::audit,
        people::audit_state,
        settings::config,
        settings::camera,
        settings::add_camera,
        settings::change_camera,
        settings::remove_camera,
        settings::try_camera,
        settings::zones,
        settings::zone,
        settings::add_zone,
        settings::change_zone,
        settings::remove_zone,
        settings::destinations,
        settings::destination,
        settings::add_destination,
        settings::change_destination,
        settings::remove_destination,
        settings::add_channel,
        settings::remove_channel,
    )
)]
struct Annotated;

#[utoipa::path(
    get, path = "/api/openapi.json", tag = "health",
    responses((status = 200, description = "This document", body = Object, content_type = "application/json"))
)]
pub async fn document(_: Asked) -> Answer {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| {
        let text = describe(&super::routes()).to_json();
        // Strings and numbers alone: there is nothing that JSON could not write.
        text.unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}")).into()
    });
    Ok(typed("application/json", TEXT.clone()))
}

/// The annotations, with what the routes' needs mean for each.
fn describe(routes: &Routes) -> utoipa::openapi::OpenApi {
    let mut told = Annotated::openapi();
    for (method, path, need) in routes.list() {
        let item = told.paths.paths.get_mut(*path);
        if let Some(operation) = item.and_then(|item| operation(item, method).as_mut()) {
            complete(operation, method, *need);
        }
    }
    let components = told.components.get_or_insert_default();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A token")).build();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    let schemes = [
        ("session", ApiKey::Cookie(ApiKeyValue::new(COOKIE))),
        // Where the box is reached by HTTPS.
        ("secure_session", ApiKey::Cookie(ApiKeyValue::new(SECURE_COOKIE))),
    ];
    for (name, key) in schemes {
        components.add_security_scheme(name, SecurityScheme::ApiKey(key));
    }
    told
}

fn complete(operation: &mut Operation, method: &Method, need: Need) {
    let signed_in = ["token", "session", "secure_session"];
    let signed_in = signed_in.map(|scheme| SecurityRequirement::new(scheme, Vec::<String>::new()));
    match need {
        Need::Nothing => {}
        // Whoever holds a link, and the anonymous viewer where there is one, needs no sign-in.
        Need::Linked(_) | Need::Action(_) | Need::Camera(..) | Need::Events => {
            operation.security = Some(signed_in.to_vec())
        }
    }
    if let Need::Linked(_) = need {
        let parameters = operation.parameters.get_or_insert_default();
        parameters.extend(["expires", "signature"].map(|name| link_parameter(name).into()));
    }
    let always = [
        ("400", "Problem bad-request"),
        ("403", "Problem forbidden or foreign-origin"),
        ("429", "Problem too-many-connections"),
        ("500", "Problem internal; the box's log says why"),
        ("503", "Problem unavailable; Retry-After says when to try again"),
    ];
    let unsigned = (!matches!(need, Need::Nothing)).then_some(("401", "Problem sign-in or unknown-token"));
    let body = (!method.is_safe()).then_some(("413", "Problem too-large"));
    let answers = &mut operation.responses.responses;
    for (status, description) in always.into_iter().chain(unsigned).chain(body) {
        let answer = || ResponseBuilder::new().description(description).build().into();
        answers.entry(status.to_owned()).or_insert_with(answer);
    }
    for (status, answer) in answers {
        if let RefOr::T(answer) = answer
            && status.starts_with(['4', '5'])
            && answer.content.is_empty()
        {
            let problem = Content::new(Some(Ref::from_schema_name("Problem")));
            answer.content.insert("application/problem+json".to_owned(), problem.into());
        }
    }
}

fn link_parameter(name: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .description(Some("Of a signed link, in place of a sign-in"))
        .schema(Some(utoipa::openapi::schema::Object::with_type(utoipa::openapi::schema::Type::String)))
        .build()
}

fn operation<'a>(item: &'a mut PathItem, method: &Method) -> &'a mut Option<Operation> {
    match *method {
        Method::PUT => &mut item.put,
        Method::POST => &mut item.post,
        Method::DELETE => &mut item.delete,
        Method::PATCH => &mut item.patch,
        _ => &mut item.get,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// For people's browsers: no part of the contract.
    const PAGES: [&str; 3] = ["/", "/console", "/assets/{file}"];

    #[test]
    fn the_document_and_the_routes_name_the_same() {
        let told = serde_json::to_value(describe(&super::super::routes())).unwrap();
        assert_eq!(told["openapi"], "3.1.0");
        let paths = told["paths"].as_object().unwrap();
        let told: BTreeSet<_> = paths
            .iter()
            .flat_map(|(path, item)| {
                item.as_object()
                    .unwrap()
                    .keys()
                    .map(move |method| format!("{} {path}", method.to_uppercase()))
            })
            .collect();
        let routes = super::super::routes();
        let served: BTreeSet<_> = routes
            .list()
            .iter()
            .filter(|(_, path, _)| !PAGES.contains(path))
            .map(|(method, path, _)| format!("{method} {path}"))
            .collect();
        assert_eq!(told, served);
    }

    #[test]
    fn every_operation_says_who_may_ask_and_what_errors_look_like() {
        let told = serde_json::to_value(describe(&super::super::routes())).unwrap();
        let mut ids = BTreeSet::new();
        for (method, path, need) in super::super::routes().list() {
            let operation = &told["paths"][*path][method.as_str().to_lowercase()];
            if PAGES.contains(path) {
                continue;
            }
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} names two operations");
            assert_eq!(operation["security"].is_array(), !matches!(need, Need::Nothing), "{method} {path}");
            for (status, answer) in operation["responses"].as_object().unwrap() {
                if status.starts_with(['4', '5']) {
                    let schema = &answer["content"]["application/problem+json"]["schema"]["$ref"];
                    assert_eq!(schema, "#/components/schemas/Problem", "{method} {path} {status}");
                }
            }
        }
    }
}
