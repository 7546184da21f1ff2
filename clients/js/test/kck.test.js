// The client against a kck in this process: what it sends, what it reads, and what faults do to it.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { afterEach, beforeEach, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { Kck, KckError, Parser, key } from "../kck.js";
import { Fake, failure, refuse } from "./fake.js";

let fake;
let kck;

beforeEach(async () => {
  fake = await Fake.start();
  kck = new Kck({ server: fake.address });
});

afterEach(() => fake.stop());

const named = (name) => (error) => error instanceof KckError && error.name === name;
const soon = (ms = 20) => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves when `check` holds; the test's own limit is the only clock. */
async function until(check) {
  while (!check()) await soon(5);
}

describe("keys", () => {
  test("each kind of parameter is its text", () => {
    for (const [parameter, segment] of [
      [42, "42"], [-1, "-1"], ["a/b", "a%2Fb"], ["", ""], ["Ærø 100%", "%C3%86r%C3%B8%20100%25"],
      ["a+b~c.d_e-f", "a%2Bb~c.d_e-f"], ["!'()*", "%21%27%28%29%2A"], [true, "true"], [1.5, "1.5"],
      [12345678901234567890n, "12345678901234567890"], [new Date(0), "1970-01-01T00%3A00%3A00.000Z"],
    ]) {
      assert.equal(key("p", parameter), `p/${segment}`);
    }
    assert.equal(kck.key("orders_of", 42, "a/b"), "orders_of/42/a%2Fb");
    assert.equal(key("all_orders"), "all_orders");
  });

  test("what is no parameter, product or key is refused", async () => {
    for (const parameter of [null, undefined, {}, [1], Symbol("x")]) assert.throws(() => key("p", parameter), TypeError);
    assert.throws(() => key("p", "\ud800"), URIError);
    for (const product of ["", "Orders", "a/b", "9a", "a b"]) assert.throws(() => key(product), RangeError);
    for (const text of ["", "p/a b", "p/é", "p?x=1", "p#1"]) await assert.rejects(kck.fetch(text), RangeError);
  });

  test("what a path cannot carry goes by query", async () => {
    assert.equal((await kck.fetch("echo", "a/b ø?")).value, "a/b ø?");
    assert.equal(fake.last.path, "/fetch/echo/a%2Fb%20%C3%B8%3F");
    for (const text of [".", "..", ""]) {
      assert.equal((await kck.fetch("echo", text)).value, text);
      assert.deepEqual([fake.last.path, fake.last.query], ["/fetch", [["key", `echo/${text}`]]]);
    }
    assert.equal((await kck.fetch("echo/%2e%2E")).value, "..");
    await assert.rejects(kck.fetch("nothing", "."), named("unknown_product"));
  });
});

