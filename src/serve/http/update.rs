//! `/update` and `/create`: a path and a body → a commit and its position.

use std::sync::Arc;

use bytes::Buf;
use futures_util::Stream;
use serde::Serialize;
use warp::{http::HeaderValue, path::Tail, reply::Response};

use crate::{
    postgres::write::Written,
    serve::{Context, fields::Fields, problem::Problem, write},
};

use super::{body, door::Asked, query, reply};

/// `PUT` or `POST`, `/update/NAME/…` or `/create/NAME/…`: all mean the same.
pub(super) async fn update(
    context: Arc<Context>,
    asked: Asked,
    raw_query: Option<String>,
    path: Tail,
    chunks: impl Stream<Item = Result<impl Buf, warp::Error>>,
) -> Response {
    #[derive(Serialize)]
    struct Answer {
        success: bool,
        lsn: String,
        rows: u64,
    }
    let answered = async {
        query::nothing(raw_query.as_deref())?;
        let Written { lsn, rows } = written(&context, &asked, path.as_str(), chunks).await?;
        Ok(reply::json(&Answer { success: true, lsn: lsn.to_string(), rows }))
    };
    reply::unstored(answered.await)
}

async fn written(
    context: &Context,
    asked: &Asked,
    path: &str,
    chunks: impl Stream<Item = Result<impl Buf, warp::Error>>,
) -> Result<Written, Problem> {
    let body = body::whole(chunks, context.limits.body_bytes).await?;
    let media = Media::of(asked.content_type.as_ref());
    if media == Media::Multipart {
        let hint = "send JSON, or a form as application/x-www-form-urlencoded";
        return Err(Problem::bad_request("body", "a body of many parts is not taken", hint));
    }
    let fields = Fields::of(&body, media == Media::Json)?;
    let mut segments = path.split('/');
    let name = segments.next().unwrap_or_default();
    write::write(context, &asked.who, name, &segments.collect::<Vec<_>>(), &fields).await
}

/// What a body is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Media {
    Json,
    Multipart,
    Other,
}

impl Media {
    fn of(content_type: Option<&HeaderValue>) -> Self {
        let text = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let name = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match name.split_once('/') {
            Some((_, kind)) if kind == "json" || kind.ends_with("+json") => Self::Json,
            Some(("multipart", _)) => Self::Multipart,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_what_it_is_called() {
        for (name, media) in [
            ("application/json", Media::Json),
            ("Application/JSON; charset=utf-8", Media::Json),
            ("application/merge-patch+json", Media::Json),
            ("text/json", Media::Json),
            ("application/jsonl", Media::Other),
            ("application/x-www-form-urlencoded", Media::Other),
            ("multipart/form-data; boundary=x", Media::Multipart),
            ("json", Media::Other),
            ("", Media::Other),
        ] {
            let value = HeaderValue::from_str(name).unwrap();
            assert_eq!(Media::of(Some(&value)), media, "{name}");
        }
        assert_eq!(Media::of(None), Media::Other);
    }
}
