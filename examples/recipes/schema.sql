-- The tables of the recipes, a few columns each. Run it once in an empty database:  psql -d crm -v ON_ERROR_STOP=1 -f schema.sql

BEGIN;

CREATE SCHEMA crm;

-- status-change.yaml
CREATE TABLE crm.orders (
    order_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_no varchar(32) NOT NULL,
    phone    varchar(20),
    amount   numeric(12,2) NOT NULL,
    status   text NOT NULL,
    paid_at  timestamptz
);
ALTER TABLE crm.orders REPLICA IDENTITY FULL;

-- points-from-amount.yaml
CREATE TABLE crm.payments (
    payment_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    payment_no varchar(32) NOT NULL,
    phone      varchar(20),
    amount     numeric(12,2) NOT NULL,
    level      text
);

-- tags-column.yaml
CREATE TABLE crm.customers (customer_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, phone varchar(20), tags text[]);
CREATE TABLE crm.leads     (lead_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, phone varchar(20), tags text);
CREATE TABLE crm.fans      (fan_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, phone varchar(20), profile jsonb);
ALTER TABLE crm.customers REPLICA IDENTITY FULL;
ALTER TABLE crm.leads REPLICA IDENTITY FULL;
ALTER TABLE crm.fans REPLICA IDENTITY FULL;

-- join-table.yaml: all that the mapping reads is in the key, so the default replica identity is enough.
CREATE TABLE crm.member_groups (
    phone      varchar(20),
    group_name text,
    since      date NOT NULL DEFAULT current_date,
    PRIMARY KEY (phone, group_name)
);

-- soft-delete.yaml
CREATE TABLE crm.segment_members (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    phone      varchar(20) NOT NULL,
    segment    text NOT NULL,
    deleted_at timestamptz
);
ALTER TABLE crm.segment_members REPLICA IDENTITY FULL;

-- phone.yaml
CREATE TABLE crm.sign_ups (sign_up_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, phone text, activity text);

-- identities.yaml
CREATE TABLE crm.shop_orders (
    order_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_no varchar(32) NOT NULL,
    phone    varchar(20),
    openid   text,
    unionid  text,
    amount   numeric(12,2) NOT NULL
);

-- counter-delta.yaml
CREATE TABLE crm.accounts (account_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, phone varchar(20), points integer);
ALTER TABLE crm.accounts REPLICA IDENTITY FULL;

-- negative-points.yaml
CREATE TABLE crm.refunds (refund_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, refund_no varchar(32), phone varchar(20), amount numeric(12,2));
CREATE TABLE crm.bills (
    bill_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bill_no varchar(32),
    phone   varchar(20),
    amount  numeric(12,2),
    status  text
);
ALTER TABLE crm.bills REPLICA IDENTITY FULL;

-- once-per-customer.yaml
CREATE TABLE crm.buyers (phone varchar(20) PRIMARY KEY, first_order_at timestamptz);
ALTER TABLE crm.buyers REPLICA IDENTITY FULL;

CREATE FUNCTION crm.note_first_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO crm.buyers (phone, first_order_at) VALUES (NEW.phone, now())
    ON CONFLICT (phone) DO UPDATE SET first_order_at = EXCLUDED.first_order_at WHERE buyers.first_order_at IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER note_first_order AFTER INSERT ON crm.orders FOR EACH ROW WHEN (NEW.phone IS NOT NULL) EXECUTE FUNCTION crm.note_first_order();

-- child-table.yaml
CREATE TABLE crm.order_items (
    item_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id bigint NOT NULL REFERENCES crm.orders,
    goods    text NOT NULL,
    quantity integer NOT NULL
);

CREATE TABLE crm.goods_bought (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    phone    varchar(20),
    order_no varchar(32),
    goods    text,
    quantity integer
);
CREATE FUNCTION crm.note_goods_bought() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO crm.goods_bought (phone, order_no, goods, quantity)
    SELECT phone, order_no, NEW.goods, NEW.quantity FROM crm.orders WHERE order_id = NEW.order_id AND phone IS NOT NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER note_goods_bought AFTER INSERT ON crm.order_items FOR EACH ROW EXECUTE FUNCTION crm.note_goods_bought();

-- times.yaml
CREATE TABLE crm.visits (
    visit_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    phone        varchar(20),
    visited_at   timestamp,
    visited_unix bigint,
    visited_text text
);

-- cents.yaml
CREATE TABLE crm.cashier (receipt_no varchar(32) PRIMARY KEY, phone varchar(20), amount_fen bigint NOT NULL);

-- codes.yaml
CREATE TABLE crm.tickets (ticket_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, phone varchar(20), state smallint NOT NULL, channel text);
ALTER TABLE crm.tickets REPLICA IDENTITY FULL;

-- test-accounts.yaml
CREATE TABLE crm.check_ins (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, phone varchar(20), nickname text, is_test boolean);

-- imports.yaml
CREATE TABLE crm.contacts (contact_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, phone varchar(20), source text);

-- renamed-column.yaml: phone was mobile once; sample.sql renames it
CREATE TABLE crm.subscribers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mobile varchar(20));

-- long-text.yaml
CREATE TABLE crm.notes (note_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, phone varchar(20), body text, closed boolean NOT NULL DEFAULT false);
ALTER TABLE crm.notes REPLICA IDENTITY FULL;

COMMIT;
