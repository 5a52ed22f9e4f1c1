-- A training centre (培训机构): leads, students, courses, trial lessons, enrollments and the lessons that are used up.
-- Run it once in an empty database:  psql -d crm -v ON_ERROR_STOP=1 -f schema.sql

BEGIN;

CREATE SCHEMA edu;

CREATE TABLE edu.leads (
    lead_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    phone       varchar(32) NOT NULL,
    parent_name text,
    child_name  text,
    child_birth date,
    source      text NOT NULL DEFAULT '到店',
    advisor     text,
    stage       text NOT NULL DEFAULT 'new' CHECK (stage IN ('new', 'contacted', 'trial', 'enrolled', 'lost')),
    lost_reason text,
    note        text,
    created_at  timestamp NOT NULL DEFAULT now(),
    updated_at  timestamp NOT NULL DEFAULT now()
);
COMMENT ON TABLE  edu.leads IS '线索';
COMMENT ON COLUMN edu.leads.phone IS '家长手机号，来自各渠道表单，写法不一';
COMMENT ON COLUMN edu.leads.child_name IS '孩子姓名：未成年人信息，不得外发';
COMMENT ON COLUMN edu.leads.child_birth IS '孩子生日：未成年人信息，不得外发';
COMMENT ON COLUMN edu.leads.stage IS 'new 新线索 contacted 已联系 trial 已试听 enrolled 已报名 lost 已流失';
COMMENT ON COLUMN edu.leads.note IS '跟进记录：不得外发';

CREATE TABLE edu.students (
    student_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lead_id    bigint REFERENCES edu.leads,
    phone      varchar(20) NOT NULL,
    name       text NOT NULL,
    school     text,
    status     text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'graduated')),
    deleted_at timestamp
);
COMMENT ON TABLE  edu.students IS '学员';
COMMENT ON COLUMN edu.students.phone IS '家长手机号';
COMMENT ON COLUMN edu.students.name IS '学员姓名：未成年人信息，不得外发';
COMMENT ON COLUMN edu.students.school IS '学校：未成年人信息，不得外发';
COMMENT ON COLUMN edu.students.status IS 'active 在读 suspended 停课 graduated 结业';

CREATE TABLE edu.courses (
    course_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name      text NOT NULL,
    subject   text NOT NULL
);
COMMENT ON TABLE edu.courses IS '课程';

CREATE TABLE edu.trials (
    trial_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lead_id    bigint NOT NULL REFERENCES edu.leads,
    course_id  bigint NOT NULL REFERENCES edu.courses,
    phone      varchar(20) NOT NULL,
    course     text NOT NULL,
    teacher    text,
    starts_at  timestamp NOT NULL,
    attended   boolean
);
COMMENT ON TABLE  edu.trials IS '试听';
COMMENT ON COLUMN edu.trials.starts_at IS '上课时间（北京时间，不带时区）';
COMMENT ON COLUMN edu.trials.attended IS '空：未到时间；真：到课；假：缺课';

CREATE TABLE edu.enrollments (
    enrollment_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    contract_no   varchar(32) NOT NULL UNIQUE,
    student_id    bigint NOT NULL REFERENCES edu.students,
    course_id     bigint NOT NULL REFERENCES edu.courses,
    phone         varchar(20) NOT NULL,
    course        text NOT NULL,
    amount_fen    bigint NOT NULL CHECK (amount_fen >= 0),
    lessons_total integer NOT NULL CHECK (lessons_total > 0),
    lessons_left  integer NOT NULL CHECK (lessons_left >= 0),
    status        text NOT NULL DEFAULT 'signed' CHECK (status IN ('signed', 'paid', 'refunded')),
    bank_account  text,
    paid_at       timestamp
);
COMMENT ON TABLE  edu.enrollments IS '报名（合同）';
COMMENT ON COLUMN edu.enrollments.amount_fen IS '合同金额，单位：分';
COMMENT ON COLUMN edu.enrollments.bank_account IS '退费账号：不得外发';

CREATE TABLE edu.lesson_usages (
    usage_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    enrollment_id bigint NOT NULL REFERENCES edu.enrollments,
    phone         varchar(20),
    course        text,
    lessons       integer NOT NULL DEFAULT 1 CHECK (lessons > 0),
    taught_at     timestamp NOT NULL,
    cancelled     boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE  edu.lesson_usages IS '课时消耗';
COMMENT ON COLUMN edu.lesson_usages.phone IS '由触发器从合同填入：一行变更只能读到本行，读不到别的表';

-- A mapping sees the row that changed and no other. So what it needs of the contract is written into the row.
CREATE FUNCTION edu.fill_lesson_usage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT e.phone, e.course INTO NEW.phone, NEW.course FROM edu.enrollments e WHERE e.enrollment_id = NEW.enrollment_id;
    UPDATE edu.enrollments SET lessons_left = lessons_left - NEW.lessons WHERE enrollment_id = NEW.enrollment_id;
    RETURN NEW;
END $$;
CREATE TRIGGER fill_lesson_usage BEFORE INSERT ON edu.lesson_usages FOR EACH ROW EXECUTE FUNCTION edu.fill_lesson_usage();

-- What the mappings read of old rows comes only with these.
ALTER TABLE edu.leads REPLICA IDENTITY FULL;
ALTER TABLE edu.students REPLICA IDENTITY FULL;
ALTER TABLE edu.trials REPLICA IDENTITY FULL;
ALTER TABLE edu.enrollments REPLICA IDENTITY FULL;
ALTER TABLE edu.lesson_usages REPLICA IDENTITY FULL;

COMMIT;
