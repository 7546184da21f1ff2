//! Choices → a query that Postgres would accept.

use super::query::{
    BIGINT, Choices, Combine, Condition, Expression, INTEGER, Item, Join, Leaf, Operator, Query,
    Shape, TABLES, Value,
};

/// A product's query and the views it may name.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) query: Query,
    pub(super) views: Vec<Query>,
    /// The parameters' types.
    pub(super) parameters: Vec<u32>,
}

/// Queries within each other, counted from the outermost.
const DEPTH_MAX: usize = 3;

pub(super) fn case(choices: &mut Choices<'_>) -> Case {
    let parameters: Vec<u32> =
        (0..1 + choices.weighed(&[3, 2])).map(|_| [INTEGER, BIGINT][choices.below(2)]).collect();
    let theme =
        [Theme::Any, Theme::Chain, Theme::Shaped, Theme::Outer][choices.weighed(&[4, 2, 3, 3])];
    let mut generator = Generator { choices, parameters: &[], views: Vec::new(), leaves: 3, theme };
    if theme == Theme::Any && generator.choices.chance(25) {
        let width = 1 + generator.choices.below(3);
        let view = generator.query(None, 1, width);
        generator.views.push(view);
    }
    generator.parameters = &parameters;
    // Small queries meet a change more often, large ones are stranger.
    generator.leaves = [2, 3, 4, 7][generator.choices.below(4)];
    let width = 1 + generator.choices.below(3);
    let mut query = generator.query(None, 0, width);
    generator.bind(&mut query);
    let is_read = format!("{query:?}").contains("View {");
    let views = if is_read { generator.views } else { Vec::new() };
    Case { query, views, parameters }
}

/// What a query may name: its own leaves so far, its WITH queries, and what is around it.
#[derive(Clone, Copy)]
struct Visible<'v> {
    leaves: &'v [Leaf],
    with: &'v [Query],
    outer: Option<&'v Visible<'v>>,
}

/// What a query is made of. The strange is rare among the common: some forms have cases of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theme {
    Any,
    /// Tables, each joined to the one before.
    Chain,
    /// A derived table that is more than a selection, and what is asked of its columns.
    Shaped,
    /// An outer join, and what is asked of its sides.
    Outer,
}

struct Generator<'g, 'c> {
    choices: &'g mut Choices<'c>,
    parameters: &'g [u32],
    views: Vec<Query>,
    /// How many more may be named in FROM.
    leaves: usize,
    theme: Theme,
}

impl Generator<'_, '_> {
    fn query(&mut self, outer: Option<&Visible<'_>>, depth: usize, width: usize) -> Query {
        if self.theme == Theme::Chain {
            return self.chain();
        }
        let mut with = Vec::new();
        let is_any = self.theme == Theme::Any;
        if is_any && depth < DEPTH_MAX && self.leaves > 2 && self.choices.chance(10) {
            let hidden = Visible { leaves: &[], with: &[], outer };
            let width = 1 + self.choices.below(2);
            with.push(self.query(Some(&hidden), depth + 1, width));
        }
        let combined = if self.theme == Theme::Shaped { 25 } else { 12 };
        if depth > 0 && depth < DEPTH_MAX && self.leaves > 1 && self.choices.chance(combined) {
            return self.combined(outer, depth, width);
        }
        let (leaves, from, mut filter) = self.sources(&with, outer, depth);
        let visible = Visible { leaves: &leaves, with: &with, outer };
        let conditions: &[usize] = match self.theme {
            Theme::Shaped => &[4, 2],
            Theme::Outer => &[1, 4, 1],
            _ => &[3, 4, 2],
        };
        for _ in 0..self.choices.weighed(conditions) {
            filter.push(self.condition(&visible, depth));
        }
        let (targets, shape) = self.shape(&visible, depth, width);
        let limit = self.choices.chance(if depth == 0 { 5 } else { 12 }).then_some(1);
        Query { with, leaves, from, filter, targets, shape, limit }
    }

