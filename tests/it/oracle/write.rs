//! Statements with holes, and a seed → transactions.

use std::collections::BTreeMap;

use super::random::Random;

/// What is written to one subject.
pub(super) struct Writes {
    domains: BTreeMap<&'static str, Vec<String>>,
    pub(super) often: Vec<&'static str>,
    pub(super) rarely: Vec<&'static str>,
    pub(super) definitions: Vec<&'static str>,
}

impl Writes {
    /// Reads `-- NAME: VALUE | VALUE` or `-- NAME: FROM..BELOW`, and a statement a line.
    pub(super) fn read(text: &'static str) -> Self {
        let mut writes =
            Self { domains: BTreeMap::new(), often: vec![], rarely: vec![], definitions: vec![] };
        let mut part = "often";
        for line in text.lines().filter(|line| !line.is_empty()) {
            match line.strip_prefix("-- ") {
                Some(name @ ("rarely" | "definitions")) => part = name,
                Some(comment) => {
                    if let Some((name, values)) = comment.split_once(": ")
                        && !name.contains(' ')
                    {
                        writes.domains.insert(name, domain(values));
                    }
                }
                None => match part {
                    "often" => writes.often.push(line),
                    "rarely" => writes.rarely.push(line),
                    _ => writes.definitions.push(line),
                },
            }
        }
        writes
    }

    /// A statement with a value in each hole; the same hole has the same value.
    pub(super) fn filled(&self, template: &str, owner: u64, random: &mut Random) -> String {
        let mut filled = template.replace("{owner}", &owner.to_string());
        for (name, values) in &self.domains {
            let hole = format!("{{{name}}}");
            if filled.contains(&hole) {
                filled = filled.replace(&hole, random.of::<String>(values));
            }
        }
        filled
    }

    /// Holes that nothing fills.
    pub(super) fn unknown_holes(&self, template: &'static str) -> Vec<&'static str> {
        let names = template.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
        let is_name = |name: &&str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() && !c.is_uppercase())
        };
        let known = |name: &&str| *name == "owner" || self.domains.contains_key(*name);
        names.map(|(name, _)| name).filter(is_name).filter(|name| !known(name)).collect()
    }

    fn one(&self, owner: u64, random: &mut Random) -> String {
        let seldom = !self.rarely.is_empty() && random.one_in(40);
        let template = random.of(if seldom { &self.rarely } else { &self.often });
        self.filled(template, owner, random)
    }
}

fn domain(values: &str) -> Vec<String> {
    if let Some((from, below)) = values.split_once("..")
        && let (Ok(from), Ok(below)) = (from.parse::<i64>(), below.parse::<i64>())
    {
        return (from..below).map(|value| value.to_string()).collect();
    }
    values.split(" | ").map(str::to_owned).collect()
}

/// A whole transaction of statements over some subjects: with savepoints, given up, in other isolation levels.
pub(super) fn transaction(subjects: &[&Writes], owner: u64, random: &mut Random) -> String {
    let mut sql = String::from(match random.below(10) {
        0 => "begin isolation level serializable;\n",
        1 => "begin isolation level repeatable read;\n",
        _ => "begin;\n",
    });
    if random.one_in(25) {
        sql.push_str("set local synchronous_commit = off;\n");
    }
    let statements = if random.one_in(2) { 1 } else { 1 + random.below(4) };
    // A subject of which much is written comes often. Mostly all is of one, so that statements meet.
    let all: Vec<&Writes> =
        subjects.iter().flat_map(|subject| subject.often.iter().map(|_| *subject)).collect();
    let subject = *random.of(&all);
    for _ in 0..statements {
        let subject = if random.one_in(5) { *random.of(&all) } else { subject };
        let one = subject.one(owner, random);
        sql.push_str(&match random.below(8) {
            0 => format!("savepoint given_up;\n{one};\nrollback to given_up;\n"),
            1 => format!("savepoint kept;\n{one};\nrelease kept;\n"),
            2 => format!(
                "savepoint first;\n{one};\nsavepoint second;\n{};\nrollback to second;\n{};\nrelease first;\n",
                subject.one(owner, random),
                subject.one(owner, random)
            ),
            _ => format!("{one};\n"),
        });
    }
    sql.push_str(if random.one_in(12) { "rollback" } else { "commit" });
    sql
}

/// A change of definitions, whole.
pub(super) fn definition(subjects: &[&Writes], random: &mut Random) -> String {
    let all: Vec<(&Writes, &str)> = subjects
        .iter()
        .flat_map(|subject| subject.definitions.iter().map(|template| (*subject, *template)))
        .collect();
    let (subject, template) = *random.of(&all);
    format!("begin;\n{};\ncommit", subject.filled(template, 0, random))
}
