-- A small CRM, as many shops have one: members, their orders, and the groups that the marketing people put them in.
-- Run it once in an empty database:  psql -d crm -v ON_ERROR_STOP=1 -f schema.sql

BEGIN;

CREATE SCHEMA crm;

-- No mapping reads this table, so it is not published.
CREATE TABLE crm.members (
    member_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    phone       varchar(20) NOT NULL UNIQUE,
    name        text        NOT NULL,
    city        text,
    joined_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE crm.orders (
    order_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_no    varchar(32)   NOT NULL UNIQUE,
    phone       varchar(20)   NOT NULL REFERENCES crm.members (phone),
    goods       text          NOT NULL,
    amount      numeric(12,2) NOT NULL CHECK (amount >= 0),
    status      text          NOT NULL DEFAULT 'created' CHECK (status IN ('created', 'paid', 'shipped', 'refunded')),
    created_at  timestamptz   NOT NULL DEFAULT now(),
    paid_at     timestamptz
);

CREATE TABLE crm.member_groups (
    phone       varchar(20) NOT NULL REFERENCES crm.members (phone),
    group_name  text        NOT NULL,
    since       date        NOT NULL DEFAULT current_date,
    PRIMARY KEY (phone, group_name)
);

-- The mappings of orders compare the new status with the old one, and the update and delete of a group name the customer whom the
-- row belonged to. PostgreSQL sends old values other than the key only with this:
ALTER TABLE crm.orders REPLICA IDENTITY FULL;
ALTER TABLE crm.member_groups REPLICA IDENTITY FULL;

COMMIT;
