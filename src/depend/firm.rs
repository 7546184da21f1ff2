//! Lookups and where the stream is → which groups may be recorded, and what losing the connection makes of the others.
//! Pure.
//!
//! A lookup may see a commit that is visible and not flushed. A crash of the source takes that commit, and what was
//! looked up belongs to no history then (R10): its product counts as touched whole. Until the stream has reached what
//! the lookups of a group saw, the group is not *firm*, and no position at or behind its end is recorded.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::change::Lsn;

/// Groups whose end is not recorded yet because they, or one before them, are not firm.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Firm {
    groups: VecDeque<Group>,
    /// Products to be touched whole, with the newest commit that they were looked up for; not durable yet.
    owed: BTreeMap<String, Lsn>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    end: Lsn,
    /// `None`: its products are owed.
    saw: Option<Lsn>,
    products: BTreeSet<String>,
}

impl Firm {
    /// A product was looked up for the group that ends here, and the lookup saw no more than `saw`. Groups come in
    /// commit order.
    pub fn looked_up(&mut self, end: Lsn, saw: Lsn, product: &str) {
        let group = self.group(end);
        group.saw = group.saw.map(|seen| seen.max(saw));
        group.products.insert(product.to_owned());
    }

    /// The group that ends here is matched and marked durably, whether it had lookups or not.
    pub fn marked(&mut self, end: Lsn) {
        self.group(end);
    }

    fn group(&mut self, end: Lsn) -> &mut Group {
        let last = self.groups.pop_back_if(|last| last.end >= end);
        let new = Group { end, saw: Some(Lsn(0)), products: BTreeSet::new() };
        self.groups.push_back_mut(last.unwrap_or(new))
    }

    /// The stream has delivered everything up to `received`: the end of the last group that is firm with all before it.
    pub fn reached(&mut self, received: Lsn) -> Option<Lsn> {
        let mut end = None;
        while let Some(first) = self.groups.front()
            && first.saw.is_some_and(|saw| saw <= received)
        {
            end = Some(first.end);
            self.groups.pop_front();
        }
        end
    }

    /// The connection was lost after delivering `received`: products of groups that are not firm are owed a mark. All that
    /// are owed come back, for the ledger, before anything else is delivered.
    pub fn lost(&mut self, received: Lsn) -> BTreeMap<String, Lsn> {
        for group in &mut self.groups {
            match group.saw {
                Some(saw) if saw <= received => group.saw = Some(Lsn(0)),
                Some(_) => {
                    group.saw = None;
                    for product in &group.products {
                        let owed = self.owed.entry(product.clone()).or_default();
                        *owed = (*owed).max(group.end);
                    }
                }
                None => {}
            }
        }
        self.owed.clone()
    }

    /// What is owed.
    #[must_use]
    pub fn owed(&self) -> &BTreeMap<String, Lsn> {
        &self.owed
    }

    /// These marks are durable.
    pub fn paid(&mut self, marks: &BTreeMap<String, Lsn>) {
        self.owed.retain(|product, at| marks.get(product).is_none_or(|paid| paid < at));
        if self.owed.is_empty() {
            for group in &mut self.groups {
                group.saw = group.saw.or(Some(Lsn(0)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_waits_until_the_stream_has_what_its_lookups_saw() {
        let mut firm = Firm::default();
        firm.looked_up(Lsn(10), Lsn(30), "p");
        firm.marked(Lsn(10));
        firm.marked(Lsn(20));
        assert_eq!(firm.reached(Lsn(29)), None);
        assert_eq!(firm.reached(Lsn(30)), Some(Lsn(20)), "those behind it waited for it");
        assert_eq!(firm.lost(Lsn(30)), BTreeMap::new());
    }

    #[test]
    fn what_a_crash_may_have_taken_is_owed_a_mark_before_it_is_recorded() {
        let mut firm = Firm::default();
        firm.looked_up(Lsn(10), Lsn(15), "firm");
        firm.looked_up(Lsn(20), Lsn(50), "p");
        firm.looked_up(Lsn(20), Lsn(40), "q");
        let owed = BTreeMap::from([("p".to_owned(), Lsn(20)), ("q".to_owned(), Lsn(20))]);
        assert_eq!(firm.lost(Lsn(30)), owed);
        assert_eq!(
            firm.reached(Lsn(100)),
            Some(Lsn(10)),
            "the log that grows again is another one"
        );
        firm.paid(&owed);
        assert_eq!(firm.reached(Lsn(0)), Some(Lsn(20)));
    }

    #[test]
    fn what_is_owed_twice_is_paid_by_the_newer_mark() {
        let mut firm = Firm::default();
        firm.looked_up(Lsn(10), Lsn(50), "p");
        let first = firm.lost(Lsn(30));
        firm.looked_up(Lsn(20), Lsn(60), "p");
        let second = firm.lost(Lsn(35));
        firm.paid(&first);
        assert_eq!(firm.owed(), &second);
        assert_eq!(firm.reached(Lsn(100)), None);
        firm.paid(&second);
        assert_eq!(firm.reached(Lsn(0)), Some(Lsn(20)));
    }
}
