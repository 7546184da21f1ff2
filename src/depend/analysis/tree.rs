//! Node text as `pg_rewrite.ev_action` holds it → a tree of nodes, lists and tokens.
//!
//! Written by Postgres's `outfuncs.c`. Fields differ between versions, so everything is asked for by name
//! and an answer may be "not there". Reading never panics, and what nests too deep is refused.

use std::{borrow::Cow, str::FromStr};

/// Deeper texts are refused: what follows walks them by recursion.
const DEPTH_MAX: usize = 500;

/// A value of a field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    /// `{NAME :field value …}`.
    Node(Node<'a>),
    /// `(…)`; lists of numbers begin with a token that says of which kind: `(i 1 2)`.
    List(Vec<Value<'a>>),
    /// A word, number or string, still escaped.
    Token(&'a str),
    /// A constant's bytes as they lie in memory: `4 [ 1 0 0 0 ]`.
    Datum(Vec<u8>),
    /// `<>`.
    Null,
}

/// A node with its fields in their order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node<'a> {
    /// `QUERY`, `VAR`, ….
    pub(super) name: &'a str,
    fields: Vec<(&'a str, Value<'a>)>,
}

/// The tree of a text, or `None` where it is no node text.
pub(super) fn read(text: &str) -> Option<Value<'_>> {
    let mut reader = Reader { rest: text };
    let token = reader.token()?;
    let value = reader.value(token, 0)?;
    reader.token().is_none().then_some(value)
}

impl<'a> Value<'a> {
    pub(super) fn node(&self) -> Option<&Node<'a>> {
        match self {
            Value::Node(node) => Some(node),
            _ => None,
        }
    }

    /// The node, if it has this name.
    pub(super) fn named(&self, name: &str) -> Option<&Node<'a>> {
        self.node().filter(|node| node.name == name)
    }

    /// The members; none of anything but a list.
    pub(super) fn members(&self) -> &[Value<'a>] {
        match self {
            Value::List(members) => members,
            _ => &[],
        }
    }

    /// The numbers of a list that says of which kind they are.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.members().iter().skip(1).filter_map(Value::number)
    }

    fn number<T: FromStr>(&self) -> Option<T> {
        match self {
            Value::Token(token) => token.parse().ok(),
            _ => None,
        }
    }

    /// Calls `visit` with every node below and including this one, parents first; it answers whether to
    /// go on below the node.
    pub(super) fn walk<'s>(&'s self, visit: &mut impl FnMut(&'s Node<'a>) -> bool) {
        match self {
            Value::Node(node) => {
                if visit(node) {
                    node.fields.iter().for_each(|(_, value)| value.walk(visit));
                }
            }
            Value::List(members) => members.iter().for_each(|member| member.walk(visit)),
            Value::Token(_) | Value::Datum(_) | Value::Null => {}
        }
    }
}

impl<'a> Node<'a> {
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'a str, &Value<'a>)> {
        self.fields.iter().map(|(name, value)| (*name, value))
    }

    pub(super) fn field(&self, name: &str) -> Option<&Value<'a>> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    /// The members of a field that is a list or `<>`.
    pub(super) fn list(&self, name: &str) -> Option<&[Value<'a>]> {
        match self.field(name)? {
            Value::List(members) => Some(members),
            Value::Null => Some(&[]),
            _ => None,
        }
    }

    pub(super) fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.field(name)?.number()
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        match self.field(name)? {
            Value::Token("true") => Some(true),
            Value::Token("false") => Some(false),
            _ => None,
        }
    }

    /// The text of a word or string.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        match self.field(name)? {
            Value::Token(token) => Some(unescape(token)),
            _ => None,
        }
    }

    /// Whether this is a range table entry, whose node has had two names (RTE up to PostgreSQL 14).
    pub(super) fn is_entry(&self) -> bool {
        self.field("rtekind").is_some()
    }

    /// Whether a field is `<>`.
    pub(super) fn null(&self, name: &str) -> Option<bool> {
        self.field(name).map(|value| *value == Value::Null)
    }
}

