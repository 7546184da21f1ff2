//! A model query → the node text and the description that Postgres would give of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    generate::Case,
    query::{
        BIGINT, Combine, Condition, Expression, INTEGER, Item, Join, KEYED, Leaf, Operator, Query,
        Shape, TABLES,
    },
};
use crate::{
    change::TableId,
    description::{Comparison, Description, Function, Table, Type},
};

/// `pg_class.oid` of the first table and of the first view.
const FIRST_TABLE: u32 = 100;
const FIRST_VIEW: u32 = 200;

pub(super) fn table_id(table: usize) -> TableId {
    TableId(FIRST_TABLE + u32::try_from(table).unwrap())
}

pub(super) fn table_name(table: usize) -> String {
    format!("t{table}")
}

pub(super) fn column_name(column: usize) -> String {
    format!("c{column}")
}

pub(super) fn type_name(type_oid: u32) -> &'static str {
    if type_oid == BIGINT { "bigint" } else { "integer" }
}

pub(super) fn description(case: &Case) -> Description {
    let mut writer = Writer { read: BTreeSet::new(), levels: Vec::new() };
    let tree = format!("({})", writer.query(&case.query));
    let views: BTreeMap<u32, String> = (FIRST_VIEW..)
        .zip(&case.views)
        .map(|(view, query)| (view, format!("({})", writer.query(query))))
        .collect();
    Description {
        parameters: case.parameters.iter().map(|type_oid| described_type(*type_oid)).collect(),
        tree: Some(tree),
        view_trees: views,
        tables: writer.read.iter().map(|table| described(*table)).collect(),
        functions: vec![function(2077, "current_setting", 's'), function(177, "int4pl", 'i')],
        comparisons: comparisons(),
        types: [INTEGER, BIGINT].map(|oid| (oid, type_name(oid).to_owned())).into(),
        little_endian: true,
        ..Description::default()
    }
}

fn described_type(oid: u32) -> Type {
    Type { oid, name: type_name(oid).to_owned(), kind: 'b' }
}

fn function(oid: u32, name: &str, volatility: char) -> Function {
    Function {
        oid,
        schema: "pg_catalog".to_owned(),
        name: name.to_owned(),
        volatility,
        language: "internal".to_owned(),
        strict: true,
        reads_tables: None,
        signature: name.to_owned(),
    }
}

fn described(table: usize) -> Table {
    let columns = (1..).zip(TABLES[table].iter().enumerate());
    Table {
        id: table_id(table),
        key: if KEYED[table] { [1].into() } else { [].into() },
        columns: columns.map(|(number, (at, oid))| (number, (column_name(at), *oid))).collect(),
        ..Table::plain(0, &table_name(table))
    }
}

/// Of integers in all four ways: left and right type, =, <>, <=, >=.
const OPERATORS: [(u32, u32, [u32; 4]); 4] = [
    (INTEGER, INTEGER, [96, 518, 523, 525]),
    (BIGINT, BIGINT, [410, 411, 414, 415]),
    (INTEGER, BIGINT, [15, 36, 80, 82]),
    (BIGINT, INTEGER, [416, 417, 420, 430]),
];

fn comparisons() -> BTreeMap<u32, (Comparison, u32, u32)> {
    let means = [Comparison::Equal, Comparison::Unequal, Comparison::AtMost, Comparison::AtLeast];
    let all = OPERATORS.iter().flat_map(|(left, right, operators)| {
        operators.iter().zip(means).map(|(operator, means)| (*operator, (means, *left, *right)))
    });
    all.collect()
}

fn operator(operator: Operator, left: u32, right: u32) -> u32 {
    let (.., operators) =
        OPERATORS.iter().find(|(one, other, _)| (*one, *other) == (left, right)).unwrap();
    match operator {
        Operator::Equal => operators[0],
        Operator::Unequal => operators[1],
        Operator::AtMost => operators[2],
        Operator::AtLeast => operators[3],
    }
}

struct Writer {
    /// The tables that were named.
    read: BTreeSet<usize>,
    /// Of each query around, the columns that are read of each leaf.
    levels: Vec<BTreeMap<usize, BTreeSet<usize>>>,
}

