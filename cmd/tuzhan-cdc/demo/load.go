package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// writers is the number of connections that write at the same time.
const writers = 4

// bigTransaction is the rows of the one huge transaction.
const bigTransaction = 5000

// load writes like a CRM until ctx ends: orders that are made, paid and changed again, groups that members join, leave and swap, and
// what is rolled back. committed counts transactions.
func load(ctx context.Context, dsn string, perSecond int, committed *atomic.Int64) error {
	const rowsPerTransaction = 3 // about
	limit := rate.NewLimiter(rate.Limit(float64(perSecond)/rowsPerTransaction), writers)
	g, gctx := errgroup.WithContext(ctx)
	for w := range writers {
		g.Go(func() error {
			conn, err := pgx.Connect(gctx, dsn)
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(gctx))
			var phones []string
			rows, err := conn.Query(gctx, `SELECT phone FROM crm.members ORDER BY 1`)
			if err != nil {
				return err
			}
			if phones, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
				return err
			}
			c := &clerk{number: w, phones: phones, dice: rand.New(rand.NewPCG(uint64(w), 2026))}
			for limit.Wait(gctx) == nil {
				// A transaction that has begun is ended whatever ctx says, so that nobody has to guess how it ended.
				done, err := c.transaction(context.WithoutCancel(gctx), conn)
				if err != nil {
					return err
				}
				if done {
					committed.Add(1)
				}
			}
			return nil
		})
	}
	err := g.Wait()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// clerk writes over one connection.
type clerk struct {
	number int
	phones []string
	dice   *rand.Rand
	orders int
	open   []string // orders that are not paid
	paid   []string
}

func (c *clerk) pick(list []string) string { return list[c.dice.IntN(len(list))] }

// transaction does a few things and commits them, or (one in fifteen) rolls them back.
func (c *clerk) transaction(ctx context.Context, conn *pgx.Conn) (committed bool, err error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback(ctx) }() // after a commit it does nothing
	goods := []string{"龙井茶 250g", "景德镇茶杯", "苏绣丝巾", "\"春\"礼盒", "云南小粒咖啡"}
	groups := []string{"高价值客户", "沉睡会员", "生日月", "新客", "母婴"}
	c.orders++
	no := fmt.Sprintf("D%d-%06d", c.number, c.orders)
	var pay string
	statements := [][]any{{`INSERT INTO crm.orders(order_no, phone, goods, amount) VALUES ($1, $2, $3, $4::int / 100.0)`,
		no, c.pick(c.phones), c.pick(goods), 100 + c.dice.IntN(100_000)}}
	if len(c.open) > 0 && c.dice.IntN(10) < 8 {
		i := c.dice.IntN(len(c.open))
		pay = c.open[i]
		statements = append(statements, []any{`UPDATE crm.orders SET status = '已付款', paid_at = now() WHERE order_no = $1`, pay})
	}
	if len(c.paid) > 0 && c.dice.IntN(4) == 0 { // changes nothing that a mapping wants
		statements = append(statements, []any{`UPDATE crm.orders SET goods = goods || '!' WHERE order_no = $1`, c.pick(c.paid)})
	}
	// Each clerk looks after the members of its own number, so that two never wait for each other's rows.
	member := c.phones[c.dice.IntN(len(c.phones)/writers)*writers+c.number]
	switch c.dice.IntN(3) {
	case 0:
		statements = append(statements, []any{`INSERT INTO crm.member_groups VALUES ($1, $2) ON CONFLICT DO NOTHING`, member, c.pick(groups)})
	case 1:
		statements = append(statements, []any{`DELETE FROM crm.member_groups WHERE phone = $1 AND group_name = $2`, member, c.pick(groups)})
	case 2:
		statements = append(statements, []any{`UPDATE crm.member_groups g SET group_name = $3 WHERE phone = $1 AND group_name = $2
			AND NOT EXISTS (SELECT FROM crm.member_groups h WHERE h.phone = g.phone AND h.group_name = $3)`, member, c.pick(groups), c.pick(groups)})
	}
	for _, s := range statements {
		if _, err := tx.Exec(ctx, s[0].(string), s[1:]...); err != nil {
			return false, err
		}
	}
	if c.dice.IntN(10) == 0 { // what is behind a savepoint that is rolled back must not be sent
		for _, sql := range []string{`SAVEPOINT s`, `UPDATE crm.orders SET status = '已付款' WHERE order_no = '` + no + `'`, `ROLLBACK TO s`} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return false, err
			}
		}
	}
	if c.dice.IntN(15) == 0 {
		return false, tx.Rollback(ctx)
	}
	if err := tx.Commit(ctx); err != nil {
		return false, err
	}
	c.open = append(c.open, no)
	if pay != "" {
		for i, o := range c.open {
			if o == pay {
				c.open = append(c.open[:i], c.open[i+1:]...)
				break
			}
		}
		c.paid = append(c.paid, pay)
	}
	return true, nil
}

// huge commits one transaction of bigTransaction orders, paid at once.
func huge(ctx context.Context, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, fmt.Sprintf(`INSERT INTO crm.orders
		SELECT 'H-' || i, (SELECT phone FROM crm.members OFFSET i %% 2000 LIMIT 1), '团购礼包', 9.90 + i %% 100, '已付款', now()
		  FROM generate_series(1, %d) i`, bigTransaction))
	return err
}
