//! Rules → words for people.

use super::rule::{Binding, Column, Is, Reach, Rule, Rules};

impl Rules {
    /// A line for each way in which a table is read, and one for each reason of class time.
    #[must_use]
    pub fn explain(&self) -> Vec<String> {
        let tables = self.tables.values().flat_map(|table| {
            table.rules.iter().map(move |rule| format!("{}: {}", table.name, self.in_words(rule)))
        });
        tables.chain(self.time.iter().map(|reason| format!("time: {reason}"))).collect()
    }

    fn in_words(&self, rule: &Rule) -> String {
        let class = rule.class();
        let tests: Vec<String> = rule
            .only
            .iter()
            .map(|test| format!("{} {}", test.column.name, test_in_words(&test.is)))
            .collect();
        let only = if tests.is_empty() {
            String::new()
        } else {
            format!("; only rows with {}", tests.join(" and "))
        };
        match &rule.reach {
            Reach::Product(why) => format!("{class}: {why}{only}"),
            Reach::Row(bindings) => {
                let names = |columns: &Vec<Column>| {
                    let names: Vec<&str> =
                        columns.iter().map(|Column { name, .. }| name.as_str()).collect();
                    names.join(" = ")
                };
                format!("{class}: {}{only}", self.bound(bindings, names))
            }
            Reach::Lookup(lookup) => {
                let bound = self.bound(&lookup.parameters, |by| lookup.in_words(by));
                let over = lookup.tables.join(", ");
                if over.is_empty() {
                    format!("{class}: {bound}{only}")
                } else {
                    format!("{class} over {over}: {bound}{only}")
                }
            }
        }
    }

    fn bound<T>(&self, bindings: &[Binding<T>], by: impl Fn(&T) -> String) -> String {
        let equations =
            self.parameters.iter().zip(bindings).map(|(parameter, binding)| match binding {
                Binding::Any => format!(":{parameter} is not determined"),
                Binding::Text(of) | Binding::Number(of) => format!("{} = :{parameter}", by(of)),
                Binding::AtMost(_, of) => format!("{} >= :{parameter}", by(of)),
                Binding::AtLeast(_, of) => format!("{} <= :{parameter}", by(of)),
            });
        equations.collect::<Vec<_>>().join(", ")
    }
}

fn test_in_words(is: &Is) -> String {
    let list = |texts: &std::collections::BTreeSet<String>| {
        let quoted: Vec<String> = texts.iter().map(|text| format!("'{text}'")).collect();
        quoted.join(", ")
    };
    match is {
        Is::Null => "is null".to_owned(),
        Is::NotNull => "is not null".to_owned(),
        Is::OneOf(texts) if texts.len() == 1 => format!("= {}", list(texts)),
        Is::OneOf(texts) => format!("in ({})", list(texts)),
        Is::NoneOf(texts) => format!("not in ({})", list(texts)),
        Is::AtMost(_, _, text) => format!("<= {text}"),
        Is::AtLeast(_, _, text) => format!(">= {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::TableId,
        depend::{TableRules, Test},
        pattern::Order,
    };

    #[test]
    fn says_class_and_why() {
        let column = |name: &str| Column { name: name.into(), type_oid: 20 };
        let table = |name: &str, rules| TableRules {
            name: name.into(),
            publishable: true,
            columns: None,
            rules,
        };
        let open = Test { column: column("state"), is: Is::OneOf(["open".into()].into()) };
        let rules = Rules {
            tables: [
                (
                    TableId(1),
                    table(
                        "public.orders",
                        vec![
                            Rule {
                                only: vec![open],
                                reach: Reach::Row(vec![Binding::Text(vec![
                                    column("customer_id"),
                                    column("id"),
                                ])]),
                            },
                            Rule {
                                only: vec![],
                                reach: Reach::Row(vec![Binding::AtMost(
                                    Order::Number,
                                    vec![column("total")],
                                )]),
                            },
                        ],
                    ),
                ),
                (
                    TableId(2),
                    table("public.items", vec![Rule::product("no column equals :customer")]),
                ),
            ]
            .into(),
            time: vec!["calls pg_catalog.now()".into()],
            row_security: vec![],
            parameters: vec!["customer".into()],
        };
        assert_eq!(
            rules.explain(),
            [
                "public.orders: direct: customer_id = id = :customer; only rows with state = 'open'",
                "public.orders: range: total >= :customer",
                "public.items: product: no column equals :customer",
                "time: calls pg_catalog.now()",
            ]
        );
    }
}
