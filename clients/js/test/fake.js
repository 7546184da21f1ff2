// A small kck in this process: the HTTP contract over items in memory, and faults on demand.

import { EventEmitter, once } from "node:events";
import http from "node:http";

export function failure(name, more = {}) {
  const { key, ...rest } = more;
  const error = { name, code: "KCK600", message: `this is ${name}`, hint: "a hint", args: ["a"] };
  return { success: false, ...(key !== undefined && { key }), error, ...rest };
}

export class Fake {
  token = null;
  slice = 0;
  freshMs = 30;
  quiet = false;
  asked = [];
  faults = [];
  items = new Map([[1, { owner: 1, n: 0 }], [2, { owner: 1, n: 0 }], [3, { owner: 2, n: 0 }], [4, { owner: 2, n: 0 }]]);
  lsn = 0x16b3748;
  versions = new Map();
  changes = new EventEmitter().setMaxListeners(0);
  streams = new Set();

  static async start() {
    const kck = new Fake();
    kck.server = http.createServer((request, response) => {
      kck.#answer(request, response).catch(() => response.destroy());
    });
    kck.server.listen(0, "127.0.0.1");
    await once(kck.server, "listening");
    kck.address = `http://127.0.0.1:${kck.server.address().port}`;
    return kck;
  }

  stop() {
    this.server.closeAllConnections();
    this.server.close();
  }

  cut() {
    for (const response of this.streams) response.destroy();
  }

  get last() {
    return this.asked.at(-1);
  }

  async #answer(request, response) {
    response.socket.setNoDelay(true);
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const url = new URL(request.url, "http://x");
    // The URL class takes dots away, which is the point of some tests.
    const path = request.url.split("?")[0];
    const asked = { method: request.method, path, query: [...url.searchParams], headers: request.headers, body: String(Buffer.concat(chunks)) };
    asked.get = (name) => url.searchParams.get(name);
    this.asked.push(asked);
    const fault = this.faults.shift();
    if (fault) return fault(response, asked);
    if (this.token && asked.headers.authorization !== `Bearer ${this.token}` && !path.startsWith("/login/")) {
      return this.json(response, 401, failure("unauthorized"));
    }
    const [route, ...segments] = path.slice(1).split("/");
    const rest = segments.join("/");
    if (route === "fetch" && (asked.method === "POST" || rest === "")) {
      const keys = asked.method === "POST" ? JSON.parse(asked.body).keys : url.searchParams.getAll("key");
      return this.json(response, 200, { success: true, results: keys.map((key) => this.result(key)) });
    }
    if (route === "fetch") return this.#fetch(response, asked, rest);
    if (route === "subscribe") return this.#subscribe(response, url.searchParams.getAll("key"), asked);
    if (route === "update" || route === "create") return this.#update(response, asked, rest);
    if (route === "refresh") return this.json(response, 200, { success: true, keys: 3, failed: 1 });
    if (route === "purge") return this.json(response, 200, { success: true, keys: 3 });
    if (route === "login") {
      const right = new URLSearchParams(asked.body).get("password") === "open sesame!";
      return right ? this.json(response, 200, { success: true, auth_token: this.token }) : this.json(response, 401, failure("unauthorized"));
    }
    return this.json(response, 404, failure("not_found"));
  }

  json(response, status, value, headers = {}) {
    response.writeHead(status, { "Content-Type": "application/json", ...headers });
    response.end(typeof value === "string" ? value : JSON.stringify(value));
  }

  asOf() {
    return { lsn: `0/${this.lsn.toString(16).toUpperCase()}`, time: "2026-11-22T10:00:03.250000Z" };
  }

  result(key) {
    const [product, ...rest] = key.split("/");
    const owner = rest.join("/");
    let value;
    let canonical = key;
    if (product === "sum_of") {
      canonical = `sum_of/${Number(owner)}`;
      value = [...this.items.values()].filter((item) => item.owner === Number(owner)).reduce((sum, { n }) => sum + n, 0);
    } else if (product === "items_of") {
      value = [...this.items].filter(([, item]) => item.owner === Number(owner)).map(([id, { n }]) => ({ id, n }));
    } else if (product === "echo") {
      value = decodeURIComponent(owner);
    } else {
      return failure("unknown_product", { key });
    }
    const text = JSON.stringify(value);
    const known = this.versions.get(canonical) ?? { version: 1000 };
    if (known.text !== text) this.versions.set(canonical, { text, version: known.version + 1 });
    const { version } = this.versions.get(canonical);
    return { success: true, key: canonical, value, version, modified: "2026-11-22T10:00:00.120000Z", as_of: this.asOf(), stale: false, expires: null };
  }

  #fetch(response, asked, key) {
    const result = this.result(key);
    if (!result.success) return this.json(response, 404, result);
    if (asked.get("after") !== null && Number(asked.get("after")) >= result.version) {
      response.writeHead(304, {
        ETag: `W/"${result.version}"`, "Kck-As-Of": result.as_of.time, "Kck-As-Of-Lsn": result.as_of.lsn, "Kck-Stale": "false",
      });
      return response.end();
    }
    return this.json(response, 200, result);
  }

  set(id, n) {
    this.items.get(id).n = n;
    this.lsn += 0x38;
    this.changes.emit("change");
  }

  #update(response, asked, name) {
    if (name !== "set_n") return this.json(response, 404, failure("unknown_update"));
    const { id, n } = JSON.parse(asked.body);
    this.set(Number(id), Number(n));
    return this.json(response, 200, { success: true, lsn: this.asOf().lsn, rows: 1 });
  }

  begin(response) {
    response.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8" });
    response.flushHeaders();
    this.streams.add(response);
    response.on("close", () => this.streams.delete(response));
  }

  event(response, event, data, id) {
    const bytes = Buffer.from(`event: ${event}\ndata: ${JSON.stringify(data)}\n${id ? `id: ${id}\n` : ""}\n`);
    const size = this.slice || bytes.length;
    for (let at = 0; at < bytes.length; at += size) response.write(bytes.subarray(at, at + size));
  }

  async #subscribe(response, keys, asked) {
    if (keys.some((key) => !this.result(key).success)) return this.json(response, 404, failure("unknown_product"));
    this.begin(response);
    const sent = JSON.parse(asked.headers["last-event-id"] ?? "{}");
    while (!response.destroyed) {
      const results = keys.map((key) => this.result(key));
      const fresh = results.filter((result) => sent[result.key] !== result.version);
      for (const result of fresh) sent[result.key] = result.version;
      fresh.forEach((result, at) => this.event(response, "value", result, at === fresh.length - 1 ? JSON.stringify(sent) : undefined));
      if (!this.quiet) {
        this.event(response, "fresh", { keys: results.map((result) => result.key), as_of: this.asOf() }, JSON.stringify(sent));
        response.write(": still here\n\n");
      }
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, this.freshMs);
        this.changes.once("change", () => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }
}

export const refuse = (status, name, headers = {}, more = {}) => (response) => {
  response.writeHead(status, { "Content-Type": "application/json", ...headers });
  response.end(JSON.stringify(failure(name, more)));
};