    /// FROM, with the conditions that join what stands beside each other.
    fn sources(
        &mut self,
        with: &[Query],
        outer: Option<&Visible<'_>>,
        depth: usize,
    ) -> (Vec<Leaf>, Vec<Item>, Vec<Condition>) {
        let mut leaves: Vec<Leaf> = Vec::new();
        let mut from: Vec<Item> = Vec::new();
        let mut filter: Vec<Condition> = Vec::new();
        let counts: &[usize] = match (self.theme, depth) {
            (Theme::Outer, 0) => &[0, 5, 1],
            (Theme::Outer, _) => &[1],
            (Theme::Any, 0) => &[3, 5, 3, 1],
            _ => &[5, 3],
        };
        let count = 1 + self.choices.weighed(counts);
        for number in 0..count {
            if number > 0 && self.leaves == 0 {
                break;
            }
            let leaf = self.leaf(&Visible { leaves: &leaves, with, outer }, depth);
            let lateral = matches!(leaf, Leaf::Derived { lateral: true, .. });
            leaves.push(leaf);
            let joins = number > 0 && self.choices.below(4) < 3;
            if !joins {
                from.push(Item::Leaf(number));
                if number > 0 {
                    let visible = Visible { leaves: &leaves, with, outer };
                    filter.push(self.link(&visible));
                }
                continue;
            }
            let before = from.pop().map_or(Item::Leaf(0), |before| before);
            let kinds: &[usize] = match self.theme {
                _ if lateral => &[2, 2],
                Theme::Outer => &[1, 5, 2, 2],
                _ => &[5, 4, 1, 2],
            };
            let kind =
                [Join::Inner, Join::Left, Join::Full, Join::Right][self.choices.weighed(kinds)];
            let on = self.on(&Visible { leaves: &leaves, with, outer }, &before, kind, depth);
            from.push(join(kind, before, Item::Leaf(number), on));
        }
        (leaves, from, filter)
    }

    fn chain(&mut self) -> Query {
        let table = |it: &mut Self| Leaf::Table(it.choices.below(TABLES.len()));
        let mut leaves = vec![table(self)];
        let mut item = Item::Leaf(0);
        for number in 1..2 + self.choices.weighed(&[1, 2, 1]) {
            leaves.push(table(self));
            let (one, other) =
                (self.column_of(&leaves, number - 1), self.column_of(&leaves, number));
            let on = vec![Condition::Compare(Operator::Equal, one, other)];
            let kind = [Join::Inner, Join::Left][self.choices.weighed(&[3, 1])];
            item = join(kind, item, Item::Leaf(number), on);
        }
        let column = self.column_of(&leaves, 0);
        let filter = vec![Condition::Compare(
            Operator::Equal,
            column,
            Expression::Parameter(0, self.parameters[0]),
        )];
        let last = leaves.len() - 1;
        let targets = vec![self.column_of(&leaves, last)];
        let (with, from, shape) = (Vec::new(), vec![item], Shape::Plain);
        Query { with, leaves, from, filter, targets, shape, limit: None }
    }

    /// ON may name only what it joins.
    fn on(
        &mut self,
        visible: &Visible<'_>,
        before: &Item,
        kind: Join,
        depth: usize,
    ) -> Vec<Condition> {
        let leaves = visible.leaves;
        let joined = tables_of(before);
        let first = joined.iter().min().copied().unwrap_or(0);
        let mut on = Vec::new();
        for at in 0..1 + self.choices.weighed(&[3, 2]) {
            let column = |it: &mut Self, from: usize, to: usize| {
                let leaf = from + it.choices.below(to - from);
                it.column_of(leaves, leaf)
            };
            let last = leaves.len() - 1;
            if at == 0 || kind == Join::Full {
                let one = column(self, first, last);
                let other = column(self, last, last + 1);
                on.push(Condition::Compare(Operator::Equal, one, other));
                if kind == Join::Full {
                    break;
                }
            } else if first == 0 {
                on.push(self.condition(visible, depth.max(1)));
            }
        }
        on
    }

