-- A retail CRM: English names, comments in Chinese, a ledger of points, soft deletes, codes.
CREATE SCHEMA crm;
CREATE TYPE crm.member_level AS ENUM ('普通', '银卡', '金卡');
CREATE TABLE crm.stores (id serial PRIMARY KEY, name text NOT NULL, phone text);
CREATE TABLE crm.staff (id serial PRIMARY KEY, name text NOT NULL, mobile text NOT NULL);
CREATE TABLE crm.members (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mobile varchar(20), openid varchar(64), unionid varchar(64), name text, gender smallint, birthday date,
    level crm.member_level NOT NULL DEFAULT '普通', tags text[], points int NOT NULL DEFAULT 0,
    register_channel text, register_store_id int REFERENCES crm.stores,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz, deleted_at timestamptz
);
COMMENT ON TABLE crm.members IS '会员';
COMMENT ON COLUMN crm.members.mobile IS '手机号';
CREATE TABLE crm.orders (
    order_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_no varchar(32) NOT NULL UNIQUE, member_id bigint REFERENCES crm.members, phone varchar(20) NOT NULL,
    store_name text, goods_name text, total_amount numeric(12,2) NOT NULL, discount_amount numeric(12,2), pay_amount numeric(12,2),
    order_status smallint NOT NULL DEFAULT 0, created_at timestamp NOT NULL DEFAULT now(), paid_at timestamp, updated_at timestamp
);
COMMENT ON TABLE crm.orders IS '订单表';
COMMENT ON COLUMN crm.orders.order_status IS '订单状态：0-待付款，1-已付款，2-已发货，3-已完成，9-已取消';
CREATE TABLE crm.order_items (id bigserial PRIMARY KEY, order_id bigint NOT NULL REFERENCES crm.orders, sku text NOT NULL, quantity int NOT NULL, price numeric(10,2) NOT NULL);
CREATE TABLE crm.points_log (
    id bigserial PRIMARY KEY, mobile varchar(20) NOT NULL, points int NOT NULL, balance_after int NOT NULL, reason text, created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE crm.points_log IS '积分流水';
CREATE TABLE crm.member_tags (mobile varchar(20) NOT NULL, tag_name text NOT NULL, PRIMARY KEY (mobile, tag_name));
CREATE TABLE crm.member_groups (id bigserial PRIMARY KEY, member_id bigint NOT NULL REFERENCES crm.members, group_id int NOT NULL);
CREATE TABLE crm.store_visits (id bigserial PRIMARY KEY, customer_mobile bigint, store_name text, visited_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE crm.sms_log (id bigserial PRIMARY KEY, phone text NOT NULL, content text);
CREATE TABLE crm.orders_2023 (LIKE crm.orders);
CREATE TABLE crm.newsletter (id serial PRIMARY KEY, email text NOT NULL);
CREATE TABLE crm.coupons (id bigserial PRIMARY KEY, user_id bigint NOT NULL, code text);
CREATE TABLE crm.settings (key text PRIMARY KEY, value jsonb);
CREATE VIEW crm.paid_orders AS SELECT * FROM crm.orders WHERE order_status = 1;
CREATE UNLOGGED TABLE crm.carts (phone text, goods text);
INSERT INTO crm.members (mobile, openid, tags, points) VALUES ('13800000001', 'oA', '{老客}', 10), (NULL, NULL, NULL, 0);
INSERT INTO crm.orders (order_no, phone, goods_name, total_amount, pay_amount, order_status) VALUES ('A1', '13800000001', '咖啡', 12.5, 12.5, 1), ('A2', '13800000001', '茶', 8, NULL, 0);
INSERT INTO crm.points_log (mobile, points, balance_after, reason) VALUES ('13800000001', 12, 12, '消费'), ('13800000001', -5, 7, NULL);
INSERT INTO crm.member_tags VALUES ('13800000001', '老客');
INSERT INTO crm.store_visits (customer_mobile, store_name) VALUES (13800000001, '南京路店'), (NULL, '南京路店');
