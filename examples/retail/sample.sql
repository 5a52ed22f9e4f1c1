-- Some days in the shops, for the tables of schema.sql; run it once, while tuzhan-cdc runs:  psql -d crm -v ON_ERROR_STOP=1 -f sample.sql
-- What reaches the platform is in expected.txt. Nobody in it exists.

INSERT INTO retail.stores (code, name, city) VALUES ('SH01', '上海静安店', '上海'), ('CD02', '成都春熙路店', '成都');

BEGIN;
INSERT INTO retail.customers (phone, openid, unionid, name, id_card, address, tags, home_store_id) VALUES
    ('13800001001', 'oShop0000000000000000001001', 'uShop0000000000000000001001', '客户甲', '310000199001010000', '静安区某路1号', '{新客}', 1),
    ('13800001002', NULL, NULL, '客户乙', NULL, NULL, '{}', 1),
    (NULL, 'oShop0000000000000000001003', NULL, '客户丙', NULL, NULL, '{小程序,新客}', NULL),
    ('13800001004', NULL, NULL, '客户丁', NULL, '锦江区某街2号', '{老客户}', 2);
INSERT INTO retail.customers (phone, name, is_internal) VALUES ('13800001999', '收银测试', true);
COMMIT;

-- Three orders: nothing is sent before they are paid. The fourth is the test account's.
INSERT INTO retail.orders (order_no, customer_id, store_id, phone, openid, channel, pay_amount, points_rate, cost_amount, clerk_note) VALUES
    ('LS20261101001', 1, 1, '13800001001', 'oShop0000000000000000001001', 2, 1288.00, 1,   700.00, '客户要求礼盒包装'),
    ('LS20261101002', 2, 1, '13800001002', NULL,                          1, 88.88,   1,   40.00,  NULL),
    ('LS20261101003', 3, NULL, NULL,       'oShop0000000000000000001003', 2, 199.50,  1.5, 90.00,  NULL);
INSERT INTO retail.order_items (order_id, goods, quantity, unit_price) VALUES (1, '羊绒大衣', 1, 1288.00), (2, '棉袜三双装', 2, 44.44), (3, '真丝围巾“江南”', 1, 199.50);
UPDATE retail.orders SET status = 10, paid_at = '2026-11-01 10:00:00+08' WHERE order_no = 'LS20261101001';
UPDATE retail.orders SET status = 10, paid_at = '2026-11-01 10:05:00+08' WHERE order_no = 'LS20261101002';
UPDATE retail.orders SET status = 10, paid_at = '2026-11-01 10:10:00+08' WHERE order_no = 'LS20261101003';
-- At the counter an order is paid when it is made: double points for gold members.
INSERT INTO retail.orders (order_no, customer_id, store_id, phone, channel, status, pay_amount, points_rate, paid_at) VALUES
    ('LS20261102001', 4, 2, '13800001004', 1, 10, 456.70, 2, '2026-11-02 15:30:00+08');
-- Somebody who left neither phone nor openid: the order is passed over.
INSERT INTO retail.orders (order_no, customer_id, store_id, channel, status, pay_amount, paid_at) VALUES
    ('LS20261102002', 2, 2, 1, 10, 20.00, '2026-11-02 16:00:00+08');

-- They are sent off and finished; the note of a paid order changes. Nothing is given twice.
UPDATE retail.orders SET clerk_note = '已电话确认' WHERE order_no = 'LS20261101001';
UPDATE retail.orders SET status = 20 WHERE order_no IN ('LS20261101001', 'LS20261101003');
UPDATE retail.orders SET status = 30 WHERE order_no = 'LS20261101001';

-- A refund: asked for, approved, done. Points go back when it is done, at the rate at which they were given. Another one is refused.
INSERT INTO retail.refunds (refund_no, order_no, phone, refund_amount, points_rate, reason) VALUES ('TK20261103001', 'LS20261102001', '13800001004', 156.70, 2, '尺码不合适');
INSERT INTO retail.refunds (refund_no, order_no, phone, refund_amount, reason) VALUES ('TK20261103002', 'LS20261101002', '13800001002', 44.44, '不想要了');
UPDATE retail.refunds SET status = 'approved' WHERE refund_no = 'TK20261103001';
UPDATE retail.refunds SET status = 'done', done_at = '2026-11-03 12:00:00+08' WHERE refund_no = 'TK20261103001';
UPDATE retail.refunds SET status = 'rejected' WHERE refund_no = 'TK20261103002';

-- Tags change; a level rises; a customer gets another phone.
UPDATE retail.customers SET tags = '{老客户,高客单}' WHERE phone = '13800001001';
UPDATE retail.customers SET level = 'gold', tags = '{老客户,高客单}' WHERE phone = '13800001004';
UPDATE retail.customers SET phone = '13800001005' WHERE phone = '13800001004';

-- Segments: somebody moves to another one, somebody leaves.
INSERT INTO retail.customer_segments (phone, segment, added_by) VALUES
    ('13800001001', '双十一预热', '市场部'), ('13800001002', '双十一预热', '市场部'), ('13800001001', '羊绒会员日', '市场部');
UPDATE retail.customer_segments SET segment = '双十一已购' WHERE phone = '13800001001' AND segment = '双十一预热';
UPDATE retail.customer_segments SET added_by = '系统' WHERE phone = '13800001001';
DELETE FROM retail.customer_segments WHERE phone = '13800001002';

-- A customer asks to be forgotten: out of all groups of the tags.
UPDATE retail.customers SET deleted_at = now() WHERE phone = '13800001001';

-- What is rolled back was never there.
BEGIN;
UPDATE retail.orders SET status = 30 WHERE order_no = 'LS20261101003';
ROLLBACK;
