-- by_nick(n citext): ann | BOB | bob%20
select id, nick from nicknames where nick = :n order by id;

-- nick_place(n citext, p text): ann ; p1 | Bob ; p0
select id from nicknames where place = :p and nick = :n order by id;

-- shared_nicks(p text): p0 | p1
select a.id, b.id as other from nicknames a join nicknames b on b.nick = a.nick and b.id > a.id where a.place = :p order by 1, 2;
