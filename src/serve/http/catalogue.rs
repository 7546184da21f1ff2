//! The catalogue → `/products`.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use warp::reply::Response;

use crate::{
    change::SourceTime,
    product::{
        Eager, Fault, Product, ResultKind, Slot, Stale, Update, UpdateSlot, parameter::Parameter,
    },
    recompute::{
        batches::{Form, Shown},
        schedule::Ticks,
    },
    serve::Context,
};

use super::{query, reply};

/// A fault of a file as clients see it: the file by its name alone.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct FaultView {
    file: String,
    line: usize,
    column: usize,
    message: String,
    hint: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sqlstate: String,
}

impl FaultView {
    pub(super) fn of(fault: &Fault) -> Self {
        let file = fault.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Fault { line, column, message, hint, sqlstate, .. } = fault.clone();
        Self { file, line, column, message, hint, sqlstate }
    }
}

/// `GET /products`.
pub(super) fn products(context: Arc<Context>, raw_query: Option<String>) -> Response {
    #[derive(Serialize)]
    struct List {
        success: bool,
        products: Vec<ProductView>,
        updates: Vec<UpdateView>,
        faults: Vec<FaultView>,
    }
    if let Err(problem) = query::nothing(raw_query.as_deref()) {
        return reply::problem(&problem);
    }
    let catalog = Arc::clone(&context.catalog.borrow());
    let products = catalog.products.iter().map(|(name, slot)| match slot {
        Slot::Ready { product, faults } => {
            let ran = (context.recompute.ticks(name), context.recompute.statements(name));
            let view = ReadyView::of(product, faults, ran);
            let trouble = context.recompute.trouble_of(name);
            ProductView::Ready(Box::new(ReadyView { trouble, ..view }))
        }
        Slot::Broken { faults, .. } => ProductView::Broken {
            name: name.clone(),
            state: "broken",
            faults: faults.iter().map(FaultView::of).collect(),
        },
    });
    let products = products.collect();
    let updates = catalog.updates.iter().map(|(name, slot)| match slot {
        UpdateSlot::Ready { update, faults } => UpdateView::ready(update, faults),
        UpdateSlot::Broken { faults } => UpdateView::broken(name, faults),
    });
    let updates = updates.collect();
    let faults = catalog.faults.iter().chain(&catalog.update_faults).map(FaultView::of).collect();
    reply::json(&List { success: true, products, updates, faults })
}

#[derive(Serialize)]
struct UpdateView {
    name: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Vec<ParameterView>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<FaultView>,
}

impl UpdateView {
    fn ready(update: &Update, faults: &[Fault]) -> Self {
        let parameter = |parameter: &Parameter| ParameterView {
            name: parameter.name.clone(),
            type_name: parameter.type_.name.clone(),
            default: parameter.default.clone(),
        };
        Self {
            name: update.name().to_owned(),
            state: "ready",
            description: update.draft.policy.description.clone(),
            parameters: Some(update.parameters.iter().map(parameter).collect()),
            faults: faults.iter().map(FaultView::of).collect(),
        }
    }