describe("calls", () => {
  test("fetch gives the answer and how fresh it is", async () => {
    const answer = await kck.fetch("items_of", 1);
    assert.deepEqual(answer, {
      key: "items_of/1", value: [{ id: 1, n: 0 }, { id: 2, n: 0 }], version: 1001, modified: "2026-11-22T10:00:00.120000Z",
      asOf: { lsn: "0/16B3748", time: "2026-11-22T10:00:03.250000Z" }, stale: false, expires: null, ttl: null,
    });
  });

  test("demands are sent", async () => {
    await kck.fetch("sum_of", 1, { minLsn: "0/1", maxStaleness: 200, wait: "2s", fresh: true });
    assert.deepEqual(fake.last.query, [["min_lsn", "0/1"], ["max_staleness", "200ms"], ["wait", "2s"], ["fresh", "true"]]);
    for (const wait of ["5", -1, Number.NaN, "1.5s"]) await assert.rejects(kck.fetch("sum_of", 1, { wait }), RangeError);
  });

  test("after a version is a newer one or unchanged", async () => {
    const answer = await kck.fetch("sum_of", 1);
    const unchanged = await kck.fetch("sum_of", 1, { after: answer.version });
    assert.deepEqual(unchanged, { key: "sum_of/1", unchanged: true, version: answer.version, asOf: answer.asOf, stale: false });
    await kck.update("set_n", { id: 1, n: 5 });
    assert.equal((await kck.fetch("sum_of", 1, { after: answer.version })).value, 5);
  });

  test("many answers keep their order and their problems", async () => {
    const [one, none, two] = await kck.fetchMany(["sum_of/1", "nothing/1", "items_of/2"]);
    assert.deepEqual([one.value, two.key, none.key], [0, "items_of/2", "nothing/1"]);
    assert.ok(named("unknown_product")(none.error));
    assert.ok(none.error.permanent);
    assert.deepEqual(await kck.fetchMany([]), []);
  });

  test("a client reads its own writes, the newest counts", async () => {
    await kck.fetch("sum_of", 1);
    assert.equal(fake.last.get("min_lsn"), null);
    const written = await kck.update("set_n", { id: 1n, n: 5 });
    assert.deepEqual([fake.last.method, fake.last.path, fake.last.body], ["PUT", "/update/set_n", '{"id":"1","n":5}']);
    assert.equal(written.rows, 1);
    await kck.fetch("sum_of", 1);
    assert.equal(fake.last.get("min_lsn"), written.lsn);
    await kck.fetchMany(["sum_of/1"]);
    assert.equal(fake.last.get("min_lsn"), written.lsn);
    await kck.fetch("sum_of", 1, { minLsn: "0/0" });
    assert.equal(fake.last.get("min_lsn"), "0/0");
    kck.forgetWrites();
    assert.equal(kck.position, null);
    for (const lsn of ["0/9", "0/10", "0/A"]) {
      fake.faults.push((response) => fake.json(response, 200, { success: true, lsn, rows: 0 }));
      await kck.create("set_n", { id: 1 });
    }
    assert.equal(kck.position, "0/10");
  });

  test("a session has its own writes and token", async () => {
    const session = kck.session({ token: "other" });
    await session.update("set_n", { id: 1, n: 1 });
    assert.equal(fake.last.headers.authorization, "Bearer other");
    assert.equal(kck.position, null);
    const later = kck.session({ position: session.position });
    await later.fetch("sum_of", 1);
    assert.equal(fake.last.get("min_lsn"), session.position);
    const never = kck.session({ readYourWrites: false });
    await never.update("set_n", { id: 1, n: 2 });
    await never.fetch("sum_of", 1);
    assert.equal(fake.last.get("min_lsn"), null);
  });

  test("refresh and purge count keys", async () => {
    assert.deepEqual(await kck.refresh("sum_of", 1), { keys: 3, failed: 1 });
    assert.deepEqual([fake.last.method, fake.last.path], ["POST", "/refresh/sum_of/1"]);
    assert.equal(await kck.purge("echo/"), 3);
    assert.equal(fake.last.path, "/purge/echo/");
    await kck.purge("echo", "");
    assert.deepEqual([fake.last.path, fake.last.query], ["/purge", [["key", "echo/"]]]);
  });

  test("login gives and uses the token", async () => {
    fake.token = "t0ken";
    await assert.rejects(kck.fetch("sum_of", 1), named("unauthorized"));
    await assert.rejects(kck.login("a@b/c", "wrong"), named("unauthorized"));
    assert.equal(await kck.login("a@b/c", "open sesame!"), "t0ken");
    assert.equal(fake.last.path, "/login/a%40b%2Fc");
    assert.equal((await kck.fetch("sum_of", 1)).value, 0);
  });

  test("each error has its name and facts", async () => {
    const reached = { lsn: "0/16", time: "2026-11-22T10:00:03.250000Z" };
    fake.faults.push(refuse(504, "not_fresh_in_time", {}, { reached }), refuse(429, "too_many_requests", { "Retry-After": "7" }));
    await assert.rejects(kck.fetch("sum_of", 1), { name: "not_fresh_in_time", reached, code: "KCK600", hint: "a hint", status: 504 });
    await assert.rejects(kck.fetch("sum_of", 1), { name: "too_many_requests", retryAfter: 7, args: ["a"] });
  });

  test("what is not kck's is said to be so", async () => {
    for (const [status, body] of [[200, "<html>"], [502, "<html>"], [302, ""], [200, "[1]"], [200, '{"success":true,"key":"k"}']]) {
      fake.faults.push((response) => fake.json(response, status, body, { Location: "http://elsewhere.invalid/" }));
      await assert.rejects(kck.fetch("sum_of", 1), named("unexpected_reply"));
    }
    fake.faults.push((response) => fake.json(response, 403, "<html>"));
    await assert.rejects(kck.fetch("sum_of", 1), named("forbidden"));
  });

  test("slow, large and broken replies are errors", async () => {
    const hurried = new Kck({ server: fake.address, timeoutMs: 50, answerLimit: 1000 });
    fake.faults.push(() => {});
    await assert.rejects(hurried.fetch("sum_of", 1, { wait: 0 }), named("timed_out"));
    fake.faults.push((response) => {
      response.writeHead(200, { "Content-Length": 1000 });
      response.write(" ");
    });
    await assert.rejects(hurried.fetch("sum_of", 1, { wait: 0 }), named("timed_out"));
    await assert.rejects(hurried.fetch("echo", "x".repeat(2000)), named("too_large"));
    fake.faults.push((response) => response.destroy());
    await assert.rejects(kck.update("set_n", { id: 1, n: 1 }), (error) => named("connection_failed")(error) && /not known/.test(error.hint));
    assert.equal(fake.asked.filter(({ method }) => method === "PUT").length, 1);
  });

  test("a signal ends a call with its own reason", async () => {
    fake.faults.push(() => {});
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error("enough")), 20);
    await assert.rejects(kck.fetch("sum_of", 1, { signal: controller.signal }), /enough/);
    await assert.rejects(kck.fetch("sum_of", 1, { signal: controller.signal }), /enough/);
  });
});

