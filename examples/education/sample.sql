-- Some weeks at the centre, for the tables of schema.sql; run it once, while tuzhan-cdc runs:  psql -d crm -v ON_ERROR_STOP=1 -f sample.sql
-- What reaches the platform is in expected.txt. Nobody in it exists.

INSERT INTO edu.courses (name, subject) VALUES ('少儿编程 L1', '编程'), ('硬笔书法入门', '书法');

-- Leads come from forms that write phones in their own ways. One has a landline only: nothing is sent for it.
INSERT INTO edu.leads (phone, parent_name, child_name, source, created_at) VALUES
    ('+86 138-0000-2001', '家长甲', '小朋友甲', '抖音',   '2026-09-01 09:00:00'),
    ('13800002002',       '家长乙', '小朋友乙', '转介绍', '2026-09-01 10:30:00'),
    ('138 0000 2003',     '家长丙', NULL,       '地推',   '2026-09-02 18:15:00'),
    ('021-60000000',      '家长丁', NULL,       '到店',   '2026-09-02 19:00:00');

-- They are followed up. What an advisor notes is nobody's business.
UPDATE edu.leads SET stage = 'contacted', advisor = '顾问一', note = '周六上午有空', updated_at = '2026-09-03 11:00:00' WHERE lead_id <= 3;
UPDATE edu.leads SET note = '再次确认周六' WHERE lead_id = 1;

INSERT INTO edu.trials (lead_id, course_id, phone, course, teacher, starts_at) VALUES
    (1, 1, '13800002001', '少儿编程 L1', '王老师', '2026-09-05 10:00:00'),
    (2, 2, '13800002002', '硬笔书法入门', '李老师', '2026-09-05 14:00:00');
UPDATE edu.trials SET attended = true WHERE trial_id = 1;
UPDATE edu.trials SET attended = false WHERE trial_id = 2;
UPDATE edu.leads SET stage = 'trial', updated_at = '2026-09-05 11:00:00' WHERE lead_id = 1;
UPDATE edu.leads SET stage = 'lost', lost_reason = '距离远', updated_at = '2026-09-08 16:00:00' WHERE lead_id = 3;

-- One signs and pays: all in one transaction, as the front desk's program does it.
BEGIN;
INSERT INTO edu.students (lead_id, phone, name, school) VALUES (1, '13800002001', '小朋友甲', '某小学');
INSERT INTO edu.enrollments (contract_no, student_id, course_id, phone, course, amount_fen, lessons_total, lessons_left) VALUES
    ('HT20260910001', 1, 1, '13800002001', '少儿编程 L1', 388000, 6, 6);
UPDATE edu.enrollments SET status = 'paid', paid_at = '2026-09-10 19:30:00' WHERE contract_no = 'HT20260910001';
UPDATE edu.leads SET stage = 'enrolled', updated_at = '2026-09-10 19:30:00' WHERE lead_id = 1;
COMMIT;

-- Another one after a while, with a discount that makes odd cents.
INSERT INTO edu.students (lead_id, phone, name) VALUES (2, '13800002002', '小朋友乙');
INSERT INTO edu.enrollments (contract_no, student_id, course_id, phone, course, amount_fen, lessons_total, lessons_left, status, paid_at) VALUES
    ('HT20260915001', 2, 2, '13800002002', '硬笔书法入门', 239999, 12, 12, 'paid', '2026-09-15 12:00:00');
UPDATE edu.leads SET stage = 'enrolled', updated_at = '2026-09-15 12:00:00' WHERE lead_id = 2;

-- Lessons are used up; after the third of six the parents are reminded, once. One lesson is taken back.
INSERT INTO edu.lesson_usages (enrollment_id, taught_at) VALUES (1, '2026-09-12 10:00:00');
INSERT INTO edu.lesson_usages (enrollment_id, lessons, taught_at) VALUES (1, 2, '2026-09-19 10:00:00');
INSERT INTO edu.lesson_usages (enrollment_id, taught_at) VALUES (1, '2026-09-26 10:00:00');
INSERT INTO edu.lesson_usages (enrollment_id, taught_at) VALUES (2, '2026-09-20 14:00:00');
BEGIN;
UPDATE edu.lesson_usages SET cancelled = true WHERE usage_id = 4;
UPDATE edu.enrollments SET lessons_left = lessons_left + 1 WHERE enrollment_id = 2;
COMMIT;

-- The second contract is dissolved, with all of its lessons left; its student leaves. The first student takes a rest.
UPDATE edu.enrollments SET status = 'refunded', bank_account = '6222000000000000' WHERE contract_no = 'HT20260915001';
UPDATE edu.students SET deleted_at = '2026-09-30 18:00:00' WHERE student_id = 2;
UPDATE edu.students SET status = 'suspended' WHERE student_id = 1;

-- A duplicate of a lead is merged away.
INSERT INTO edu.leads (phone, source, stage, created_at) VALUES ('13800002004', '抖音', 'contacted', '2026-09-20 09:00:00');
DELETE FROM edu.leads WHERE phone = '13800002004';
