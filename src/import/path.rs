//! Path: the original's `jsonpath_first` over rows → which part of the answer it meant.

/// The part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// The first row.
    Row,
    /// A column of the first row, by its place from 0.
    Place(usize),
    /// A column of the first row, by its name.
    Column(String),
}

/// A step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Number(usize),
    /// `[*]`: of all, the first is taken.
    Any,
    Name(String),
}

/// Reads a path; `None` where it means more than a part of the first row.
pub(super) fn read(path: &str) -> Option<Part> {
    let steps = steps(path.trim())?;
    // Every row has every column, so that the first match of any row is the first row's.
    let first = |step: &Step| matches!(step, Step::Number(0) | Step::Any);
    match steps.as_slice() {
        [] => Some(Part::Whole),
        [row] if first(row) => Some(Part::Row),
        [row, Step::Number(place)] if first(row) => Some(Part::Place(*place)),
        [row, Step::Name(name)] if first(row) => Some(Part::Column(name.clone())),
        _ => None,
    }
}

fn steps(path: &str) -> Option<Vec<Step>> {
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let (step, after) = match rest.strip_prefix('[') {
            Some(inside) => {
                let (inside, after) = inside.split_once(']')?;
                (bracketed(inside.trim())?, after)
            }
            None => {
                let dotted = rest.strip_prefix('.').or(steps.is_empty().then_some(rest))?;
                if dotted.starts_with('[') {
                    rest = dotted;
                    continue;
                }
                let end = dotted.find(['.', '[']).unwrap_or(dotted.len());
                let (name, after) = dotted.split_at(end);
                (named(name)?, after)
            }
        };
        steps.push(step);
        rest = after;
    }
    Some(steps)
}

fn bracketed(inside: &str) -> Option<Step> {
    match inside {
        "*" => Some(Step::Any),
        _ if inside.starts_with(['\'', '"']) => named(inside),
        _ => inside.parse().ok().map(Step::Number),
    }
}

/// A name, perhaps in quotes. Any other sign means something to a path.
fn named(name: &str) -> Option<Step> {
    let quoted = |quote: char| name.strip_prefix(quote)?.strip_suffix(quote);
    if let Some(inside) = quoted('\'').or_else(|| quoted('"')) {
        let plain = !inside.is_empty() && !inside.contains(['\'', '"', '\\']);
        return plain.then(|| Step::Name(inside.to_owned()));
    }
    let begins = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let plain = begins && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    plain.then(|| Step::Name(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_first_row_are_found() {
        let column = |name: &str| Some(Part::Column(name.to_owned()));
        for (path, want) in [
            ("$", Some(Part::Whole)),
            ("$[0]", Some(Part::Row)),
            ("$.[0]", Some(Part::Row)),
            ("$[*]", Some(Part::Row)),
            ("$[0][0]", Some(Part::Place(0))),
            (" $[0][12] ", Some(Part::Place(12))),
            ("[0][0]", Some(Part::Place(0))),
            ("$[0].testcol1", column("testcol1")),
            ("$[*].testcol1", column("testcol1")),
            ("$[0]['a b']", column("a b")),
            ("$[0].\"a\"", column("a")),
            ("$[1][0]", None),
            ("$[-1]", None),
            ("$[0:1]", None),
            ("$..a", None),
            ("$[0].*", None),
            ("$[0].a.b", None),
            ("$[0].a | $[0].b", None),
            ("$[?(@.a > 1)]", None),
            ("$[0", None),
            ("a", None),
        ] {
            assert_eq!(read(path), want, "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_makes_it_panic(path in "[$.\\[\\]0-9a-c*'\"ø]{0,20}") {
            drop(read(&path));
        }
    }
}
