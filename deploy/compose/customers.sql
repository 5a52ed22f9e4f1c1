-- A shop that never closes: about two transactions a second, until it is stopped. For the tables of examples/quickstart/schema.sql.
SET client_connection_check_interval = '2s'; -- so that it ends with psql

INSERT INTO crm.members (phone, name, city)
SELECT '1380000' || lpad(n::text, 4, '0'), (ARRAY['张伟', '王芳', '李娜', '刘洋', '陈静', '杨磊', '赵敏', '黄强', '周杰', '吴倩'])[1 + n % 10] || n,
       (ARRAY['北京', '上海', '广州', '成都', '杭州'])[1 + n % 5]
  FROM generate_series(1, 500) n
    ON CONFLICT DO NOTHING;

DO $$
DECLARE
  customer text;
BEGIN
  LOOP
    customer := '1380000' || lpad((1 + floor(random() * 500))::text, 4, '0');
    INSERT INTO crm.orders (order_no, phone, goods, amount)
    VALUES ('DD' || to_char(clock_timestamp(), 'YYYYMMDDHH24MISSUS'), customer,
            (ARRAY['龙井茶礼盒（250克）', '景德镇青花瓷茶具', '真丝围巾“江南”', '茉莉花茶试用装', '云南小粒咖啡'])[1 + floor(random() * 5)], round((10 + random() * 990)::numeric, 2));
    COMMIT;
    PERFORM pg_sleep(0.5);

    -- Most orders are paid a little later, in one transaction with what that makes of the customer.
    UPDATE crm.orders SET status = 'paid', paid_at = now()
     WHERE order_id IN (SELECT order_id FROM crm.orders WHERE status = 'created' ORDER BY order_id LIMIT 1) AND random() < 0.9;
    INSERT INTO crm.member_groups (phone, group_name) VALUES (customer, (ARRAY['高价值客户', '茶友会', '双十一', '新客'])[1 + floor(random() * 4)]) ON CONFLICT DO NOTHING;
    COMMIT;
    PERFORM pg_sleep(0.5);

    UPDATE crm.orders SET status = 'shipped' WHERE order_id IN (SELECT order_id FROM crm.orders WHERE status = 'paid' ORDER BY order_id LIMIT 1);
    UPDATE crm.member_groups SET group_name = '钻石会员'
     WHERE (phone, group_name) IN (SELECT phone, group_name FROM crm.member_groups g WHERE group_name = '高价值客户'
                                      AND NOT EXISTS (SELECT FROM crm.member_groups d WHERE d.phone = g.phone AND d.group_name = '钻石会员') ORDER BY random() LIMIT 1) AND random() < 0.3;
    DELETE FROM crm.member_groups WHERE (phone, group_name) IN (SELECT phone, group_name FROM crm.member_groups WHERE group_name = '新客' ORDER BY random() LIMIT 1) AND random() < 0.3;
    COMMIT;
  END LOOP;
END $$;
