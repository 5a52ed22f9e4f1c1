package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// chaosSchema is a CRM with a history: triggers write down, in the same transaction, each row that was committed. Each version of a row has a number of its own
// (rev), so that each record can be told from all others. chaos.turns counts the changes of each identity; its row is locked until the
// transaction has ended, so that the count is the order of the commits, which nothing else in SQL tells.
const chaosSchema = `
CREATE SCHEMA crm;
CREATE SCHEMA chaos;
CREATE SEQUENCE chaos.rev;
CREATE TABLE crm.orders (id bigserial PRIMARY KEY, home int NOT NULL, phone text NOT NULL, openid text NOT NULL, goods text NOT NULL,
	amount numeric(12,2), status text NOT NULL, rev bigint);
CREATE INDEX ON crm.orders (home);
CREATE TABLE crm.member_groups (phone text NOT NULL, group_name text NOT NULL, rev bigint, PRIMARY KEY (phone, group_name));
CREATE TABLE crm.levels (phone text PRIMARY KEY, level int NOT NULL, rev bigint);
ALTER TABLE crm.orders REPLICA IDENTITY FULL;
ALTER TABLE crm.member_groups REPLICA IDENTITY FULL;
ALTER TABLE crm.levels REPLICA IDENTITY FULL;

CREATE TABLE chaos.turns (identity text PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE chaos.history (id bigserial PRIMARY KEY, tab text NOT NULL, op text NOT NULL, old jsonb, new jsonb, turns jsonb NOT NULL, skip boolean NOT NULL);
CREATE FUNCTION chaos.number() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.rev := nextval('chaos.rev'); RETURN NEW; END $$;
CREATE FUNCTION chaos.note() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	o jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
	n jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
	turns jsonb := '{}';
	who text;
	turn bigint;
BEGIN
	FOR who IN SELECT DISTINCT v FROM unnest(ARRAY[o->>'phone', o->>'openid', n->>'phone', n->>'openid']) v WHERE v IS NOT NULL ORDER BY 1 LOOP
		INSERT INTO chaos.turns AS t VALUES (who, 1) ON CONFLICT (identity) DO UPDATE SET n = t.n + 1 RETURNING t.n INTO turn;
		turns := turns || jsonb_build_object(who, turn);
	END LOOP;
	INSERT INTO chaos.history(tab, op, old, new, turns, skip)
		VALUES (TG_TABLE_NAME, TG_OP, o, n, turns, coalesce(current_setting('chaos.skip', true), '') = 'on');
	RETURN NULL;
END $$;
DO $$ DECLARE tab text; BEGIN
	FOREACH tab IN ARRAY ARRAY['orders', 'member_groups', 'levels'] LOOP
		EXECUTE format('CREATE TRIGGER number BEFORE INSERT OR UPDATE ON crm.%I FOR EACH ROW EXECUTE FUNCTION chaos.number()', tab);
		EXECUTE format('CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON crm.%I FOR EACH ROW EXECUTE FUNCTION chaos.note()', tab);
	END LOOP;
END $$;`

// chaosMappings: their order is the order of the records of one change.
const chaosMappings = `
mappings:
  - name: order-paid
    table: crm.orders
    on: [insert, update]
    when: new.status == "paid" && old?.status != "paid"
    event:
      publicParams: {matchingType: 1}
      eventKey: c_buy
      identities: [{identityType: phone, identityValue: "${{ phone }}"}, {identityType: openid, identityValue: "${{ openid }}"}]
      eventargs: {c_key: "paid ${{ rev }}", c_goods: "${{ goods }}", c_price: "${{ amount }}"}
  - name: order-points
    table: crm.orders
    on: [insert, update]
    when: new.status == "paid" && old?.status != "paid"
    point:
      point: ${{ int(floor(amount)) }}
      remark: points ${{ rev }}
      contentName: ${{ goods }}
      phoneList: [{phone: "${{ phone }}", isVerify: "1"}]
      openids: [{openid: "${{ openid }}"}]
  - name: order-bonus
    table: crm.orders
    on: [insert, update]
    when: new.status == "paid" && old?.status != "paid" && new.goods == "bonus"
    uncertain: resend
    point: {point: 7, remark: "bonus ${{ rev }}", phoneList: [{phone: "${{ phone }}", isVerify: "0"}]}
  - name: order-gone
    table: crm.orders
    on: [delete]
    event:
      publicParams: {}
      eventKey: c_gone
      identities: [{identityType: openid, identityValue: "${{ openid }}"}]
      eventargs: {c_key: "gone ${{ rev }}"}
  - name: member-groups
    table: crm.member_groups
    on: [insert, update, delete]
    onChange: replace
    groupRelation:
      publicParams: {isMatching: true, matchingType: 2, identifyWay: 1}
      phone: ${{ phone }}
      groups: ${{ group_name }},r${{ rev }}
  - name: levels
    table: crm.levels
    on: [insert, update, delete]
    groupRelation:
      publicParams: {isMatching: true, matchingType: 2, identifyWay: 1}
      phone: ${{ phone }}
      groups: L${{ level }},v${{ rev }}
`

