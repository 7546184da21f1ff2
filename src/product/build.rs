//! Build: a draft and what Postgres said of it → a product, with its types settled and its fingerprint.

use sha2::{Digest, Sha256};

use crate::{
    description::{Description, OutputColumn, ParameterSpec, Type},
    entry::Fingerprint,
};

use super::{
    Draft, Fault, Means, Product,
    parameter::{Canonical, Form, Parameter},
};

/// Makes the product of a draft.
///
/// # Errors
/// Every fault found.
pub fn build(draft: Draft, description: Description) -> Result<Product, Vec<Fault>> {
    let mut faults = refusals(&draft, &description);
    let parameters = parameters(&draft, &description.parameters, &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    let shape = shape(&draft, &parameters, &description.columns);
    let fingerprint = fingerprint(&draft, &parameters, &description, shape);
    Ok(Product { draft, parameters, description, fingerprint, shape, by_time: false })
}

fn refusals(draft: &Draft, description: &Description) -> Vec<Fault> {
    let mut faults = Vec::new();
    if description.columns.is_empty() {
        faults.push(draft.fault(
            draft.question.offset,
            "the answer has no columns",
            "select something",
        ));
    }
    for table in description
        .tables
        .iter()
        .filter(|table| table.row_security && !draft.policy.own_row_security)
    {
        let what = format!("row security of {}.{} applies to kck's role", table.schema, table.name);
        let hint = "every reader gets the rows that kck's role may see: say so with rls = \"kck\", or read another table";
        faults.push(draft.fault(draft.question.offset, what, hint));
    }
    faults
}

/// The parameters with their types.
pub(super) fn parameters(draft: &Draft, types: &[Type], faults: &mut Vec<Fault>) -> Vec<Parameter> {
    let mut parameters = Vec::with_capacity(draft.parameters());
    for (spec, type_) in draft.question.parameters.iter().zip(types).take(draft.parameters()) {
        match parameter(draft, spec, type_) {
            Ok(parameter) => parameters.push(parameter),
            Err(fault) => faults.push(fault),
        }
    }
    parameters
}

fn parameter(draft: &Draft, spec: &ParameterSpec, type_: &Type) -> Result<Parameter, Fault> {
    if type_.kind == 'p' {
        let what = format!("parameter '{}' cannot be of type {}", spec.name, type_.name);
        return Err(draft.fault(spec.offset, what, "name its type in params"));
    }
    let mut parameter = Parameter {
        name: spec.name.clone(),
        form: Form::of(type_),
        type_: type_.clone(),
        default: spec.default.clone(),
    };
    if let Some(default) = &spec.default {
        match parameter.canonical(default) {
            Ok(Canonical::Text(text)) => parameter.default = Some(text),
            Ok(Canonical::AskSource) => {}
            Err(bad) => {
                return Err(draft.fault(
                    spec.offset,
                    bad.to_string(),
                    "write a default of that type",
                ));
            }
        }
    }
    Ok(parameter)
}

/// Writes each text with its length before it, so that no two lists of texts are one.
#[derive(Default)]
struct Hash(Sha256);

impl Hash {
    fn add(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text);
    }

    fn add_type(&mut self, type_: &Type) {
        self.add(&format!("{} {} {}", type_.oid, type_.kind, type_.name));
    }

    /// Who makes the answers where that is not the source, and what from.
    fn add_recipe(&mut self, draft: &Draft) {
        let Some(outside) = draft.recipe.outside() else { return };
        self.add(&match &outside.means {
            Means::Exec { command, .. } => format!("exec {command:?}"),
            Means::Http { url, headers } => format!("http {url} {headers:?}"),
        });
        for other in &outside.made_of {
            self.0.update(other.0);
        }
    }

    fn fingerprint(self) -> Fingerprint {
        let mut first = [0; 16];
        for (to, from) in first.iter_mut().zip(self.0.finalize()) {
            *to = from;
        }
        Fingerprint(first)
    }
}

/// What a product's answers mean to those who depend on them, as far as files say it.
pub(super) fn meaning(draft: &Draft) -> Fingerprint {
    let mut hash = Hash::default();
    hash.add("meaning");
    hash.add(&draft.question.sql(|index| format!("\0{index}\0")));
    hash.add(&format!("{:?} {}", draft.policy.result, draft.policy.change));
    hash.add_recipe(draft);
    hash.fingerprint()
}

/// The parameters are in it: with others the same text is another key.
fn shape(draft: &Draft, parameters: &[Parameter], columns: &[OutputColumn]) -> Fingerprint {
    let mut hash = Hash::default();
    hash.add("shape");
    hash.add(&parameters.len().to_string());
    for parameter in parameters {
        hash.add(&parameter.name);
        hash.add_type(&parameter.type_);
    }
    hash.add(&format!("{:?}", draft.policy.result));
    if !draft.recipe.is_sql() {
        hash.add(draft.recipe.kind());
    }
    for column in columns {
        hash.add(&column.name);
        hash.add_type(&column.type_);
    }
    hash.fingerprint()
}

