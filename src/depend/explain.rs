//! Rules → words for people.

use super::rule::{Binding, Class, Column, Is, Reach, Rule, Rules, Test};
use crate::explanation::{self, Explanation};

impl Rules {
    /// How the product follows its tables.
    #[must_use]
    pub fn explanation(&self, product: &str) -> Explanation {
        let tables = self.tables.values().map(|table| {
            let class = table.rules.iter().map(Rule::class).max().unwrap_or(Class::Product);
            explanation::Table {
                table: table.name.clone(),
                class: class.to_string(),
                costs: costs(class),
                columns: table.columns.clone(),
                rules: table.rules.iter().map(|rule| self.rule_in_words(rule)).collect(),
                finer: table.finer.clone(),
            }
        });
        Explanation {
            product: product.to_owned(),
            class: self.class().to_string(),
            parameters: self.parameters.clone(),
            tables: tables.collect(),
            time: self.time.clone(),
            products: self.products.clone(),
            depends: self.depends.clone(),
            refresh: Vec::new(),
            warm: None,
        }
    }

    /// A line for each way in which a table is read, and one for each reason of class time.
    #[must_use]
    pub fn explain(&self) -> Vec<String> {
        let tables = self.tables.values().flat_map(|table| {
            table.rules.iter().map(move |rule| {
                let said = self.rule_in_words(rule);
                let only = if said.only.is_empty() {
                    String::new()
                } else {
                    format!("; only rows with {}", said.only.join(" and "))
                };
                format!("{}: {}: {}{only}", table.name, said.class, said.touches)
            })
        });
        tables.chain(self.time.iter().map(|reason| format!("time: {reason}"))).collect()
    }

    fn rule_in_words(&self, rule: &Rule) -> explanation::Rule {
        let tests = rule.only.iter().map(|any| any_in_words(any));
        let touches = match &rule.reach {
            Reach::Product(why) => why.clone(),
            Reach::Row(bindings) => {
                let names = |columns: &Vec<Column>| {
                    let names: Vec<&str> =
                        columns.iter().map(|Column { name, .. }| name.as_str()).collect();
                    names.join(" = ")
                };
                self.bound(bindings, names)
            }
            Reach::Lookup(lookup) => {
                let bound = self.bound(&lookup.parameters, |by| lookup.in_words(by));
                if lookup.tables.is_empty() {
                    bound
                } else {
                    format!("{bound} over {}", lookup.tables.join(", ").replace('"', ""))
                }
            }
        };
        explanation::Rule { class: rule.class().to_string(), touches, only: tests.collect() }
    }

    fn bound<T>(&self, bindings: &[Binding<T>], by: impl Fn(&T) -> String) -> String {
        let equations =
            self.parameters.iter().zip(bindings).map(|(parameter, binding)| match binding {
                Binding::Any => format!("any :{parameter}"),
                Binding::Text(of) | Binding::Number(of) => format!("{} = :{parameter}", by(of)),
                Binding::AtMost(_, of) => format!("{} >= :{parameter}", by(of)),
                Binding::AtLeast(_, of) => format!("{} <= :{parameter}", by(of)),
            });
        equations.collect::<Vec<_>>().join(", ")
    }
}

/// What a change of a table costs under its coarsest rule.
fn costs(class: Class) -> &'static str {
    match class {
        Class::Direct => "a hash",
        Class::Lookup => "one indexed query for all changes that arrive together",
        Class::Partial => "a look into an index of the tracked keys",
        Class::Range => "a look into an ordered index of the tracked keys",
        Class::Product | Class::Time => "a refresh of every tracked key that is read",
    }
}

fn any_in_words(any: &[Test]) -> String {
    let words = |test: &Test| format!("{} {}", test.column.name, test_in_words(&test.is));
    match any {
        [test] => words(test),
        any => format!("({})", any.iter().map(words).collect::<Vec<_>>().join(" or ")),
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
    use crate::{change::TableId, depend::TableRules, pattern::Order};

    #[test]
    fn says_class_and_why() {
        let column = |name: &str| Column { name: name.into(), type_oid: 20 };
        let table = |name: &str, rules| TableRules {
            name: name.into(),
            publishable: true,
            columns: None,
            told: None,
            rules,
            finer: vec![],
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
                                only: vec![vec![open]],
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
            mislabelled: vec![],
            parameters: vec!["customer".into()],
            products: vec![],
            depends: vec![],
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
