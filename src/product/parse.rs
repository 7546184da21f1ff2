//! Parse: a statement's text → its pieces, its parameters and what it mentions.
//!
//! PostgreSQL's own scanner finds the parameters, so nothing inside strings, comments, dollar quotes or
//! quoted names is one, and PostgreSQL's own grammar says whether the statement is one SELECT.

use std::path::Path;

use pg_query::{
    ParserOptions,
    protobuf::{KeywordKind, ScanToken, Token},
};
use serde_json::Value;

use super::{Argument, Call, Fault};
use crate::{description::Mentions, quote};

/// The most parameters a file may have: a path has that many segments.
pub(super) const PARAMETERS_MAX: usize = 64;

/// Kinds of statements that write.
const WRITING: [&str; 5] = ["InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "CallStmt"];

/// Names that are query parameters of the HTTP routes.
const RESERVED: [&str; 8] =
    ["key", "min_lsn", "wait", "max_staleness", "fresh", "after", "format", "consistent"];

const ONE_SELECT: &str = "a product is one SELECT (or VALUES, or WITH … SELECT)";
const WRITES_ELSEWHERE: &str = "a product is one SELECT; statements that write belong in updates/";
const ONE_WRITE: &str = "an update is one INSERT, UPDATE, DELETE, MERGE or CALL";
const READS_ELSEWHERE: &str = "statements that read belong in products/; an update is one INSERT, UPDATE, DELETE, MERGE or CALL";

/// A statement that is one SELECT, or one that writes.
#[derive(Debug)]
pub(super) struct Statement {
    /// Where its first character is in the file, in bytes.
    pub(super) offset: usize,
    /// Its text between parameters.
    pub(super) pieces: Vec<String>,
    /// Between pieces: index into `names`.
    pub(super) holes: Vec<usize>,
    /// Parameters with the offset of their first use, in order of first use.
    pub(super) names: Vec<(String, usize)>,
    /// What it names; unknown where it nests very deeply.
    pub(super) mentions: Option<Mentions>,
    /// Products that it reads, in the order of the text.
    pub(super) calls: Vec<Call>,
}

/// Reads the statement that begins at byte `start` of the file's text.
///
/// # Errors
/// The first fault found.
pub(super) fn read(file: &Path, text: &str, start: usize) -> Result<Statement, Fault> {
    Reader { file, text, start, writes: false }.read()
}

/// As [`read`], of a statement that writes.
///
/// # Errors
/// The first fault found.
pub(super) fn read_update(file: &Path, text: &str, start: usize) -> Result<Statement, Fault> {
    Reader { file, text, start, writes: true }.read()
}

/// Whether the text is what may stand behind `::` in a cast, and nothing else.
pub(super) fn is_type_name(text: &str) -> bool {
    let Ok(tokens) = pg_query::scan(text) else { return false };
    let plain = |token: &ScanToken| {
        !matches!(token.token(), Token::SqlComment | Token::CComment | Token::Setof)
    };
    tokens.tokens.iter().all(plain) && pg_query::parse(text, ParserOptions::TYPE_NAME).is_ok()
}

/// Whether a parameter of a product may have this name; else what is wrong with it, and a hint.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_parameter_name(name: &str) -> Result<(), (String, String)> {
    let what = format!("a parameter cannot be named '{name}'");
    let letters = |c: char| c == '_' || c.is_ascii_lowercase();
    if !name.starts_with(letters) || !name.chars().all(|c| letters(c) || c.is_ascii_digit()) {
        let hint = "a parameter's name is made of a-z, 0-9 and _; a slice is written a[1 : (x)]";
        return Err((what, hint.to_owned()));
    }
    if RESERVED.contains(&name) {
        let reserved = RESERVED.join(", ");
        return Err((what, format!("rename it; these have a meaning of their own: {reserved}")));
    }
    Ok(())
}

