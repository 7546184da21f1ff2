//! What Postgres is asked of a product's SQL, and what it says: parameters, columns, tables, operators, and its
//! rule tree.
//!
//! `product` makes the [`Question`], `postgres::describe` the [`Description`], which `depend` reads. What is said
//! is by oid, never by spelling.

use std::collections::{BTreeMap, BTreeSet};

use crate::change::TableId;

/// Words by which PostgreSQL asks the clock when it reads a date or a time.
pub const CLOCK_WORDS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// Whether the text has one of the [`CLOCK_WORDS`].
#[must_use]
pub fn has_clock_word(raw: &str) -> bool {
    let mut words = raw.split(|c: char| !c.is_ascii_alphabetic());
    words.any(|word| CLOCK_WORDS.iter().any(|clock| word.eq_ignore_ascii_case(clock)))
}

/// A parameter as the file gives it; its type may be left to Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSpec {
    /// `[a-z_][a-z0-9_]*`.
    pub name: String,
    /// What the header says: `bigint`.
    pub type_name: Option<String>,
    /// For trailing parameters that may be left out.
    pub default: Option<String>,
    /// Byte offset in the file of what the header says of it, else of its first use.
    pub offset: usize,
}

/// The names that a statement mentions. Only where Postgres gives no tree do tables and functions come from
/// these: more than the statement reads, never less.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mentions {
    /// Relations, quoted and qualified as written.
    pub relations: BTreeSet<String>,
    /// Functions, without their schema.
    pub functions: BTreeSet<String>,
    /// Columns: `o.total` may call the function `total(o)`.
    pub columns: BTreeSet<String>,
    /// Operators, without their schema.
    pub operators: BTreeSet<String>,
}

/// What Postgres is asked about: a statement with named parameters, and where it stands in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// In key order.
    pub parameters: Vec<ParameterSpec>,
    /// The statement cut at its parameters: `pieces[0] :p pieces[1] :q pieces[2]`, without comment header
    /// and trailing semicolon. See [`Question::sql`].
    pub pieces: Vec<String>,
    /// Which parameter (index into `parameters`) stands between `pieces[i]` and `pieces[i + 1]`.
    pub holes: Vec<usize>,
    /// What the statement names; unknown where it nests very deeply.
    pub mentions: Option<Mentions>,
    /// Byte offset of `pieces[0]` in the file, so that Postgres's error positions can be mapped back.
    pub offset: usize,
    /// Where the statement is made of parts, since it holds other products: bytes of the statement, with its
    /// parameters as `:name`, at which a part begins → where it comes from in the file, in order.
    pub parts: Vec<(usize, usize)>,
}

impl Question {
    /// The statement with each parameter written as `write` says; it is given the parameter's index.
    pub fn sql(&self, mut write: impl FnMut(usize) -> String) -> String {
        let mut sql = String::new();
        for (index, piece) in self.pieces.iter().enumerate() {
            sql.push_str(piece);
            if let Some(parameter) = self.holes.get(index) {
                sql.push_str(&write(*parameter));
            }
        }
        sql
    }

    /// The byte offset in the file of a character (from 0) of [`Question::sql`] with the same `write`. What comes from
    /// another product is where that is read.
    pub fn offset_of(&self, character: usize, write: impl FnMut(usize) -> String) -> usize {
        let byte = self.byte_of(character, write);
        let part = self.parts.partition_point(|(begins, _)| *begins <= byte);
        let Some((begins, offset)) = part.checked_sub(1).and_then(|part| self.parts.get(part))
        else {
            return self.offset + byte;
        };
        let next = self.parts.get(part).map_or(usize::MAX, |(_, offset)| *offset);
        // Parts need not come in the order of the file.
        (offset + byte - begins).min(if next < *offset { usize::MAX } else { next })
    }

    fn byte_of(&self, character: usize, mut write: impl FnMut(usize) -> String) -> usize {
        let (mut offset, mut left) = (0, character);
        for (index, piece) in self.pieces.iter().enumerate() {
            if let Some((inside, _)) = piece.char_indices().nth(left) {
                return offset + inside;
            }
            left -= piece.chars().count();
            offset += piece.len();
            let Some((hole, parameter)) =
                self.holes.get(index).and_then(|hole| Some((*hole, self.parameters.get(*hole)?)))
            else {
                break;
            };
            let written = write(hole).chars().count();
            if left < written {
                return offset;
            }
            left -= written;
            offset += 1 + parameter.name.len();
        }
        offset
    }
}

