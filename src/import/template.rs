//! Template: the original's SQL with `:name`, as SQLAlchemy's `text()` took it → the SQL of a file of kck.
//!
//! Both write a parameter `:name` and mean different texts by it. The original looked at characters: a parameter was one
//! in quotes and comments too, and was none behind a letter, a colon or a backslash, or before a colon. kck looks at
//! PostgreSQL's tokens. What both mean alike stays as it is; what would come to mean something else is written so that
//! it does not, or refused.

use std::iter;

/// What a stretch of SQL is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// What is neither.
    Code,
    /// A text or a name in quotes, with them.
    Quoted,
    Comment,
}

/// A template that cannot be taken over: where, in bytes, what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) offset: usize,
    pub(super) what: String,
    pub(super) hint: String,
}

/// A template taken over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Taken {
    pub(super) sql: String,
    /// The original's names of the parameters that it uses, in the order of first use.
    pub(super) used: Vec<String>,
    /// Where the original did something else, for people.
    pub(super) notes: Vec<String>,
}

/// Takes a template over. `write` says what stands for the original's parameter of a name; `None` where there is none.
///
/// # Errors
/// The first that cannot be.
pub(super) fn take(text: &str, write: impl Fn(&str) -> Option<String>) -> Result<Taken, Bad> {
    let mut taken = Taken::default();
    let mut before = None;
    let pieces = pieces(text);
    for (at, (kind, piece)) in pieces.iter().enumerate() {
        let offset = pieces.iter().take(at).map(|(_, piece)| piece.len()).sum();
        let colons = Colons { text, offset, kind: *kind, write: &write };
        colons.take(piece, &mut taken, before)?;
        before = piece.chars().next_back().or(before);
    }
    taken.sql = ended(&taken.sql).to_owned();
    Ok(taken)
}

/// Without blanks and semicolons around it.
fn ended(sql: &str) -> &str {
    let code_ends = pieces(sql).last().is_none_or(|(kind, _)| *kind == Kind::Code);
    if code_ends { sql.trim_end_matches([';', ' ', '\t', '\r', '\n']) } else { sql.trim_end() }
        .trim_start()
}

/// One stretch, colon by colon.
struct Colons<'a, W> {
    text: &'a str,
    /// Where the stretch begins.
    offset: usize,
    kind: Kind,
    write: &'a W,
}

