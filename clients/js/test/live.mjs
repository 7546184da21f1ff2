// The client against a real kck: prints `ok` and exits 0, or says what is wrong and exits 1.
//
//     KCK_SERVER=http://127.0.0.1:8080 [KCK_TOKEN=…] node clients/js/test/live.mjs
//
// The server has the products `sum_of/:owner` (a value, the sum of `n`) and `items_of/:owner` (rows with `id` and `n`),
// and the update `set_n` with the parameters `id` and `n`. KCK_LIVE_OWNER names an owner that has items, else 1.

import assert from "node:assert/strict";
import net from "node:net";

import { Kck, key } from "../kck.js";

const OWNER = process.env.KCK_LIVE_OWNER ?? "1";
const DEADLINE_MS = 60_000;

/** A way to the server that can be cut: bytes pass in both directions until then. */
async function cutter(server) {
  const { protocol, hostname, port } = new URL(server);
  assert.equal(protocol, "http:", "the connection is cut below TLS: give an http:// server");
  const open = new Set();
  const way = { sent: "", cut: () => open.forEach((socket) => socket.destroy()) };
  way.listener = net.createServer((client) => {
    const to = net.connect({ host: hostname, port: Number(port || 80) });
    client.on("data", (piece) => (way.sent += piece.toString("latin1")));
    for (const [a, b] of [[client, to], [to, client]]) {
      open.add(a);
      a.pipe(b);
      a.on("error", () => {});
      a.on("close", () => {
        open.delete(a);
        b.destroy();
      });
    }
  });
  await new Promise((resolve) => way.listener.listen(0, "127.0.0.1", resolve));
  way.address = `http://127.0.0.1:${way.listener.address().port}`;
  return way;
}

/** Resolves when a value or a state is there that `check` takes; `tell` offers one. */
function watched() {
  const waiting = [];
  const told = [];
  return {
    tell(thing) {
      told.push(thing);
      for (const { check, resolve } of waiting) if (check(thing)) resolve(thing);
    },
    async until(check) {
      return told.find(check) ?? new Promise((resolve) => waiting.push({ check, resolve }));
    },
  };
}

async function main() {
  const kck = new Kck();
  const rows = (await kck.fetch("items_of", OWNER)).value;
  assert.ok(rows?.[0] && "id" in rows[0] && "n" in rows[0], `items_of/${OWNER} has no rows with id and n`);
  const { id } = rows[0];
  let { n } = rows[0];
  let total = rows.reduce((sum, row) => sum + row.n, 0);
  const write = async () => {
    n += 1;
    total += 1;
    assert.equal((await kck.update("set_n", { id, n })).rows, 1);
  };
  assert.equal((await kck.fetch("sum_of", OWNER)).value, total, "fetch");

  const both = await kck.fetchMany([key("sum_of", OWNER), "no_such_product/1", key("items_of", OWNER)]);
  assert.deepEqual(both.map((result) => "error" in result), [false, true, false], "fetchMany");

  await write();
  const answer = await kck.fetch("sum_of", OWNER);
  assert.equal(answer.value, total, "reading the own write");
  const unchanged = await kck.fetch("sum_of", OWNER, { after: answer.version, wait: 100 });
  assert.equal(unchanged.unchanged, true, "fetch with after");

  const way = await cutter(process.env.KCK_SERVER);
  const watcher = new Kck({ server: way.address });
  const values = watched();
  const certificates = watched();
  const errors = watched();
  const subscription = watcher.subscribe([key("sum_of", OWNER), key("items_of", OWNER)], {
    onValue: (told) => values.tell(told),
    onFresh: (fresh) => certificates.tell(fresh),
    onError: (error) => errors.tell(error),
  });
  const sumIs = (want) => (told) => told.key.startsWith("sum_of/") && told.value === want;
  await values.until(sumIs(total));
  await write();
  await values.until(sumIs(total));
  await certificates.until(() => true);
  way.cut();
  await write();
  assert.equal((await errors.until(() => true)).key, null, "the cut");
  await values.until(sumIs(total));
  subscription.close();
  assert.equal(await subscription.ended, null);
  assert.match(way.sent, /last-event-id: /i, "resuming by Last-Event-ID");

  const live = watched();
  const stops = [watcher.live("sum_of", OWNER), watcher.live("items_of", OWNER)].map((query) =>
    query.subscribe(({ value, state }) => live.tell({ key: query.key, value, state })),
  );
  await live.until(({ state, value }) => state === "open" && value === total);
  await write();
  await live.until(({ value }) => value === total);
  await live.until(({ value }) => Array.isArray(value) && value.some((row) => row.id === id && row.n === n));
  for (const stop of stops) stop();

  await assert.rejects(kck.fetch("no_such_product", 1), { name: "unknown_product" });
  way.cut();
  way.listener.close();
}

if (!process.env.KCK_SERVER) {
  // `node --test` runs every file of this folder, and this one is no test by itself.
  if (process.env.NODE_TEST_CONTEXT) process.exit(0);
  console.error("KCK_SERVER names no server");
  process.exit(2);
}
const late = setTimeout(() => {
  console.error(`not done within ${DEADLINE_MS / 1000} s`);
  process.exit(1);
}, DEADLINE_MS);
try {
  await main();
  console.log("ok");
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  clearTimeout(late);
}
