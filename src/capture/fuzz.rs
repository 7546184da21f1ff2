//! Any bytes at the doors of capture: no panic, and no more memory than the bytes themselves take.
//!
//! Each target runs bounded with the other tests; `cargo bolero test NAME` lets an engine look for longer.

use std::io::Cursor;

use bolero::check;
use bytes::Bytes;

use super::{
    assemble::Assembly,
    connection::Connection,
    pgoutput::{Message, decode},
};
use crate::change::{Lsn, Old};

/// Values and tables that a message holds; it takes memory in proportion.
fn held(message: &Message) -> usize {
    let of_old = |old: &Old| match old {
        Old::Unsent => 0,
        Old::Identity(row) | Old::Whole(row) => row.capacity(),
    };
    match message {
        Message::Insert { new, .. } => new.capacity(),
        Message::Update { old, new, .. } => of_old(old) + new.capacity(),
        Message::Delete { old, .. } => of_old(old),
        Message::Truncate { tables } => tables.capacity(),
        Message::Relation(relation) => relation.columns.capacity(),
        _ => 0,
    }
}

#[test]
fn any_message_is_read_within_its_own_size() {
    check!().for_each(|bytes: &[u8]| {
        if let Ok(message) = decode(Bytes::copy_from_slice(bytes)) {
            // Vectors grow to at least four.
            assert!(held(&message) <= bytes.len().max(4), "{message:?}");
        }
    });
}

/// Kinds first, so that many of them are messages.
#[test]
fn any_stream_is_changes_or_an_error() {
    const KINDS: &[u8] = b"BCORYIUDTM";
    check!().with_type::<Vec<(u8, Vec<u8>)>>().for_each(|messages| {
        let mut assembly = Assembly::new(Lsn(1));
        let mut before = assembly.reached();
        for (kind, rest) in messages {
            let kind = KINDS[usize::from(*kind) % KINDS.len()];
            let bytes: Vec<u8> = std::iter::once(kind).chain(rest.iter().copied()).collect();
            if assembly.message(bytes.into()).is_err() {
                return;
            }
            assert!(before <= assembly.reached());
            before = assembly.reached();
        }
    });
}

/// What a server may send once kck is logged in, however it is cut into frames.
#[test]
fn any_bytes_of_a_server_are_frames_or_an_error() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    check!().for_each(|bytes: &[u8]| {
        let mut connection = Connection::streaming(Cursor::new(bytes.to_vec()));
        let ended = runtime.block_on(async {
            loop {
                if let Err(fault) = connection.message().await {
                    return fault;
                }
            }
        });
        drop(ended.to_string());
        assert!(connection.room() <= 2 * bytes.len() + (1 << 20), "{}", connection.room());
    });
}
