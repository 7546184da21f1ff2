-- Partitions by range with a default one, and by list.
create table events (
    id bigint, day date not null, kind text, account bigint, payload jsonb, primary key (id, day)
) partition by range (day);
create table events_january partition of events for values from ('2026-01-01') to ('2026-02-01');
create table events_february partition of events for values from ('2026-02-01') to ('2026-03-01');
create table events_other partition of events default;
create table readings (place text, id bigint, value numeric, account bigint, primary key (place, id)) partition by list (place);
create table readings_inside partition of readings for values in ('hall', 'attic');
create table readings_outside partition of readings for values in ('roof', 'garden');
insert into events
    select n, date '2026-01-20' + n::int * 2, 'kind ' || n % 3, nullif(n % 5, 0), jsonb_build_object('n', n % 4) from generate_series(1, 30) n;
insert into readings
    select (array['hall', 'attic', 'roof', 'garden'])[n % 4 + 1], n, n / 4.0, n % 5 from generate_series(1, 24) n;