/// A token without its backslashes; `""` is the empty text.
fn unescape(token: &str) -> Cow<'_, str> {
    if token == "\"\"" {
        return Cow::Borrowed("");
    }
    if !token.contains('\\') {
        return Cow::Borrowed(token);
    }
    let mut text = String::with_capacity(token.len());
    let mut characters = token.chars();
    while let Some(character) = characters.next() {
        text.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    Cow::Owned(text)
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    /// The next bracket or run of other characters, of which a backslash hides one.
    fn token(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_start_matches([' ', '\n', '\t']);
        let mut hidden = false;
        let end = rest.char_indices().find(|(at, character)| {
            let ends = !hidden
                && (matches!(character, ' ' | '\n' | '\t')
                    || matches!(character, '(' | ')' | '{' | '}') && *at > 0);
            hidden = !hidden && *character == '\\';
            ends
        });
        let bracket = rest.starts_with(['(', ')', '{', '}']);
        let length = if bracket { 1 } else { end.map_or(rest.len(), |(at, _)| at) };
        let (token, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    fn value(&mut self, token: &'a str, depth: usize) -> Option<Value<'a>> {
        if depth > DEPTH_MAX {
            return None;
        }
        match token {
            "{" => self.node(depth).map(Value::Node),
            "(" => self.list(depth).map(Value::List),
            "}" | ")" => None,
            "<>" => Some(Value::Null),
            _ => self.datum(token),
        }
    }

    fn node(&mut self, depth: usize) -> Option<Node<'a>> {
        let name = self.token()?;
        let mut fields = Vec::new();
        loop {
            match self.token()? {
                "}" => return Some(Node { name, fields }),
                field => {
                    let field = field.strip_prefix(':')?;
                    let token = self.token()?;
                    fields.push((field, self.value(token, depth + 1)?));
                }
            }
        }
    }

    fn list(&mut self, depth: usize) -> Option<Vec<Value<'a>>> {
        let mut members = Vec::new();
        loop {
            match self.token()? {
                ")" => return Some(members),
                token => members.push(self.value(token, depth + 1)?),
            }
        }
    }

    /// A token, or the bytes in brackets that follow their number. Bytes are written as signed numbers
    /// where the server's `char` is signed.
    fn datum(&mut self, token: &'a str) -> Option<Value<'a>> {
        let after = self.rest;
        if token.parse::<u64>().is_err() || self.token() != Some("[") {
            self.rest = after;
            return Some(Value::Token(token));
        }
        let mut bytes = Vec::new();
        loop {
            match self.token()? {
                "]" => return Some(Value::Datum(bytes)),
                byte => {
                    let [byte, ..] = byte.parse::<i16>().ok()?.to_le_bytes();
                    bytes.push(byte);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            drop(read(&text));
        }

        #[test]
        fn never_panics_on_what_looks_like_a_tree(parts in prop::collection::vec(
            prop::sample::select(vec!["{", "}", "(", ")", "<>", ":a", "A", "\\", " ", "[", "]", "4", "-1", "\"", "\"\""]),
            0..40,
        )) {
            drop(read(&parts.concat()));
            drop(read(&parts.join(" ")));
        }

        #[test]
        fn a_prefix_of_a_tree_is_no_tree(length in 0usize..46) {
            let text = "{A :b (i 1 2) :c 2 [ 1 -1 ] :d {E :f \"g\\ h\"}}";
            prop_assert!(read(text).is_some());
            prop_assert!(read(&text[..length.min(text.len() - 1)]).is_none());
        }
    }

    #[test]
    fn reads_every_form() {
        let tree = read("({A :b (i 1 2) :c 2 [ 1 -1 ] :d <> :e x\\ \\(y :f \"\" :g 2 :h (\"p\" \"q\\ r\") :i true :j :k})").unwrap();
        let node = tree.members()[0].named("A").unwrap();
        assert_eq!(node.field("b").unwrap().numbers().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(node.field("c"), Some(&Value::Datum(vec![1, 255])));
        assert_eq!(node.null("d"), Some(true));
        assert_eq!(node.text("e").unwrap(), "x (y");
        assert_eq!(node.text("f").unwrap(), "");
        assert_eq!(node.number::<i16>("g"), Some(2));
        assert_eq!(node.list("h").unwrap().len(), 2);
        assert_eq!(node.flag("i"), Some(true));
        assert_eq!(node.text("j").unwrap(), ":k");
        assert_eq!(node.field("z"), None);
    }

    #[test]
    fn refuses_what_nests_too_deep() {
        let nested = |depth: usize| format!("{}{}", "(".repeat(depth), ")".repeat(depth));
        assert!(read(&nested(DEPTH_MAX)).is_some());
        assert!(read(&nested(100_000)).is_none());
    }
}
