//! CSV, Excel's dialect, as the original wrote it: `,`, `"` doubled within quotes, CRLF ↔ fields.

use std::io::{self, BufRead};

/// The longest record, in bytes.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// Adds a record.
pub(super) fn write(line: &mut String, fields: &[&str]) {
    for (at, field) in fields.iter().enumerate() {
        if at > 0 {
            line.push(',');
        }
        if field.contains([',', '"', '\r', '\n']) {
            line.push('"');
            line.push_str(&field.replace('"', "\"\""));
            line.push('"');
        } else {
            line.push_str(field);
        }
    }
    line.push_str("\r\n");
}

/// Reads records, one at a time.
pub(super) struct Records<R> {
    from: R,
    /// Of the record that was read last, from 1.
    line: usize,
    next: usize,
}

/// A record and the line where it begins.
pub(super) type Record = (usize, Vec<String>);

impl<R: BufRead> Records<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, line: 0, next: 1 }
    }

    /// The bytes of the next record without its end; lines go on while quotes are open.
    fn raw(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut raw = Vec::new();
        self.line = self.next;
        loop {
            let room = (RECORD_BYTES_MAX - raw.len()) as u64;
            let read = io::Read::take(&mut self.from, room).read_until(b'\n', &mut raw)?;
            let open = raw.iter().filter(|byte| **byte == b'"').count() % 2 == 1;
            match read {
                0 if raw.len() >= RECORD_BYTES_MAX => return Err(broken("it is too long")),
                0 if raw.is_empty() => return Ok(None),
                0 if open => return Err(broken("its quotes are not closed")),
                0 => break,
                _ => self.next += usize::from(raw.ends_with(b"\n")),
            }
            if raw.ends_with(b"\n") && !open {
                break;
            }
        }
        for end in [b'\n', b'\r'] {
            raw.pop_if(|last| *last == end);
        }
        Ok(Some(raw))
    }

    fn record(&mut self) -> io::Result<Option<Vec<String>>> {
        let Some(raw) = self.raw()? else { return Ok(None) };
        let text = String::from_utf8(raw).map_err(|_| broken("it is not UTF-8"))?;
        let mut fields = Vec::new();
        let mut rest = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
        loop {
            let (field, after) = field(rest)?;
            fields.push(field);
            match after.strip_prefix(',') {
                Some(after) => rest = after,
                None if after.is_empty() => return Ok(Some(fields)),
                None => return Err(broken("something follows a closing quote")),
            }
        }
    }
}

/// The first field, and what follows it.
fn field(text: &str) -> io::Result<(String, &str)> {
    let Some(mut inside) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        let (field, after) = text.split_at(end);
        return Ok((field.to_owned(), after));
    };
    let mut field = String::new();
    loop {
        let (before, after) =
            inside.split_once('"').ok_or_else(|| broken("its quotes are not closed"))?;
        field.push_str(before);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                inside = after;
            }
            None => return Ok((field, after)),
        }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl<R: BufRead> Iterator for Records<R> {
    /// With the line where it begins.
    type Item = Result<Record, (usize, io::Error)>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.record() {
            Ok(record) => record.map(|fields| Ok((self.line, fields))),
            Err(error) => Some(Err((self.line, error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Vec<Result<Record, String>> {
        let records = Records::new(text);
        // A source that is broken stays so.
        let mut seen = Vec::new();
        for record in records {
            let broken = record.is_err();
            seen.push(record.map_err(|(line, error)| format!("{line}: {error}")));
            if broken {
                break;
            }
        }
        seen
    }

    #[test]
    fn what_the_original_wrote_is_read() {
        let text = "simple1/1,\"[[\"\"name1\"\"]]\",631735955,2026-11-22 16:23:41.673000\r\nb,\"a\r\nb,\"\"\",,\n\u{f8},x";
        let records: Vec<Record> = read(text.as_bytes()).into_iter().map(Result::unwrap).collect();
        assert_eq!(
            records[0].1,
            ["simple1/1", "[[\"name1\"]]", "631735955", "2026-11-22 16:23:41.673000"]
        );
        assert_eq!(
            records[1],
            (2, vec!["b".into(), "a\r\nb,\"".into(), String::new(), String::new()])
        );
        assert_eq!(records[2], (4, vec!["\u{f8}".into(), "x".into()]));
    }

    #[test]
    fn what_is_no_csv_is_said_with_its_line() {
        for (text, want) in [
            (&b"a,b\n\"c"[..], "2: its quotes are not closed"),
            (b"\"a\"b,\"\"", "1: something follows a closing quote"),
            (b"a\n\xff\n", "2: it is not UTF-8"),
        ] {
            assert_eq!(read(text).pop().unwrap().unwrap_err(), want);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(fields in proptest::collection::vec("[a,\"\r\n ø]{0,8}", 1..5), times in 1_usize..4) {
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            let mut text = String::new();
            (0..times).for_each(|_| write(&mut text, &fields));
            let records = read(text.as_bytes());
            proptest::prop_assert_eq!(records.len(), times);
            for record in records {
                proptest::prop_assert_eq!(record.unwrap().1, fields.clone());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
            read(&bytes);
        }
    }
}
