//! Pack: bytes → deflated bytes that are kept, and sent within any envelope as one gzip member.
//!
//! An answer's envelope says how fresh it is and is another at every read, the bytes within are not. So only these are
//! deflated, once, into blocks that end at a byte; around them the envelope goes out as stored blocks (RFC 1951, 3.2.4),
//! and the checksum of the whole is put together from those of the parts. Nothing that a reader sent is ever deflated
//! together with an answer, so the length of what goes out tells nothing of it.

use bytes::{BufMut, Bytes, BytesMut};
use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress, Status};

/// Shorter ones gain nothing.
pub const BYTES_MIN: usize = 1024;

/// A gzip member's head: deflated, no name, no time, unknown system (RFC 1952, 2.3).
const HEAD: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF];

/// The most that one stored block holds.
const STORED_MAX: usize = 0xFFFF;

/// Bytes, deflated, with what is needed to send them.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Blocks of which none is the last, ending at a byte.
    blocks: Bytes,
    /// Checksum and length of what was deflated.
    sum: Hasher,
}

impl Packed {
    /// Deflates.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut deflate = Compress::new(Compression::new(5), false);
        let mut blocks = Vec::with_capacity(bytes.len() / 4 + 64);
        loop {
            let taken = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
            let rest = bytes.get(taken..).unwrap_or_default();
            blocks.reserve(rest.len() / 4 + 1024);
            let status = deflate.compress_vec(rest, &mut blocks, FlushCompress::Sync);
            let all = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX) == bytes.len();
            // With room left over everything was flushed.
            if !matches!(status, Ok(Status::Ok | Status::BufError))
                || (all && blocks.len() < blocks.capacity())
            {
                break;
            }
        }
        Self { blocks: blocks.into(), sum: sum(bytes) }
    }

    /// How many bytes it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.blocks.len()
    }

    /// One gzip member of `before`, these bytes, and `after`, in parts.
    #[must_use]
    pub fn within(&self, before: &[u8], after: &[u8]) -> [Bytes; 3] {
        let mut whole = sum(before);
        whole.combine(&self.sum);
        whole.combine(&sum(after));
        // The length is counted modulo 2^32 (RFC 1952, 2.3.1).
        let length = u32::try_from(whole.total_len() & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        let mut head = BytesMut::with_capacity(HEAD.len() + before.len() + 16);
        head.put_slice(&HEAD);
        store(&mut head, before, false);
        let mut end = BytesMut::with_capacity(after.len() + 16);
        store(&mut end, after, true);
        end.put_u32_le(whole.finalize());
        end.put_u32_le(length);
        [head.freeze(), self.blocks.clone(), end.freeze()]
    }
}

fn sum(bytes: &[u8]) -> Hasher {
    let mut sum = Hasher::new();
    sum.update(bytes);
    sum
}

/// Stored blocks, which begin and end at a byte; the last of all says so, also where it is empty.
fn store(to: &mut BytesMut, bytes: &[u8], last: bool) {
    let mut blocks = bytes.chunks(STORED_MAX).peekable();
    if blocks.peek().is_none() && last {
        block(to, &[], true);
    }
    while let Some(bytes) = blocks.next() {
        block(to, bytes, last && blocks.peek().is_none());
    }
}

fn block(to: &mut BytesMut, bytes: &[u8], last: bool) {
    let length = u16::try_from(bytes.len()).expect("a block holds that much at most");
    to.put_u8(u8::from(last));
    to.put_u16_le(length);
    to.put_u16_le(!length);
    to.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use proptest::prelude::*;
    use std::io::Read as _;

    fn unpacked(parts: &[Bytes; 3]) -> Vec<u8> {
        let (mut bytes, mut rest) = (Vec::new(), Vec::new());
        let packed = parts.concat();
        let mut decoder = GzDecoder::new(packed.as_slice());
        decoder.read_to_end(&mut bytes).unwrap();
        decoder.into_inner().read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "one member and nothing behind it");
        bytes
    }

    proptest! {
        #[test]
        fn one_member_holds_the_three_parts(
            before in proptest::collection::vec(any::<u8>(), 0..200),
            body in proptest::collection::vec(0u8..4, 0..20_000),
            after in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let packed = Packed::of(&body);
            prop_assert_eq!(unpacked(&packed.within(&before, &after)), [before, body, after].concat());
        }
    }

    #[test]
    fn long_parts_take_many_blocks_and_what_repeats_gets_short() {
        let body = b"{\"id\": 7, \"state\": \"open\"},".repeat(100_000);
        let packed = Packed::of(&body);
        assert!(packed.bytes() * 20 < body.len(), "{}", packed.bytes());
        let before = vec![b'x'; 3 * STORED_MAX + 1];
        let whole = unpacked(&packed.within(&before, b""));
        assert!(whole.starts_with(&before) && whole.ends_with(&body));
    }

    #[test]
    fn what_cannot_be_deflated_is_sent_all_the_same() {
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .take(1 << 20)
        .collect();
        assert_eq!(unpacked(&Packed::of(&noise).within(b"<", b">")).len(), noise.len() + 2);
    }
}
