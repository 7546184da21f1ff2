//! Products that read others → statements that hold the others' SQL: `from kck.orders_of(:c) o` becomes a subquery.
//!
//! It is then one query for Postgres, and one analysis. An argument that is one parameter or constant takes the
//! parameter's place in the other's SQL; any other is a column of a subquery beside it, so that its names mean what
//! they mean where it stands.

use std::{collections::BTreeMap, path::Path};

use super::{
    Argument, Call, Draft, Fault, Outside, Recipe,
    build::meaning,
    depends::{Reads, product, strangers},
    parse,
    recipe::On,
};
use crate::description::{ParameterSpec, Question};

/// Products within each other.
const DEPTH_MAX: usize = 16;
/// Bytes of a statement with all that it holds.
const STATEMENT_BYTES_MAX: usize = 1 << 20;

/// What each file says, with the SQL of the products that it reads.
pub(super) fn composed<'a>(
    said: impl Iterator<Item = (&'a str, &'a Result<Draft, Vec<Fault>>)>,
) -> BTreeMap<String, Result<Draft, Vec<Fault>>> {
    let said: BTreeMap<&str, &Result<Draft, Vec<Fault>>> = said.collect();
    let mut composer = Composer { said: &said, done: BTreeMap::new() };
    for name in said.keys() {
        composer.compose(name, &mut Vec::new());
    }
    composer.done
}

struct Composer<'a> {
    said: &'a BTreeMap<&'a str, &'a Result<Draft, Vec<Fault>>>,
    done: BTreeMap<String, Result<Draft, Vec<Fault>>>,
}

