//! Random writes, many shapes of products: what is demanded equals its SQL at every step, and at quiet points so
//! does every key that was ever asked.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{
    kck::{Kck, Project, Store},
    run,
    servers::Database,
};

const SCHEMA: &str = "
    create table customers (id bigint primary key, name text not null, vip boolean not null, since date);
    create table orders (id bigint primary key, customer_id bigint, state text, total numeric(10, 2));
    create table lines (order_id bigint, position int, product text, primary key (order_id, position));
    create index on orders (customer_id);
    alter table orders replica identity full;
    alter table customers replica identity full;
    create view open_orders as select * from orders where state = 'open';
    insert into customers select n, 'name ' || n % 3, n % 2 = 0, date '2026-01-01' + n::int % 3 from generate_series(0, 5) n;
    insert into orders select n, n % 6, case when n % 2 = 0 then 'open' end, n from generate_series(0, 20) n;
    insert into lines select n % 20, n / 20, 'p' || n % 4 from generate_series(0, 40) n;
";

/// Name, SQL, and the values its parameter takes.
const PRODUCTS: &[(&str, &str, &[&str])] = &[
    ("by_customer", "select id, state, total from orders where customer_id = :c order by id", &["0", "1", "2", "7"]),
    (
        "joined",
        "select c.name, o.id, o.total from customers c join orders o on o.customer_id = c.id where c.id = :c order by o.id",
        &["0", "1", "2", "7"],
    ),
    (
        "kept_left",
        "select c.name, count(o.id) as n from customers c left join orders o on o.customer_id = c.id
         where c.id = :c group by c.name",
        &["0", "3", "7"],
    ),
    ("of_vip", "select id, name from customers where vip = :vip::boolean order by id", &["t", "f"]),
    ("since", "select id from customers where since = :day::date order by id", &["2026-01-01", "2026-01-02"]),
    ("named", "select id from customers where name = :name::text order by id", &["name 0", "name 1", "other/x"]),
    ("dear", "select id, total from orders where total >= :least::numeric order by id", &["3", "12.50"]),
    ("through_view", "select id from open_orders where customer_id = :c order by id", &["0", "1", "2"]),
    (
        "with_lines",
        "select o.id, (select count(*) from lines l where l.order_id = o.id) as n from orders o where o.id = :id",
        &["0", "1", "19"],
    ),
    ("nobody_ordered", "select id from customers c where not exists (select from orders o where o.customer_id = c.id) and id > :least::bigint order by id", &["0", "-1"]),
    ("either", "select id from orders where customer_id = :c union select order_id from lines where order_id = :c order by 1", &["0", "1"]),
];

/// A small generator (xorshift64*), so that a failing run is run again by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        let limit = list.len() as u64;
        &list[usize::try_from(self.below(limit)).unwrap()]
    }
}

fn write(random: &mut Random) -> String {
    let (id, customer, order) = (random.below(30), random.below(7), random.below(25));
    let state = random.of(&["'open'", "'paid'", "null"]);
    let one = match random.below(12) {
        0 => format!(
            "insert into orders values ({id}, {customer}, {state}, {order}.50) on conflict do nothing"
        ),
        1 => format!("update orders set customer_id = {customer} where id = {id}"),
        2 => format!(
            "update orders set state = {state}, total = total + 1 where customer_id = {customer}"
        ),
        3 => format!("delete from orders where id = {id}"),
        4 => format!("update customers set vip = not vip where id = {customer}"),
        5 => format!(
            "update customers set since = since + 1, name = 'name ' || {id} % 3 where id = {customer}"
        ),
        6 => format!("insert into lines values ({order}, {id}, 'p1') on conflict do nothing"),
        7 => format!("delete from lines where order_id = {order}"),
        8 => format!("update lines set order_id = order_id + 100 where order_id = {order}"),
        9 => format!(
            "update customers set id = 90 + id where id = {customer}; update customers set id = id - 90 where id >= 90"
        ),
        10 => format!(
            "update orders set customer_id = null where id = {id}; insert into customers values ({customer}, 'other/x', true, null) on conflict (id) do update set name = excluded.name"
        ),
        _ if random.below(8) == 0 => "truncate lines".to_owned(),
        _ => format!(
            "insert into orders values ({id}, {customer}, {state}, 1) on conflict (id) do update set total = 2"
        ),
    };
    match random.below(4) {
        0 => format!("begin; {one}; savepoint s; delete from orders; rollback to s; commit"),
        1 => format!("begin; {one}; rollback"),
        _ => one,
    }
}

struct Oracle {
    database: Database,
    kck: Kck,
    seed: u64,
    asked: BTreeSet<(usize, usize)>,
}

impl Oracle {
    async fn agrees(&self, product: usize, value: usize, position: &str) {
        let (name, sql, values) = PRODUCTS[product];
        let hole = sql.find(':').unwrap();
        let literal = format!("'{}'", values[value]);
        let name_end = sql[hole + 1..]
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .map_or(sql.len(), |at| hole + 1 + at);
        let parameter = &sql[hole..name_end];
        // A bare parameter is compared with a bigint in every product here that does not cast it.
        let own = sql
            .replace(&format!("{parameter}::"), &format!("{literal}::"))
            .replace(parameter, &format!("{literal}::bigint"));
        let own = format!("select coalesce(json_agg(r), '[]')::text from ({own}) r");
        let want: String = self.database.client.query_one(&own, &[]).await.unwrap().get(0);
        let want: Value = serde_json::from_str(&want).unwrap();
        let mut key = format!("{name}/");
        kck::key::encode(&mut key, values[value]);
        let reply = self.kck.at_least(&key, position).await;
        assert_eq!(reply.value(), want, "{key} at {position}, seed {}", self.seed);
        assert_eq!(reply.header("kck-stale"), "false", "{key} at {position}, seed {}", self.seed);
    }
}

/// One writer, so that nothing changes between a write and the look at its position.
async fn history(seed: u64, store: Store, steps: usize) {
    let database = Database::new(&format!("oracle_{seed}")).await;
    database.run(SCHEMA).await;
    let project = Project::new(&database, store).await;
    for (name, sql, _) in PRODUCTS {
        project.product(name, sql);
    }
    let kck = project.start().await;
    let mut oracle = Oracle { database, kck, seed, asked: BTreeSet::new() };
    let mut random = Random(seed);
    for step in 0..steps {
        let mut position = String::new();
        for _ in 0..=random.below(3) {
            position = oracle.database.commit(&write(&mut random)).await;
        }
        let product = usize::try_from(random.below(PRODUCTS.len() as u64)).unwrap();
        let value = usize::try_from(random.below(PRODUCTS[product].2.len() as u64)).unwrap();
        oracle.asked.insert((product, value));
        oracle.agrees(product, value, &position).await;
        if step % 20 == 19 {
            for (product, value) in oracle.asked.clone() {
                oracle.agrees(product, value, &position).await;
            }
        }
    }
    oracle.kck.stop().await;
}

#[test]
fn every_answer_equals_its_sql() {
    run(async {
        history(1, Store::Memory, 80).await;
        history(2, Store::Embedded, 80).await;
        history(3, Store::Cassandra, 60).await;
    });
}
