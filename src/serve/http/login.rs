//! `/login/USER` and `/logout`: a name and a password → a token.

use std::sync::Arc;

use bytes::Buf;
use futures_util::Stream;
use serde::Serialize;
use warp::{path::Tail, reply::Response};

use crate::{
    key,
    serve::{
        Context, Who,
        fields::Fields,
        problem::{Kind, Problem},
    },
};

use super::{body, door::Asked, query, reply};

/// `POST /login/USER` with a field `password`, in a form or in JSON.
pub(super) async fn login(
    context: Arc<Context>,
    asked: Asked,
    raw_query: Option<String>,
    path: Tail,
    chunks: impl Stream<Item = Result<impl Buf, warp::Error>>,
) -> Response {
    #[derive(Serialize)]
    struct Answer {
        success: bool,
        auth_token: String,
    }
    let answered = async {
        query::nothing(raw_query.as_deref())?;
        let auth_token = token(&context, &asked.who, path.as_str(), chunks).await?;
        Ok(reply::json(&Answer { success: true, auth_token }))
    };
    reply::unstored(answered.await)
}

async fn token(
    context: &Context,
    who: &Who,
    path: &str,
    chunks: impl Stream<Item = Result<impl Buf, warp::Error>>,
) -> Result<String, Problem> {
    let Some(login) = &context.login else {
        let hint = "set [auth.login], or bring a token from elsewhere";
        return Err(Problem::new(Kind::NotFound, "nobody logs in here", hint));
    };
    let body = body::whole(chunks, context.limits.body_bytes).await?;
    let user = key::decode(path)
        .map_err(|fault| Problem::bad_request("user", fault.to_string(), "percent-encode it"))?;
    let fields = Fields::of(&body, false)?;
    let missing = || {
        let hint = "send password=… as a form, or {\"password\":\"…\"}";
        Problem::bad_request("password", "no password is given", hint)
    };
    let password = fields.text("password").ok_or_else(missing)?;
    Ok(login.attempt(&user, &password, who.address).await?)
}

/// `GET /logout`: tokens end by themselves, so there is nothing to do.
pub(super) fn logout() -> Response {
    reply::json(&serde_json::json!({ "success": true }))
}
