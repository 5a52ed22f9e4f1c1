-- An education CRM: the customer is the parent, whose phone stands in many tables; words for status; a table without a key; old rows of one table come whole.
CREATE TABLE students (id bigserial PRIMARY KEY, student_name text NOT NULL, parent_name text, parent_phone varchar(20) NOT NULL, grade text, channel text, created_at timestamptz DEFAULT now());
CREATE TABLE leads (
    id bigserial PRIMARY KEY, phone varchar(20) NOT NULL, wx_openid text, mpid text, source text, status text NOT NULL DEFAULT 'new' CHECK (status IN ('new', 'contacted', 'visited', 'signed', 'lost')),
    owner_phone text, create_time timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE trial_lessons (id bigserial PRIMARY KEY, parent_phone varchar(20) NOT NULL, course_name text, campus text, status text NOT NULL, lesson_time timestamptz, created_at timestamptz DEFAULT now());
COMMENT ON TABLE trial_lessons IS '试听课';
CREATE TABLE course_orders (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), order_sn text NOT NULL, parent_phone varchar(20) NOT NULL, course_name text NOT NULL, amount_cents int NOT NULL, status text NOT NULL, pay_time timestamptz, created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN course_orders.amount_cents IS '金额（分）';
ALTER TABLE course_orders REPLICA IDENTITY FULL;
CREATE TABLE class_tags (parent_phone text NOT NULL, tags text NOT NULL);
CREATE TABLE teachers (id serial PRIMARY KEY, phone text NOT NULL, name text);
CREATE TABLE attendance (id bigserial PRIMARY KEY, student_id bigint NOT NULL REFERENCES students, checkin_time timestamptz);
INSERT INTO students (student_name, parent_phone, grade) VALUES ('小明', '13900000001', '三年级');
INSERT INTO leads (phone, status) VALUES ('13900000001', 'new');
INSERT INTO trial_lessons (parent_phone, course_name, status) VALUES ('13900000001', '数学', 'booked');
INSERT INTO course_orders (order_sn, parent_phone, course_name, amount_cents, status) VALUES ('S1', '13900000001', '数学', 123450, 'paid'), ('S2', '13900000001', '语文', 100, 'unpaid');
INSERT INTO class_tags VALUES ('13900000001', '数学班,周末班');