impl Composer<'_> {
    /// `around` are the products that are being composed, from the outermost.
    fn compose(&mut self, name: &str, around: &mut Vec<String>) {
        if self.done.contains_key(name) {
            return;
        }
        let Some(said) = self.said.get(name) else { return };
        let composed = match said {
            Ok(draft) if !draft.calls.is_empty() || !draft.recipe.is_sql() => {
                around.push(name.to_owned());
                let composed = match draft.recipe.outside() {
                    None => self.with_parts(draft, around),
                    Some(outside) => self.with_depends(draft, outside, around),
                };
                around.pop();
                composed
            }
            said => (*said).clone(),
        };
        self.done.insert(name.to_owned(), composed);
    }

    fn with_parts(&mut self, draft: &Draft, around: &mut Vec<String>) -> Result<Draft, Vec<Fault>> {
        let question = &draft.question;
        let mut text = Text { sql: String::new(), parts: vec![(0, question.offset)], draft };
        let mut at = question.offset;
        for (number, call) in draft.calls.iter().enumerate() {
            let inner = self.inner(draft, call, around).map_err(|fault| vec![fault])?;
            text.own(at, call.at.start);
            text.part(call.at.start);
            text.sql.push_str(&subquery(draft, call, &inner, number));
            text.part(call.at.end);
            at = call.at.end;
            if text.sql.len() > STATEMENT_BYTES_MAX {
                let hint = "let it read fewer products";
                return Err(vec![draft.fault(call.at.start, "the statement is too long", hint)]);
            }
        }
        text.own(at, question.offset + length(question));
        let (sql, parts) = (text.sql, text.parts);
        let statement = parse::read(Path::new(""), &sql, 0).map_err(|fault| {
            let first = draft.calls.first().map_or(question.offset, |call| call.at.start);
            let what = format!("with the products that it reads: {}", fault.message);
            vec![draft.fault(first, what, "a product is read in FROM, as a table is")]
        })?;
        let place = |hole: &usize| {
            let (name, _) = statement.names.get(*hole)?;
            question.parameters.iter().position(|parameter| parameter.name == *name)
        };
        let composed = Question {
            holes: statement.holes.iter().filter_map(place).collect(),
            pieces: statement.pieces,
            mentions: statement.mentions,
            parts,
            ..question.clone()
        };
        Ok(Draft { question: composed, ..draft.clone() })
    }

    /// What a product of another recipe depends on, as SQL that reads it.
    fn with_depends(
        &mut self,
        draft: &Draft,
        outside: &Outside,
        around: &mut Vec<String>,
    ) -> Result<Draft, Vec<Fault>> {
        let (mut reads, mut made_of) = (Reads::new(), Vec::new());
        let mut parameters = draft.question.parameters.clone();
        for depends in &outside.depends {
            match &depends.on {
                On::Table(name) => reads.table(name, depends),
                On::Product(name) => {
                    let inner = self
                        .product(draft, name, depends.offset, around)
                        .map_err(|fault| vec![fault])?;
                    strangers(draft, depends, &inner)?;
                    product(&mut reads, depends, &inner, &mut parameters);
                    made_of.push(meaning(&inner));
                }
            }
            if reads.sql.len() > STATEMENT_BYTES_MAX {
                let hint = "let it depend on less";
                let what = "what it depends on is too long a statement";
                return Err(vec![draft.fault(depends.offset, what, hint)]);
            }
        }
        let Reads { sql, parts } = reads.finish();
        let statement = parse::read(Path::new(""), &sql, 0).map_err(|fault| {
            let what = format!("what it depends on cannot be read: {}", fault.message);
            vec![draft.fault(outside.depends.first().map_or(0, |one| one.offset), what, fault.hint)]
        })?;
        let place = |hole: &usize| {
            let (name, _) = statement.names.get(*hole)?;
            parameters.iter().position(|parameter| parameter.name == *name)
        };
        let holes = statement.holes.iter().filter_map(place).collect();
        let hidden = parameters.len() - draft.question.parameters.len();
        let question = Question {
            parameters,
            pieces: statement.pieces,
            holes,
            mentions: statement.mentions,
            offset: 0,
            parts,
        };
        let recipe = Recipe::Outside(Box::new(Outside { hidden, made_of, ..outside.clone() }));
        Ok(Draft { question, recipe, ..draft.clone() })
    }

    /// A product that is read, itself composed.
    fn inner(
        &mut self,
        draft: &Draft,
        call: &Call,
        around: &mut Vec<String>,
    ) -> Result<Draft, Fault> {
        let name = &call.product;
        let fault = |what: String, hint: &str| Err(draft.fault(call.at.start, what, hint));
        let inner = self.product(draft, name, call.at.start, around)?;
        if !inner.recipe.is_sql() {
            let what = format!("'{name}' is of kind {}: SQL cannot read it", inner.recipe.kind());
            return fault(what, "read tables and products in SQL, or let a program read both");
        }
        let parameters = &inner.question.parameters;
        let least = parameters.iter().take_while(|one| one.default.is_none()).count();
        let given = call.arguments.len();
        if given < least || parameters.len() < given {
            let names: Vec<&str> = parameters.iter().map(|one| one.name.as_str()).collect();
            let what = format!(
                "'{name}' takes {} arguments, not {given}: {}",
                parameters.len(),
                names.join(", ")
            );
            return fault(what, "give it one value a parameter");
        }
        Ok(inner)
    }

    /// A product that another one reads or depends on, itself composed.
    fn product(
        &mut self,
        draft: &Draft,
        name: &str,
        at: usize,
        around: &mut Vec<String>,
    ) -> Result<Draft, Fault> {
        let fault = |what: String, hint: &str| Err(draft.fault(at, what, hint));
        if around.iter().any(|product| product == name) {
            let cycle = around.iter().skip_while(|product| *product != name);
            let names: Vec<&str> = cycle.map(String::as_str).chain([name]).collect();
            let what = format!("products read each other in a circle: {}", names.join(" → "));
            return fault(what, "let one of them read the tables itself");
        }
        if around.len() >= DEPTH_MAX {
            let what = format!("products within each other are deeper than {DEPTH_MAX}");
            return fault(what, "let this one read the tables itself");
        }
        self.compose(name, around);
        match self.done.get(name) {
            None => fault(format!("there is no product '{name}'"), "kck check lists them"),
            Some(Err(_)) => fault(
                format!("the product '{name}' that it reads does not load"),
                "mend that one first",
            ),
            Some(Ok(inner)) => Ok(inner.clone()),
        }
    }
}

/// A statement being written.
struct Text<'d> {
    sql: String,
    parts: Vec<(usize, usize)>,
    draft: &'d Draft,
}

impl Text<'_> {
    fn own(&mut self, from: usize, to: usize) {
        self.sql.push_str(self.draft.text.get(from..to).unwrap_or_default());
    }

    /// From here on it comes from that offset of the file.
    fn part(&mut self, offset: usize) {
        self.parts.push((self.sql.len(), offset));
    }
}