    fn broken(name: &str, faults: &[Fault]) -> Self {
        Self {
            name: name.to_owned(),
            state: "broken",
            description: None,
            parameters: None,
            faults: faults.iter().map(FaultView::of).collect(),
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum ProductView {
    Ready(Box<ReadyView>),
    Broken { name: String, state: &'static str, faults: Vec<FaultView> },
}

#[derive(Serialize)]
struct ReadyView {
    name: String,
    state: &'static str,
    /// By what its answers are made: `sql`, `exec`, `http`.
    kind: &'static str,
    description: Option<String>,
    parameters: Vec<ParameterView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'static str>,
    refresh: Vec<String>,
    /// When its schedule struck last, and will strike next.
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<ScheduleView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warm: Option<String>,
    expire: Option<String>,
    stale: &'static str,
    eager: &'static str,
    /// How its statements go, once some have run.
    #[serde(skip_serializing_if = "Option::is_none")]
    statements: Option<StatementsView>,
    /// Why it gave no answer when it was last asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    /// What is wrong with its file as it is now: it runs as the file was before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<FaultView>,
}

#[derive(Serialize)]
struct ScheduleView {
    last_tick: Option<String>,
    next_tick: Option<String>,
}

impl From<Ticks> for ScheduleView {
    fn from(ticks: Ticks) -> Self {
        let text = |at: SourceTime| at.to_string();
        Self { last_tick: ticks.last.map(text), next_tick: ticks.next.map(text) }
    }
}

#[derive(Serialize)]
struct StatementsView {
    /// `batches`, or `singles` where batches lose.
    form: &'static str,
    keys: usize,
    key_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    jump: Option<JumpView>,
}

#[derive(Serialize)]
struct JumpView {
    before_ms: f64,
    after_ms: f64,
    hint: &'static str,
}

impl From<Shown> for StatementsView {
    fn from(shown: Shown) -> Self {
        let ms = |cost: Duration| (cost.as_secs_f64() * 1e6).round() / 1e3;
        let hint = "run ANALYZE on the tables that it reads, then look at EXPLAIN";
        let jump = shown.jump.map(|jump| JumpView {
            before_ms: ms(jump.before),
            after_ms: ms(jump.after),
            hint,
        });
        let form = match shown.form {
            Form::Batches => "batches",
            Form::Singles => "singles",
        };
        Self { form, keys: shown.keys, key_ms: ms(shown.key), jump }
    }
}

#[derive(Serialize)]
struct ParameterView {
    name: String,
    #[serde(rename = "type")]
    type_name: String,
    default: Option<String>,
}

impl ReadyView {
    fn of(
        product: &Product,
        faults: &[Fault],
        (ticks, statements): (Option<Ticks>, Option<Shown>),
    ) -> Self {
        let policy = &product.draft.policy;
        let specs = product.draft.question.parameters.iter().zip(&product.description.parameters);
        let parameters =
            specs.take(product.draft.parameters()).map(|(spec, type_)| ParameterView {
                name: spec.name.clone(),
                type_name: type_.name.clone(),
                default: spec.default.clone(),
            });
        Self {
            name: product.name().to_owned(),
            state: "ready",
            kind: product.draft.recipe.kind(),
            description: policy.description.clone(),
            parameters: parameters.collect(),
            result: product.draft.recipe.is_sql().then_some(match policy.result {
                ResultKind::Rows => "rows",
                ResultKind::Arrays => "arrays",
                ResultKind::Row => "row",
                ResultKind::Value => "value",
            }),
            refresh: policy.refreshes(),
            schedule: ticks.map(ScheduleView::from),
            warm: policy.warm.as_ref().map(ToString::to_string),
            expire: policy.expire.map(duration_text),
            stale: match policy.stale {
                Stale::Serve => "serve",
                Stale::Wait => "wait",
            },
            eager: match policy.eager {
                Eager::Hot => "hot",
                Eager::Always => "always",
                Eager::Never => "never",
            },
            statements: statements.map(StatementsView::from),
            trouble: None,
            faults: faults.iter().map(FaultView::of).collect(),
        }
    }
}

/// As a file would have it: `24h`, `90s`, `1500ms`.
pub(super) fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let whole = units.into_iter().find(|(unit, _)| ms >= *unit && ms.is_multiple_of(*unit));
    let (unit, name) = whole.unwrap_or((1, "ms"));
    format!("{}{name}", ms / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_they_are_written() {
        for (ms, text) in
            [(0, "0ms"), (1_500, "1500ms"), (90_000, "90s"), (120_000, "2m"), (86_400_000, "24h")]
        {
            assert_eq!(duration_text(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn a_fault_does_not_tell_where_the_files_are() {
        let fault = Fault {
            file: "/srv/shop/products/orders_of.sql".into(),
            line: 3,
            column: 8,
            message: "m".into(),
            hint: "h".into(),
            sqlstate: String::new(),
        };
        assert_eq!(FaultView::of(&fault).file, "orders_of.sql");
    }
}