    fn leaf(&mut self, visible: &Visible<'_>, depth: usize) -> Leaf {
        self.leaves = self.leaves.saturating_sub(1);
        let table = Leaf::Table(self.choices.below(TABLES.len()));
        let nested = match (self.theme, depth) {
            (Theme::Any, _) if depth < DEPTH_MAX && self.leaves > 0 => 4,
            (Theme::Shaped, 0) if visible.leaves.is_empty() => 90,
            _ => 0,
        };
        let views = if self.views.is_empty() { 0 } else { 2 };
        let with = if self.with(visible).is_some() { 8 } else { 0 };
        match self.choices.weighed(&[10, nested, nested, views, with]) {
            1 => {
                let hidden = Visible { leaves: &[], with: visible.with, outer: visible.outer };
                let least = if self.theme == Theme::Shaped { 2 } else { 1 };
                let width = least + self.choices.below(4 - least);
                let query = Box::new(self.query(Some(&hidden), depth + 1, width));
                Leaf::Derived { query, lateral: false }
            }
            2 if !visible.leaves.is_empty() => {
                let width = 1 + self.choices.below(3);
                let query = Box::new(self.query(Some(visible), depth + 1, width));
                Leaf::Derived { query, lateral: true }
            }
            3 => {
                let number = self.choices.below(self.views.len());
                Leaf::View { number, types: self.views[number].types() }
            }
            4 => self.with(visible).unwrap_or(table),
            _ => table,
        }
    }

    /// The nearest WITH query.
    fn with(&self, visible: &Visible<'_>) -> Option<Leaf> {
        let around = std::iter::successors(Some(visible), |visible| visible.outer);
        let mut found = around.enumerate().filter_map(|(levels, visible)| {
            Some(Leaf::With { levels, number: 0, types: visible.with.first()?.types() })
        });
        found.next()
    }

    fn combined(&mut self, outer: Option<&Visible<'_>>, depth: usize, width: usize) -> Query {
        let how =
            [Combine::Union, Combine::Except, Combine::Intersect][self.choices.weighed(&[4, 2, 1])];
        let all = self.choices.chance(40);
        let hidden = Visible { leaves: &[], with: &[], outer };
        let branches = Box::new([
            self.query(Some(&hidden), depth + 1, width),
            self.query(Some(&hidden), depth + 1, width),
        ]);
        let limit = self.choices.chance(25).then_some(1);
        let shape = Shape::Combined { how, all, branches };
        let (with, leaves, from) = (Vec::new(), Vec::new(), Vec::new());
        Query { with, leaves, from, filter: Vec::new(), targets: Vec::new(), shape, limit }
    }

    fn shape(
        &mut self,
        visible: &Visible<'_>,
        depth: usize,
        width: usize,
    ) -> (Vec<Expression>, Shape) {
        let columns =
            |it: &mut Self, count: usize| (0..count).map(|_| it.column(visible)).collect();
        let mut targets: Vec<Expression> = columns(self, width);
        let weights = match (self.theme, depth) {
            (Theme::Shaped, 1) => [1, 1, 4, 4, 4],
            (Theme::Outer, _) => [1, 0, 0, 0, 0],
            (_, 0) => [10, 1, 1, 2, 1],
            _ => [8, 2, 4, 5, 5],
        };
        match self.choices.weighed(&weights) {
            1 => (targets, Shape::Distinct),
            2 => (targets, Shape::DistinctOn(1 + self.choices.below(width))),
            3 => {
                let keys = self.choices.below(width + 1);
                for target in targets.iter_mut().skip(keys) {
                    *target = match self.choices.below(2) {
                        0 => Expression::Count,
                        _ => Expression::Max(Box::new(target.clone())),
                    };
                }
                let mut having = Vec::new();
                if self.choices.chance(30) {
                    let least = Expression::Constant(1 + self.drawn(2));
                    having.push(Condition::Compare(Operator::AtLeast, Expression::Count, least));
                }
                (targets, Shape::Grouped { keys, having })
            }
            4 if width > 1 => {
                let apart = (0..self.choices.below(width)).collect();
                let by = self.choices.below(width - 1);
                targets[width - 1] = Expression::Rank { apart, by };
                (targets, Shape::Windowed)
            }
            _ => {
                if depth < DEPTH_MAX && self.leaves > 0 && self.choices.chance(25) {
                    let scalar = self.scalar(visible, depth);
                    let at = self.choices.below(width);
                    targets[at] = scalar;
                }
                (targets, Shape::Plain)
            }
        }
    }

