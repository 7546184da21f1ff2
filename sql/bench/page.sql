select p.id, p.title, p.body
from pages p
where p.id = :id
