-- A membership system (会员系统): members with their level and points, the ledger of points, and tags.
-- Run it once in an empty database:  psql -d crm -v ON_ERROR_STOP=1 -f schema.sql

BEGIN;

CREATE SCHEMA mem;

CREATE TABLE mem.levels (
    level_code smallint PRIMARY KEY,
    name       text NOT NULL,
    min_growth integer NOT NULL
);
COMMENT ON TABLE mem.levels IS '等级';
INSERT INTO mem.levels VALUES (1, '普卡', 0), (2, '银卡', 1000), (3, '金卡', 5000), (4, '黑金', 20000);

CREATE TABLE mem.members (
    member_no     varchar(20) PRIMARY KEY,
    phone         varchar(20),
    openid        varchar(64),
    unionid       varchar(64),
    nickname      text,
    avatar_url    text,
    password_hash text,
    id_card       varchar(18),
    birthday      date,
    level_code    smallint NOT NULL DEFAULT 1 REFERENCES mem.levels,
    points        integer NOT NULL DEFAULT 0,
    joined_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE  mem.members IS '会员';
COMMENT ON COLUMN mem.members.member_no IS '会员号，在平台上是 thirdId';
COMMENT ON COLUMN mem.members.password_hash IS '密码：不得外发';
COMMENT ON COLUMN mem.members.id_card IS '身份证号：不得外发';
COMMENT ON COLUMN mem.members.points IS '积分余额，由积分流水累计';

CREATE TABLE mem.point_logs (
    log_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    member_no  varchar(20) NOT NULL,
    phone      varchar(20),
    openid     varchar(64),
    change     integer NOT NULL,
    reason     text NOT NULL CHECK (reason IN ('buy', 'sign_in', 'exchange', 'expire', 'adjust', 'activity')),
    source     text NOT NULL DEFAULT 'crm' CHECK (source IN ('crm', 'tuzhan')),
    biz_no     varchar(64),
    operator   text,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE  mem.point_logs IS '积分流水：只增不改，会员注销后仍保留';
COMMENT ON COLUMN mem.point_logs.phone IS '由触发器从会员填入';
COMMENT ON COLUMN mem.point_logs.change IS '变动：正为增加，负为扣减';
COMMENT ON COLUMN mem.point_logs.source IS 'tuzhan：平台活动发的积分，同步回 CRM 的，不能再发回去';
COMMENT ON COLUMN mem.point_logs.operator IS '操作员：不得外发';

CREATE TABLE mem.tags (
    tag_id   integer PRIMARY KEY,
    name     text NOT NULL UNIQUE,
    category text NOT NULL
);
COMMENT ON TABLE mem.tags IS '标签';
INSERT INTO mem.tags VALUES (1, '爱喝茶', '偏好'), (2, '周末到店', '行为'), (3, '母婴', '人群');

CREATE TABLE mem.member_tags (
    member_no varchar(20) NOT NULL REFERENCES mem.members ON DELETE CASCADE,
    tag_id    integer NOT NULL REFERENCES mem.tags,
    tag       text,
    tagged_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (member_no, tag_id)
);
COMMENT ON TABLE  mem.member_tags IS '会员标签';
COMMENT ON COLUMN mem.member_tags.tag IS '标签名，由触发器填入：一行变更只能读到本行，读不到 mem.tags';

-- A mapping sees the row that changed and no other. So what it needs of other tables is written into the row, and a renamed tag into all
-- of its rows.
CREATE FUNCTION mem.fill_point_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE mem.members m SET points = m.points + NEW.change WHERE m.member_no = NEW.member_no RETURNING m.phone, m.openid INTO NEW.phone, NEW.openid;
    RETURN NEW;
END $$;
CREATE TRIGGER fill_point_log BEFORE INSERT ON mem.point_logs FOR EACH ROW EXECUTE FUNCTION mem.fill_point_log();

CREATE FUNCTION mem.fill_member_tag() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.tag := (SELECT name FROM mem.tags WHERE tag_id = NEW.tag_id);
    RETURN NEW;
END $$;
CREATE TRIGGER fill_member_tag BEFORE INSERT OR UPDATE OF tag_id ON mem.member_tags FOR EACH ROW EXECUTE FUNCTION mem.fill_member_tag();

CREATE FUNCTION mem.rename_tag() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE mem.member_tags SET tag = NEW.name WHERE tag_id = NEW.tag_id;
    RETURN NULL;
END $$;
CREATE TRIGGER rename_tag AFTER UPDATE OF name ON mem.tags FOR EACH ROW EXECUTE FUNCTION mem.rename_tag();

-- What the mappings read of old rows comes only with these. mem.point_logs is only ever inserted into, and needs none.
ALTER TABLE mem.members REPLICA IDENTITY FULL;
ALTER TABLE mem.member_tags REPLICA IDENTITY FULL;

COMMIT;