impl<W: Fn(&str) -> Option<String>> Colons<'_, W> {
    fn take(&self, piece: &str, taken: &mut Taken, before: Option<char>) -> Result<(), Bad> {
        let mut rest = piece;
        let mut previous = before;
        while let Some(at) = rest.find(':') {
            let (head, colon) = rest.split_at(at);
            previous = head.chars().next_back().or(previous);
            let word: String = colon.chars().skip(1).take_while(|c| is_word(*c)).collect();
            let after = colon.get(1 + word.len()..).unwrap_or_default();
            let follows = after.chars().next();
            let stands = self.offset + (piece.len() - rest.len()) + at;
            if previous == Some('\\') {
                let unescaped = follows != Some(':');
                let head = if unescaped { head.strip_suffix('\\').unwrap_or(head) } else { head };
                taken.sql.push_str(head);
                self.plain(taken, &word, follows);
            } else {
                taken.sql.push_str(head);
                let binds = !word.is_empty() && !previous.is_some_and(|c| c == ':' || is_word(c));
                // `:id::int` was no parameter and no SQL: what was meant is clear.
                let cast = after.starts_with("::");
                if binds && (follows != Some(':') || cast && self.kind == Kind::Code) {
                    self.parameter(taken, &word, stands)?;
                    if cast {
                        taken.notes.push(format!(
                            "`:{word}::` was not taken for a parameter by the original, which failed; it is one here"
                        ));
                    }
                } else {
                    self.plain(taken, &word, follows);
                }
            }
            previous = word.chars().next_back().or(Some(':'));
            rest = after;
        }
        taken.sql.push_str(rest);
        Ok(())
    }

    /// A colon that is no parameter's, and the word behind it: kept apart where kck would take them for one.
    fn plain(&self, taken: &mut Taken, word: &str, follows: Option<char>) {
        let colon = taken.sql.ends_with(':');
        taken.sql.push(':');
        let begins = |c: char| c.is_alphabetic() || matches!(c, '_' | '\'' | '"');
        let taken_for_one = word.chars().next().or(follows).is_some_and(begins);
        if self.kind == Kind::Code && !colon && taken_for_one {
            taken.sql.push(' ');
        }
        taken.sql.push_str(word);
    }

    fn parameter(&self, taken: &mut Taken, name: &str, offset: usize) -> Result<(), Bad> {
        let bad = |what: String, hint: String| Bad { offset, what, hint };
        match (self.kind, (self.write)(name)) {
            (Kind::Code, Some(written)) => {
                taken.sql.push_str(&written);
                if !taken.used.iter().any(|used| used == name) {
                    taken.used.push(name.to_owned());
                }
                Ok(())
            }
            (Kind::Code, None) => Err(bad(
                format!("the template has :{name}, and `parameters` has not"),
                format!("add {name} to `parameters`, or write \\:{name} where a colon is meant"),
            )),
            // A word in a comment says nothing to either.
            (Kind::Comment, _) => {
                taken.sql.push_str(&format!(":{name}"));
                Ok(())
            }
            (Kind::Quoted, Some(_)) => Err(bad(
                format!("the parameter :{name} stands within quotes"),
                format!(
                    "kck binds values and never splices them: write '…' || :{name} || '…', or make_interval(days => :{name})"
                ),
            )),
            // The original failed: nobody gave it a value.
            (Kind::Quoted, None) => {
                let line = self.text.get(..offset).unwrap_or_default().matches('\n').count() + 1;
                taken.sql.push_str(&format!(":{name}"));
                taken.notes.push(format!(
                    "`:{name}` in quotes, in line {line} of the template, is text here; the original took it for a parameter and failed"
                ));
                Ok(())
            }
        }
    }
}

/// What Python's `\w` takes, and SQLAlchemy the dollar.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// The stretches of a text, in order. What is not closed goes to the end.
fn pieces(sql: &str) -> Vec<(Kind, &str)> {
    let mut pieces = Vec::new();
    let (mut code, mut at) = (0, 0);
    while let Some(rest) = sql.get(at..).filter(|rest| !rest.is_empty()) {
        let before = sql.get(..at).unwrap_or_default().chars().next_back();
        match opened(rest, before) {
            Some((kind, length)) => {
                pieces.push((Kind::Code, sql.get(code..at).unwrap_or_default()));
                pieces.push((kind, rest.get(..length).unwrap_or(rest)));
                at += length;
                code = at;
            }
            None => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
    pieces.push((Kind::Code, sql.get(code..).unwrap_or_default()));
    pieces.retain(|(_, piece)| !piece.is_empty());
    pieces
}

/// What begins here that is not code, and how long it is.
fn opened(rest: &str, before: Option<char>) -> Option<(Kind, usize)> {
    let behind_word = before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '$'));
    let ends = |from: usize, end: &str| {
        let found = rest.get(from..).and_then(|inside| inside.find(end));
        found.map_or(rest.len(), |found| from + found + end.len())
    };
    match rest.as_bytes() {
        [b'-', b'-', ..] => Some((Kind::Comment, rest.find(['\n', '\r']).unwrap_or(rest.len()))),
        [b'/', b'*', ..] => Some((Kind::Comment, comment(rest))),
        [b'"', ..] => Some((Kind::Quoted, ends(1, "\""))),
        [b'\'', ..] => Some((Kind::Quoted, ends(1, "'"))),
        [b'e' | b'E', b'\'', ..] if !behind_word => Some((Kind::Quoted, escaped(rest))),
        [b'$', ..] if !behind_word => {
            let tag = rest.get(1..)?.split_once('$')?.0;
            let named = tag.chars().all(|c| c.is_alphanumeric() || c == '_');
            let begins = !tag.starts_with(|c: char| c.is_ascii_digit());
            let dollars = format!("${tag}$");
            (named && begins).then(|| (Kind::Quoted, ends(dollars.len(), &dollars)))
        }
        _ => None,
    }
}

