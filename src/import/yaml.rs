//! YAML: a text → a tree in which everything has its place, or the first fault.
//!
//! Only what the original's files hold: maps, lists and texts. Tags are refused, since the original's could make any
//! object; aliases are, like depth, bounded by what they unfold to. What a text means is for who reads it.

use std::{collections::BTreeMap, path::Path};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use crate::product::Fault;

/// Maps in maps, at most.
const DEPTH_MAX: usize = 32;
/// Texts, lists and maps of one file, with what aliases stand for.
const NODES_MAX: usize = 20_000;

/// Where something stands, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Place {
    /// What is wrong there.
    pub(super) fn fault(
        self,
        file: &Path,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Fault {
        Fault {
            file: file.to_owned(),
            line: self.line,
            column: self.column,
            message: what.into(),
            hint: hint.into(),
            sqlstate: String::new(),
        }
    }
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) value: Value,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Without quotes it may mean a number, true, false or nothing.
    Text {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    /// In the order of the file; names come once.
    Map(Vec<(Name, Node)>),
}

/// A name in a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) at: Place,
    pub(super) text: String,
}

impl Node {
    /// A text, also one that could mean a number.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text { text, .. } if !self.is_nothing() => Some(text),
            _ => None,
        }
    }

    /// A whole number.
    pub(super) fn number(&self) -> Option<i64> {
        match &self.value {
            Value::Text { text, plain: true } => text.replace('_', "").parse().ok(),
            _ => None,
        }
    }

    /// `true` or `false`, in the words that the original's YAML knew.
    pub(super) fn truth(&self) -> Option<bool> {
        let Value::Text { text, plain: true } = &self.value else { return None };
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    /// Nothing is written there.
    pub(super) fn is_nothing(&self) -> bool {
        match &self.value {
            Value::Text { text, plain: true } => {
                matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }

    /// A map, or an empty place where one could be.
    pub(super) fn map(&self) -> Option<&[(Name, Node)]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ if self.is_nothing() => Some(&[]),
            _ => None,
        }
    }

    /// A list, or an empty place where one could be.
    pub(super) fn list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ if self.is_nothing() => Some(&[]),
            _ => None,
        }
    }

    /// What it is, for who expected something else.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            _ if self.is_nothing() => "nothing",
            Value::Text { .. } => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    fn size(&self) -> usize {
        match &self.value {
            Value::Text { .. } => 1,
            Value::List(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Value::Map(entries) => 1 + entries.iter().map(|(_, node)| node.size()).sum::<usize>(),
        }
    }
}

/// Reads the one document of a file; an empty file is nothing.
///
/// # Errors
/// The first fault.
pub(super) fn read(file: &Path, text: &str) -> Result<Node, Fault> {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let parser = Parser::new_from_str(text);
    let mut reader = Reader { file, parser, anchors: BTreeMap::new(), nodes: 0 };
    let mut document = None;
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => break,
            (Event::DocumentStart(_), at) if document.is_some() => {
                return Err(at.fault(
                    file,
                    "a second document begins",
                    "a file holds one; split it",
                ));
            }
            (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd, _) => {}
            (event, at) => document = Some(reader.node(event, at, 0)?),
        }
    }
    let nothing = Value::Text { text: String::new(), plain: true };
    Ok(document.unwrap_or(Node { at: Place { line: 1, column: 1 }, value: nothing }))
}

