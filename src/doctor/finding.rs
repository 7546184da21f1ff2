//! What a check found and what to do about it → a line for people, JSON for tools.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing to do.
    Pass,
    /// It works, and something is worth knowing or better done.
    Warn,
    /// It blocks.
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check: `D16`.
    pub id: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found, in one line.
    pub found: String,
    /// What to do, in order: SQL ends with a semicolon, a step for people does not.
    pub fix: Vec<String>,
}

impl Finding {
    pub(super) fn pass(id: &'static str, found: impl Into<String>) -> Self {
        Self { id, verdict: Verdict::Pass, found: found.into(), fix: Vec::new() }
    }

    pub(super) fn warn(id: &'static str, found: impl Into<String>, fix: Vec<String>) -> Self {
        Self { id, verdict: Verdict::Warn, found: found.into(), fix }
    }

    pub(super) fn fail(id: &'static str, found: impl Into<String>, fix: Vec<String>) -> Self {
        Self { id, verdict: Verdict::Fail, found: found.into(), fix }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}  {}", self.verdict, self.id, self.found)?;
        self.fix.iter().try_for_each(|step| write!(f, "\n      → {step}"))
    }
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order of their ids.
    pub findings: Vec<Finding>,
    /// What `--fix` did, and what it could not do.
    pub fixed: Vec<String>,
    /// How many of each kind.
    pub summary: Summary,
}

/// How many findings of each kind there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Summary {
    /// Nothing to do.
    pub pass: usize,
    /// Worth knowing.
    pub warn: usize,
    /// Blocks.
    pub fail: usize,
}

impl Report {
    pub(super) fn new(mut findings: Vec<Finding>, fixed: Vec<String>) -> Self {
        findings.sort_by_key(|finding| finding.id);
        let count = |verdict| findings.iter().filter(|found| found.verdict == verdict).count();
        let summary = Summary {
            pass: count(Verdict::Pass),
            warn: count(Verdict::Warn),
            fail: count(Verdict::Fail),
        };
        Self { findings, fixed, summary }
    }

    /// Whether kck can run as it is.
    #[must_use]
    pub fn sound(&self) -> bool {
        self.summary.fail == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fixed.iter().try_for_each(|done| writeln!(f, "FIX   {done}"))?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))?;
        let Summary { pass, warn, fail } = self.summary;
        write!(f, "{pass} pass, {warn} warn, {fail} fail")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_with_what_to_do_below() {
        let fix = vec!["alter role \"kck\" replication;".to_owned()];
        let findings = vec![
            Finding::fail("D04", "role kck may not", fix),
            Finding::pass("D02", "PostgreSQL 15"),
        ];
        let report = Report::new(findings, vec![]);
        assert_eq!(
            report.to_string(),
            "PASS  D02  PostgreSQL 15\nFAIL  D04  role kck may not\n      → alter role \"kck\" replication;\n1 pass, 0 warn, 1 fail"
        );
        assert!(!report.sound());
    }
}