/// Whether no parameter of a product may have this name.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// The columns of a SELECT by their names, as far as its text says them: `None` for one that Postgres names, nothing
/// where it is not even said how many there are.
#[must_use]
pub fn column_names(sql: &str) -> Vec<Option<String>> {
    let tree = pg_query::parse(sql, ParserOptions::DEFAULT).ok();
    let tree = tree.and_then(|tree| serde_json::to_value(tree.protobuf.stmts).ok());
    let select = tree.as_ref().and_then(|tree| tree.pointer("/0/stmt/node/SelectStmt"));
    let targets = select.and_then(|select| select.get("target_list")).and_then(Value::as_array);
    let name = |target: &Value| {
        let target = target.pointer("/node/ResTarget")?;
        let column = target.pointer("/val/node/ColumnRef/fields");
        let fields = column.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if fields.iter().any(|field| field.pointer("/node/AStar").is_some()) {
            return None;
        }
        let said = target.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
        Some(said.map(str::to_owned).or_else(|| strings(column).pop()))
    };
    targets.into_iter().flatten().map(name).collect::<Option<_>>().unwrap_or_default()
}

/// A token's place in the file.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
    token: Token,
    keyword: bool,
    can_be_alias: bool,
}

impl Span {
    /// Whether it can only be the name of what stands before it in FROM.
    fn is_alias(&self) -> bool {
        matches!(self.token, Token::As | Token::Ident | Token::Uident) || self.can_be_alias
    }
}

struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    start: usize,
    /// It is an update.
    writes: bool,
}