struct Reader<'a> {
    file: &'a Path,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    /// What aliases stand for.
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Place), Fault> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, place(span))),
            Some(Err(error)) => Err(self.broken(&error)),
            None => Ok((Event::StreamEnd, Place::default())),
        }
    }

    fn broken(&self, error: &ScanError) -> Fault {
        let marker = error.marker();
        let at = Place { line: marker.line(), column: marker.col() + 1 };
        at.fault(self.file, format!("this is no YAML: {}", error.info()), "mend it here or above")
    }

    fn node(&mut self, event: Event<'a>, at: Place, depth: usize) -> Result<Node, Fault> {
        if depth > DEPTH_MAX {
            let what = format!("it nests more than {DEPTH_MAX} deep");
            return Err(at.fault(self.file, what, "no file of the original does"));
        }
        let (value, anchor, tag) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                (Value::Text { text: text.into_owned(), plain }, anchor, tag)
            }
            Event::SequenceStart(anchor, tag) => (Value::List(self.list(depth)?), anchor, tag),
            Event::MappingStart(anchor, tag) => (Value::Map(self.map(depth)?), anchor, tag),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    let hint = "name it with & before it is used";
                    return Err(at.fault(self.file, "an alias stands for nothing", hint));
                };
                self.count(node.size(), at)?;
                return Ok(node);
            }
            _ => {
                return Err(at.fault(
                    self.file,
                    "something is missing here",
                    "mend it here or above",
                ));
            }
        };
        if let Some(tag) = tag {
            let what = format!("the tag {}{} is not taken", tag.handle, tag.suffix);
            return Err(at.fault(self.file, what, "write the value without it"));
        }
        self.count(1, at)?;
        let node = Node { at, value };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn count(&mut self, nodes: usize, at: Place) -> Result<(), Fault> {
        self.nodes += nodes;
        if self.nodes <= NODES_MAX {
            return Ok(());
        }
        let what = format!("it unfolds to more than {NODES_MAX} parts");
        Err(at.fault(self.file, what, "no file of the original does"))
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Fault> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, at) => items.push(self.node(event, at, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Name, Node)>, Fault> {
        let (mut entries, mut merged) = (Vec::new(), Vec::new());
        loop {
            let (event, at) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, at, depth + 1)?;
            let Value::Text { text, plain } = key.value else {
                let what = format!("{} cannot be a name", key.kind());
                return Err(at.fault(self.file, what, "a name in a map is a text"));
            };
            let (event, from) = self.next()?;
            let node = self.node(event, from, depth + 1)?;
            if plain && text == "<<" {
                merged.push(node);
                continue;
            }
            let name = Name { at, text };
            if entries.iter().any(|(known, _): &(Name, Node)| known.text == name.text) {
                let what = format!("'{}' is there twice", name.text);
                return Err(at.fault(self.file, what, "take one out; only the last was read"));
            }
            entries.push((name, node));
        }
        for node in merged {
            self.merge(&mut entries, node)?;
        }
        Ok(entries)
    }

    /// `<<`: what another map has and this one has not.
    fn merge(&self, entries: &mut Vec<(Name, Node)>, node: Node) -> Result<(), Fault> {
        let at = node.at;
        let maps = match node.value {
            Value::List(maps) => maps,
            value => vec![Node { at, value }],
        };
        for map in maps {
            let Value::Map(others) = map.value else {
                let what = format!("'<<' takes a map, and this is {}", map.kind());
                return Err(map.at.fault(
                    self.file,
                    what,
                    "name a map with & and put it in with *",
                ));
            };
            for (name, node) in others {
                if !entries.iter().any(|(known, _)| known.text == name.text) {
                    entries.push((name, node));
                }
            }
        }
        Ok(())
    }
}

fn place(span: Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> Node {
        read(Path::new("a.yml"), text).unwrap()
    }

    fn fault(text: &str) -> String {
        read(Path::new("a.yml"), text).unwrap_err().to_string()
    }

    #[test]
    fn everything_has_its_place() {
        let root = node("a: 1\nb:\n  - {c: 'x'}\n  - |\n    two\n    lines\n");
        let map = root.map().unwrap();
        assert_eq!((map[0].0.text.as_str(), map[0].1.number()), ("a", Some(1)));
        assert_eq!(map[1].0.at, Place { line: 2, column: 1 });
        let list = map[1].1.list().unwrap();
        assert_eq!(list[0].map().unwrap()[0].1.at, Place { line: 3, column: 9 });
        assert_eq!(list[1].text(), Some("two\nlines\n"));
    }

    #[test]
    fn quotes_make_a_text() {
        assert_eq!(node("'1'").number(), None);
        assert_eq!(node("1_000").number(), Some(1000));
        assert_eq!(node("yes").truth(), Some(true));
        assert_eq!(node("'yes'").truth(), None);
        assert!(node("~").is_nothing() && node("").is_nothing() && !node("''").is_nothing());
        assert_eq!((node("''").text(), node("").text()), (Some(""), None));
    }

    #[test]
    fn aliases_and_merges_are_unfolded_within_bounds() {
        let root = node("a: &x {p: 1, q: 2}\nb: *x\nc: {<<: *x, q: 3}\n");
        let map = root.map().unwrap();
        assert_eq!(map[1].1, map[0].1);
        let merged = map[2].1.map().unwrap();
        assert_eq!(
            merged.iter().map(|(name, _)| name.text.as_str()).collect::<Vec<_>>(),
            ["q", "p"]
        );
        assert_eq!(merged[0].1.number(), Some(3));
        let mut bomb = String::from("l0: &l0 [a, a, a, a, a, a, a, a, a, a]\n");
        for level in 1..8 {
            let before = format!("*l{}, ", level - 1).repeat(10);
            bomb += &format!("l{level}: &l{level} [{before}]\n");
        }
        assert!(fault(&bomb).contains("unfolds to more than"));
    }

    #[test]
    fn what_is_not_read_is_refused_with_its_place() {
        for (text, want) in [
            ("a: !!python/object:os.system x", "a.yml:1:"),
            ("a: 1\na: 2", "a.yml:2:1: 'a' is there twice"),
            ("a: 1\n---\nb: 2", "a.yml:2:1: a second document begins"),
            ("a: *nothing", "a.yml:1:4: this is no YAML"),
            ("a: [1, 2", "a.yml:"),
            ("a: 'x", "a.yml:"),
            ("[a, b]: 1", "a.yml:1:1: a list cannot be a name"),
            ("<<: 3", "a.yml:1:5: '<<' takes a map, and this is a text"),
        ] {
            let fault = fault(text);
            assert!(fault.starts_with(want), "{text}: {fault}");
        }
        assert!(fault(&"[".repeat(1000)).starts_with("a.yml:1:"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ \\-:{}\\[\\]a-b\n'\"&*|>!#,?%@<~]{0,80}") {
            drop(read(Path::new("a.yml"), &text));
        }
    }
}