describe("streams", () => {
  const STREAM =
    ": hello\n\nevent: value\r\ndata: {\"a\":\r\ndata: \"ø\"}\r\nid: 7\r\n\r\ndata:bare\rid: \r\r" +
    "event: fresh\nid: 9\n\nunknown: x\ndata\n\nevent: value\ndata: never ended";
  const MESSAGES = [
    { event: "value", data: '{"a":\n"ø"}', id: "7" },
    { event: "message", data: "bare", id: "" },
    { event: "message", data: "", id: "9" },
  ];

  test("any cut reads the same", () => {
    for (let size = 1; size <= STREAM.length; size++) {
      const parser = new Parser("", 1000);
      const got = [];
      for (let at = 0; at < STREAM.length; at += size) got.push(...parser.feed(STREAM.slice(at, at + size)));
      assert.deepEqual(got, MESSAGES, `in pieces of ${size}`);
    }
  });

  test("an endless event is refused, comments never are", () => {
    const parser = new Parser("", 100);
    for (let turn = 0; turn < 100; turn++) assert.deepEqual(parser.feed(": still here\n"), []);
    assert.throws(() => {
      for (let turn = 0; turn < 20; turn++) parser.feed("data: 0123456789\n");
    }, named("too_large"));
  });

  /** Watches, and keeps what is told. */
  function watch(keys, options = {}, client = kck) {
    const told = { values: [], fresh: [], errors: [], states: [] };
    const subscription = client.subscribe(keys, {
      onValue: (answer) => told.values.push(answer),
      onFresh: (fresh) => told.fresh.push(fresh),
      onError: (error) => told.errors.push(error),
      onState: (state) => told.states.push(state),
      ...options,
    });
    return Object.assign(told, { subscription, stop: () => subscription.close() });
  }

  test("values arrive and then changes, at any cut", { timeout: 10_000 }, async () => {
    for (const slice of [0, 1]) {
      fake.slice = slice;
      const told = watch(["sum_of/1", "echo/%C3%B8%2F"]);
      await until(() => told.fresh.length > 0);
      assert.deepEqual(told.values.map(({ value }) => value), [slice * 7, "ø/"]);
      assert.deepEqual(told.fresh[0].keys, ["sum_of/1", "echo/%C3%B8%2F"]);
      fake.set(1, slice * 7 + 7);
      await until(() => told.values.length === 3);
      assert.equal(told.values[2].value, slice * 7 + 7);
      told.stop();
      assert.equal(await told.subscription.ended, null);
      assert.deepEqual(told.states, ["open", "closed"]);
      await until(() => fake.streams.size === 0);
    }
  });

  test("a cut stream goes on where it was", { timeout: 10_000 }, async () => {
    const told = watch("sum_of/1");
    await until(() => told.fresh.length > 0);
    fake.cut();
    await until(() => told.errors.length > 0);
    assert.equal(told.subscription.state, "connecting");
    assert.ok(told.errors[0].againIn <= 200 && told.errors[0].key === null);
    fake.set(1, 9);
    await until(() => told.values.length === 2);
    assert.equal(fake.last.headers["last-event-id"], '{"sum_of/1":1001}');
    assert.equal(told.values[1].value, 9);
    told.stop();
  });

  test("half an event is no event, an older version is left out", { timeout: 10_000 }, async () => {
    fake.faults.push((response) => {
      fake.begin(response);
      fake.event(response, "value", { ...fake.result("sum_of/1"), version: 2000 });
      fake.event(response, "value", { ...fake.result("sum_of/1"), version: 1999 });
      fake.event(response, "novelty", {});
      response.write('event: value\nid: half\ndata: {"success":true,');
      setTimeout(() => response.destroy(), 20);
    });
    const told = watch("sum_of/1");
    await until(() => told.fresh.length > 0);
    assert.deepEqual(told.values.map(({ version }) => version), [2000]);
    assert.equal(fake.last.headers["last-event-id"], undefined);
    told.stop();
  });

  test("a silent peer is left", { timeout: 10_000 }, async () => {
    fake.quiet = true;
    const told = watch("sum_of/1", {}, new Kck({ server: fake.address, silenceMs: 100 }));
    await until(() => told.errors.length > 0);
    assert.equal(told.errors[0].name, "timed_out");
    fake.quiet = false;
    await until(() => told.fresh.length > 0);
    told.stop();
  });

  test("a busy server is asked again when it says", { timeout: 10_000 }, async () => {
    fake.faults.push(
      refuse(429, "too_many_requests", { "Retry-After": "1" }), refuse(503, "draining"),
      (response) => fake.json(response, 502, "<html>"),
    );
    const told = watch("sum_of/1");
    await until(() => told.values.length > 0);
    assert.deepEqual(told.errors.map(({ name }) => name), ["too_many_requests", "draining", "unexpected_reply"]);
    assert.ok(told.errors[0].againIn >= 1000);
    assert.ok(told.errors[2].againIn >= told.errors[1].againIn / 2);
    told.stop();
  });

  test("what will not get better ends it", { timeout: 10_000 }, async () => {
    for (const [status, name] of [[401, "unauthorized"], [403, "forbidden"], [404, "unknown_product"], [400, "bad_parameter"]]) {
      fake.faults.push(refuse(status, name));
      const told = watch("sum_of/1");
      assert.ok(named(name)(await told.subscription.ended));
      assert.equal(told.subscription.state, "closed");
      assert.equal(told.errors[0].againIn, null);
    }
  });

  test("the end of a token ends it unless there is another", { timeout: 10_000 }, async () => {
    const ended = (response) => {
      fake.begin(response);
      fake.event(response, "error", failure("unauthorized"));
      response.end();
    };
    fake.faults.push(ended);
    assert.ok(named("unauthorized")(await watch("sum_of/1").subscription.ended));
    const tokens = ["first", "second"];
    fake.faults.push(ended);
    const told = watch("sum_of/1", {}, new Kck({ server: fake.address, token: async () => tokens.shift() }));
    await until(() => told.values.length > 0);
    assert.equal(fake.last.headers.authorization, "Bearer second");
    told.stop();
  });

  test("trouble of one key does not end the stream", { timeout: 10_000 }, async () => {
    fake.faults.push((response) => {
      fake.begin(response);
      fake.event(response, "error", failure("product_broken", { key: "sum_of/1" }));
      fake.event(response, "value", fake.result("sum_of/2"));
    });
    const told = watch(["sum_of/1", "sum_of/2"]);
    await until(() => told.values.length > 0);
    assert.deepEqual([told.errors[0].key, told.errors[0].name, told.errors[0].againIn], ["sum_of/1", "product_broken", null]);
    told.stop();
  });

  test("a signal closes it, also while it waits to open again", { timeout: 10_000 }, async () => {
    const controller = new AbortController();
    fake.faults.push(refuse(429, "too_many_requests", { "Retry-After": "60" }));
    const told = watch("sum_of/1", { signal: controller.signal });
    await until(() => told.errors.length > 0);
    controller.abort();
    assert.equal(await told.subscription.ended, null);
    assert.equal(await kck.subscribe("sum_of/1", { signal: controller.signal }).ended, null);
  });
});