// Homes share phones and openids: each order names one of two of each.
const chaosHomes = 60

// What some orders and groups are, so that faults can be made for them.
var (
	chaosGoods  = []string{"tea", "bonus", "茶具", `say "hi" \ there`}
	chaosGroups = []string{"gold", "silver", "生日", "vip", "bad"}
)

// chaosLoad writes until ctx ends, on connections of its own.
type chaosLoad struct {
	dsn                             string
	commits, rollbacks, big, marked atomic.Int64
	// pause is the mean wait between two transactions of a writer.
	pause time.Duration
}

// write is one writer; dice decide all it does. It returns when ctx has ended, with the connection that it has at that time closed.
func (l *chaosLoad) write(ctx context.Context, dice *rand.Rand) {
	var conn *pgx.Conn
	live := context.WithoutCancel(ctx) // a transaction is not torn by the end of the load
	defer func() {
		if conn != nil {
			_ = conn.Close(live)
		}
	}()
	for rest(ctx, dice, l.pause) {
		if conn == nil || conn.IsClosed() {
			dialing, cancel := context.WithTimeout(live, 10*time.Second)
			c, err := pgx.Connect(dialing, l.dsn)
			cancel()
			if err != nil {
				continue // the server is down for the moment
			}
			conn = c
		}
		statements := transaction(dice)
		working, cancel := context.WithTimeout(live, time.Minute)
		err := l.commit(working, conn, statements)
		cancel()
		if refused := (*pgconn.PgError)(nil); err != nil && !conn.IsClosed() && !errors.As(err, &refused) {
			_ = conn.Close(live)
		}
	}
}

