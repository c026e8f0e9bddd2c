-- A table of ROWS rows with an index, random point queries by the index, and sums over random ranges. ROWS and QUERIES are replaced.
PRAGMA journal_mode = OFF;
PRAGMA temp_store = MEMORY;
CREATE TABLE item(id INTEGER PRIMARY KEY, word INTEGER, body TEXT);
WITH RECURSIVE seq(i, x) AS (SELECT 1, 12345 UNION ALL SELECT i + 1, (x * 1103515245 + 12345) & 2147483647 FROM seq WHERE i < ROWS)
INSERT INTO item SELECT i, i * 7919 % ROWS, substr(replace(hex(zeroblob(50)), '00', printf('%08x', x)), 1, 380 + x % 20) FROM seq;
CREATE INDEX item_word ON item(word);
WITH RECURSIVE q(i, x) AS (SELECT 1, 99 UNION ALL SELECT i + 1, (x * 1103515245 + 12345) & 2147483647 FROM q WHERE i < QUERIES)
SELECT 'points', count(*), sum((SELECT unicode(substr(body, 1 + q.i % 8, 1)) + id % 101 FROM item WHERE word = (q.x >> 7) % ROWS)) FROM q;
WITH RECURSIVE q(i, x) AS (SELECT 1, 77 UNION ALL SELECT i + 1, (x * 1103515245 + 12345) & 2147483647 FROM q WHERE i < QUERIES / 200)
SELECT 'ranges', count(*), sum((SELECT sum(length(body)) FROM item WHERE id BETWEEN (q.x >> 7) % ROWS AND (q.x >> 7) % ROWS + 200)) FROM q;