/// A type, as far as keys and rules need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// `pg_type.oid`.
    pub oid: u32,
    /// As `format_type` prints it, good in a cast: `bigint`, `character varying`, `shop.state`.
    pub name: String,
    /// `pg_type.typtype`: `b`ase, `d`omain, `e`num, `c`omposite, `r`ange, `p`seudo.
    pub kind: char,
}

/// A column of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputColumn {
    /// Its name; may repeat within an answer.
    pub name: String,
    /// Its type.
    pub type_: Type,
}

/// A relation that the SQL reads, itself or through views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// `pg_class.oid`.
    pub id: TableId,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `pg_class.relkind`: `r` table, `p` partitioned, `v` view, `m` materialized view, `f` foreign.
    pub kind: char,
    /// `pg_class.relpersistence`: `p`ermanent, `u`nlogged, `t`emporary.
    pub persistence: char,
    /// Whether it lies in `pg_catalog` or `information_schema`.
    pub system: bool,
    /// Whether row security applies to kck's role.
    pub row_security: bool,
    /// Whether it has a replica identity that can be used for UPDATE and DELETE.
    pub identity: bool,
    /// Whether it is read otherwise than by its own name in a tree, also if it is named there too: as an
    /// inheritance child or the root above a named partition, or by a function's body or a policy.
    pub indirect: bool,
    /// The columns of its primary key.
    pub key: BTreeSet<i16>,
    /// The columns that the stream tells of the old row of an UPDATE or DELETE; `None`: all of them.
    pub replicated: Option<BTreeSet<i16>>,
    /// The columns that an index begins with.
    pub indexed: BTreeSet<i16>,
    /// The partitions with rows below a partitioned table, as SQL writes their names.
    pub leaves: Vec<String>,
    /// Column number → (name, type oid), without dropped ones.
    pub columns: BTreeMap<i16, (String, u32)>,
}

/// A function that the SQL calls, itself or through views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// `pg_proc.oid`.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `pg_proc.provolatile`: `i`mmutable, `s`table, `v`olatile.
    pub volatility: char,
    /// Its language: `internal`, `c`, `sql`, `plpgsql`, …
    pub language: String,
    /// `pg_proc.proisstrict`: NULL when an argument is.
    pub strict: bool,
    /// Whether its body, as far as it is SQL, reads tables; `None` where nobody can tell.
    pub reads_tables: Option<bool>,
    /// Its name and argument types, as ALTER FUNCTION takes them.
    pub signature: String,
}

/// What an operator of the default btree or hash operator class of both its input types means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`, the negator of an equality.
    Unequal,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

impl Comparison {
    /// What it means with its sides exchanged.
    #[must_use]
    pub fn turned(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::AtMost => Self::AtLeast,
            Self::Greater => Self::Less,
            Self::AtLeast => Self::AtMost,
            Self::Equal | Self::Unequal => self,
        }
    }
}

/// What Postgres says of a product.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// The types of the parameters, in their order.
    pub parameters: Vec<Type>,
    /// The columns of the answer.
    pub columns: Vec<OutputColumn>,
    /// `pg_rewrite.ev_action` of the temporary view in which parameter N (from 1) is written
    /// `current_setting('kck.pN')::type`. `None` where no temporary view could be made.
    pub tree: Option<String>,
    /// Its text as Postgres writes it: stars expanded, every column qualified. There is one where there is a tree.
    pub canonical: Option<String>,
    /// Why there is no tree, for people.
    pub note: Option<String>,
    /// `pg_rewrite.ev_action` of every view read: view oid → tree. Tables that come in only through a
    /// function's body, a policy or inheritance are in `tables` and occur in no tree.
    pub view_trees: BTreeMap<u32, String>,
    /// Every relation read, views expanded; of views also the views themselves.
    pub tables: Vec<Table>,
    /// Every function called, in the SQL or in the views below it.
    pub functions: Vec<Function>,
    /// Operators of the tree that compare by the default operator classes of their input types: oid → what it
    /// means, left type oid, right type oid.
    pub comparisons: BTreeMap<u32, (Comparison, u32, u32)>,
    /// Types of the tables' columns that are enums.
    pub enums: BTreeSet<u32>,
    /// Their labels by `pg_enum.oid`, as constants in a tree hold them.
    pub labels: BTreeMap<u32, String>,
    /// Types of the tables' columns → their names, good in a cast.
    pub types: BTreeMap<u32, String>,
    /// Whether the server keeps the lowest byte of a number first, as its constants in a tree show.
    pub little_endian: bool,
    /// Collations of the tree that are not deterministic.
    pub nondeterministic_collations: Vec<u32>,
    /// A hash over the definitions read: columns, views, functions, types, policies. A part of the fingerprint.
    pub definitions: String,
    /// A hash over all that the stream does not say of the objects read, definitions included: see
    /// `sql/postgres/catalogue.sql`. It also moves when rows change silently (TRUNCATE of a partition).
    pub catalogue: String,
    /// A hash over the columns that came to the tables read since they were described.
    pub growth: String,
}