// rest waits as the dice say, once mean on average; false: ctx has ended.
func rest(ctx context.Context, dice *rand.Rand, mean time.Duration) bool {
	t := time.NewTimer(time.Duration(min(4, dice.ExpFloat64()) * float64(mean)))
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// commit runs the statements of one transaction, its end among them.
func (l *chaosLoad) commit(ctx context.Context, conn *pgx.Conn, statements []string) error {
	for _, sql := range statements {
		tag, err := conn.Exec(ctx, sql)
		if err != nil {
			if !conn.IsClosed() {
				_, _ = conn.Exec(ctx, "ROLLBACK") // a deadlock, or the server goes down
			}
			l.rollbacks.Add(1)
			return err
		}
		switch {
		case tag.String() == "COMMIT":
			l.commits.Add(1)
		case tag.String() == "ROLLBACK" && sql == "ROLLBACK":
			l.rollbacks.Add(1)
		case tag.RowsAffected() >= 400:
			l.big.Add(1)
		case sql == chaosSkip:
			l.marked.Add(1)
		}
	}
	return nil
}

const chaosSkip = `SELECT set_config('chaos.skip', 'on', true)`

// transaction makes the statements of one transaction.
func transaction(dice *rand.Rand) []string {
	list, homes := []string{"BEGIN"}, chaosHomes
	if dice.IntN(25) == 0 {
		list, homes = append(list, emitMarker, chaosSkip), chaosHomes/6 // the groups of these can't be compared with the tables
	}
	switch n := 1 + dice.IntN(5); {
	case dice.IntN(250) == 0:
		list = append(list, fmt.Sprintf(`INSERT INTO crm.orders(home, phone, openid, goods, amount, status)
			SELECT i %% %[1]d, 'p' || (i %% %[1]d * 2 + i / %[1]d %% 2), 'o' || (i %% %[1]d * 2 + i / 7 %% 2), 'big', i, CASE WHEN i %% 5 = 0 THEN 'paid' ELSE 'new' END
			FROM generate_series(%[2]d, %[3]d) i`, chaosHomes, dice.IntN(chaosHomes), 500+dice.IntN(700)))
	default:
		for range n {
			sql := statement(dice, homes)
			if dice.IntN(8) > 0 {
				list = append(list, sql)
				continue
			}
			list = append(list, "SAVEPOINT s", sql)
			if dice.IntN(3) > 0 { // the others keep what is behind it
				list = append(list, "ROLLBACK TO s", statement(dice, homes))
			}
		}
	}
	if dice.IntN(12) == 0 {
		return append(list, "ROLLBACK")
	}
	return append(list, "COMMIT")
}

// statement makes one statement about one of the first homes.
func statement(dice *rand.Rand, homes int) string {
	home := dice.IntN(homes)
	phone, openid := fmt.Sprintf("'p%d'", home*2+dice.IntN(2)), fmt.Sprintf("'o%d'", home*2+dice.IntN(2))
	one := func(status string) string {
		return fmt.Sprintf("(SELECT id FROM crm.orders WHERE home = %d AND status = '%s' ORDER BY id DESC LIMIT 1)", home, status)
	}
	group := func() string { return "'" + chaosGroups[dice.IntN(len(chaosGroups))] + "'" }
	goods, amount := chaosGoods[dice.IntN(len(chaosGoods))], fmt.Sprintf("%d.%02d", dice.IntN(300), dice.IntN(100))
	switch dice.IntN(60) {
	case 0:
		goods = fmt.Sprintf("poison%d", dice.IntN(len(chaosPoisons)))
	case 1:
		amount = "NULL"
	}
	switch dice.IntN(13) {
	case 0, 1, 2:
		status := []string{"new", "paid"}[dice.IntN(2)]
		return fmt.Sprintf(`INSERT INTO crm.orders(home, phone, openid, goods, amount, status) VALUES (%d, %s, %s, '%s', %s, '%s')`, home, phone, openid, goods, amount, status)
	case 3, 4:
		return `UPDATE crm.orders SET status = 'paid' WHERE id = ` + one("new")
	case 5:
		return fmt.Sprintf(`UPDATE crm.orders SET status = 'new', phone = %s, openid = %s WHERE id = %s`, phone, openid, one("paid"))
	case 6:
		return `UPDATE crm.orders SET goods = goods || '.' WHERE id = ` + one("paid")
	case 7:
		return `DELETE FROM crm.orders WHERE id = ` + one([]string{"new", "paid"}[dice.IntN(2)])
	case 8, 9:
		return fmt.Sprintf(`INSERT INTO crm.member_groups VALUES (%s, %s) ON CONFLICT DO NOTHING`, phone, group())
	case 10:
		return fmt.Sprintf(`DELETE FROM crm.member_groups WHERE phone = %s AND group_name = %s`, phone, group())
	case 11:
		to, other := group(), fmt.Sprintf("'p%d'", home*2+dice.IntN(2))
		return fmt.Sprintf(`UPDATE crm.member_groups g SET phone = %[1]s, group_name = %[2]s WHERE phone = %[3]s AND group_name = %[4]s
			AND NOT EXISTS (SELECT FROM crm.member_groups h WHERE h.phone = %[1]s AND h.group_name = %[2]s)`, other, to, phone, group())
	}
	if dice.IntN(6) == 0 {
		return `DELETE FROM crm.levels WHERE phone = ` + phone
	}
	return fmt.Sprintf(`INSERT INTO crm.levels VALUES (%s, %d) ON CONFLICT (phone) DO UPDATE SET level = excluded.level`, phone, dice.IntN(9))
}
