-- Some days of the members, for the tables of schema.sql; run it once, while tuzhan-cdc runs:  psql -d crm -v ON_ERROR_STOP=1 -f sample.sql
-- What reaches the platform is in expected.txt. Nobody in it exists.

INSERT INTO mem.members (member_no, phone, openid, unionid, nickname, password_hash, id_card, birthday, joined_at) VALUES
    ('HY0001', '13800003001', 'oMemb0000000000000000003001', 'uMemb0000000000000000003001', '会员甲', 'x', '310000199001010000', '1990-01-01', '2026-10-01 10:00:00+08'),
    ('HY0002', '13800003002', NULL, NULL, '会员乙', 'x', NULL, NULL, '2026-10-02 11:00:00+08'),
    ('HY0003', NULL, 'oMemb0000000000000000003003', NULL, NULL, 'x', NULL, NULL, '2026-10-03 12:00:00+08'),
    ('HY0004', NULL, NULL, NULL, '只有会员号', 'x', NULL, NULL, '2026-10-04 13:00:00+08');

-- The ledger: buying, signing in, exchanging. The points that the platform's own lottery gave (source tuzhan) are not sent back to it.
INSERT INTO mem.point_logs (member_no, change, reason, biz_no) VALUES ('HY0001', 1420, 'buy', 'DD1001'), ('HY0002', 88, 'buy', 'DD1002'), ('HY0003', 50, 'buy', 'DD1003');
INSERT INTO mem.point_logs (member_no, change, reason) VALUES ('HY0001', 5, 'sign_in');
INSERT INTO mem.point_logs (member_no, change, reason, source, biz_no) VALUES ('HY0001', 200, 'activity', 'tuzhan', 'CJ-7');
INSERT INTO mem.point_logs (member_no, change, reason, biz_no) VALUES ('HY0001', -300, 'exchange', '茶杯一只'), ('HY0002', -8, 'expire', NULL);
INSERT INTO mem.point_logs (member_no, change, reason, operator) VALUES ('HY0003', 0, 'adjust', '客服一'), ('HY0003', -10, 'adjust', '客服一');

-- Neither phone nor openid: nobody on the platform can get these points. A dead letter says so.
INSERT INTO mem.point_logs (member_no, change, reason, biz_no) VALUES ('HY0004', 30, 'buy', 'DD1004');

-- Levels rise and fall.
UPDATE mem.members SET level_code = 2 WHERE member_no = 'HY0001';
UPDATE mem.members SET level_code = 3 WHERE member_no = 'HY0001';
UPDATE mem.members SET level_code = 2 WHERE member_no = 'HY0001';
-- A nickname, and the balance: no matter for the groups.
UPDATE mem.members SET nickname = '会员甲（老客）' WHERE member_no = 'HY0001';

-- Tags come and go; one is renamed for all who have it.
INSERT INTO mem.member_tags (member_no, tag_id) VALUES ('HY0001', 1), ('HY0001', 2), ('HY0002', 1);
UPDATE mem.tags SET name = '爱喝龙井' WHERE tag_id = 1;
UPDATE mem.member_tags SET tag_id = 3 WHERE member_no = 'HY0001' AND tag_id = 2;
DELETE FROM mem.member_tags WHERE member_no = 'HY0002';

-- A member leaves phone and all: out of the groups.
DELETE FROM mem.members WHERE member_no = 'HY0002';
