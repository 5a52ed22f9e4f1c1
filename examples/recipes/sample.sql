-- Something for each recipe, for the tables of schema.sql; run it once, while tuzhan-cdc runs:  psql -d crm -v ON_ERROR_STOP=1 -f sample.sql
-- What reaches the platform is in expected.txt. Every phone number is made up.

-- status-change.yaml; and by the trigger once-per-customer.yaml
INSERT INTO crm.orders (order_no, phone, amount, status) VALUES ('DD1001', '13800000001', 268.00, 'created');
UPDATE crm.orders SET status = 'paid', paid_at = '2026-11-11 10:00:00+08' WHERE order_no = 'DD1001';
UPDATE crm.orders SET status = 'shipped' WHERE order_no = 'DD1001';
INSERT INTO crm.orders (order_no, phone, amount, status, paid_at) VALUES ('DD1002', '13800000001', 99.50, 'paid', '2026-11-11 11:00:00+08');

-- child-table.yaml
INSERT INTO crm.order_items (order_id, goods, quantity) SELECT order_id, '龙井茶礼盒（250克）', 2 FROM crm.orders WHERE order_no = 'DD1001';

-- points-from-amount.yaml: four mappings, four points each
INSERT INTO crm.payments (payment_no, phone, amount, level) VALUES ('ZF01', '13800000002', 88.88, 'gold'), ('ZF02', '13800000002', 0.50, NULL);

-- tags-column.yaml
INSERT INTO crm.customers (phone, tags) VALUES ('13800000003', '{老客户,高意向}'), ('13800000004', NULL);
UPDATE crm.customers SET tags = '{老客户,已成交}' WHERE phone = '13800000003';
INSERT INTO crm.leads (phone, tags) VALUES ('13800000005', '老客户， 高意向,,');
UPDATE crm.leads SET tags = '' WHERE phone = '13800000005';
INSERT INTO crm.fans (phone, profile) VALUES ('13800000006', '{"city": "上海", "tags": ["老客户", "高意向"]}');
DELETE FROM crm.fans WHERE phone = '13800000006';

-- join-table.yaml
INSERT INTO crm.member_groups (phone, group_name) VALUES ('13800000007', '茶友会');
UPDATE crm.member_groups SET group_name = '钻石会员' WHERE phone = '13800000007';
UPDATE crm.member_groups SET since = '2026-01-01' WHERE phone = '13800000007';

-- soft-delete.yaml
INSERT INTO crm.segment_members (phone, segment) VALUES ('13800000008', '母婴人群'), ('13800000009', '母婴人群');
UPDATE crm.segment_members SET deleted_at = now() WHERE phone = '13800000008';
DELETE FROM crm.segment_members;

-- phone.yaml
INSERT INTO crm.sign_ups (phone, activity) VALUES ('+86 138-0000-0010', '双十一预热'), ('010-62000000', '双十一预热');

-- identities.yaml
INSERT INTO crm.shop_orders (order_no, phone, openid, unionid, amount) VALUES
    ('SC01', '13800000011', 'oTest0000000000000000000011', 'uTest0000000000000000000011', 59.90),
    ('SC02', '13800000012', NULL, NULL, 59.90);

-- counter-delta.yaml
INSERT INTO crm.accounts (phone, points) VALUES ('13800000013', 120);
UPDATE crm.accounts SET points = 200 WHERE phone = '13800000013';
UPDATE crm.accounts SET points = 150 WHERE phone = '13800000013';

-- negative-points.yaml
INSERT INTO crm.refunds (refund_no, phone, amount) VALUES ('TK01', '13800000014', 88.88);
INSERT INTO crm.bills (bill_no, phone, amount, status) VALUES ('ZD01', '13800000014', 268.00, 'paid');
UPDATE crm.bills SET status = 'refunded' WHERE bill_no = 'ZD01';

-- times.yaml
INSERT INTO crm.visits (phone, visited_at, visited_unix, visited_text) VALUES ('13800000015', '2026-11-11 10:00:00', 1794362400, '2026-11-11 10:00:00');

-- cents.yaml
INSERT INTO crm.cashier (receipt_no, phone, amount_fen) VALUES ('SY01', '13800000016', 8888);

-- codes.yaml
INSERT INTO crm.tickets (phone, state, channel) VALUES ('13800000017', 0, 'WX');
UPDATE crm.tickets SET state = 9 WHERE phone = '13800000017';

-- test-accounts.yaml
INSERT INTO crm.check_ins (phone, nickname, is_test) VALUES ('13800000018', '小王', false), ('13800000019', '测试账号3', NULL);

-- imports.yaml: the marker needs PostgreSQL 14 or newer
BEGIN;
SELECT pg_logical_emit_message(true, 'tuzhan_cdc', 'skip');
INSERT INTO crm.contacts (phone) SELECT '1380001' || lpad(n::text, 4, '0') FROM generate_series(1, 1000) AS n;
COMMIT;
INSERT INTO crm.contacts (phone, source) VALUES ('13800000020', 'import'), ('13800000021', NULL);

-- renamed-column.yaml
INSERT INTO crm.subscribers (mobile) VALUES ('13800000022');
ALTER TABLE crm.subscribers RENAME COLUMN mobile TO phone;
INSERT INTO crm.subscribers (phone) VALUES ('13800000023');

-- long-text.yaml: 8,000 characters that don't compress, so that PostgreSQL keeps them outside of the row
INSERT INTO crm.notes (phone, body) SELECT '13800000024', '客户想要周末来店试穿' || string_agg(md5(n::text), '') FROM generate_series(1, 250) AS n;
UPDATE crm.notes SET closed = true;
