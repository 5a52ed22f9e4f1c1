-- A day in the shop, for the tables of schema.sql; run it while tuzhan-cdc runs:
--   psql -d crm -v ON_ERROR_STOP=1 -f sample.sql
--
-- What reaches the platform: 4 events and 4 points (orders that became paid, each once), and for the groups 6 times add, once
-- delete and add (张伟 moved on to another group) and once delete. It may be run once; every phone number is made up.

BEGIN;
INSERT INTO crm.members (phone, name, city, joined_at) VALUES
    ('13800000001', '张伟',   '北京', '2026-01-08 10:15:00+08'),
    ('13800000002', '王芳',   '上海', '2026-02-14 20:30:00+08'),
    ('13800000003', '李娜',   '广州', '2026-03-21 09:05:00+08'),
    ('13800000004', '刘洋',   '成都', '2026-05-01 14:45:00+08'),
    ('13800000005', '欧阳静', NULL,   '2026-06-18 00:00:00+08');
COMMIT;

-- Two orders wait for their money: nothing is sent for them yet. One is paid at once.
BEGIN;
INSERT INTO crm.orders (order_no, phone, goods, amount) VALUES
    ('DD20261111001', '13800000001', '龙井茶礼盒（250克）', 1420.00),
    ('DD20261111002', '13800000002', '景德镇青花瓷茶具',    899.50);
INSERT INTO crm.orders (order_no, phone, goods, amount, status, paid_at) VALUES
    ('DD20261111003', '13800000003', '真丝围巾“江南”',      269.00, 'paid', now());
COMMIT;

-- Both are paid: an event and points each.
UPDATE crm.orders SET status = 'paid', paid_at = now() WHERE order_no = 'DD20261111001';
UPDATE crm.orders SET status = 'paid', paid_at = now() WHERE order_no = 'DD20261111002';

-- An update of a paid order sends nothing again.
UPDATE crm.orders SET goods = '龙井茶礼盒（500克）' WHERE order_no = 'DD20261111001';
UPDATE crm.orders SET status = 'shipped' WHERE order_no = 'DD20261111002';

-- 88.88 yuan are 88 points: the mapping rounds down, and amounts are exact decimals all the way.
INSERT INTO crm.orders (order_no, phone, goods, amount, status, paid_at) VALUES
    ('DD20261111004', '13800000004', '茉莉花茶试用装', 88.88, 'paid', now());

-- What was rolled back was never there.
BEGIN;
INSERT INTO crm.orders (order_no, phone, goods, amount, status, paid_at) VALUES
    ('DD20261111005', '13800000005', '退回的订单', 5000.00, 'paid', now());
ROLLBACK;

INSERT INTO crm.member_groups (phone, group_name) VALUES
    ('13800000001', '高价值客户'),
    ('13800000001', '茶友会'),
    ('13800000002', '高价值客户'),
    ('13800000003', '双十一'),
    ('13800000004', '新客'),
    ('13800000005', '新客');

-- A member moves from one group to another, one leaves.
UPDATE crm.member_groups SET group_name = '钻石会员' WHERE phone = '13800000001' AND group_name = '高价值客户';
DELETE FROM crm.member_groups WHERE phone = '13800000005' AND group_name = '新客';
