/** What a parameter of a product may be; kck reads its text as a value of the parameter's type. */
export type Parameter = string | number | bigint | boolean | Date;

/** Milliseconds, or text as kck reads it: `200ms`, `5s`, `2m`, `1h`. */
export type Span = number | string;

/** A position in the source's log, and the source's clock at it (`2026-11-22T10:00:03.250000Z`). */
export interface AsOf {
  readonly lsn: string;
  readonly time: string;
}

/** What a product gives for its parameters, and how fresh that is. */
export interface Answer<T = unknown> {
  /** In kck's own form: `orders_of/7`, also where `orders_of/007` was asked. */
  readonly key: string;
  readonly value: T;
  /** Grows with every change of the value. */
  readonly version: number;
  /** When the value last changed. */
  readonly modified: string;
  /** The value is what the SQL gives on the source at some moment not before this. */
  readonly asOf: AsOf;
  /** Whether a later commit is known that may change it. */
  readonly stale: boolean;
  readonly expires: string | null;
  /** Seconds left until `expires`. */
  readonly ttl: number | null;
}

/** There is no version after the one that was named; that one is as fresh as this says. */
export interface Unchanged {
  readonly key: string;
  readonly unchanged: true;
  readonly version: number;
  readonly asOf: AsOf;
  readonly stale: boolean;
}

/** In a list of answers: why there is none for this key. */
export interface Problem {
  readonly key: string;
  readonly error: KckError;
}

export interface Written {
  /** The position of the commit. */
  readonly lsn: string;
  readonly rows: number;
}

export type ErrorName =
  | "bad_request" | "bad_parameter" | "parameter_count" | "unauthorized" | "forbidden" | "unknown_product"
  | "unknown_update" | "not_found" | "method_not_allowed" | "conflict" | "too_large" | "too_many_requests" | "internal"
  | "product_broken" | "source_unavailable" | "draining" | "not_fresh_in_time"
  /** kck was not reached, or the connection broke; a write may have happened. */
  | "connection_failed"
  /** No whole reply in time; a write may have happened. */
  | "timed_out"
  /** A reply that kck does not give: most likely something in between answered. */
  | "unexpected_reply";

/** What went wrong; `name` is for programs, `message` and `hint` are for people. */
export class KckError extends Error {
  constructor(name: ErrorName | string, message: string, facts?: object);
  name: ErrorName | (string & {});
  readonly code: string | null;
  readonly hint: string;
  /** The facts of the message, one by one. */
  readonly args: readonly string[];
  /** The HTTP status, where there was a reply. */
  readonly status: number | null;
  readonly key: string | null;
  /** How far kck was when it gave up waiting. */
  readonly reached: AsOf | null;
  /** Seconds after which kck asks to be asked again. */
  readonly retryAfter: number | null;
  /** Of a stream: milliseconds until it is opened again; null where it is not, or only one key is concerned. */
  readonly againIn: number | null;
  /** Whether the same request will be refused again. */
  get permanent(): boolean;
}

export interface CallOptions {
  signal?: AbortSignal;
}

export interface Demand extends CallOptions {
  /** At least this position; takes the place of the client's own writes. */
  minLsn?: string;
  maxStaleness?: Span;
  /** How long kck may wait to meet the demand before it answers `not_fresh_in_time`; 5 s if not given. */
  wait?: Span;
  /** A computation that starts after the request. */
  fresh?: boolean;
}

export interface Options {
  /** Where kck is: else KCK_SERVER, in a browser the page's origin, at last http://127.0.0.1:8080. */
  server?: string;
  /** The token, or what gives the current one; else KCK_TOKEN. */
  token?: string | null | (() => string | null | Promise<string | null>);
  fetch?: typeof globalThis.fetch;
  /** Whether reads wait for the client's own writes; true if not given. */
  readYourWrites?: boolean;
  /** Goes on where another client had written to. */
  position?: string | null;
  /** For a whole reply, beside the `wait` of a read; 30,000. */
  timeoutMs?: number;
  /** Bytes of a reply or of an event; 64 MiB. */
  answerLimit?: number;
  /** Reads JSON, for instance without losing digits; JSON.parse. */
  parse?: (text: string) => any;
  /** Live queries that share a stream; 200. */
  keysPerStream?: number;
  /** A stream on which nothing is heard for this long is opened again; 15,000. */
  silenceMs?: number;
}

