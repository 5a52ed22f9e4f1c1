-- The demo's CRM: members, their orders, and the groups that marketing put them in.
CREATE SCHEMA crm;

CREATE TABLE crm.members (
    phone  varchar(20) PRIMARY KEY,
    name   text NOT NULL,
    city   text NOT NULL
);
CREATE TABLE crm.orders (
    order_no varchar(32) PRIMARY KEY,
    phone    varchar(20) NOT NULL REFERENCES crm.members (phone),
    goods    text NOT NULL,
    amount   numeric(12,2) NOT NULL,
    status   text NOT NULL DEFAULT '待付款',
    paid_at  timestamptz
);
CREATE TABLE crm.member_groups (
    phone      varchar(20) NOT NULL REFERENCES crm.members (phone),
    group_name text NOT NULL,
    PRIMARY KEY (phone, group_name)
);
ALTER TABLE crm.orders REPLICA IDENTITY FULL;
ALTER TABLE crm.member_groups REPLICA IDENTITY FULL;

INSERT INTO crm.members
SELECT '13' || lpad((i * 7919 % 1000000000)::text, 9, '0'),
       (ARRAY['王','李','张','刘','陈','杨','赵','黄','周','吴'])[1 + i % 10] || (ARRAY['伟','芳','娜','敏','静','磊','洋','艳','勇','婷'])[1 + i / 10 % 10],
       (ARRAY['上海','北京','广州','成都','杭州'])[1 + i % 5]
  FROM generate_series(1, 2000) i;

-- What was committed, written down by triggers: the connector has no part in it, and the audit is not published.
CREATE SCHEMA demo;
CREATE TABLE demo.audit (id bigserial PRIMARY KEY, tab text NOT NULL, op text NOT NULL, old jsonb, new jsonb);
CREATE FUNCTION demo.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO demo.audit(tab, op, old, new)
    VALUES (TG_TABLE_NAME, TG_OP, CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END);
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON crm.orders FOR EACH ROW EXECUTE FUNCTION demo.note();
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON crm.member_groups FOR EACH ROW EXECUTE FUNCTION demo.note();