describe("live queries", () => {
  /** Listens, and keeps the snapshots. */
  function listen(query) {
    const snapshots = [];
    const stop = query.subscribe((snapshot) => snapshots.push(snapshot));
    return { snapshots, stop };
  }

  test("it is a store for React and Svelte", { timeout: 10_000 }, async () => {
    const query = kck.live("sum_of", 1);
    assert.equal(query, kck.live("sum_of/1"));
    assert.deepEqual([query.value, query.asOf, query.state], [undefined, null, "closed"]);
    const { snapshots, stop } = listen(query);
    assert.equal(snapshots.length, 1, "Svelte wants the first call at once");
    await until(() => query.value === 0 && query.state === "open");
    const { snapshot } = query;
    assert.equal(snapshot(), snapshot(), "React wants the same object while nothing changes");
    assert.equal(query.asOf.lsn, "0/16B3748");
    fake.set(1, 5);
    await until(() => query.value === 5);
    assert.equal(snapshots.at(-1), snapshot());
    assert.ok(Object.isFrozen(snapshot()));
    const told = snapshots.length;
    stop();
    stop();
    await until(() => fake.streams.size === 0);
    assert.equal(query.state, "closed");
    assert.equal(snapshots.length, told);
  });

  test("queries of one client share one stream", { timeout: 10_000 }, async () => {
    const one = listen(kck.live("sum_of", 1));
    const two = listen(kck.live("sum_of", 2));
    const again = listen(kck.live("sum_of", 1));
    await until(() => one.snapshots.at(-1).value === 0 && two.snapshots.at(-1).value === 0);
    assert.deepEqual(fake.asked.map(({ query }) => query), [[["key", "sum_of/1"], ["key", "sum_of/2"]]]);
    const states = one.snapshots.length;
    const three = listen(kck.live("items_of", 1));
    await until(() => three.snapshots.at(-1).value !== undefined && fake.streams.size === 1);
    assert.deepEqual(fake.last.query, [["key", "sum_of/1"], ["key", "sum_of/2"], ["key", "items_of/1"]]);
    assert.equal(fake.last.headers["last-event-id"], undefined, "its id spoke of other keys");
    assert.ok(one.snapshots.slice(states).every(({ state }) => state === "open"), "the old stream served until the new one was open");
    fake.set(1, 3);
    await until(() => one.snapshots.at(-1).value === 3 && again.snapshots.at(-1).value === 3 && three.snapshots.at(-1).value[0].n === 3);
    const asked = fake.asked.length;
    again.stop();
    three.stop();
    await soon(50);
    assert.equal(fake.asked.length, asked, "one key too many is no reason for a new stream");
    two.stop();
    await until(() => fake.asked.length > asked && fake.streams.size === 1);
    assert.deepEqual(fake.last.query, [["key", "sum_of/1"]]);
    one.stop();
    await until(() => fake.streams.size === 0);
  });

  test("a mount that is undone in the same turn opens nothing", async () => {
    const query = kck.live("sum_of", 1);
    query.subscribe(() => {})();
    await soon();
    assert.equal(fake.asked.length, 0);
  });

  test("more keys than a stream takes are several streams", { timeout: 10_000 }, async () => {
    const few = new Kck({ server: fake.address, keysPerStream: 2 });
    const all = [1, 2, 3, 4, 5].map((text) => listen(few.live("echo", text)));
    await until(() => all.every(({ snapshots }) => snapshots.at(-1).value !== undefined));
    assert.deepEqual(fake.asked.map(({ query }) => query.length), [2, 2, 1]);
    const long = ["x", "y"].map((letter) => listen(few.live("echo", letter.repeat(5000))));
    await until(() => long.every(({ snapshots }) => snapshots.at(-1).value !== undefined));
    assert.ok(fake.asked.every(({ query }) => query.reduce((sum, [, text]) => sum + text.length, 0) < 7000));
    for (const { stop } of [...all, ...long]) stop();
    await until(() => fake.streams.size === 0);
  });

  test("a key that kck writes otherwise finds its query", { timeout: 10_000 }, async () => {
    const odd = listen(kck.live("sum_of/007"));
    const other = listen(kck.live("sum_of/0002"));
    const plain = listen(kck.live("sum_of/2"));
    await until(() => [odd, other, plain].every(({ snapshots }) => snapshots.at(-1).value === 0));
    fake.set(3, 4);
    await until(() => other.snapshots.at(-1).value === 4 && plain.snapshots.at(-1).value === 4);
    await until(() => odd.snapshots.at(-1).asOf.lsn === fake.asOf().lsn);
    assert.equal(fake.asked.filter(({ method }) => method === "POST").length, 1);
    for (const { stop } of [odd, other, plain]) stop();
  });

  test("a key that is refused does not hold up the others", { timeout: 10_000 }, async () => {
    const good = listen(kck.live("sum_of", 1));
    const bad = listen(kck.live("nothing", 1));
    await until(() => good.snapshots.at(-1).value === 0 && bad.snapshots.at(-1).error !== null);
    assert.equal(bad.snapshots.at(-1).error.name, "unknown_product");
    assert.equal(bad.snapshots.at(-1).state, "closed");
    await until(() => good.snapshots.at(-1).state === "open");
    assert.deepEqual(fake.last.query, [["key", "sum_of/1"]]);
    const asked = fake.asked.length;
    await soon(100);
    assert.equal(fake.asked.length, asked, "it is not asked for again");
    bad.stop();
    good.stop();
  });

  test("who is to blame is asked again when that fails", { timeout: 10_000 }, async () => {
    fake.faults.push(refuse(404, "unknown_product"), refuse(503, "draining"));
    const one = listen(kck.live("sum_of", 1));
    const two = listen(kck.live("sum_of", 2));
    await until(() => one.snapshots.at(-1).value === 0 && two.snapshots.at(-1).value === 0);
    one.stop();
    two.stop();
  });

  test("a listener that throws disturbs nobody", { timeout: 10_000 }, async () => {
    const thrown = [];
    const keep = (error) => thrown.push(error.message);
    const others = process.rawListeners("uncaughtException");
    process.removeAllListeners("uncaughtException").on("uncaughtException", keep);
    try {
      const query = kck.live("sum_of", 1);
      const stop = query.subscribe(() => {
        throw new Error("mine");
      });
      const { snapshots, stop: stopOther } = listen(query);
      await until(() => snapshots.at(-1).value === 0);
      stop();
      stopOther();
      assert.equal(thrown[0], "mine");
    } finally {
      process.removeAllListeners("uncaughtException");
      for (const listener of others) process.on("uncaughtException", listener);
    }
  });

  test("a login wakes what was refused", { timeout: 10_000 }, async () => {
    fake.token = "t0ken";
    const one = listen(kck.live("sum_of", 1));
    const two = listen(kck.live("sum_of", 2));
    await until(() => one.snapshots.at(-1).error?.name === "unauthorized" && two.snapshots.at(-1).error !== null);
    await kck.login("a", "open sesame!");
    await until(() => one.snapshots.at(-1).value === 0 && two.snapshots.at(-1).value === 0);
    assert.equal(one.snapshots.at(-1).error, null);
    one.stop();
    two.stop();
  });

  test("it outlives a cut and says so meanwhile", { timeout: 10_000 }, async () => {
    const query = kck.live("sum_of", 1);
    const { snapshots, stop } = listen(query);
    await until(() => query.state === "open" && query.value === 0 && fake.asked.length === 1);
    await soon();
    fake.cut();
    await until(() => query.state === "connecting");
    assert.equal(query.value, 0);
    fake.set(1, 8);
    await until(() => query.value === 8 && query.state === "open" && query.error === null);
    assert.equal(fake.last.headers["last-event-id"], '{"sum_of/1":1001}');
    assert.ok(snapshots.some(({ error }) => error?.againIn > 0));
    stop();
  });
});

test("the live script passes", { timeout: 60_000 }, async () => {
  const script = fileURLToPath(new URL("live.mjs", import.meta.url));
  const environment = { ...process.env, KCK_SERVER: fake.address };
  const { stdout } = await promisify(execFile)(process.execPath, [script], { env: environment });
  assert.equal(stdout, "ok\n");
});
