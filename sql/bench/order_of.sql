select o.id, o.state, o.total
from orders o
where o.id = :id
