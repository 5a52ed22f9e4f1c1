-- A membership system in Chinese: quoted names, partitions, jsonb, a flag for deleted rows, points that are given and taken.
CREATE SCHEMA "会员系统";
CREATE TABLE "会员系统"."会员" (
    "会员编号" bigint PRIMARY KEY, "手机号" bigint NOT NULL, "微信OpenID" text, "姓名" text, "会员等级" int, "标签" jsonb, "当前积分" numeric(12,2), "注册时间" timestamp, "是否删除" smallint DEFAULT 0
);
CREATE TABLE "会员系统"."消费订单" (
    "订单编号" text NOT NULL, "联系电话" varchar(20), "商品名称" text, "实付金额" numeric(10,2) NOT NULL, "支付状态" text NOT NULL, "下单时间" timestamp NOT NULL, "支付时间" timestamp,
    PRIMARY KEY ("订单编号", "下单时间")
) PARTITION BY RANGE ("下单时间");
CREATE TABLE "会员系统"."消费订单_2024" PARTITION OF "会员系统"."消费订单" FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE "会员系统"."消费订单_其他" PARTITION OF "会员系统"."消费订单" DEFAULT;
CREATE TABLE "会员系统"."积分流水" (id bigserial PRIMARY KEY, "手机号" text NOT NULL, "变动积分" int, "变动类型" text, "备注" text, "创建时间" timestamptz);
CREATE TABLE "会员系统"."客户分组" ("手机" text NOT NULL, "分组名称" text NOT NULL, "加入时间" timestamptz, PRIMARY KEY ("手机", "分组名称"));
CREATE TABLE "会员系统"."预约记录" (id bigserial PRIMARY KEY, "电话" text, "门店" text, "状态" int, "创建时间" timestamptz);
COMMENT ON COLUMN "会员系统"."预约记录"."状态" IS '0 待确认 1 已确认 2 已到店';
CREATE TABLE "会员系统"."门店" (id serial PRIMARY KEY, "电话" text);
CREATE TABLE "会员系统"."订单明细" (id bigserial PRIMARY KEY, "会员编号" bigint REFERENCES "会员系统"."会员", "商品名称" text);
INSERT INTO "会员系统"."会员" VALUES (1, 13700000001, 'oB', '张三', 3, '["老客", "生日月"]', 100.5, '2024-05-01 12:00:00');
INSERT INTO "会员系统"."消费订单" VALUES ('D1', '13700000001', '面霜', 299, '已支付', '2024-05-01 12:00:00', '2024-05-01 12:01:00'), ('D2', NULL, '面霜', 299, '待支付', '2025-05-01 12:00:00', NULL);
INSERT INTO "会员系统"."积分流水" ("手机号", "变动积分", "变动类型") VALUES ('13700000001', 299, '获得'), ('13700000001', 100, '消耗');
INSERT INTO "会员系统"."客户分组" VALUES ('13700000001', 'VIP');
