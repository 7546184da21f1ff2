//! The catalogue → `/openapi.json`: every route that is there, and a schema for each product's answer.
//!
//! Types are Postgres's: what has a form in JSON that `to_json` keeps to is said, everything else is left open.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use warp::reply::Response;

use crate::{
    description::Type,
    product::{Catalog, Product, ResultKind, Slot, Update, UpdateSlot},
    serve::Context,
};

use super::{query, reply};

/// `GET /openapi.json`.
pub(super) fn openapi(context: Arc<Context>, raw_query: Option<String>) -> Response {
    if let Err(problem) = query::nothing(raw_query.as_deref()) {
        return reply::problem(&problem);
    }
    let catalog = Arc::clone(&context.catalog.borrow());
    reply::json(&document(&catalog))
}

/// The document (OpenAPI 3.1.0).
fn document(catalog: &Catalog) -> Value {
    let mut paths = common();
    for slot in catalog.products.values() {
        if let Slot::Ready { product, .. } = slot {
            paths.insert(fetch_path(product), json!({ "get": fetch(product) }));
        }
    }
    for slot in catalog.updates.values() {
        if let UpdateSlot::Ready { update, .. } = slot {
            for (verb, of) in [("update", "put"), ("create", "post")] {
                paths.insert(format!("/{verb}/{}", update.name()), json!({ of: write(update) }));
            }
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "kck",
            "description": "Answers of SQL over Postgres, kept right by its change stream.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": paths,
        "components": {
            "schemas": schemas(catalog),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
        },
        "security": [{}, { "token": [] }],
    })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn schema_name(product: &Product) -> String {
    format!("product_{}", product.name())
}

fn answers(schema: &Value) -> Value {
    json!({
        "200": { "description": "What was asked for.", "content": { "application/json": { "schema": schema } } },
        "default": problem(),
    })
}

fn problem() -> Value {
    json!({
        "description": "What is wrong, and what to do.",
        "content": { "application/json": { "schema": reference("Problem") } },
    })
}

/// Routes that do not depend on the catalogue.
fn common() -> Map<String, Value> {
    let answer = reference("AnyAnswer");
    let failure = reference("Problem");
    let listed = json!({
        "type": "object",
        "required": ["success", "results"],
        "properties": {
            "success": { "const": true },
            "results": { "type": "array", "items": { "anyOf": [answer, failure] } },
        },
    });
    let keys = json!({
        "name": "key", "in": "query", "required": true, "explode": true,
        "description": "A key as in a path, encoded once more; as often as wanted.",
        "schema": { "type": "array", "items": { "type": "string" }, "minItems": 1 },
    });
    let key = |description: &str| {
        json!({
            "name": "key", "in": "query", "required": true, "description": description,
            "schema": { "type": "string" },
        })
    };
    let named = |name: &str| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } });
    let product = named("product");
    let page = json!([
        product,
        { "name": "limit", "in": "query", "schema": { "type": "integer", "minimum": 1 } },
        { "name": "after", "in": "query", "schema": { "type": "string" } },
    ]);
    let done = reference("Done");
    let events = json!({ "200": {
        "description": "Events `value`, `fresh` and `error`, without end.",
        "content": { "text/event-stream": { "schema": { "type": "string" } } },
    }, "default": problem() });
    let plain = |summary: &str| json!({ "get": { "summary": summary, "responses": answers(&json!({ "type": "object" })) } });
    let paths = json!({
        "/fetch": {
            "get": { "summary": "Many answers, in the order asked.", "parameters": [keys], "responses": answers(&listed) },
            "post": {
                "summary": "Many answers, in the order asked.",
                "requestBody": { "required": true, "content": { "application/json": { "schema": {
                    "type": "object", "required": ["keys"], "additionalProperties": false,
                    "properties": { "keys": { "type": "array", "items": { "type": "string" }, "minItems": 1 } },
                } } } },
                "responses": answers(&listed),
            },
        },
        "/subscribe": { "get": { "summary": "Values now, and as they change.", "parameters": [keys], "responses": events } },
        "/products": plain("The products and updates there are."),
        "/keys/{product}": { "get": { "summary": "Tracked keys.", "parameters": page, "responses": answers(&json!({ "type": "object" })) } },
        "/explain/{product}": { "get": { "summary": "How a product follows its tables.", "parameters": [product], "responses": answers(&json!({ "type": "object" })) } },
        "/why": { "get": { "summary": "What is known of a key.", "parameters": [key("The key.")], "responses": answers(&json!({ "type": "object" })) } },
        "/refresh": { "post": { "summary": "Compute a key now; a prefix in the path: all that begin so.", "parameters": [key("The key.")], "responses": answers(&done) } },
        "/purge": { "post": { "summary": "Forget a key; a prefix in the path: all that begin so.", "parameters": [key("The key.")], "responses": answers(&done) } },
        "/processes": plain("What runs on schedule, and how it ran."),
        "/processes/{process}/run": { "post": { "summary": "Run a process now.", "parameters": [named("process")], "responses": answers(&json!({ "type": "object" })) } },
        "/status": plain("How kck is."),
        "/healthz": plain("The process lives."),
        "/readyz": plain("Reads can be answered."),
        "/openapi.json": plain("This document."),
        "/metrics": { "get": { "summary": "Counters and gauges.", "responses": {
            "200": { "description": "Prometheus's text format.", "content": { "text/plain": { "schema": { "type": "string" } } } },
            "default": problem(),
        } } },
    });
    match paths {
        Value::Object(paths) => paths,
        _ => Map::new(),
    }
}

