//! A request's body → bytes, within a size and a time.

use std::{pin::pin, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};

use crate::serve::problem::Problem;

/// How long a body may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);

/// Reads a body whole.
pub(super) async fn whole(
    chunks: impl Stream<Item = Result<impl Buf, warp::Error>>,
    bytes_max: u64,
) -> Result<Bytes, Problem> {
    let gathered = tokio::time::timeout(ARRIVES_WITHIN, gather(chunks, bytes_max)).await;
    gathered.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {ARRIVES_WITHIN:?}");
        Err(Problem::bad_request("body", message, "send it at once"))
    })
}

async fn gather(
    chunks: impl Stream<Item = Result<impl Buf, warp::Error>>,
    bytes_max: u64,
) -> Result<Bytes, Problem> {
    let mut chunks = pin!(chunks);
    let mut whole = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| {
            Problem::bad_request("body", "the body broke off or is framed wrongly", "send it again")
        })?;
        if (whole.len() + chunk.remaining()) as u64 > bytes_max {
            return Err(Problem::too_large(
                "the body has more bytes",
                bytes_max,
                "ask for less at once",
            ));
        }
        whole.put(chunk);
    }
    Ok(whole.freeze())
}