    fn scalar(&mut self, visible: &Visible<'_>, depth: usize) -> Expression {
        let mut query = self.query(Some(visible), depth + 1, 1);
        match query.shape {
            Shape::Plain if self.choices.below(2) == 0 => {
                let target = query.targets.remove(0);
                query.targets = vec![Expression::Max(Box::new(target))];
                query.shape = Shape::Grouped { keys: 0, having: Vec::new() };
            }
            _ => query.limit = Some(1),
        }
        let type_oid = query.types()[0];
        Expression::Scalar(Box::new(query), type_oid)
    }

    fn drawn(&mut self, count: usize) -> i64 {
        i64::try_from(self.choices.below(count)).unwrap()
    }

    fn condition(&mut self, visible: &Visible<'_>, depth: usize) -> Condition {
        let nested = match (self.theme, depth) {
            (Theme::Any, _) if depth < DEPTH_MAX && self.leaves > 0 => 4,
            (Theme::Outer, 0 | 1) => 5,
            _ => 0,
        };
        match self.choices.weighed(&[6, 5, 3, 2, 2, 2, 2, 2, nested, nested, 1]) {
            0 => self.link(visible),
            1 => self.bound(visible),
            2 => {
                let operator = self.operator();
                let (one, other) = (self.column(visible), Expression::Constant(self.drawn(3)));
                Condition::Compare(operator, one, other)
            }
            3 => Condition::Null(self.column(visible), true),
            4 => Condition::Null(self.column(visible), false),
            5 => {
                let values = (0..1 + self.choices.below(2)).map(|_| self.drawn(3)).collect();
                let (tested, negated) = (self.column(visible), self.choices.chance(40));
                Condition::OneOf { tested, values, negated }
            }
            6 => Condition::Or(vec![
                self.condition(visible, DEPTH_MAX),
                self.condition(visible, depth),
            ]),
            7 => {
                let mut denied = vec![self.condition(visible, depth)];
                if self.choices.chance(50) {
                    denied.push(self.condition(visible, DEPTH_MAX));
                }
                Condition::Not(Box::new(Condition::And(denied)))
            }
            8 => {
                let exists = Condition::Exists(Box::new(self.sublink(visible, depth)));
                if self.choices.chance(50) { Condition::Not(Box::new(exists)) } else { exists }
            }
            9 => {
                let looked_up = self.column(visible);
                let query = Box::new(self.sublink(visible, depth));
                let found = Condition::In(looked_up, query);
                if self.choices.chance(35) { Condition::Not(Box::new(found)) } else { found }
            }
            _ => {
                let column = self.column(visible);
                let value = self.drawn(3);
                let one = if column.type_oid() == INTEGER && self.choices.below(3) > 0 {
                    Expression::Plus(Box::new(column), value)
                } else {
                    Expression::Coalesce(Box::new(column), value)
                };
                let other = self.value(visible);
                Condition::Compare(Operator::Equal, one, other)
            }
        }
    }

    fn sublink(&mut self, visible: &Visible<'_>, depth: usize) -> Query {
        let mut query = self.query(Some(visible), depth + 1, 1);
        // What makes EXISTS and IN depend on the row around.
        if self.choices.below(4) < 3 && !query.leaves.is_empty() {
            let inside = Visible { leaves: &query.leaves, with: &query.with, outer: Some(visible) };
            let (one, other) = (self.column(&inside), self.around(&inside));
            query.filter.push(Condition::Compare(Operator::Equal, one, other));
        }
        query
    }