fn fetch_path(product: &Product) -> String {
    let mut path = format!("/fetch/{}", product.name());
    for parameter in product.parameters.iter().filter(|parameter| parameter.default.is_none()) {
        path.push_str(&format!("/{{{}}}", parameter.name));
    }
    path
}

fn fetch(product: &Product) -> Value {
    let mut parameters: Vec<Value> = Vec::new();
    for parameter in product.parameters.iter().filter(|parameter| parameter.default.is_none()) {
        parameters.push(json!({
            "name": parameter.name, "in": "path", "required": true,
            "schema": schema(&parameter.type_.name, true),
        }));
    }
    let query = |name: &str, schema: Value, description: &str| json!({ "name": name, "in": "query", "schema": schema, "description": description });
    let duration = || json!({ "type": "string", "pattern": "^[0-9]{1,6}(ms|s|m|h)$" });
    let lsn = json!({ "type": "string", "pattern": "^([0-9]{1,3}:)?[0-9A-F]{1,8}/[0-9A-F]{1,8}$" });
    parameters.extend([
        query("min_lsn", lsn, "Every commit up to here is in the answer."),
        query("max_staleness", duration(), "Exact as of at most so long ago."),
        query("fresh", json!({ "type": "boolean" }), "Computed after the request."),
        query(
            "after",
            json!({ "type": "integer", "minimum": 0 }),
            "Only a newer version than this.",
        ),
        query("wait", duration(), "How long to wait for what is demanded."),
        query("format", json!({ "enum": ["json", "ndjson", "csv"] }), "As what."),
    ]);
    let mut responses = answers(&reference(&schema_name(product)));
    if let Some(content) = responses.pointer_mut("/200/content").and_then(Value::as_object_mut) {
        for kind in ["application/x-ndjson", "text/csv"] {
            content.insert(kind.to_owned(), json!({ "schema": { "type": "string" } }));
        }
    }
    if let Some(responses) = responses.as_object_mut() {
        let unchanged = json!({ "description": "The reader has it, or there is none newer." });
        responses.insert("304".to_owned(), unchanged);
    }
    json!({
        "summary": product.draft.policy.description,
        "operationId": format!("fetch_{}", product.name()),
        "parameters": parameters,
        "responses": responses,
    })
}

fn write(update: &Update) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for parameter in &update.parameters {
        properties.insert(parameter.name.clone(), nullable(schema(&parameter.type_.name, true)));
        if parameter.default.is_none() {
            required.push(parameter.name.clone());
        }
    }
    let body = json!({
        "type": "object", "properties": properties, "required": required,
        "additionalProperties": false,
    });
    json!({
        "summary": update.draft.policy.description,
        "requestBody": { "required": true, "content": {
            "application/json": { "schema": body },
            "application/x-www-form-urlencoded": { "schema": body },
        } },
        "responses": answers(&reference("Written")),
    })
}

fn schemas(catalog: &Catalog) -> Map<String, Value> {
    let text = || json!({ "type": "string" });
    let as_of = json!({
        "type": "object", "required": ["lsn", "time"],
        "properties": { "lsn": text(), "time": { "type": "string", "format": "date-time" } },
    });
    let mut schemas = Map::new();
    schemas.insert("AsOf".to_owned(), as_of);
    schemas.insert("AnyAnswer".to_owned(), answer_of(&json!({})));
    let failure = json!({
        "type": "object", "required": ["success", "error"],
        "properties": {
            "success": { "const": false },
            "key": text(),
            "error": {
                "type": "object", "required": ["name", "code", "message", "hint", "args"],
                "properties": {
                    "name": text(), "code": text(), "message": text(), "hint": text(),
                    "args": { "type": "array", "items": text() },
                },
            },
            "reached": reference("AsOf"),
        },
    });
    schemas.insert("Problem".to_owned(), failure);
    let number = || json!({ "type": "integer", "minimum": 0 });
    let object = |properties: Value| json!({ "type": "object", "properties": properties });
    let done = json!({ "success": { "const": true }, "keys": number(), "failed": number() });
    schemas.insert("Done".to_owned(), object(done));
    let written = json!({ "success": { "const": true }, "lsn": text(), "rows": number() });
    schemas.insert("Written".to_owned(), object(written));
    for slot in catalog.products.values() {
        if let Slot::Ready { product, .. } = slot {
            schemas.insert(schema_name(product), answer_of(&value(product)));
        }
    }
    schemas
}

