-- A column of every type that a parameter may have, and NULLs wherever they may be.
create type mood as enum ('sad', 'ok', 'happy');
create table kinds (
    id uuid primary key,
    flag boolean,
    small smallint,
    n int,
    big bigint,
    amount numeric,
    word text,
    code varchar(8),
    day date,
    moment timestamp,
    instant timestamptz,
    feeling mood,
    bits bytea,
    letters text[],
    numbers int[],
    doc jsonb
);
alter table kinds replica identity full;
create table plain (id bigint primary key, k bigint, v bigint, word text, unread int not null default 0);
create table keyed (id bigint primary key, slot int not null unique, v text, double_slot int generated always as (slot * 2) stored);
alter table keyed replica identity using index keyed_slot_key;
insert into kinds
    select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, (array[true, false, null])[n % 3 + 1], n % 4, n % 5, n % 6,
           (array[10, 10.0, 10.50, 0, null])[n % 5 + 1], (array['a', 'A', 'b/c', '', 'é"\', null])[n % 6 + 1], 'c' || n % 3,
           date '2026-03-01' + n % 4, timestamp '2026-03-01 12:00' + n % 3 * interval '1 hour',
           timestamptz '2026-03-29 00:30Z' + n % 4 * interval '30 minutes', (array['sad', 'ok', 'happy', null])[n % 4 + 1]::mood,
           decode(lpad(to_hex(n % 4), 2, '0'), 'hex'), array['x' || n % 3, 'y' || n % 2], array[n % 3, n % 4],
           jsonb_build_object('a', n % 3, 'b', array[n % 2])
    from generate_series(1, 24) n;
insert into plain select n, nullif(n % 5, 0), nullif(n % 4, 0), 'w' || n % 3, 0 from generate_series(1, 20) n;
insert into keyed select n, n * 10, 'v' || n % 3 from generate_series(1, 12) n;

create table prices (id bigint primary key, amount numeric, tag char(6), label text, starts date, ends date, at timestamp);
alter table prices replica identity full;
insert into prices
    select n, (array[10, 10.00, 10.5, 0.0, null, 7])[n % 6 + 1], 'c' || n % 3, 'label ' || n % 3, date '2026-03-01' + n % 4, date '2026-03-03' + n % 5,
           timestamp '2026-03-01' + n % 4 * interval '12 hours'
    from generate_series(1, 14) n;