#[cfg(test)]
impl Table {
    /// `public.NAME (id bigint)` as most tables are, for tests.
    pub(crate) fn plain(id: u32, name: &str) -> Self {
        Self {
            id: TableId(id),
            schema: "public".to_owned(),
            name: name.to_owned(),
            kind: 'r',
            persistence: 'p',
            system: false,
            row_security: false,
            identity: true,
            indirect: false,
            key: BTreeSet::new(),
            replicated: None,
            indexed: BTreeSet::new(),
            leaves: vec![],
            columns: BTreeMap::from([(1, ("id".to_owned(), 20))]),
        }
    }
}

impl Description {
    /// Whether the statement means the same, described again after columns came to what it reads and nothing else
    /// about it moved. What is not certain is another meaning.
    #[must_use]
    pub fn outlasts(&self, grown: &Self) -> bool {
        let bare = |description: &Self| {
            let (columns, indexed) = (BTreeMap::new, BTreeSet::new);
            let bare =
                |table: &Table| Table { columns: columns(), indexed: indexed(), ..table.clone() };
            description.tables.iter().map(bare).collect::<Vec<_>>()
        };
        // A whole row has the new columns, under the same text.
        let whole = |tree: &String| tree.contains(":varattno 0 ");
        let plain = |function: &Function| {
            function.schema == "pg_catalog"
                || matches!(function.language.as_str(), "internal" | "c")
        };
        self.canonical.is_some()
            && self.canonical == grown.canonical
            && self.parameters == grown.parameters
            && self.columns == grown.columns
            && self.view_trees == grown.view_trees
            && self.functions == grown.functions
            && self.comparisons == grown.comparisons
            && self.nondeterministic_collations == grown.nondeterministic_collations
            && bare(self) == bare(grown)
            && !self.tree.iter().chain(self.view_trees.values()).any(whole)
            // The bodies of others are read anew whenever they are called.
            && self.functions.iter().all(plain)
            && !self.tables.iter().any(|table| table.row_security)
    }

    /// What an operator means, and its input types.
    #[must_use]
    pub fn meaning(&self, operator: u32) -> Option<(Comparison, (u32, u32))> {
        self.comparisons.get(&operator).map(|(means, left, right)| (*means, (*left, *right)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described() -> Description {
        let table = Table { key: BTreeSet::from([1]), ..Table::plain(16_384, "t") };
        Description {
            canonical: Some(" SELECT t.id FROM t".into()),
            tree: Some("{VAR :varno 1 :varattno 1 }".into()),
            tables: vec![table],
            ..Description::default()
        }
    }

    #[test]
    fn a_statement_outlasts_columns_that_it_does_not_read() {
        let mut grown = described();
        grown.tables[0].columns.insert(2, ("x".into(), 25));
        let others = Description { growth: "g".into(), catalogue: "c".into(), ..grown };
        assert!(described().outlasts(&others));
    }

    #[test]
    fn what_is_not_certain_is_another_meaning() {
        let function = |language: &str| Function {
            oid: 16_400,
            schema: "public".into(),
            name: "f".into(),
            volatility: 'i',
            language: language.into(),
            strict: true,
            reads_tables: None,
            signature: "f()".into(),
        };
        let changes: [fn(&mut Description); 4] = [
            |description| description.canonical = Some(" SELECT t.x FROM t".into()),
            |description| description.canonical = None,
            |description| description.tables[0].kind = 'v',
            |description| {
                description.view_trees.insert(16_385, "{VAR :varattno 1 }".into());
            },
        ];
        for change in changes {
            let mut grown = described();
            change(&mut grown);
            assert!(!described().outlasts(&grown), "{grown:?}");
        }
        let same = |change: &dyn Fn(&mut Description)| {
            let mut both = described();
            change(&mut both);
            both.outlasts(&both.clone())
        };
        assert!(same(&|description| description.functions.push(function("internal"))));
        assert!(!same(&|description| description.functions.push(function("sql"))));
        assert!(!same(&|description| description.tree = Some("{VAR :varattno 0 }".into())));
        assert!(!same(&|description| description.tables[0].row_security = true));
        assert!(!same(&|description| description.canonical = None));
    }
}