/// The tree is left out: it names the temporary view that it came from. What it means is in the text, the
/// objects and their definitions.
fn fingerprint(
    draft: &Draft,
    parameters: &[Parameter],
    description: &Description,
    shape: Fingerprint,
) -> Fingerprint {
    let mut hash = Hash::default();
    hash.add("product");
    hash.add(&draft.question.sql(|index| format!("\0{index}\0")));
    hash.add(&format!("{shape:?} {}", draft.policy.change));
    hash.add_recipe(draft);
    for parameter in parameters {
        hash.add_type(&parameter.type_);
    }
    for table in &description.tables {
        let crate::description::Table { id, schema, name, kind, persistence, columns, .. } = table;
        hash.add(&format!("table {} {kind} {persistence} {}", id.0, columns.len()));
        hash.add(schema);
        hash.add(name);
        for (number, (name, type_oid)) in columns {
            hash.add(&format!("{number} {type_oid}"));
            hash.add(name);
        }
    }
    for function in &description.functions {
        hash.add(&format!(
            "function {} {} {}",
            function.oid, function.volatility, function.language
        ));
    }
    hash.add(&format!(
        "{:?} {:?}",
        description.comparisons, description.nondeterministic_collations
    ));
    hash.add(&description.definitions);
    hash.fingerprint()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{description::Table, product::file};
    use std::path::Path;

    fn type_(oid: u32, name: &str, kind: char) -> Type {
        Type { oid, name: name.to_owned(), kind }
    }

    /// What Postgres says of `select 1`.
    pub(in crate::product) fn one_column() -> Description {
        let column = OutputColumn { name: "c".to_owned(), type_: type_(23, "integer", 'b') };
        Description { columns: vec![column], ..Description::default() }
    }

    fn described() -> Description {
        Description {
            parameters: vec![type_(20, "bigint", 'b')],
            tables: vec![Table::plain(16_384, "t")],
            ..one_column()
        }
    }

    fn built(text: &str, description: Description) -> Result<Product, String> {
        let draft = file::draft("p", Path::new("p.sql"), text.to_owned()).unwrap();
        build(draft, description).map_err(|faults| faults[0].to_string())
    }

    #[test]
    fn a_fingerprint_is_of_the_meaning() {
        let base = built("select :id", described()).unwrap();
        let same = [
            built("select :id -- a note", described()),
            built("/* kck\nexpire = \"1h\" */ select :id", described()),
            built(
                "/* kck\nrefresh = [\"change\", \"every 1h\"]\nwarm = \"select 1\" */ select :id",
                described(),
            ),
            built(
                "select :id",
                Description {
                    catalogue: "x".to_owned(),
                    tree: Some("x".to_owned()),
                    ..described()
                },
            ),
        ];
        for product in same {
            assert_eq!(product.unwrap().fingerprint, base.fingerprint);
        }
        let mut column = described();
        column.tables[0].columns.insert(2, ("b".to_owned(), 25));
        let mut typed = described();
        typed.parameters[0] = type_(23, "integer", 'b');
        let other = [
            built("select :id + 1", described()),
            built("/* kck\nresult = \"row\" */ select :id", described()),
            built("/* kck\nrefresh = [] */ select :id", described()),
            built("select :id", column),
            built("select :id", typed),
            built("select :id", Description { definitions: "x".to_owned(), ..described() }),
        ];
        for product in other {
            assert_ne!(product.unwrap().fingerprint, base.fingerprint);
        }
    }

    #[test]
    fn a_shape_is_of_the_answer() {
        let base = built("select :id", described()).unwrap();
        assert_eq!(built("select :id + 1", described()).unwrap().shape, base.shape);
        assert_ne!(
            built("/* kck\nresult = \"row\" */ select :id", described()).unwrap().shape,
            base.shape
        );
        assert_ne!(built("select :other", described()).unwrap().shape, base.shape);
        let mut named = described();
        named.columns[0].name = "d".to_owned();
        assert_ne!(built("select :id", named).unwrap().shape, base.shape);
    }

    #[test]
    fn row_security_is_refused_unless_wanted() {
        let mut description = described();
        description.tables[0].row_security = true;
        let fault = built("select :id", description.clone()).unwrap_err();
        assert!(fault.starts_with("p.sql:1:1: row security of public.t applies"), "{fault}");
        assert!(built("/* kck\nrls = \"kck\" */ select :id", description).is_ok());
    }

    #[test]
    fn defaults_are_canonical() {
        let product =
            built("/* kck\nparams = { id = { default = \"007\" } } */ select :id", described())
                .unwrap();
        assert_eq!(product.parameters[0].default.as_deref(), Some("7"));
        let fault =
            built("/* kck\nparams = { id = { default = \"x\" } } */ select :id", described())
                .unwrap_err();
        assert!(
            fault.starts_with("p.sql:2:12: parameter 'id' of type bigint cannot be 'x'"),
            "{fault}"
        );
    }

    #[test]
    fn an_answer_has_columns_and_a_parameter_a_type() {
        let nothing = Description::default();
        assert!(built("select", nothing).unwrap_err().contains("no columns"));
        let mut record = described();
        record.parameters[0] = type_(2249, "record", 'p');
        assert!(built("select :id", record).unwrap_err().contains("cannot be of type record"));
    }
}
