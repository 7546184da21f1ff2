/* kck
warm = "select id from items"
*/
select id, label from items where id = :id