/// Of a statement with its parameters as `:name`.
fn length(question: &Question) -> usize {
    let holes = question.holes.iter().filter_map(|hole| question.parameters.get(*hole));
    let holes: usize = holes.map(|parameter| 1 + parameter.name.len()).sum();
    question.pieces.iter().map(String::len).sum::<usize>() + holes
}

/// The SQL that stands for a call.
fn subquery(draft: &Draft, call: &Call, inner: &Draft, number: usize) -> String {
    let arguments = format!("kck_arguments_{number}");
    let parameters = inner.question.parameters.iter().zip(0..);
    let values: Vec<(String, Option<String>)> = parameters
        .map(|(parameter, at)| value(draft, call.arguments.get(at), parameter, at, &arguments))
        .collect();
    // A comment may end the other's text.
    let sql = inner
        .question
        .sql(|parameter| values.get(parameter).map_or(String::new(), |(value, _)| value.clone()));
    let columns: Vec<&str> = values.iter().filter_map(|(_, column)| column.as_deref()).collect();
    let name = if call.named { String::new() } else { format!(" as \"{}\"", call.product) };
    if columns.is_empty() {
        return format!("(\n{sql}\n){name}");
    }
    format!(
        "lateral (select kck_product_{number}.* from (select {}) as {arguments} cross join lateral (\n{sql}\n) as kck_product_{number}){name}",
        columns.join(", ")
    )
}

