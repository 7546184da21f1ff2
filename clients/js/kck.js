// Kck: kck's HTTP contract -> functions, event streams and live queries. Browsers and Node >= 18, no dependencies.

const TIMEOUT_MS = 30_000;
const ANSWER_LIMIT = 64 * 1024 * 1024;
// How long kck lets a read wait that does not say.
const WAIT_MS = 5_000;
// kck says something every 5 s; a peer silent for this long is gone.
const SILENCE_MS = 15_000;
const DELAY_FIRST_MS = 200;
const DELAY_MOST_MS = 30_000;
const SIFT_AGAIN_MS = 1_000;
// Most proxies take a URL of this length; kck itself takes more.
const URL_LENGTH_MAX = 7_000;
const KEYS_PER_STREAM = 200;

const UNIT_MS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };
const NAME = /^[a-z][a-z0-9_]*$/;
// What a path may hold without being encoded; a key of `key()` holds less.
const PATH = /^[A-Za-z0-9\-._~%/:@!$&'()*+,;=]+$/;
// Asking the same again is refused again.
const PERMANENT = new Set([
  "bad_request", "bad_parameter", "parameter_count", "unauthorized", "forbidden", "unknown_product", "unknown_update",
  "not_found", "method_not_allowed", "conflict", "too_large",
]);
// For replies of a gateway in front of kck, whose bodies are not kck's.
const BY_STATUS = { 401: "unauthorized", 403: "forbidden", 413: "too_large", 429: "too_many_requests" };

/** What went wrong; `name` is for programs, `message` and `hint` are for people. */
export class KckError extends Error {
  constructor(name, message, facts = {}) {
    super(message, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.name = name;
    this.code = facts.code ?? null;
    this.hint = facts.hint ?? "";
    this.args = facts.args ?? [];
    this.status = facts.status ?? null;
    this.key = facts.key ?? null;
    this.reached = facts.reached ?? null;
    this.retryAfter = facts.retryAfter ?? null;
    this.againIn = null;
  }

  /** Whether the same request will be refused again. */
  get permanent() {
    if (this.status === null) return PERMANENT.has(this.name);
    return this.status >= 300 && this.status < 500 && this.status !== 408 && this.status !== 429;
  }
}

/** The key of a product's answer: `key("orders_of", 42, "a/b")` is `orders_of/42/a%2Fb`. */
export function key(product, ...parameters) {
  if (!NAME.test(product)) throw new RangeError(`'${product}' is no product's name: [a-z][a-z0-9_]*`);
  return [product, ...parameters.map((parameter) => encoded(textOf(parameter)))].join("/");
}

/** Asks one kck. Its methods are described in kck.d.ts. */
export class Kck {
  #options;
  #server;
  #token;
  #position;
  #live;

  constructor(options = {}) {
    this.#options = options;
    this.#server = serverOf(options.server ?? environment("KCK_SERVER") ?? here() ?? "http://127.0.0.1:8080");
    this.#token = options.token ?? environment("KCK_TOKEN") ?? null;
    this.#position = options.position ?? null;
    if (this.#position !== null) orderOf(this.#position);
    this.#live = new Live(this, options.keysPerStream ?? KEYS_PER_STREAM);
  }

  get position() {
    return this.#position;
  }

  key(product, ...parameters) {
    return key(product, ...parameters);
  }

  session(options = {}) {
    return new Kck({ ...this.#options, token: this.#token, position: null, ...options });
  }

  forgetWrites() {
    this.#position = null;
  }

  async fetch(productOrKey, ...rest) {
    const [parameters, options] = parametersAndOptions(rest);
    const asked = named(productOrKey, parameters);
    const [query, waitMs] = this.#demand(options);
    if (options.after !== undefined) query.push(["after", String(options.after)]);
    if (!goesInPath(asked)) {
      const reply = await this.#request("GET", target("/fetch", [["key", asked], ...query]), { waitMs, ...options });
      const [result] = this.#results(reply, 1);
      if (!result.success) throw errorOf(result);
      return answerOf(result);
    }
    const reply = await this.#request("GET", target(`/fetch/${asked}`, query), { waitMs, ...options });
    return reply.status === 304 ? unchangedOf(asked, reply.headers) : answerOf(this.#json(reply));
  }

  async fetchMany(keys, options = {}) {
    const asked = keys.map(checked);
    if (asked.length === 0) return [];
    const [query, waitMs] = this.#demand(options);
    const reply = await this.#request("POST", target("/fetch", query), { json: { keys: asked }, waitMs, ...options });
    return this.#results(reply, asked.length).map((result, at) =>
      result.success ? answerOf(result) : { key: asked[at], error: errorOf(result) },
    );
  }

  update(name, fields = {}, options = {}) {
    return this.#write("PUT", "update", name, fields, options);
  }

  create(name, fields = {}, options = {}) {
    return this.#write("POST", "create", name, fields, options);
  }

  async refresh(keyOrPrefix, ...rest) {
    const { keys, failed } = await this.#administer("refresh", keyOrPrefix, rest);
    return { keys, failed: failed ?? 0 };
  }

  async purge(keyOrPrefix, ...rest) {
    return (await this.#administer("purge", keyOrPrefix, rest)).keys;
  }

  async login(user, password, options = {}) {
    const body = `password=${encoded(password)}`;
    const headers = { "Content-Type": "application/x-www-form-urlencoded" };
    const login = { body, headers, anonymous: true, ...options };
    const json = this.#json(await this.#request("POST", `/login/${encoded(user)}`, login));
    if (typeof json.auth_token !== "string") throw unexpected("a login without a token");
    this.#token = json.auth_token;
    this.#live.tryAgain();
    return json.auth_token;
  }

  subscribe(keys, handlers = {}) {
    const watched = (typeof keys === "string" ? [keys] : [...keys]).map(checked);
    if (watched.length === 0) throw new RangeError("no key to watch");
    return new Subscription(this.#opener(watched), handlers);
  }

  live(productOrKey, ...parameters) {
    return this.#live.of(named(productOrKey, parameters));
  }

  /** What a subscription needs of the client: how a stream is opened, and what is to be known of the client. */
  #opener(keys) {
    const url = target("/subscribe", keys.map((asked) => ["key", asked]));
    return {
      open: async (lastId, signal) => {
        const headers = { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) };
        const response = await this.#send("GET", url, { headers }, signal);
        const kind = response.headers.get("content-type") ?? "";
        if (response.status === 200 && kind.toLowerCase().startsWith("text/event-stream")) return response.body;
        const text = await this.#text(response);
        this.#json({ status: statusOf(response), headers: response.headers, text });
        throw unexpected("the reply is no stream of events");
      },
      parse: (text) => this.#parse(text),
      bytesMax: this.#options.answerLimit ?? ANSWER_LIMIT,
      silenceMs: this.#options.silenceMs ?? SILENCE_MS,
      tokenMayChange: typeof this.#token === "function",
    };
  }

  async #write(method, route, name, fields, options) {
    const reply = await this.#request(method, `/${route}/${key(name)}`, { json: fields, ...options });
    const { lsn, rows } = this.#json(reply);
    if (typeof lsn !== "string" || !POSITION.test(lsn)) throw unexpected("a write without its position");
    if (this.#position === null || isAfter(lsn, this.#position)) this.#position = lsn;
    return { lsn, rows };
  }

  async #administer(route, keyOrPrefix, rest) {
    const [parameters, options] = parametersAndOptions(rest);
    const asked = named(keyOrPrefix, parameters);
    // `orders_of/` as text is the prefix; `orders_of` with "" is the key of an empty text.
    const inPath = goesInPath(asked) || (parameters.length === 0 && goesInPath(asked.replace(/\/+$/, "")));
    const url = inPath ? `/${route}/${asked}` : target(`/${route}`, [["key", asked]]);
    return this.#json(await this.#request("POST", url, options));
  }

  #demand({ minLsn, maxStaleness, wait, fresh }) {
    const query = [];
    const position = minLsn ?? (this.#options.readYourWrites === false ? null : this.#position);
    if (position !== null) query.push(["min_lsn", position]);
    if (maxStaleness !== undefined) query.push(["max_staleness", span(maxStaleness)]);
    if (wait !== undefined) query.push(["wait", span(wait)]);
    if (fresh) query.push(["fresh", "true"]);
    return [query, wait === undefined ? WAIT_MS : msOf(wait)];
  }

  /** One exchange, whole, within its time. */
  async #request(method, url, { json, body, headers = {}, anonymous, waitMs = 0, signal }) {
    signal?.throwIfAborted();
    const controller = new AbortController();
    let late = false;
    const timeoutMs = (this.#options.timeoutMs ?? TIMEOUT_MS) + waitMs;
    const timer = setTimeout(() => {
      late = true;
      controller.abort();
    }, timeoutMs);
    const abort = () => controller.abort();
    signal?.addEventListener("abort", abort, { once: true });
    const write = method === "PUT" || url.startsWith("/create/");
    const hint = write ? "it is not known whether the write happened" : "";
    try {
      const sent = { headers, body, anonymous };
      if (json !== undefined) {
        sent.body = JSON.stringify(json, (_, value) => (typeof value === "bigint" ? String(value) : value));
        sent.headers = { ...headers, "Content-Type": "application/json" };
      }
      const response = await this.#send(method, url, sent, controller.signal);
      return { status: statusOf(response), headers: response.headers, text: await this.#text(response) };
    } catch (error) {
      if (error instanceof KckError) throw error;
      signal?.throwIfAborted();
      if (late) throw new KckError("timed_out", `no whole reply within ${timeoutMs} ms`, { hint, cause: error });
      throw failed(error, hint);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
  }

  async #send(method, url, { headers, body, anonymous }, signal) {
    const all = { Accept: "application/json", ...headers };
    const token = anonymous ? null : typeof this.#token === "function" ? await this.#token() : this.#token;
    if (token) all.Authorization = `Bearer ${token}`;
    const fetch = this.#options.fetch ?? globalThis.fetch;
    // A browser's own cache would answer with the body, and the `as_of`, of an earlier time.
    const init = { method, headers: all, body, signal, cache: "no-store", redirect: "manual" };
    return fetch(this.#server + url, init);
  }

  async #text(response) {
    if (!response.body) return "";
    const limit = this.#options.answerLimit ?? ANSWER_LIMIT;
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    let bytes = 0;
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return text + decoder.decode();
      bytes += value.length;
      if (bytes > limit) {
        reader.cancel().catch(() => {});
        const hint = "give the client a larger answerLimit";
        throw new KckError("too_large", `the reply has more than ${limit} bytes`, { hint });
      }
      text += decoder.decode(value, { stream: true });
    }
  }

  #json({ status, headers, text }) {
    let json = null;
    try {
      json = this.#parse(text);
    } catch {
      // A gateway's page: the status says what there is to say.
    }
    if (status === 200 && json?.success === true) return json;
    throw errorOf(json, status, secondsOf(headers.get("retry-after")));
  }

  #results(reply, count) {
    const { results } = this.#json(reply);
    if (!Array.isArray(results) || results.length !== count) throw unexpected(`${count} keys were asked`);
    return results;
  }

  #parse(text) {
    return (this.#options.parse ?? JSON.parse)(text);
  }
}

// Streams.

/** The events of some keys, over as many connections as it takes. */
class Subscription {
  #opener;
  #handlers;
  #state = "connecting";
  #lastId;
  #failures = 0;
  #versions = new Map();
  #closing = new AbortController();
  #ended;

  constructor(opener, handlers, lastId = "") {
    this.#opener = opener;
    this.#handlers = handlers;
    this.#lastId = lastId;
    const { signal } = handlers;
    const close = () => this.close();
    if (signal?.aborted) this.close();
    signal?.addEventListener("abort", close, { once: true });
    this.#ended = this.#run().finally(() => signal?.removeEventListener("abort", close));
  }

  get state() {
    return this.#state;
  }

  /** Resolves when it is over: with null after `close()`, else with the error that makes going on useless. */
  get ended() {
    return this.#ended;
  }

  close() {
    this.#closing.abort();
    this.#become("closed");
  }

  get #closed() {
    return this.#closing.signal.aborted;
  }

  async #run() {
    // Nothing is told before the caller has what `subscribe` gives.
    await null;
    while (!this.#closed) {
      let error = null;
      try {
        await this.#once();
        error = new KckError("connection_failed", "the stream ended");
      } catch (thrown) {
        error = thrown instanceof KckError ? thrown : failed(thrown);
      }
      if (this.#closed) break;
      const over = error.permanent && !(error.status === null && error.name === "unauthorized" && this.#opener.tokenMayChange);
      if (over) {
        this.close();
        this.#tell("onError", error);
        return error;
      }
      this.#become("connecting");
      error.againIn = this.#delay(error);
      this.#tell("onError", error);
      await pause(error.againIn, this.#closing.signal);
    }
    return null;
  }

  async #once() {
    const controller = new AbortController();
    const abort = () => controller.abort();
    this.#closing.signal.addEventListener("abort", abort, { once: true });
    let silent = false;
    let timer;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        silent = true;
        controller.abort();
      }, this.#opener.silenceMs);
    };
    try {
      heard();
      const body = await this.#opener.open(this.#lastId, controller.signal);
      this.#become("open");
      const reader = body.getReader();
      const decoder = new TextDecoder();
      const parser = new Parser(this.#lastId, this.#opener.bytesMax);
      for (;;) {
        heard();
        const { done, value } = await reader.read();
        if (done || this.#closed) return;
        for (const message of parser.feed(decoder.decode(value, { stream: true }))) this.#take(message);
      }
    } catch (error) {
      if (!silent) throw error;
      throw new KckError("timed_out", `nothing was heard for ${this.#opener.silenceMs} ms`);
    } finally {
      clearTimeout(timer);
      this.#closing.signal.removeEventListener("abort", abort);
      controller.abort();
    }
  }

  #take({ event, data, id }) {
    if (this.#closed) return;
    const json = event === "value" || event === "fresh" || event === "error" ? parsed(this.#opener.parse, data) : null;
    if (event === "value") {
      const answer = answerOf(json);
      // Another node may be behind the one before; a reader is never taken back.
      if (answer.version >= (this.#versions.get(answer.key) ?? 0)) {
        this.#versions.set(answer.key, answer.version);
        this.#tell("onValue", answer);
      }
    } else if (event === "fresh") {
      if (!Array.isArray(json.keys) || !json.as_of) throw unexpected("a certificate without keys or position");
      this.#tell("onFresh", { keys: json.keys, asOf: json.as_of });
    } else if (event === "error") {
      const error = errorOf(json);
      if (error.key === null) throw error;
      this.#tell("onError", error);
    }
    this.#lastId = id;
    this.#failures = 0;
  }

  /** Milliseconds until the stream is opened again: growing, and spread so that clients do not return together. */
  #delay(error) {
    const most = Math.min(DELAY_MOST_MS, DELAY_FIRST_MS * 2 ** Math.min(this.#failures++, 16));
    return (error.retryAfter ?? 0) * 1000 + most * (0.5 + 0.5 * Math.random());
  }

  #become(state) {
    if (this.#state === state || this.#state === "closed") return;
    this.#state = state;
    this.#tell("onState", state);
  }

  #tell(handler, argument) {
    try {
      this.#handlers[handler]?.(argument);
    } catch (error) {
      report(error);
    }
  }
}

/** text/event-stream, in whatever pieces it arrives (WHATWG HTML, section 9.2.6). Exported for its tests. */
export class Parser {
  #limit;
  #line = "";
  #afterReturn = false;
  #event = "";
  #data = null;
  #id;

  constructor(lastId, limit) {
    this.#id = lastId;
    this.#limit = limit;
  }

  feed(text) {
    if (this.#afterReturn && text.startsWith("\n")) {
      this.#afterReturn = false;
      text = text.slice(1);
    }
    if (text) this.#afterReturn = text.endsWith("\r");
    const messages = [];
    const lines = text.split(/\r\n|\r|\n/);
    const rest = lines.pop();
    for (const line of lines) {
      const message = this.#take(this.#line + line);
      this.#line = "";
      if (message) messages.push(message);
    }
    this.#line += rest;
    if (this.#line.length + (this.#data?.length ?? 0) > this.#limit) {
      throw new KckError("too_large", `an event has more than ${this.#limit} characters`);
    }
    return messages;
  }

  #take(line) {
    if (line === "") return this.#end();
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "event") this.#event = value;
    else if (name === "data") this.#data = this.#data === null ? value : `${this.#data}\n${value}`;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    return null;
  }

  #end() {
    const message = { event: this.#event || "message", data: this.#data, id: this.#id };
    this.#event = "";
    this.#data = null;
    return message.data === null ? null : message;
  }
}

// Live queries.

/** All live queries of one client: they share streams. */
class Live {
  #kck;
  #keysMax;
  // Weak, so that a query that nobody holds is forgotten with its value.
  #queries = new Map();
  #gone = new FinalizationRegistry((asked) => {
    if (this.#queries.get(asked)?.deref() === undefined) this.#queries.delete(asked);
  });
  #watched = new Set();
  #streams = new Set();
  #settling = false;

  constructor(kck, keysMax) {
    this.#kck = kck;
    this.#keysMax = keysMax;
  }

  of(asked) {
    const known = this.#queries.get(asked)?.deref();
    if (known) return known;
    const query = new LiveQuery(asked, (watched) => this.#watch(query, watched));
    this.#queries.set(asked, new WeakRef(query));
    this.#gone.register(query, asked);
    return query;
  }

  tryAgain() {
    for (const query of this.#watched) query.refused = false;
    this.#soon();
  }

  #watch(query, watched) {
    query.refused = false;
    if (watched) this.#watched.add(query);
    else this.#watched.delete(query);
    this.#soon();
  }

  /** Gathers what one turn of the program asks for: a page that mounts opens its stream once. */
  #soon() {
    if (this.#settling) return;
    this.#settling = true;
    queueMicrotask(() => {
      this.#settling = false;
      this.#settle();
    });
  }

  #settle() {
    const wanted = [...this.#watched].filter((query) => !query.refused);
    const added = new Set(wanted.filter((query) => ![...this.#streams].some((stream) => stream.has(query))));
    for (const stream of [...this.#streams]) {
      const kept = stream.queries.filter((query) => this.#watched.has(query) && !query.refused);
      const room = takeWhatFits(kept, added, this.#keysMax);
      if (room.length === 0) {
        stream.close();
        this.#streams.delete(stream);
        // A stream with a few keys too many is better than a new one that sends everything again.
      } else if (room.length > kept.length || kept.length * 2 < stream.queries.length) {
        stream.open(room);
      }
    }
    while (added.size > 0) {
      const stream = new SharedStream(this.#kck, () => this.#soon());
      this.#streams.add(stream);
      stream.open(takeWhatFits([], added, this.#keysMax));
    }
  }
}

/** Moves queries from `added` to the end of `kept` while a stream has room for them. */
function takeWhatFits(kept, added, keysMax) {
  const taken = [...kept];
  const length = (query) => encoded(query.key).length + "&key=".length;
  let letters = taken.reduce((sum, query) => sum + length(query), 0);
  for (const query of added) {
    if (taken.length >= keysMax) break;
    if (taken.length > 0 && letters + length(query) > URL_LENGTH_MAX) continue;
    letters += length(query);
    taken.push(query);
    added.delete(query);
  }
  return taken;
}

/** One stream of several live queries; when its keys change, the old one serves until the new one is open. */
class SharedStream {
  #kck;
  #changed;
  #current = null;
  #next = null;
  #byKey = new Map();
  // Values whose key is nobody's yet: kck answers in its own form of a key, `p/7` for `p/007`.
  #strangers = new Map();
  #learning = false;

  constructor(kck, changed) {
    this.#kck = kck;
    this.#changed = changed;
    this.queries = [];
  }

  has(query) {
    return this.queries.includes(query);
  }

  open(queries) {
    for (const query of this.queries) if (!queries.includes(query)) query.become("closed");
    this.queries = queries;
    this.#byKey.clear();
    for (const query of queries) {
      this.#know(query.key, query);
      if (query.answerKey !== null) this.#know(query.answerKey, query);
    }
    this.#next?.close();
    const subscription = this.#kck.subscribe(queries.map((query) => query.key), {
      onValue: (answer) => this.#value(answer),
      onFresh: ({ keys, asOf }) => {
        for (const answerKey of keys) for (const query of this.#byKey.get(answerKey) ?? []) query.certify(asOf);
        if (this.#strangers.size > 0) this.#learn();
      },
      onError: (error) => this.#error(subscription, error),
      onState: (state) => this.#state(subscription, state),
    });
    this.#next = subscription;
    if (this.#current === null) this.#promote();
    for (const query of queries) query.become(this.#current.state);
  }

  close() {
    this.#next?.close();
    this.#current?.close();
    this.#next = this.#current = null;
    for (const query of this.queries) query.become("closed");
    this.queries = [];
  }

  #promote() {
    const old = this.#current;
    this.#current = this.#next;
    this.#next = null;
    old?.close();
  }

  #state(subscription, state) {
    if (subscription === this.#next && state === "open") this.#promote();
    if (subscription !== this.#current || state === "closed") return;
    for (const query of this.queries) query.become(state);
  }

  #value(answer) {
    const queries = this.#byKey.get(answer.key);
    if (queries) {
      for (const query of queries) query.take(answer);
    } else {
      this.#strangers.set(answer.key, answer);
      this.#learn();
    }
  }

  #error(subscription, error) {
    if (subscription !== this.#current && subscription !== this.#next) return;
    if (error.key !== null) {
      for (const query of this.#byKey.get(error.key) ?? []) query.fail(error);
    } else if (error.againIn === null) {
      this.#refused(error);
    } else if (subscription === this.#current) {
      for (const query of this.queries) query.fail(error);
    }
  }

  #know(answerKey, query) {
    if (!this.#byKey.has(answerKey)) this.#byKey.set(answerKey, new Set());
    this.#byKey.get(answerKey).add(query);
  }

  /** Asks in what form kck answers the keys that have not been answered in the form they were asked in. */
  async #learn() {
    if (this.#learning) return;
    this.#learning = true;
    try {
      await null; // The other values of this burst are not strange.
      const products = new Set([...this.#strangers.keys()].map((answerKey) => answerKey.split("/")[0]));
      const unknown = this.queries.filter((query) => query.answerKey === null && products.has(query.key.split("/")[0]));
      const results = await this.#kck.fetchMany(unknown.map((query) => query.key));
      results.forEach((result, at) => {
        if (result.error) return;
        unknown[at].take(result);
        if (this.has(unknown[at])) this.#know(result.key, unknown[at]);
      });
      const strangers = [...this.#strangers.values()];
      this.#strangers.clear();
      for (const answer of strangers) for (const query of this.#byKey.get(answer.key) ?? []) query.take(answer);
    } catch {
      // Tried again with the next certificate.
    } finally {
      this.#learning = false;
    }
  }

  /** kck refuses the stream for the sake of some key: finds out which, and goes on without them. */
  async #refused(error) {
    const queries = this.queries;
    this.close();
    this.#changed();
    const refuse = (query, reason) => {
      query.refused = true;
      query.fail(reason);
    };
    // Held back from new streams until it is known who is to blame.
    for (const query of queries) query.refused = true;
    if (queries.length === 1) return refuse(queries[0], error);
    let results = [];
    try {
      results = await this.#kck.fetchMany(queries.map((query) => query.key));
    } catch (thrown) {
      if (!thrown.permanent) {
        await pause(SIFT_AGAIN_MS, new AbortController().signal);
        for (const query of queries) query.refused = false;
        return this.#changed();
      }
    }
    const guilty = results.map((result) => (result.error?.permanent ? result.error : null));
    if (!guilty.some((reason) => reason)) return queries.forEach((query) => refuse(query, error));
    queries.forEach((query, at) => {
      if (guilty[at]) refuse(query, guilty[at]);
      else query.refused = false;
    });
    return this.#changed();
  }
}

/** A key's newest answer for as long as somebody listens. */
class LiveQuery {
  #listeners = new Set();
  #watch;
  #snapshot = Object.freeze({ value: undefined, version: null, asOf: null, stale: false, error: null, state: "closed" });

  constructor(asked, watch) {
    this.key = asked;
    /** The key in kck's own form, once it is known. */
    this.answerKey = null;
    /** kck refuses it: it is not asked for again until somebody else listens or the token changes. */
    this.refused = false;
    this.#watch = watch;
    // Bound, so that they can be handed to a framework as they are.
    this.subscribe = this.subscribe.bind(this);
    this.snapshot = this.snapshot.bind(this);
  }

  get value() {
    return this.#snapshot.value;
  }

  get version() {
    return this.#snapshot.version;
  }

  get asOf() {
    return this.#snapshot.asOf;
  }

  get stale() {
    return this.#snapshot.stale;
  }

  get error() {
    return this.#snapshot.error;
  }

  get state() {
    return this.#snapshot.state;
  }

  /** All of it at one moment; the same object until something changes. */
  snapshot() {
    return this.#snapshot;
  }

  /** Calls the listener now and at every change; gives what ends that. */
  subscribe(listener) {
    // An object of its own: the same function may listen twice.
    const entry = { listener };
    this.#listeners.add(entry);
    if (this.#listeners.size === 1) this.#watch(true);
    tell(entry, this.#snapshot);
    return () => {
      if (this.#listeners.delete(entry) && this.#listeners.size === 0) this.#watch(false);
    };
  }

  take(answer) {
    const { version, asOf, value } = this.#snapshot;
    if (version !== null && answer.version < version) return;
    this.answerKey = answer.key;
    const same = answer.version === version;
    // Old and new stream of a key may overlap: the later position holds.
    const later = same && asOf !== null && answer.asOf.time < asOf.time ? asOf : answer.asOf;
    this.#change({ value: same ? value : answer.value, version: answer.version, asOf: later, stale: answer.stale, error: null });
  }

  certify(asOf) {
    if (this.#snapshot.version === null) return;
    const later = this.#snapshot.asOf !== null && asOf.time < this.#snapshot.asOf.time ? this.#snapshot.asOf : asOf;
    this.#change({ asOf: later, stale: false, error: null });
  }

  fail(error) {
    this.#change({ error });
  }

  become(state) {
    this.#change({ state });
  }

  #change(part) {
    const old = this.#snapshot;
    if (Object.entries(part).every(([name, value]) => old[name] === value)) return;
    this.#snapshot = Object.freeze({ ...old, ...part });
    for (const entry of [...this.#listeners]) tell(entry, this.#snapshot);
  }
}

function tell(entry, snapshot) {
  try {
    entry.listener(snapshot);
  } catch (error) {
    report(error);
  }
}

// Words: keys, positions, spans, answers, errors.

function textOf(parameter) {
  if (parameter === null || parameter === undefined) throw new TypeError("a parameter is null: parameters of products are never NULL");
  if (parameter instanceof Date) return parameter.toISOString();
  if (["string", "number", "bigint", "boolean"].includes(typeof parameter)) return String(parameter);
  throw new TypeError(`a parameter is a ${typeof parameter}: give its text`);
}

/** Percent-encoded as UTF-8 except A-Z a-z 0-9 - . _ ~. */
function encoded(text) {
  const hex = (letter) => `%${letter.charCodeAt(0).toString(16).toUpperCase()}`;
  return encodeURIComponent(text).replace(/[!'()*]/g, hex);
}

function checked(text) {
  if (typeof text !== "string" || !PATH.test(text)) throw new RangeError(`'${text}' is no key: build it with key(product, ...parameters)`);
  return text;
}

/** Whether a key survives in a path: URL parsers take `.` and `..` away, encoded or not. */
function goesInPath(text) {
  const segments = text.split("/");
  return segments.at(-1) !== "" && !segments.some((segment) => /^(\.|%2e){1,2}$/i.test(segment));
}

function named(productOrKey, parameters) {
  return parameters.length > 0 ? key(productOrKey, ...parameters) : checked(productOrKey);
}

/** `fetch(product, ...parameters, options?)`. */
function parametersAndOptions(rest) {
  const last = rest.at(-1);
  const isOptions = last !== null && typeof last === "object" && !(last instanceof Date) && !Array.isArray(last);
  return isOptions ? [rest.slice(0, -1), last] : [rest, {}];
}

function target(path, query) {
  const text = query.map(([name, value]) => `${name}=${encoded(value)}`).join("&");
  return text ? `${path}?${text}` : path;
}

function serverOf(text) {
  const url = new URL(text);
  const plain = /^https?:$/.test(url.protocol) && !url.username && !url.search && !url.hash;
  if (!plain) throw new RangeError("server is an address like http://host:port: no user, query or fragment");
  return url.origin + url.pathname.replace(/\/+$/, "");
}

function environment(name) {
  return globalThis.process?.env?.[name] || undefined;
}

/** In a browser: where the page came from. */
function here() {
  const origin = globalThis.location?.origin;
  return origin && origin !== "null" ? origin : undefined;
}

const POSITION = /^(?:(\d+):)?([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/;

/** Positions compare as numbers: `0/9` is before `0/10`. `3:0/9` names its epoch as well. */
function orderOf(position) {
  const match = POSITION.exec(position);
  if (!match) throw new RangeError(`'${position}' is no position in a log: write it like 0/16B3748`);
  return [Number(match[1] ?? 0), Number.parseInt(match[2], 16), Number.parseInt(match[3], 16)];
}

function isAfter(a, b) {
  const [left, right] = [orderOf(a), orderOf(b)];
  const at = left.findIndex((number, index) => number !== right[index]);
  return at >= 0 && left[at] > right[at];
}

/** Milliseconds as a number, or text as kck reads it. */
function span(value) {
  return typeof value === "string" ? (msOf(value), value) : `${Math.round(msOf(value))}ms`;
}

function msOf(value) {
  const match = /^(\d+)(ms|s|m|h)$/.exec(value);
  if (match) return Number(match[1]) * UNIT_MS[match[2]];
  if (typeof value === "number" && value >= 0 && Number.isFinite(value)) return value;
  throw new RangeError(`'${value}' is no span of time: 200ms, 5s, 2m, 1h, or milliseconds as a number`);
}

function secondsOf(text) {
  return text !== null && /^\d+$/.test(text.trim()) ? Number(text) : null;
}

function answerOf(json) {
  const { key: answerKey, value, version, modified, as_of: asOf, stale, expires, ttl } = json;
  if (typeof answerKey !== "string" || typeof version !== "number" || !asOf) throw unexpected("an answer without its facts");
  return { key: answerKey, value, version, modified, asOf, stale: stale === true, expires: expires ?? null, ttl: ttl ?? null };
}

function unchangedOf(asked, headers) {
  const version = Number((headers.get("etag") ?? "").replace(/^W\/|"/g, ""));
  const asOf = { lsn: headers.get("kck-as-of-lsn"), time: headers.get("kck-as-of") };
  return { key: asked, unchanged: true, version, asOf, stale: headers.get("kck-stale") === "true" };
}

function errorOf(json, status = null, retryAfter = null) {
  const error = json?.error;
  if (typeof error !== "object" || error === null) {
    return new KckError(BY_STATUS[status] ?? "unexpected_reply", `status ${status} without kck's JSON`, { status, retryAfter });
  }
  const { name, code, message, hint, args } = error;
  const facts = { code, hint, args, status, key: json.key, reached: json.reached, retryAfter };
  return new KckError(String(name), String(message), facts);
}

function unexpected(message) {
  return new KckError("unexpected_reply", `not kck's JSON: ${message}`);
}

function failed(cause, hint = "") {
  const why = cause?.cause?.message || cause?.message || String(cause);
  return new KckError("connection_failed", `the connection failed: ${why}`, { hint, cause });
}

/** A browser hides where a redirect leads, and says 0. */
function statusOf(response) {
  return response.type === "opaqueredirect" ? 302 : response.status;
}

function parsed(parse, text) {
  try {
    return parse(text);
  } catch {
    throw unexpected("an event that is no JSON");
  }
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}

/** A listener's own fault is its program's to see, and must not stop the others. */
function report(error) {
  queueMicrotask(() => {
    throw error;
  });
}