impl Writer {
    fn query(&mut self, query: &Query) -> String {
        self.levels.push(BTreeMap::new());
        let with = self.with(&query.with);
        let (entries, from, operations) = match &query.shape {
            Shape::Combined { how, all, branches } => {
                let entries: String =
                    branches.iter().map(|branch| self.derived(branch, false)).collect();
                (entries, String::new(), operations(*how, *all, &query.types()))
            }
            _ => {
                let mut relations = 0;
                let mut entries = String::new();
                for leaf in &query.leaves {
                    relations += usize::from(relation(leaf).is_some());
                    entries.push_str(&self.entry(relations, leaf));
                }
                let from = query.from.iter().map(|item| self.item(item)).collect();
                (entries, from, "<>".to_owned())
            }
        };
        let filter = self.conjuncts(&query.filter);
        let types = query.types();
        let targets: Vec<String> = match &query.shape {
            Shape::Combined { .. } => types
                .iter()
                .enumerate()
                .map(|(at, type_oid)| variable(0, 0, at, *type_oid))
                .collect(),
            _ => query.targets.iter().map(|target| self.expression(target)).collect(),
        };
        let targets: String = (1..).zip(targets).map(|(at, expression)| {
            format!("{{TARGETENTRY :expr {expression} :resno {at} :resname c{at} :ressortgroupref {at} :resjunk false}} ")
        }).collect();
        let shape = self.shape(query);
        let limit =
            query.limit.map_or("<>".to_owned(), |limit| constant(i64::try_from(limit).unwrap()));
        let rights = self.rights(query);
        self.levels.pop();
        format!(
            "{{QUERY :commandType 1 :hasTargetSRFs false {with} :rtable ({entries}) :rteperminfos ({rights}) \
            :jointree {{FROMEXPR :fromlist ({from}) :quals {filter}}} :targetList ({targets}) {shape} \
            :groupingSets <> :limitOffset <> :limitCount {limit} :setOperations {operations}}} "
        )
    }

    fn with(&mut self, with: &[Query]) -> String {
        if with.is_empty() {
            return ":cteList <>".to_owned();
        }
        let all: String = with
            .iter()
            .enumerate()
            .map(|(number, query)| {
                let query = self.query(query);
                format!("{{COMMONTABLEEXPR :ctename w{number} :ctematerialized 0 :ctequery {query} :cterecursive false}} ")
            })
            .collect();
        format!(":cteList ({all})")
    }

    fn shape(&mut self, query: &Query) -> String {
        let clauses = |targets: &mut dyn Iterator<Item = usize>| {
            let all: String = targets
                .map(|target| format!("{{SORTGROUPCLAUSE :tleSortGroupRef {}}} ", target + 1))
                .collect();
            if all.is_empty() { "<>".to_owned() } else { format!("({all})") }
        };
        let aggregates = matches!(query.shape, Shape::Grouped { .. })
            && query
                .targets
                .iter()
                .any(|target| matches!(target, Expression::Count | Expression::Max(_)));
        let width = query.targets.len();
        let (mut groups, mut having, mut windows, mut distinct, mut has) =
            ("<>".to_owned(), "<>".to_owned(), "<>".to_owned(), "<>".to_owned(), "");
        let mut aggregates = aggregates;
        match &query.shape {
            Shape::Grouped { keys, having: conditions } => {
                groups = clauses(&mut (0..*keys));
                having = self.conjuncts(conditions);
                aggregates |= !conditions.is_empty();
            }
            Shape::Distinct => distinct = clauses(&mut (0..width)),
            Shape::DistinctOn(keys) => {
                distinct = clauses(&mut (0..*keys));
                has = "on";
            }
            Shape::Windowed => {
                let apart = query.targets.iter().find_map(|target| match target {
                    Expression::Rank { apart, .. } => Some(apart.clone()),
                    _ => None,
                });
                let apart = clauses(&mut apart.unwrap().into_iter());
                windows = format!("({{WINDOWCLAUSE :partitionClause {apart}}})");
            }
            Shape::Plain | Shape::Combined { .. } => {}
        }
        format!(
            ":hasAggs {aggregates} :hasWindowFuncs {} :hasDistinctOn {} :groupClause {groups} :havingQual {having} \
            :windowClause {windows} :distinctClause {distinct}",
            matches!(query.shape, Shape::Windowed),
            has == "on",
        )
    }

    /// Which columns of each relation are read, for the rights to them.
    fn rights(&self, query: &Query) -> String {
        let read = self.levels.last().unwrap();
        let relations = query.leaves.iter().enumerate().filter_map(|(at, leaf)| {
            let relation = relation(leaf)?;
            let columns: String = read
                .get(&at)
                .into_iter()
                .flatten()
                .map(|column| format!(" {}", column + 8))
                .collect();
            Some(format!("{{RTEPERMISSIONINFO :relid {relation} :selectedCols (b{columns})}} "))
        });
        relations.collect()
    }