export type State = "connecting" | "open" | "closed";

export interface Handlers {
  /** The current answer of a key; some in between may be left out, none is older than one before. */
  onValue?: (answer: Answer<any>) => void;
  /** The newest values of these keys are exact as of this. */
  onFresh?: (fresh: { keys: string[]; asOf: AsOf }) => void;
  /** Of a key (`key`), of the stream, which is opened again (`againIn`), or its end (neither). */
  onError?: (error: KckError) => void;
  onState?: (state: State) => void;
  signal?: AbortSignal;
}

export interface Subscription {
  readonly state: State;
  /** Resolves when it is over: with null after `close()`, else with the error that makes going on useless. */
  readonly ended: Promise<KckError | null>;
  close(): void;
}

/** All that is known of a live query at one moment; the same object until something changes. */
export interface Snapshot<T = unknown> {
  /** Undefined until the first answer. */
  readonly value: T | undefined;
  readonly version: number | null;
  readonly asOf: AsOf | null;
  readonly stale: boolean;
  readonly error: KckError | null;
  readonly state: State;
}

/** A key's newest answer for as long as somebody listens: a store as React and Svelte know it. */
export interface LiveQuery<T = unknown> extends Snapshot<T> {
  readonly key: string;
  /** Calls the listener now and at every change; gives what ends that. Bound. */
  readonly subscribe: (listener: (snapshot: Snapshot<T>) => void) => () => void;
  /** Bound. */
  readonly snapshot: () => Snapshot<T>;
}

/** The key of a product's answer: `key("orders_of", 42, "a/b")` is `orders_of/42/a%2Fb`. */
export function key(product: string, ...parameters: Parameter[]): string;

export class Kck {
  constructor(options?: Options);

  /** How far this client has written; its reads are not older than this. */
  readonly position: string | null;
  /** A client with the same options that remembers its own writes only: one a user, where one serves many. */
  session(options?: Options): Kck;
  /** Stops demanding its own writes: after the source was restored to an earlier state. */
  forgetWrites(): void;
  key(product: string, ...parameters: Parameter[]): string;

  /** The answer of `fetch("orders_of", 42, options?)`, or of a key, `fetch("orders_of/42", options?)`. */
  fetch<T = unknown>(
    productOrKey: string,
    ...parametersAndOptions: [...Parameter[], Demand & { after: number }]
  ): Promise<Answer<T> | Unchanged>;
  fetch<T = unknown>(
    productOrKey: string,
    ...parametersAndOptions: [...Parameter[], Demand & { after?: undefined }]
  ): Promise<Answer<T>>;
  fetch<T = unknown>(productOrKey: string, ...parameters: Parameter[]): Promise<Answer<T>>;
  /** The answers of many keys by one request, in their order; one that has none is a Problem. */
  fetchMany<T = unknown>(keys: readonly string[], options?: Demand): Promise<(Answer<T> | Problem)[]>;
  /** Runs `updates/NAME.sql` with these fields as its parameters. */
  update(name: string, fields?: Record<string, unknown>, options?: CallOptions): Promise<Written>;
  /** The same by the other verb. */
  create(name: string, fields?: Record<string, unknown>, options?: CallOptions): Promise<Written>;
  /** Computes a key, or all followed keys below a prefix of whole segments, again now. */
  refresh(keyOrPrefix: string, ...parameters: Parameter[]): Promise<{ keys: number; failed: number }>;
  /** Forgets a key, or all keys below a prefix; says how many. */
  purge(keyOrPrefix: string, ...parameters: Parameter[]): Promise<number>;
  /** Asks for a token, uses it from now on, and gives it. */
  login(user: string, password: string, options?: CallOptions): Promise<string>;
  /** Watches keys on a stream of their own, which is opened again by itself where it was. */
  subscribe(keys: string | Iterable<string>, handlers?: Handlers): Subscription;
  /** The live query of a key: the same object for the same key. All of a client share streams. */
  live<T = unknown>(productOrKey: string, ...parameters: Parameter[]): LiveQuery<T>;
}
