-- A chain of shops (零售连锁): customers, orders with their items, refunds, and the segments that marketing puts customers in.
-- Run it once in an empty database:  psql -d crm -v ON_ERROR_STOP=1 -f schema.sql

BEGIN;

CREATE SCHEMA retail;

CREATE TABLE retail.stores (
    store_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    code     varchar(16) NOT NULL UNIQUE,
    name     text NOT NULL,
    city     text NOT NULL
);
COMMENT ON TABLE retail.stores IS '门店';

CREATE TABLE retail.customers (
    customer_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    phone         varchar(20) UNIQUE,
    openid        varchar(64),
    unionid       varchar(64),
    name          text,
    id_card       varchar(18),
    address       text,
    level         text NOT NULL DEFAULT 'normal' CHECK (level IN ('normal', 'silver', 'gold')),
    tags          text[] NOT NULL DEFAULT '{}',
    home_store_id bigint REFERENCES retail.stores,
    is_internal   boolean NOT NULL DEFAULT false,
    registered_at timestamptz NOT NULL DEFAULT now(),
    deleted_at    timestamptz
);
COMMENT ON TABLE  retail.customers IS '客户';
COMMENT ON COLUMN retail.customers.phone IS '手机号';
COMMENT ON COLUMN retail.customers.openid IS '公众号 openid';
COMMENT ON COLUMN retail.customers.id_card IS '身份证号：不得外发';
COMMENT ON COLUMN retail.customers.address IS '收货地址：不得外发';
COMMENT ON COLUMN retail.customers.is_internal IS '员工及测试账号';
COMMENT ON COLUMN retail.customers.deleted_at IS '注销时间（软删除）';

CREATE TABLE retail.orders (
    order_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_no    varchar(32) NOT NULL UNIQUE,
    customer_id bigint NOT NULL REFERENCES retail.customers,
    store_id    bigint REFERENCES retail.stores,
    phone       varchar(20),
    openid      varchar(64),
    channel     smallint NOT NULL DEFAULT 1,
    status      smallint NOT NULL DEFAULT 0,
    pay_amount  numeric(12,2) NOT NULL CHECK (pay_amount >= 0),
    points_rate numeric(4,2) NOT NULL DEFAULT 1,
    cost_amount numeric(12,2),
    clerk_note  text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    paid_at     timestamptz
);
COMMENT ON TABLE  retail.orders IS '订单';
COMMENT ON COLUMN retail.orders.phone IS '下单时的手机号';
COMMENT ON COLUMN retail.orders.channel IS '1 门店 2 小程序 3 天猫';
COMMENT ON COLUMN retail.orders.status IS '0 待付款 10 已付款 20 已发货 30 已完成 90 已关闭';
COMMENT ON COLUMN retail.orders.points_rate IS '下单时的积分倍率';
COMMENT ON COLUMN retail.orders.cost_amount IS '成本：不得外发';
COMMENT ON COLUMN retail.orders.clerk_note IS '店员备注：不得外发';

CREATE TABLE retail.order_items (
    item_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id   bigint NOT NULL REFERENCES retail.orders ON DELETE CASCADE,
    goods      text NOT NULL,
    quantity   integer NOT NULL CHECK (quantity > 0),
    unit_price numeric(12,2) NOT NULL
);
COMMENT ON TABLE retail.order_items IS '订单明细';

CREATE TABLE retail.refunds (
    refund_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    refund_no     varchar(32) NOT NULL UNIQUE,
    order_no      varchar(32) NOT NULL REFERENCES retail.orders (order_no),
    phone         varchar(20),
    openid        varchar(64),
    refund_amount numeric(12,2) NOT NULL CHECK (refund_amount > 0),
    points_rate   numeric(4,2) NOT NULL DEFAULT 1,
    status        text NOT NULL DEFAULT 'applied' CHECK (status IN ('applied', 'approved', 'done', 'rejected')),
    reason        text,
    done_at       timestamptz
);
COMMENT ON TABLE retail.refunds IS '退款单';

CREATE TABLE retail.customer_segments (
    phone    varchar(20) NOT NULL,
    segment  text NOT NULL,
    added_by text,
    added_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (phone, segment)
);
COMMENT ON TABLE retail.customer_segments IS '客群成员';

-- What the mappings read of old rows comes only with these. retail.customer_segments needs none: all that is read of it is in its key.
ALTER TABLE retail.customers REPLICA IDENTITY FULL;
ALTER TABLE retail.orders REPLICA IDENTITY FULL;
ALTER TABLE retail.refunds REPLICA IDENTITY FULL;

COMMIT;