    fn entry(&mut self, number: usize, leaf: &Leaf) -> String {
        match leaf {
            Leaf::Table(_) | Leaf::View { .. } => {
                if let Leaf::Table(table) = leaf {
                    self.read.insert(*table);
                }
                let kind = if matches!(leaf, Leaf::Table(_)) { "r" } else { "v" };
                let relation = relation(leaf).unwrap();
                format!(
                    "{{RANGETBLENTRY :rtekind 0 :relid {relation} :relkind {kind} :perminfoindex {number} :inFromCl true}} "
                )
            }
            Leaf::Derived { query, lateral } => self.derived(query, *lateral),
            Leaf::With { levels, number, .. } => format!(
                "{{RANGETBLENTRY :rtekind 6 :ctename w{number} :ctelevelsup {levels} :relid 0 :inFromCl true}} "
            ),
        }
    }

    fn derived(&mut self, query: &Query, lateral: bool) -> String {
        let query = self.query(query);
        format!(
            "{{RANGETBLENTRY :rtekind 1 :subquery {query} :relid 0 :lateral {lateral} :inFromCl true}} "
        )
    }

    fn item(&mut self, item: &Item) -> String {
        match item {
            Item::Leaf(leaf) => format!("{{RANGETBLREF :rtindex {}}} ", leaf + 1),
            Item::Join { kind, left, right, on } => {
                let kind = match kind {
                    Join::Inner => 0,
                    Join::Left => 1,
                    Join::Full => 2,
                    Join::Right => 3,
                };
                let (left, right, on) = (self.item(left), self.item(right), self.conjuncts(on));
                format!(
                    "{{JOINEXPR :jointype {kind} :isNatural false :larg {left} :rarg {right} :quals {on} :rtindex 0}} "
                )
            }
        }
    }

    fn conjuncts(&mut self, conditions: &[Condition]) -> String {
        match conditions {
            [] => "<>".to_owned(),
            [one] => self.condition(one),
            all => self.boolean("and", all),
        }
    }

    fn boolean(&mut self, operator: &str, all: &[Condition]) -> String {
        let all: String = all.iter().map(|one| self.condition(one)).collect();
        format!("{{BOOLEXPR :boolop {operator} :args ({all})}} ")
    }

    fn condition(&mut self, condition: &Condition) -> String {
        match condition {
            Condition::Compare(means, one, other) => {
                let number = operator(*means, one.type_oid(), other.type_oid());
                let (one, other) = (self.expression(one), self.expression(other));
                compared(number, &one, &other)
            }
            Condition::Null(tested, wanted) => {
                let tested = self.expression(tested);
                format!(
                    "{{NULLTEST :arg {tested} :nulltesttype {} :argisrow false}} ",
                    u8::from(!wanted)
                )
            }
            Condition::OneOf { tested, values, negated } => {
                let means = if *negated { Operator::Unequal } else { Operator::Equal };
                let (type_oid, node) = (tested.type_oid(), self.expression(tested));
                if let [value] = values.as_slice() {
                    return compared(operator(means, type_oid, INTEGER), &node, &constant(*value));
                }
                let values: String = values.iter().map(|value| element(*value, type_oid)).collect();
                format!(
                    "{{SCALARARRAYOPEXPR :opno {} :useOr {} :inputcollid 0 :args ({node} \
                    {{ARRAYEXPR :element_typeid {type_oid} :elements ({values})}})}} ",
                    operator(means, type_oid, type_oid),
                    !negated,
                )
            }
            Condition::And(all) => self.conjuncts(all),
            Condition::Or(any) => self.boolean("or", any),
            Condition::Not(denied) => self.boolean("not", std::slice::from_ref(denied)),
            Condition::Exists(query) => {
                let query = self.query(query);
                format!(
                    "{{SUBLINK :subLinkType 0 :subLinkId 0 :testexpr <> :operName <> :subselect {query}}} "
                )
            }
            Condition::In(looked_up, query) => {
                let type_oid = query.types()[0];
                let number = operator(Operator::Equal, looked_up.type_oid(), type_oid);
                let found = format!("{{PARAM :paramkind 2 :paramid 1 :paramtype {type_oid}}} ");
                let compared = compared(number, &self.expression(looked_up), &found);
                let query = self.query(query);
                format!(
                    "{{SUBLINK :subLinkType 2 :subLinkId 0 :testexpr {compared} :operName (\"=\") :subselect {query}}} "
                )
            }
        }
    }

