//! Received bytes → numbers, texts and slices, each checked to be there.

use bytes::Bytes;

use super::Error;

/// Reads a message from front to back.
pub(super) struct Cursor {
    bytes: Bytes,
    at: usize,
    message: &'static str,
}

impl Cursor {
    /// `message` is what errors call it.
    pub(super) fn new(bytes: Bytes, message: &'static str) -> Self {
        Self { bytes, at: 0, message }
    }

    /// Now that the kind is known, what errors call it.
    pub(super) fn name(&mut self, message: &'static str) {
        self.message = message;
    }

    pub(super) fn fault(&self, fact: impl Into<String>) -> Error {
        Error::Protocol { message: self.message, fact: fact.into() }
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    /// A number of things that follow, of at least a byte each: never more than there are bytes.
    pub(super) fn count(&mut self) -> Result<usize, Error> {
        let count = usize::from(self.u16()?);
        if count > self.left() {
            return Err(self.fault(format!("{count} parts in {} bytes", self.left())));
        }
        Ok(count)
    }

    /// A slice that shares the memory.
    pub(super) fn bytes(&mut self, length: u32) -> Result<Bytes, Error> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        match end {
            Some(end) if end <= self.bytes.len() => {
                let slice = self.bytes.slice(self.at..end);
                self.at = end;
                Ok(slice)
            }
            _ => Err(self.fault(format!("{length} bytes where {} are left", self.left()))),
        }
    }

    /// A text that ends with a zero byte. A database that does not check its encoding may send any bytes;
    /// those that are no UTF-8 are replaced, since names are for people and are compared by oid.
    pub(super) fn text(&mut self) -> Result<String, Error> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(length) = rest.iter().position(|byte| *byte == 0) else {
            return Err(self.fault("a text without its end"));
        };
        let text = rest.get(..length).map(String::from_utf8_lossy).unwrap_or_default().into_owned();
        self.at += length + 1;
        Ok(text)
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> Bytes {
        let rest = self.bytes.slice(self.at..);
        self.at = self.bytes.len();
        rest
    }

    /// Nothing may be left.
    pub(super) fn finish(&self) -> Result<(), Error> {
        match self.left() {
            0 => Ok(()),
            left => Err(self.fault(format!("{left} bytes too many"))),
        }
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).copied();
        let taken = taken.ok_or_else(|| self.fault("it is cut short"))?;
        self.at += N;
        Ok(taken)
    }
}
