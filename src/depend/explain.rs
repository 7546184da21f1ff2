//! Rules → words for people.

use super::rule::{Column, Rule, Rules};

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
        match rule {
            Rule::Product(why) => format!("product: {why}"),
            Rule::Direct(columns) => {
                let equations = self.parameters.iter().zip(columns).map(|(parameter, columns)| {
                    let names: Vec<&str> =
                        columns.iter().map(|Column { name, .. }| name.as_str()).collect();
                    format!("{} = :{parameter}", names.join(" = "))
                });
                format!("direct: {}", equations.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{change::TableId, depend::TableRules};

    #[test]
    fn says_class_and_why() {
        let column = |name: &str| Column { name: name.into(), type_oid: 20 };
        let table = |name: &str, rules| TableRules { name: name.into(), publishable: true, rules };
        let rules = Rules {
            tables: [
                (
                    TableId(1),
                    table(
                        "public.orders",
                        vec![Rule::Direct(vec![vec![column("customer_id"), column("id")]])],
                    ),
                ),
                (
                    TableId(2),
                    table("public.items", vec![Rule::Product("no column equals :customer".into())]),
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
                "public.orders: direct: customer_id = id = :customer",
                "public.items: product: no column equals :customer",
                "time: calls pg_catalog.now()",
            ]
        );
    }
}