impl Reader<'_> {
    /// The statement, from its first token to its last.
    fn read(&self) -> Result<Statement, Fault> {
        let tokens = self.tokens()?;
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else {
            return Err(self.fault(self.start, "there is no statement", self.one()));
        };
        let (begin, end) = (first.start, last.end);
        let uses = self.parameters(&tokens)?;
        let mut statement = Statement {
            offset: begin,
            pieces: Vec::with_capacity(uses.len() + 1),
            holes: Vec::with_capacity(uses.len()),
            names: Vec::new(),
            mentions: None,
            // An update reads what Postgres knows; a schema may be named like kck.
            calls: if self.writes { Vec::new() } else { self.calls(&tokens)? },
        };
        let mut at = begin;
        for hole in uses {
            statement.pieces.push(self.slice(at, hole.start).to_owned());
            let name = self.slice(hole.start + 1, hole.end);
            let known = statement.names.iter().position(|(known, _)| known == name);
            statement.holes.push(known.unwrap_or(statement.names.len()));
            if known.is_none() {
                statement.names.push((name.to_owned(), hole.start));
            }
            at = hole.end;
        }
        statement.pieces.push(self.slice(at, end).to_owned());
        if let Some((_, offset)) = statement.names.get(PARAMETERS_MAX) {
            let hint = format!("there may be at most {PARAMETERS_MAX}");
            return Err(self.fault(*offset, "there are too many parameters", hint));
        }
        self.grammar(&mut statement, &tokens)?;
        Ok(statement)
    }

    /// What a file holds.
    fn one(&self) -> &'static str {
        if self.writes { ONE_WRITE } else { ONE_SELECT }
    }

    fn fault(&self, offset: usize, what: impl Into<String>, hint: impl Into<String>) -> Fault {
        Fault::at(self.file, self.text, offset, what, hint)
    }

    fn slice(&self, from: usize, to: usize) -> &str {
        self.text.get(from..to).unwrap_or_default()
    }

    /// The statement's tokens, without comments and the semicolon at the end.
    fn tokens(&self) -> Result<Vec<Span>, Fault> {
        let sql = self.slice(self.start, self.text.len());
        let scanned = pg_query::scan(sql).map_err(|error| {
            let message = plain_message(&error);
            // The scanner quotes the rest of the text, from where it gave up.
            let rest =
                message.split_once(" at or near \"").and_then(|(_, rest)| rest.strip_suffix('"'));
            let offset = rest
                .and_then(|rest| sql.strip_suffix(rest))
                .map_or(self.start, |head| self.start + head.len());
            let what =
                message.split_once(" at or near ").map_or(message.as_str(), |(what, _)| what);
            self.fault(offset, what, "close what is opened here")
        })?;
        let mut tokens: Vec<Span> = scanned
            .tokens
            .iter()
            .filter(|token| !matches!(token.token(), Token::SqlComment | Token::CComment))
            .filter_map(|token| self.span(token))
            .collect();
        while tokens.last().is_some_and(|token| token.token == Token::Ascii59) {
            tokens.pop();
        }
        match tokens.windows(2).find_map(|pair| match pair {
            [end, next] if end.token == Token::Ascii59 => Some(*next),
            _ => None,
        }) {
            Some(next) => {
                Err(self.fault(next.start, "there is more than one statement", self.one()))
            }
            None => Ok(tokens),
        }
    }

    fn span(&self, token: &ScanToken) -> Option<Span> {
        Some(Span {
            start: self.start + usize::try_from(token.start).ok()?,
            end: self.start + usize::try_from(token.end).ok()?,
            token: token.token(),
            keyword: token.keyword_kind() != KeywordKind::NoKeyword,
            can_be_alias: matches!(
                token.keyword_kind(),
                KeywordKind::UnreservedKeyword | KeywordKind::ColNameKeyword
            ),
        })
    }

    /// Where `:name` stands, from the colon to the end of the name.
    fn parameters(&self, tokens: &[Span]) -> Result<Vec<Span>, Fault> {
        let mut holes = Vec::new();
        if let Some(numbered) = tokens.iter().find(|token| token.token == Token::Param) {
            return Err(self.fault(
                numbered.start,
                "parameters have no numbers here",
                "write :name instead",
            ));
        }
        for pair in tokens.windows(2) {
            let [colon, next] = pair else { continue };
            if colon.token != Token::Ascii58 || colon.end != next.start {
                continue;
            }
            if next.token == Token::Ident
                || next.token == Token::Uident
                || next.token == Token::Sconst
                || next.keyword
            {
                self.check_name(self.slice(next.start, next.end), colon.start)?;
                holes.push(Span { start: colon.start, ..*next });
            }
        }
        Ok(holes)
    }

    fn check_name(&self, name: &str, offset: usize) -> Result<(), Fault> {
        if name.starts_with(['\'', '"']) {
            let hint = "write :name; values are bound, so they need no quotes";
            return Err(self.fault(offset, format!(":{name} is psql's quoting"), hint));
        }
        let reserved = self.writes && RESERVED.contains(&name);
        match check_parameter_name(name) {
            Err((what, hint)) if !reserved => Err(self.fault(offset, what, hint)),
            _ => Ok(()),
        }
    }

    /// Checks the statement by PostgreSQL's grammar and collects what it mentions.
    fn grammar(&self, statement: &mut Statement, tokens: &[Span]) -> Result<(), Fault> {
        let sql = numbered(statement, usize::MAX);
        let summary = pg_query::summary(&sql, ParserOptions::DEFAULT, -1)
            .map_err(|error| self.syntax_fault(statement, tokens, &error))?;
        if self.writes {
            return self.kind_that_writes(statement, tokens, &sql);
        }
        self.kind(statement, tokens, &summary.statement_types)?;
        if let Some(into) = tokens.iter().find(|token| token.token == Token::Into) {
            return Err(self.fault(into.start, "SELECT INTO makes a table", ONE_SELECT));
        }
        // The tree is refused beyond fifty levels; the names are then unknown, and words must do for locks.
        let tree = pg_query::parse(&sql, ParserOptions::DEFAULT).ok();
        let mut walk = Walk { mentions: Mentions::default(), locks: tree.is_none() };
        if let Some(tree) = tree {
            walk.value(&serde_json::to_value(tree.protobuf.stmts).unwrap_or_default());
            statement.mentions = Some(walk.mentions);
        }
        match self.locking_clause(tokens).filter(|_| walk.locks) {
            Some(lock) => Err(self.fault(
                lock,
                "the statement locks rows",
                "leave FOR UPDATE and FOR SHARE out",
            )),
            None => Ok(()),
        }
    }

    /// Refuses all but SELECT, in the statement and in its WITH.
    fn kind(&self, statement: &Statement, tokens: &[Span], kinds: &[String]) -> Result<(), Fault> {
        const WRITES: [Token; 4] = [Token::Insert, Token::Update, Token::DeleteP, Token::Merge];
        if kinds.iter().all(|kind| kind == "SelectStmt") {
            return Ok(());
        }
        let inner = tokens.windows(2).find_map(|pair| match pair {
            [Span { token: Token::Ascii40 | Token::Ascii41, .. }, next]
                if WRITES.contains(&next.token) =>
            {
                Some(next.start)
            }
            _ => None,
        });
        match (tokens.first(), inner) {
            (Some(Span { token: Token::With, .. }), Some(inner)) => {
                Err(self.fault(inner, "the statement writes", WRITES_ELSEWHERE))
            }
            (first, _) => {
                let writes = |kind: &String| WRITING.contains(&kind.as_str());
                let hint = if kinds.iter().any(writes) { WRITES_ELSEWHERE } else { ONE_SELECT };
                Err(self.this_is(statement, first, hint))
            }
        }
    }

    fn this_is(&self, statement: &Statement, first: Option<&Span>, hint: &str) -> Fault {
        let word = first.map_or("", |token| self.slice(token.start, token.end)).to_uppercase();
        self.fault(statement.offset, format!("this is {word}"), hint)
    }

    /// Refuses what does not write; what stands in its WITH may.
    fn kind_that_writes(
        &self,
        statement: &Statement,
        tokens: &[Span],
        sql: &str,
    ) -> Result<(), Fault> {
        let Ok(tree) = pg_query::parse(sql, ParserOptions::DEFAULT) else {
            let hint = "split it, or call a procedure";
            return Err(self.fault(statement.offset, "the statement nests too deeply", hint));
        };
        let tree = serde_json::to_value(tree.protobuf.stmts).unwrap_or_default();
        let node = tree.pointer("/0/stmt/node").and_then(Value::as_object);
        let kind = node.and_then(|node| node.keys().next()).map_or("", String::as_str);
        match kind {
            kind if WRITING.contains(&kind) => Ok(()),
            "SelectStmt" if tokens.first().is_some_and(|first| first.token == Token::With) => {
                let what = "the statement ends in SELECT";
                Err(self.fault(statement.offset, what, READS_ELSEWHERE))
            }
            "SelectStmt" => Err(self.this_is(statement, tokens.first(), READS_ELSEWHERE)),
            _ => Err(self.this_is(statement, tokens.first(), ONE_WRITE)),
        }
    }

    /// Every `kck.product(…)`.
    fn calls(&self, tokens: &[Span]) -> Result<Vec<Call>, Fault> {
        let mut calls = Vec::new();
        for (at, call) in tokens.windows(4).enumerate() {
            let [schema, dot, product, open] = call else { continue };
            let dotted = (dot.token, open.token) == (Token::Ascii46, Token::Ascii40);
            if dotted && self.slice(schema.start, schema.end).eq_ignore_ascii_case("kck") {
                let inside = tokens.get(at + 4..).unwrap_or_default();
                let Some((arguments, close)) = self.arguments(inside) else {
                    let hint = "close its arguments with )";
                    return Err(self.fault(schema.start, "the call of a product has no end", hint));
                };
                let end = inside.get(close).map_or(open.end, |token| token.end);
                calls.push(Call {
                    at: schema.start..end,
                    product: self.slice(product.start, product.end).trim_matches('"').to_owned(),
                    arguments,
                    named: inside.get(close + 1).is_some_and(Span::is_alias),
                });
            }
        }
        Ok(calls)
    }

    /// The arguments that begin here, and which token closes them.
    fn arguments(&self, tokens: &[Span]) -> Option<(Vec<Argument>, usize)> {
        let (mut arguments, mut depth, mut from) = (Vec::new(), 0, 0);
        for (at, token) in tokens.iter().enumerate() {
            let ends = depth == 0 && matches!(token.token, Token::Ascii41 | Token::Ascii44);
            if ends {
                let part = tokens.get(from..at)?;
                if let (Some(first), Some(last)) = (part.first(), part.last()) {
                    let range = first.start..last.end;
                    arguments.push(Argument { at: range, plain: self.is_plain(part) });
                }
                from = at + 1;
            }
            match token.token {
                Token::Ascii41 if depth == 0 => return Some((arguments, at)),
                Token::Ascii40 | Token::Ascii91 => depth += 1,
                Token::Ascii41 | Token::Ascii93 => depth -= 1,
                _ => {}
            }
        }
        None
    }

    /// Whether a value is one parameter or one constant: it means the same wherever it stands.
    fn is_plain(&self, tokens: &[Span]) -> bool {
        match tokens {
            [one] => matches!(one.token, Token::Iconst | Token::Fconst | Token::Sconst),
            [colon, name] => colon.token == Token::Ascii58 && colon.end == name.start,
            _ => false,
        }
    }

    /// Where FOR UPDATE and its kin stand; the tree does not say.
    fn locking_clause(&self, tokens: &[Span]) -> Option<usize> {
        let locks = [Token::Update, Token::Share, Token::No, Token::Key];
        tokens.windows(2).find_map(|pair| match pair {
            [begin, next] if begin.token == Token::For && locks.contains(&next.token) => {
                Some(begin.start)
            }
            _ => None,
        })
    }

    fn syntax_fault(
        &self,
        statement: &Statement,
        tokens: &[Span],
        error: &pg_query::Error,
    ) -> Fault {
        let message = match error {
            pg_query::Error::Parse(message) if !message.starts_with("stack depth") => message,
            _ => {
                return self.fault(
                    statement.offset,
                    "the statement nests too deeply",
                    "split it with WITH",
                );
            }
        };
        // The grammar tells no position. A text cut off before the fault is either good or ends too early, so
        // the first token with which it is neither is the one.
        let broken = |token: &Span| {
            let end = token.end - statement.offset;
            match pg_query::summary(&numbered(statement, end), ParserOptions::DEFAULT, -1) {
                Err(pg_query::Error::Parse(message)) => !message.ends_with("at end of input"),
                _ => false,
            }
        };
        let at = tokens.partition_point(|token| !broken(token));
        let offset = tokens.get(at).or(tokens.last()).map_or(statement.offset, |token| token.start);
        // What it quotes may be a parameter's number.
        let what = message.split_once(" at or near ").map_or(message.as_str(), |(what, _)| what);
        let near = tokens
            .get(at)
            .map_or(String::new(), |token| format!(" at '{}'", self.slice(token.start, token.end)));
        self.fault(
            offset,
            format!("{what}{near}"),
            "PostgreSQL's grammar stops here; try the statement in psql",
        )
    }
}