    /// Two columns that are equal, of the newest leaf and of another.
    fn link(&mut self, visible: &Visible<'_>) -> Condition {
        let newest = visible.leaves.len().saturating_sub(1);
        let one = if visible.leaves.is_empty() {
            Expression::Constant(self.drawn(3))
        } else {
            self.column_of(visible.leaves, newest)
        };
        let other = self.around(visible);
        Condition::Compare(Operator::Equal, one, other)
    }

    /// A column and a parameter.
    fn bound(&mut self, visible: &Visible<'_>) -> Condition {
        let (one, other) = (self.column(visible), self.value(visible));
        let operator = if self.choices.chance(20) { self.operator() } else { Operator::Equal };
        Condition::Compare(operator, one, other)
    }

    fn value(&mut self, visible: &Visible<'_>) -> Expression {
        match self.parameters.len() {
            0 => self.column(visible),
            count => {
                let parameter = self.choices.below(count);
                Expression::Parameter(parameter, self.parameters[parameter])
            }
        }
    }

    fn operator(&mut self) -> Operator {
        [Operator::Equal, Operator::Unequal, Operator::AtMost, Operator::AtLeast]
            [self.choices.below(4)]
    }

    fn column_of(&mut self, leaves: &[Leaf], leaf: usize) -> Expression {
        let types = leaves[leaf].types();
        let column = self.choices.below(types.len());
        Expression::Column { levels: 0, leaf, column, type_oid: types[column] }
    }

    /// A column of the query's own, or where it has none of what is around, or a constant.
    fn column(&mut self, visible: &Visible<'_>) -> Expression {
        if visible.leaves.is_empty() {
            return self.around(visible);
        }
        let leaf = self.choices.below(visible.leaves.len());
        self.column_of(visible.leaves, leaf)
    }

    /// A column of any level.
    fn around(&mut self, visible: &Visible<'_>) -> Expression {
        let (mut found, mut level, mut at) = (Vec::new(), 0, Some(visible));
        while let Some(visible) = at {
            if !visible.leaves.is_empty() {
                found.push((level, visible.leaves));
            }
            (level, at) = (level + 1, visible.outer);
        }
        if found.is_empty() {
            return Expression::Constant(self.drawn(3));
        }
        // The nearest around first, its own last.
        if found[0].0 == 0 && found.len() > 1 && self.choices.below(4) < 3 {
            found.remove(0);
        }
        let (levels, leaves) = found[self.choices.below(found.len())];
        let leaf = self.choices.below(leaves.len());
        match self.column_of(leaves, leaf) {
            Expression::Column { leaf, column, type_oid, .. } => {
                Expression::Column { levels, leaf, column, type_oid }
            }
            other => other,
        }
    }

    /// Makes parameters equal to columns of the outermost query, those that nothing names always.
    fn bind(&mut self, query: &mut Query) {
        let text = format!("{query:?}");
        for (parameter, type_oid) in self.parameters.iter().enumerate() {
            let is_named = text.contains(&format!("Parameter({parameter}"));
            if !query.leaves.is_empty() && (!is_named || self.choices.chance(50)) {
                let leaf = match self.theme {
                    Theme::Shaped => 0,
                    _ => self.choices.below(query.leaves.len()),
                };
                let column = self.column_of(&query.leaves, leaf);
                let value = Expression::Parameter(parameter, *type_oid);
                query.filter.push(Condition::Compare(Operator::Equal, column, value));
            }
        }
    }
}

fn join(kind: Join, before: Item, leaf: Item, on: Vec<Condition>) -> Item {
    Item::Join { kind, left: Box::new(before), right: Box::new(leaf), on }
}

fn tables_of(item: &Item) -> Vec<usize> {
    match item {
        Item::Leaf(leaf) => vec![*leaf],
        Item::Join { left, right, .. } => [tables_of(left), tables_of(right)].concat(),
    }
}

/// The values that rows and parameters have.
pub(super) fn value(choices: &mut Choices<'_>) -> Value {
    [Some(0), Some(1), Some(2), None][choices.weighed(&[3, 3, 2, 2])]
}