/// Comments nest.
fn comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(here) = rest.get(at..).filter(|here| !here.is_empty()) {
        if here.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// `E'…'`, in which a backslash takes what follows it.
fn escaped(rest: &str) -> usize {
    let mut skip = false;
    let inside = rest.char_indices().skip(2).chain(iter::once((rest.len(), '\'')));
    for (at, c) in inside {
        match c {
            _ if skip => skip = false,
            '\\' => skip = true,
            '\'' => return (at + 1).min(rest.len()),
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the parameters id, day and n.
    fn taken(text: &str) -> Result<Taken, Bad> {
        let known = |name: &str| ["id", "day", "n"].contains(&name).then(|| format!(":{name}"));
        take(text, known)
    }

    fn sql(text: &str) -> String {
        taken(text).unwrap().sql
    }

    #[test]
    fn parameters_stay_and_are_listed_by_first_use() {
        let taken = taken("select * from t where day = :day and id=:id or a > :day;\n").unwrap();
        assert_eq!(taken.sql, "select * from t where day = :day and id=:id or a > :day");
        assert_eq!(taken.used, ["day", "id"]);
        assert!(taken.notes.is_empty());
    }

    #[test]
    fn casts_and_escaped_colons_mean_what_they_meant() {
        for (text, want) in [
            ("select a::int, b ::text", "select a::int, b ::text"),
            (r"select a\:\:int", "select a::int"),
            (r"select :id\:\:int", "select :id::int"),
            (r"select a[1\:2]", "select a[1:2]"),
            (r"select a[1\:n]", "select a[1: n]"),
            ("select a[1:n]", "select a[1: n]"),
            ("select a[:n]", "select a[:n]"),
            ("select f(x := 1)", "select f(x := 1)"),
            (r"select '12\:30', '\:id'", "select '12:30', ':id'"),
            ("select '12:30', $$a::b$$, \"a:b\"", "select '12:30', $$a::b$$, \"a:b\""),
            (r"select E'it\'s \:x'", r"select E'it\'s :x'"),
            (
                "select a -- :id is it\n, :n /* :x /* :y */ */",
                "select a -- :id is it\n, :n /* :x /* :y */ */",
            ),
        ] {
            assert_eq!(sql(text), want, "{text}");
        }
    }

    #[test]
    fn a_cast_right_behind_a_parameter_is_what_was_meant() {
        let taken = taken("select :id::int").unwrap();
        assert_eq!(
            (taken.sql.as_str(), taken.used.len(), taken.notes.len()),
            ("select :id::int", 1, 1)
        );
    }

    #[test]
    fn what_would_be_spliced_is_refused() {
        let bad = taken("select now() - interval ':n days'").unwrap_err();
        assert_eq!((bad.offset, bad.what.as_str()), (25, "the parameter :n stands within quotes"));
        let bad = taken("select :other").unwrap_err();
        assert_eq!(bad.what, "the template has :other, and `parameters` has not");
        let note = taken("select ' :other'").unwrap().notes.remove(0);
        assert!(note.starts_with("`:other` in quotes, in line 1"), "{note}");
    }

    #[test]
    fn what_ends_a_statement_is_left_out() {
        assert_eq!(sql("  select 1 ; ;\n"), "select 1");
        assert_eq!(sql("select 1; -- the end"), "select 1; -- the end");
        assert_eq!(sql("select ';'"), "select ';'");
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_panics(text in "[a-b:'\"$\\\\/*\n ;E-]{0,60}") {
            let joined: String = pieces(&text).into_iter().map(|(_, piece)| piece).collect();
            proptest::prop_assert_eq!(&joined, &text);
            drop(taken(&text));
        }
    }
}