/// The envelope around a value.
fn answer_of(value: &Value) -> Value {
    json!({
        "type": "object",
        "required": ["success", "key", "value", "version", "modified", "as_of", "stale", "expires"],
        "properties": {
            "success": { "const": true },
            "key": { "type": "string" },
            "value": value,
            "version": { "type": "integer", "minimum": 0 },
            "modified": { "type": "string", "format": "date-time" },
            "as_of": reference("AsOf"),
            "stale": { "type": "boolean" },
            "expires": { "type": ["string", "null"], "format": "date-time" },
            "ttl": { "type": "integer", "minimum": 0 },
        },
    })
}

/// What a product's value looks like.
fn value(product: &Product) -> Value {
    if !product.draft.recipe.is_sql() {
        return json!({});
    }
    let columns = &product.description.columns;
    let cell = |type_: &Type| nullable(schema(&type_.name, false));
    let row = || {
        let properties: Map<String, Value> =
            columns.iter().map(|column| (column.name.clone(), cell(&column.type_))).collect();
        let required: Vec<&String> = properties.keys().collect();
        json!({ "type": "object", "required": required, "properties": properties })
    };
    match product.draft.policy.result {
        ResultKind::Rows => json!({ "type": "array", "items": row() }),
        ResultKind::Arrays => {
            let cells: Vec<Value> = columns.iter().map(|column| cell(&column.type_)).collect();
            let length = cells.len();
            json!({ "type": "array", "items": {
                "type": "array", "prefixItems": cells, "minItems": length, "maxItems": length,
            } })
        }
        ResultKind::Row => nullable(row()),
        ResultKind::Value => columns.first().map_or(json!({}), |column| cell(&column.type_)),
    }
}

/// The same or null.
fn nullable(mut schema: Value) -> Value {
    match schema.get_mut("type") {
        Some(Value::Array(kinds)) => {
            kinds.push(json!("null"));
            schema
        }
        Some(kind) => {
            *kind = json!([kind.take(), "null"]);
            schema
        }
        // What is left open takes null as well.
        None => schema,
    }
}

/// A type's form in JSON; as a parameter everything may come as its text.
fn schema(type_name: &str, parameter: bool) -> Value {
    if let Some(element) = type_name.strip_suffix("[]") {
        if parameter {
            return json!({});
        }
        let mut items = nullable(schema(element, false));
        // Any value of an array type may have more dimensions than one.
        if let Some(Value::Array(kinds)) = items.get_mut("type") {
            kinds.push(json!("array"));
        }
        return json!({ "type": "array", "items": items });
    }
    let plain = type_name.split('(').next().unwrap_or_default().trim();
    match plain {
        "boolean" => json!({ "type": "boolean" }),
        "smallint" => json!({ "type": "integer", "minimum": -32_768, "maximum": 32_767 }),
        "integer" => json!({ "type": "integer", "format": "int32" }),
        "bigint" => json!({ "type": "integer", "format": "int64" }),
        // NaN and the infinities are texts in JSON.
        "numeric" | "real" | "double precision" if parameter => json!({ "type": "number" }),
        "numeric" | "real" | "double precision" => json!({ "type": ["number", "string"] }),
        "uuid" => json!({ "type": "string", "format": "uuid" }),
        "date" if parameter => json!({ "type": "string", "format": "date" }),
        "text"
        | "character varying"
        | "character"
        | "name"
        | "citext"
        | "bytea"
        | "inet"
        | "cidr"
        | "date"
        | "time without time zone"
        | "timestamp with time zone"
        | "timestamp without time zone"
        | "interval"
        | "xml" => json!({ "type": "string" }),
        _ => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_said_where_they_have_a_form() {
        for (name, want) in [
            ("bigint", json!({ "type": "integer", "format": "int64" })),
            ("numeric(10,2)", json!({ "type": ["number", "string"] })),
            ("character varying(10)", json!({ "type": "string" })),
            ("jsonb", json!({})),
            ("mood", json!({})),
            (
                "integer[]",
                json!({ "type": "array", "items": { "type": ["integer", "null", "array"], "format": "int32" } }),
            ),
        ] {
            assert_eq!(schema(name, false), want, "{name}");
        }
        assert_eq!(
            nullable(json!({ "type": ["number", "string"] })),
            json!({ "type": ["number", "string", "null"] })
        );
    }

    #[test]
    fn the_document_of_an_empty_catalogue_is_whole() {
        let document = document(&Catalog::default());
        let text = document.to_string();
        // Every reference leads somewhere.
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let path = reference.split('"').next().unwrap();
            assert!(document.pointer(path).is_some(), "{path}");
        }
        assert_eq!(document["openapi"], "3.1.0");
    }
}