/// What stands for a parameter, and the column that it needs beside it.
fn value(
    draft: &Draft,
    argument: Option<&Argument>,
    parameter: &ParameterSpec,
    at: usize,
    arguments: &str,
) -> (String, Option<String>) {
    let typed = |value: String| match &parameter.type_name {
        Some(name) => format!("{value}::{name}"),
        None => value,
    };
    match argument {
        None => {
            let default = parameter.default.clone().unwrap_or_default().replace('\'', "''");
            (typed(format!("('{default}')")), None)
        }
        Some(argument) => {
            let text = draft.text.get(argument.at.clone()).unwrap_or_default();
            if argument.plain {
                (typed(format!("({text})")), None)
            } else {
                let column = typed(format!("({text})"));
                (format!("{arguments}.p{at}"), Some(format!("{column} as p{at}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::file;

    fn composed_of(files: &[(&str, &str)]) -> BTreeMap<String, Result<Draft, Vec<Fault>>> {
        let said: Vec<(&str, Result<Draft, Vec<Fault>>)> = files
            .iter()
            .map(|(name, sql)| {
                let path = format!("{name}.sql");
                (*name, file::draft(name, Path::new(&path), (*sql).to_owned()))
            })
            .collect();
        composed(said.iter().map(|(name, said)| (*name, said)))
    }

    fn sql(files: &[(&str, &str)], name: &str) -> String {
        let all = composed_of(files);
        let draft = all[name].as_ref().unwrap();
        draft.question.sql(|index| format!("${}", draft.question.parameters[index].name))
    }

    fn fault(files: &[(&str, &str)], name: &str) -> String {
        composed_of(files)[name].as_ref().unwrap_err()[0].to_string()
    }

    const ORDERS: (&str, &str) =
        ("orders_of", "select id, total from orders where customer_id = :customer -- theirs");

    #[test]
    fn a_parameter_takes_the_place_of_another() {
        let outer = ("worth", "select sum(total) from kck.orders_of(:c) o where o.total > :least");
        assert_eq!(
            sql(&[ORDERS, outer], "worth"),
            "select sum(total) from (\nselect id, total from orders where customer_id = ($c)\n) o where o.total > $least"
        );
    }

    #[test]
    fn without_a_name_it_has_the_products() {
        let outer = ("worth", "select * from kck.orders_of(7) where total > 1");
        assert_eq!(
            sql(&[ORDERS, outer], "worth"),
            "select * from (\nselect id, total from orders where customer_id = (7)\n) as \"orders_of\" where total > 1"
        );
    }

    #[test]
    fn what_is_computed_is_a_column_beside_it() {
        let outer = ("all", "select c.id, o.id from customers c, kck.orders_of(c.id + :n) as o");
        assert_eq!(
            sql(&[ORDERS, outer], "all"),
            "select c.id, o.id from customers c, lateral (select kck_product_0.* from (select (c.id + $n) as p0) as kck_arguments_0 cross join lateral (\nselect id, total from orders where customer_id = kck_arguments_0.p0\n) as kck_product_0) as o"
        );
    }

    #[test]
    fn declared_types_and_defaults_are_kept() {
        let inner = (
            "page",
            "/* kck\nparams = { c = \"bigint\", n = { type = \"bigint\", default = \"20\" } } */ select id from orders where customer_id = :c limit :n",
        );
        let outer = ("first", "select * from kck.page(:c) p");
        assert_eq!(
            sql(&[inner, outer], "first"),
            "select * from (\nselect id from orders where customer_id = ($c)::bigint limit ('20')::bigint\n) p"
        );
    }

    #[test]
    fn products_within_products_are_one_statement() {
        let middle = ("worth", "select sum(total) as s from kck.orders_of(:c) o");
        let outer = ("rich", "select * from kck.worth(:who) w where s > 3");
        let sql = sql(&[ORDERS, middle, outer], "rich");
        assert!(sql.contains("customer_id = (($who))") && !sql.contains("kck."), "{sql}");
    }

    #[test]
    fn faults_say_where_and_what_to_do() {
        let circle = [("a", "select * from kck.b(1)"), ("b", "select 1 from kck.a()")];
        assert_eq!(
            fault(&circle, "b"),
            "b.sql:1:15: products read each other in a circle: a → b → a\n  hint: let one of them read the tables itself"
        );
        for (files, name, wanted) in [
            (
                &[("a", "select * from kck.a()")][..],
                "a",
                "a.sql:1:15: products read each other in a circle: a → a",
            ),
            (
                &[("a", "select * from kck.nobody(1)")],
                "a",
                "a.sql:1:15: there is no product 'nobody'",
            ),
            (
                &[ORDERS, ("a", "select * from kck.orders_of()")],
                "a",
                "a.sql:1:15: 'orders_of' takes 1 arguments, not 0: customer",
            ),
            (
                &[("b", "select 1;;x"), ("a", "select * from kck.b()")],
                "a",
                "a.sql:1:15: the product 'b' that it reads does not load",
            ),
        ] {
            let said = fault(files, name);
            assert!(said.starts_with(wanted), "{said}");
        }
    }

    #[test]
    fn a_place_in_the_whole_is_a_place_in_the_file() {
        let outer = ("worth", "select sum(total) from kck.orders_of(:c) o where o.totl > :least");
        let all = composed_of(&[ORDERS, outer]);
        let draft = all["worth"].as_ref().unwrap();
        let write = |index: usize| format!("${}", index + 1);
        let sql = draft.question.sql(write);
        let offset = |part: &str| draft.question.offset_of(sql.find(part).unwrap(), write);
        assert_eq!(offset("sum("), outer.1.find("sum(").unwrap());
        assert_eq!(offset("totl"), outer.1.find("totl").unwrap());
        let inside = offset("customer_id");
        assert!(draft.calls[0].at.contains(&inside) || draft.calls[0].at.end == inside, "{inside}");
    }

    /// The same of files of either form, by their names.
    fn files(files: &[(&str, &str)]) -> BTreeMap<String, Result<Draft, Vec<Fault>>> {
        let read = |(name, text): &(&str, &str)| {
            let (stem, extension) = name.split_once('.').unwrap();
            let said = match extension {
                "toml" => crate::product::recipe::read(stem, Path::new(name), (*text).to_owned()),
                _ => file::draft(stem, Path::new(name), (*text).to_owned()),
            };
            (stem.to_owned(), said)
        };
        let said: Vec<(String, Result<Draft, Vec<Fault>>)> = files.iter().map(read).collect();
        composed(said.iter().map(|(name, said)| (name.as_str(), said)))
    }

    fn program(params: &str, depends: &str) -> String {
        format!(
            "kind = \"exec\"\ncommand = [\"w\"]\nparams = {{ {params} }}\ndepends = [{depends}]"
        )
    }

    #[test]
    fn what_a_program_depends_on_is_read_in_sql() {
        let text = program(
            "c = \"bigint\"",
            "{ table = \"sales\", match = { customer = \"c\" } }, { product = \"orders_of\", match = { customer_id = \"c\" } }",
        );
        let two = "/* kck\nparams = { customer_id = \"bigint\", state = \"text\" } */\nselect 1 from orders where customer_id = :customer_id and state = :state";
        let all = files(&[("orders_of.sql", two), ("p.toml", &text)]);
        let draft = all["p"].as_ref().unwrap();
        let question = &draft.question;
        let sql = question.sql(|index| format!("${}", question.parameters[index].name));
        assert_eq!(
            sql,
            "select case when (\"sales\".*) is null then null::pg_catalog.json end as value from \"sales\" where \"sales\".\"customer\" = $c\nunion all\nselect null::pg_catalog.json as value from (\nselect 1 from orders where customer_id = ($c)::bigint and state = ($kck_any_1)::text\n) as kck_product\nunion all\nselect null::pg_catalog.json as value where ($c = null::bigint) is null"
        );
        assert_eq!((draft.parameters(), question.parameters.len()), (1, 2));
    }

    #[test]
    fn what_a_program_depends_on_is_part_of_what_it_means() {
        let on = |name: &str| program("", &format!("{{ product = \"{name}\" }}"));
        let meant = |rate: &str, orders: &str| {
            let (middle, top) = (on("rate"), on("orders"));
            let (middle, top) = (middle.as_str(), top.as_str());
            let all = [("rate.toml", rate), ("orders.sql", orders), ("a.toml", middle)];
            let all = files(&[all[0], all[1], all[2], ("b.toml", &on("a")), ("c.toml", top)]);
            ["b", "c"].map(|name| meaning(all[name].as_ref().unwrap()))
        };
        let rate = |url: &str| format!("kind = \"http\"\nurl = \"{url}\"\nexpire = \"10m\"");
        let orders = "/* kck\nrefresh = [\"every 1h\"] */ select 1";
        let base = meant(&rate("http://one"), orders);
        assert_eq!(meant(&rate("http://one"), orders), base);
        let edited = meant(&rate("http://other"), orders);
        assert!(edited[0] != base[0] && edited[1] == base[1]);
        // It follows no changes: its SQL is not read here.
        let edited = meant(&rate("http://one"), &orders.replace("select 1", "select 2"));
        assert!(edited[0] == base[0] && edited[1] != base[1]);
    }

    #[test]
    fn circles_are_refused_with_their_path() {
        let on = |name: &str| program("", &format!("{{ product = \"{name}\" }}"));
        let (a, b) = (on("b"), on("c"));
        let all = files(&[("a.toml", &a), ("b.toml", &b), ("c.toml", &on("a"))]);
        let said = all["c"].as_ref().unwrap_err()[0].to_string();
        assert!(said.contains("in a circle: a → b → c → a"), "{said}");
        assert!(all["a"].is_err() && all["b"].is_err());
        let own = files(&[("a.toml", &on("a"))]);
        assert!(
            own["a"].as_ref().unwrap_err()[0].to_string().contains("a.toml:4:24: products read")
        );
    }

    #[test]
    fn a_program_names_what_there_is() {
        let orders = ("orders_of.sql", ORDERS.1);
        let said = |text: &str| {
            let all = files(&[orders, ("p.toml", text)]);
            all["p"].as_ref().unwrap_err()[0].to_string()
        };
        let on = |matched: &str| {
            program(
                "c = \"int\"",
                &format!("{{ product = \"orders_of\", match = {{ {matched} }} }}"),
            )
        };
        assert!(
            said(&program("", "{ product = \"nobody\" }")).contains("there is no product 'nobody'")
        );
        assert!(said(&on("id = \"c\"")).contains(
            "p.toml:4:47: product 'orders_of' has no parameter 'id'\n  hint: its parameters: customer"
        ));
        let text = program(
            "customer = \"int\"",
            "{ product = \"orders_of\", match = { c = \"customer\" } }",
        );
        assert!(said(&text).contains("turn it around"), "{}", said(&text));
    }

    #[test]
    fn sql_cannot_read_a_program() {
        let text = program("c = \"int\"", "{ table = \"t\" }");
        let all = files(&[("p.toml", &text), ("q.sql", "select * from kck.p(1)")]);
        let said = all["q"].as_ref().unwrap_err()[0].to_string();
        assert!(said.contains("'p' is of kind exec: SQL cannot read it"), "{said}");
    }
}