fn plain_message(error: &pg_query::Error) -> String {
    match error {
        pg_query::Error::Scan(message) | pg_query::Error::Parse(message) => message.clone(),
        other => other.to_string(),
    }
}

/// The statement with `$1` for its first parameter, cut off after `length` bytes of the file's text.
fn numbered(statement: &Statement, length: usize) -> String {
    let (mut sql, mut left) = (String::new(), length);
    for (index, piece) in statement.pieces.iter().enumerate() {
        sql.push_str(piece.get(..left).unwrap_or(piece));
        left = left.saturating_sub(piece.len());
        let Some(hole) = statement.holes.get(index) else { break };
        if left == 0 {
            break;
        }
        sql.push_str(&format!("${}", hole + 1));
        left = left.saturating_sub(name_length(statement, *hole));
    }
    sql
}

fn name_length(statement: &Statement, hole: usize) -> usize {
    1 + statement.names.get(hole).map_or(0, |(name, _)| name.len())
}

/// Goes over the whole tree, whatever node it meets.
struct Walk {
    mentions: Mentions,
    locks: bool,
}

impl Walk {
    fn value(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.value(item)),
            Value::Object(fields) => {
                for (name, inner) in fields {
                    self.node(name, inner);
                    self.value(inner);
                }
            }
            _ => {}
        }
    }

    fn node(&mut self, name: &str, node: &Value) {
        match name {
            "locking_clause" => {
                self.locks |= node.as_array().is_some_and(|clauses| !clauses.is_empty());
            }
            "RangeVar" => self.relation(node),
            "FuncCall" => self.mentions.functions.extend(strings(node.get("funcname")).pop()),
            "SqlvalueFunction" => {
                // The clock's and the user's keywords are calls too; these are as little constant.
                self.mentions.functions.extend(["now".to_owned(), "current_user".to_owned()]);
            }
            "RangeTableSample" => {
                self.mentions.functions.insert("random".to_owned());
            }
            "ColumnRef" => self.mentions.columns.extend(strings(node.get("fields"))),
            "AIndirection" => self.mentions.columns.extend(strings(node.get("indirection"))),
            "AExpr" => self.mentions.operators.extend(strings(node.get("name")).pop()),
            "SubLink" => self.mentions.operators.extend(strings(node.get("oper_name")).pop()),
            _ => {}
        }
    }

    fn relation(&mut self, node: &Value) {
        let part = |name: &str| node.get(name).and_then(Value::as_str).unwrap_or_default();
        let (schema, name) = (part("schemaname"), part("relname"));
        let relation =
            if schema.is_empty() { quote::name(name) } else { quote::qualified(schema, name) };
        self.mentions.relations.insert(relation);
    }
}

