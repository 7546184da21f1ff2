//! Build script's call to bindgen → the checked-in `pg_query.rs`, so that building needs no libclang.
//!
//! Only the calls that pg_query's build script makes exist. The bindings are written by hand from
//! `pg_query.h`; kck's test `vendored_bindings_match_the_header` compares the two, declaration by
//! declaration, and `docs/adr/2026-11-22-vendored-bindgen.md` says when to drop this crate.

use std::{fmt, fs, io, path::Path};

/// The declarations of `pg_query.h` in Rust.
pub const PG_QUERY: &str = include_str!("../pg_query.rs");

/// What was asked for: the header that bindings are wanted of.
#[derive(Default)]
pub struct Builder {
    header: String,
}

impl Builder {
    /// Names the header; the only one known is `pg_query.h`.
    pub fn header(self, header: impl Into<String>) -> Self {
        Self { header: header.into() }
    }

    /// Gives the checked-in bindings.
    ///
    /// # Errors
    /// When the header is not `pg_query.h`.
    pub fn generate(self) -> Result<Bindings, UnknownHeader> {
        if Path::new(&self.header).file_name().is_some_and(|name| name == "pg_query.h") {
            Ok(Bindings(()))
        } else {
            Err(UnknownHeader(self.header))
        }
    }
}

/// The bindings, ready to be written.
pub struct Bindings(());

impl Bindings {
    /// Writes the bindings to `path`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_to_file(&self, path: impl AsRef<Path>) -> io::Result<()> {
        fs::write(path, PG_QUERY)
    }
}

/// A header that this stand-in has no bindings of.
#[derive(Debug)]
pub struct UnknownHeader(String);

impl fmt::Display for UnknownHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no checked-in bindings of {}, only of pg_query.h", self.0)
    }
}

impl std::error::Error for UnknownHeader {}
