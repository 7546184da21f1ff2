//! Touched keys and those of them that changed → how precise each class of rules is.

use std::{collections::BTreeMap, fmt};

/// How often a product's keys were touched by commits, and how often that was worth it.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    touched: u64,
    changed: u64,
}

/// What was counted, by class and product.
#[derive(Debug, Default)]
pub(super) struct Precision {
    pub(super) commits: u64,
    counts: BTreeMap<(String, &'static str), Count>,
}

impl Precision {
    /// A commit touched a key, and changed its answer or did not.
    pub(super) fn count(
        &mut self,
        class: &str,
        product: &'static str,
        touched: bool,
        changed: bool,
    ) {
        let count = self.counts.entry((class.to_owned(), product)).or_default();
        count.touched += u64::from(touched);
        count.changed += u64::from(changed);
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sums: BTreeMap<&str, Count> = BTreeMap::new();
        writeln!(f, "{} commits", self.commits)?;
        writeln!(
            f,
            "{:<8} {:<24} {:>8} {:>8} {:>8}",
            "class", "product", "touched", "changed", "t / c"
        )?;
        for ((class, product), count) in &self.counts {
            line(f, class, product, *count)?;
            for class in [class, "all"] {
                let sum = sums.entry(class).or_default();
                sum.touched += count.touched;
                sum.changed += count.changed;
            }
        }
        for (class, sum) in sums {
            line(f, class, "(sum)", sum)?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, class: &str, product: &str, count: Count) -> fmt::Result {
    let Count { touched, changed } = count;
    let ratio = (changed > 0).then(|| touched as f64 / changed as f64);
    let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    writeln!(f, "{class:<8} {product:<24} {touched:>8} {changed:>8} {ratio:>8}")
}