    fn expression(&mut self, expression: &Expression) -> String {
        match expression {
            Expression::Column { levels, leaf, column, type_oid } => {
                let at = self.levels.len() - 1 - levels;
                self.levels[at].entry(*leaf).or_default().insert(*column);
                variable(*levels, *leaf, *column, *type_oid)
            }
            Expression::Parameter(parameter, type_oid) => parameter_node(*parameter, *type_oid),
            Expression::Constant(value) => constant(*value),
            Expression::Plus(inner, more) => {
                let (inner, more) = (self.expression(inner), constant(*more));
                format!(
                    "{{OPEXPR :opno 551 :opfuncid 177 :opresulttype 23 :opretset false :inputcollid 0 :args ({inner} {more})}} "
                )
            }
            Expression::Coalesce(inner, value) => {
                let type_oid = inner.type_oid();
                let (inner, value) = (self.expression(inner), constant(*value));
                format!(
                    "{{COALESCEEXPR :coalescetype {type_oid} :coalescecollid 0 :args ({inner} {value})}} "
                )
            }
            Expression::Scalar(query, _) => {
                let query = self.query(query);
                format!(
                    "{{SUBLINK :subLinkType 4 :subLinkId 0 :testexpr <> :operName <> :subselect {query}}} "
                )
            }
            Expression::Count => "{AGGREF :aggfnoid 2803 :args <> :aggstar true} ".to_owned(),
            Expression::Max(inner) => {
                let inner = self.expression(inner);
                format!(
                    "{{AGGREF :aggfnoid 2116 :args ({{TARGETENTRY :expr {inner} :resno 1 :ressortgroupref 0 :resjunk false}})}} "
                )
            }
            Expression::Rank { .. } => {
                "{WINDOWFUNC :winfnoid 3101 :wintype 20 :args <> :winref 1} ".to_owned()
            }
        }
    }
}

fn relation(leaf: &Leaf) -> Option<u32> {
    match leaf {
        Leaf::Table(table) => Some(table_id(*table).0),
        Leaf::View { number, .. } => Some(FIRST_VIEW + u32::try_from(*number).unwrap()),
        Leaf::Derived { .. } | Leaf::With { .. } => None,
    }
}

fn operations(how: Combine, all: bool, types: &[u32]) -> String {
    let how = match how {
        Combine::Union => 1,
        Combine::Intersect => 2,
        Combine::Except => 3,
    };
    let types: String = types.iter().map(|oid| format!(" {oid}")).collect();
    format!(
        "{{SETOPERATIONSTMT :op {how} :all {all} :larg {{RANGETBLREF :rtindex 1}} :rarg {{RANGETBLREF :rtindex 2}} :colTypes (o{types})}}"
    )
}

fn variable(levels: usize, leaf: usize, column: usize, type_oid: u32) -> String {
    let (table, column) = (leaf + 1, column + 1);
    format!(
        "{{VAR :varno {table} :varattno {column} :vartype {type_oid} :varcollid 0 :varlevelsup {levels}}} "
    )
}

fn compared(operator: u32, one: &str, other: &str) -> String {
    format!(
        "{{OPEXPR :opno {operator} :opfuncid 0 :opresulttype 16 :opretset false :inputcollid 0 :args ({one} {other})}} "
    )
}

fn constant(value: i64) -> String {
    let bytes: Vec<String> = value.to_le_bytes().iter().map(u8::to_string).collect();
    let bytes = bytes.join(" ");
    format!("{{CONST :consttype 23 :constisnull false :constvalue 4 [ {bytes} ]}} ")
}

/// Constants in lists are converted to the list's type.
fn element(value: i64, type_oid: u32) -> String {
    let value = constant(value);
    if type_oid == INTEGER {
        return value;
    }
    format!("{{FUNCEXPR :funcid 481 :funcresulttype 20 :funcretset false :args ({value})}} ")
}

fn parameter_node(parameter: usize, type_oid: u32) -> String {
    let name = format!("kck.p{}", parameter + 1);
    let length = u32::try_from(name.len() + 4).unwrap() << 2;
    let bytes: Vec<String> =
        length.to_le_bytes().into_iter().chain(name.bytes()).map(|byte| byte.to_string()).collect();
    let bytes = bytes.join(" ");
    format!(
        "{{COERCEVIAIO :arg {{FUNCEXPR :funcid 2077 :funcresulttype 25 :funcretset false :args \
        ({{CONST :consttype 25 :constisnull false :constvalue {} [ {bytes} ]}})}} :resulttype {type_oid}}} ",
        name.len() + 4
    )
}
