-- own_accounts(o int): 0 | 1 | 2 | 3 | 9
select id, name from accounts where owner = :o order by id;

-- own_entries(o int): 0 | 1 | 2 | 3
select e.id, e.account_id, e.amount, e.state from entries e join accounts a on a.id = e.account_id where a.owner = :o order by e.id;

-- own_details(o int): 0 | 1 | 2 | 3
select d.entry_id, d.n, d.label from details d join entries e on e.id = d.entry_id join accounts a on a.id = e.account_id
where a.owner = :o order by 1, 2;

-- own_sums(o int): 0 | 1 | 2 | 3
select a.id, sum(e.amount) as amount from accounts a left join entries e on e.account_id = a.id and e.state is null
where a.owner = :o group by a.id order by a.id;

-- own_idle(o int): 0 | 1 | 2 | 3
select a.id from accounts a where a.owner = :o and not exists (select from entries e where e.account_id = a.id) order by a.id;

-- own_held(o int): 0 | 1 | 2 | 3
select id, amount from entries where state = 'held' and account_id in (select id from accounts where owner = :o) order by id;

-- own_largest(o int): 0 | 1 | 2 | 3
select a.id, largest.amount from accounts a cross join lateral (
    select e.amount from entries e where e.account_id = a.id order by e.amount desc, e.id limit 2) largest
where a.owner = :o order by 1, 2;

-- hits_on(t int) value: 0 | 1 | 2
select count(*) from hits h join sessions s on s.id = h.session_id where s.topic = :t;

-- sessions_on(t int) value: 0 | 1 | 2
select count(*) from sessions where topic = :t;