/// The texts of a list of String nodes.
fn strings(list: Option<&Value>) -> Vec<String> {
    let items = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text =
        |item: &Value| item.pointer("/node/String/sval").and_then(Value::as_str).map(str::to_owned);
    items.iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(sql: &str) -> Statement {
        read(Path::new("p.sql"), sql, 0).unwrap()
    }

    fn names(sql: &str) -> Vec<String> {
        statement(sql).names.into_iter().map(|(name, _)| name).collect()
    }

    fn fault(sql: &str) -> String {
        read(Path::new("p.sql"), sql, 0).unwrap_err().to_string()
    }

    #[test]
    fn parameters_are_cut_out() {
        let read = statement(" -- c\nselect :b::int, :a, a[1 : (:b)] ; -- end\n;");
        assert_eq!(read.offset, 6);
        assert_eq!(read.pieces, ["select ", "::int, ", ", a[1 : (", ")]"]);
        assert_eq!(read.holes, [0, 1, 0]);
        assert_eq!(read.names, [("b".to_owned(), 13), ("a".to_owned(), 22)]);
    }

    #[test]
    fn columns_have_the_names_that_the_text_gives_them() {
        let some = |name: &str| Some(name.to_owned());
        for (sql, want) in [
            (
                "select a, t.B, c as \"D\", 1 + 1, count(*) from t where x = $1",
                vec![some("a"), some("b"), some("D"), None, None],
            ),
            ("select *, a from t", vec![]),
            ("select a from t union select b from u", vec![]),
            ("values (1)", vec![]),
            ("selec", vec![]),
        ] {
            assert_eq!(column_names(sql), want, "{sql}");
        }
    }

    #[test]
    fn parameters_are_never_inside_quotes_or_comments() {
        for sql in [
            "select ':a', E'\\':a', $$ :a $$, $x$ :a $x$, \":a\" from (values (1)) v(\":a\")",
            "select 1 -- :a",
            "select 1 /* :a /* :b */ :c */",
            "select x::text from (values (1)) v(x)",
            "select U&'\\0041:a'",
            "select a[1:2] from t",
        ] {
            assert!(names(sql).is_empty(), "{sql}");
        }
        assert_eq!(
            names("select :a::text, (:b)::int, x=:c, :limit from t"),
            ["a", "b", "c", "limit"]
        );
    }

    #[test]
    fn faults_say_where_and_what_to_do() {
        for (sql, want) in [
            ("", "1:1: there is no statement"),
            ("-- only\n ;", "1:1: there is no statement"),
            ("select 1;\n select 2", "2:2: there is more than one statement"),
            ("insert into t values (1)", "1:1: this is INSERT"),
            ("explain select 1", "1:1: this is EXPLAIN"),
            ("select 1\ninto x", "2:1: SELECT INTO makes a table"),
            ("select *\nfrom t for update", "2:8: the statement locks rows"),
            (
                "select * from (select * from t for no key update) x",
                "1:32: the statement locks rows",
            ),
            (
                "with x as (\n delete from t returning 1) select * from x",
                "2:2: the statement writes",
            ),
            ("select :x, 'abc", "1:12: unterminated quoted string"),
            ("select æ,\n  :long_name, from t", "2:15: syntax error at 'from'"),
            ("select :a :b", "1:11: syntax error at ':'"),
            ("select (1", "1:9: syntax error"),
            ("select $1", "1:8: parameters have no numbers here"),
            ("select :'x'", "1:8: :'x' is psql's quoting"),
            ("select :\"x\"", "1:8: :\"x\" is psql's quoting"),
            ("select :X", "1:8: a parameter cannot be named 'X'"),
            ("select :min_lsn", "1:8: a parameter cannot be named 'min_lsn'"),
        ] {
            assert!(fault(sql).starts_with(&format!("p.sql:{want}")), "{sql}: {}", fault(sql));
        }
    }

    #[test]
    fn an_update_is_one_statement_that_writes() {
        let read = |sql: &str| read_update(Path::new("u.sql"), sql, 0);
        for sql in [
            "insert into t (a) values (:a) on conflict (a) do update set b = :b returning a;",
            "update t set n = :n, key = ':x' where id = :key -- :y",
            "delete from kck.t(a) where id = :id",
            "merge into t using (select :id::int as id) s on t.id = s.id \
             when matched then update set n = :n when not matched then insert values (:id, :n)",
            "call move_stock(:from, :to, array[1, :n])",
            "with gone as (delete from a where id = :id returning *) insert into b select * from gone",
            "insert into t select * from u where n = :n for update",
        ] {
            // A function stands in no place of a table that is written: the grammar says so, whoever is named kck.
            let good = !sql.contains("kck.t(a)");
            assert_eq!(read(sql).is_ok(), good, "{sql}");
        }
        for (sql, want) in [
            ("", "1:1: there is no statement\n  hint: an update is one"),
            ("select 1", "1:1: this is SELECT\n  hint: statements that read belong in products/"),
            ("table t", "1:1: this is TABLE\n  hint: statements that read belong in products/"),
            (
                "with x as (insert into t values (1) returning 1) select * from x",
                "1:1: the statement ends in SELECT\n  hint: statements that read belong",
            ),
            ("truncate t", "1:1: this is TRUNCATE\n  hint: an update is one"),
            ("do $$ begin end $$", "1:1: this is DO\n  hint: an update is one"),
            ("drop table t", "1:1: this is DROP\n  hint: an update is one"),
            ("delete from t;\n delete from u", "2:2: there is more than one statement"),
            ("delete from t where id = $1", "1:26: parameters have no numbers here"),
            ("delete from t where", "1:15: syntax error"),
        ] {
            let fault = read(sql).unwrap_err().to_string();
            assert!(fault.starts_with(&format!("u.sql:{want}")), "{sql}: {fault}");
        }
        assert!(fault("update t set n = 1").contains("belong in updates/"));
    }

    #[test]
    fn one_select_has_many_forms() {
        for sql in [
            "values (1), (2)",
            "with recursive r(n) as (select 1 union all select n + 1 from r where n < 9) select * from r",
            "table t",
            "(select 1) union (select 2) order by 1",
            "select from t",
            "select * from a, lateral (select * from b where b.x = a.x limit 3) l",
        ] {
            statement(sql);
        }
    }

    #[test]
    fn everything_named_is_mentioned() {
        let mentions = statement(
            "with w as (select * from s.\"A\" limit (select count(*) from b)) \
             select o.total, current_date from only o tablesample system (1), lateral x.f(o.id) t \
             where o.id operator(public.=) any (select id from c) order by g(1)",
        )
        .mentions
        .unwrap();
        assert_eq!(Vec::from_iter(mentions.relations), ["\"b\"", "\"c\"", "\"o\"", "\"s\".\"A\""]);
        for function in ["count", "f", "g", "now", "random"] {
            assert!(mentions.functions.contains(function), "{function}");
        }
        assert!(mentions.columns.contains("total") && mentions.operators.contains("="));
    }

    #[test]
    fn too_many_parameters_are_refused() {
        let list: Vec<_> = (0..65).map(|n| format!(":p{n}")).collect();
        assert!(fault(&format!("select {}", list.join(", "))).contains("too many parameters"));
    }

    #[test]
    fn deep_nesting_is_read_or_refused() {
        let deep = statement(&format!("select 1{} from t where x = :a", " + 1".repeat(500)));
        assert!(deep.mentions.is_none() && deep.names.len() == 1);
        let locked = format!("select 1{} from t for update", " + 1".repeat(500));
        assert!(fault(&locked).contains("the statement locks rows"));
        assert!(fault(&format!("select 1{}", "+1".repeat(100_000))).contains("nests too deeply"));
        assert!(
            read(
                Path::new("p.sql"),
                &format!("select {}1{}", "(".repeat(20_000), ")".repeat(20_000)),
                0
            )
            .is_err()
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(select|from|where|:a|:|'|\"|\\$\\$|;|--|/\\*|\\*/|\\(|\\)|x|1|æ| |\n){0,20}") {
            if let Ok(read) = read(Path::new("p.sql"), &text, 0) {
                let mut whole = String::new();
                for (index, piece) in read.pieces.iter().enumerate() {
                    whole.push_str(piece);
                    if let Some(hole) = read.holes.get(index) {
                        whole.push_str(&format!(":{}", read.names[*hole].0));
                    }
                }
                proptest::prop_assert!(text.get(read.offset..).is_some_and(|rest| rest.starts_with(&whole)));
            }
        }
    }
}
