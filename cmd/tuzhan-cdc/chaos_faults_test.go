package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
)

// chaosTimeout is platform.timeout; no fault delays a request by so much before it is applied, so that none is applied after it was sent again.
const chaosTimeout = 3 * time.Second

// chaosPoisons meet every request that carries an order of goods poison0, poison1 and so on, for as long as there are faults.
var chaosPoisons = []platformsim.Fault{
	{Action: platformsim.AnswerCode, Code: "8001", Msg: "poison"},
	{Action: platformsim.AnswerStatus, Status: 500},
	{Action: platformsim.AnswerStatus, Status: 403},
	{Action: platformsim.CutBeforeApply},
}

// platformFault makes a fault that some requests meet.
func platformFault(dice *rand.Rand) platformsim.Fault {
	f := platformsim.Fault{Count: 1 + dice.IntN(3), Skip: dice.IntN(4), Apply: dice.IntN(4) == 0,
		Endpoint: []platformsim.Endpoint{"", platformsim.Event, platformsim.GroupRelation, platformsim.Point}[dice.IntN(4)]}
	short := time.Duration(dice.IntN(300)+1) * time.Millisecond
	switch dice.IntN(22) {
	case 0, 1:
		f.Action, f.Status = platformsim.AnswerStatus, []int{500, 502, 503, 504, 408}[dice.IntN(5)]
	case 2:
		f.Action, f.Status, f.RetryAfter, f.Apply, f.Count = platformsim.AnswerStatus, []int{429, 503}[dice.IntN(2)], "1", false, 1
	case 3:
		f.Action, f.Code = platformsim.AnswerCode, "500"
	case 4, 5:
		f.Action, f.Code, f.Apply = platformsim.AnswerCode, "8002", false
	case 6:
		f.Action, f.Endpoint, f.Apply = platformsim.AnswerDataFalse, platformsim.Point, false
	case 7:
		f.Action = platformsim.AnswerHTML
	case 8:
		f.Action = platformsim.AnswerEmpty
	case 9:
		f.Action, f.Apply = platformsim.AnswerRedirect, false
	case 10:
		f.Action, f.Status, f.Apply = platformsim.AnswerStatus, []int{401, 403, 404}[dice.IntN(3)], false
	case 11:
		f.Action, f.Over, f.Apply = platformsim.AnswerTooLarge, 2000, false
	case 12:
		f.Action = platformsim.CutBeforeApply
	case 13, 14:
		f.Action = platformsim.ApplyThenCut
	case 15:
		f.Action = platformsim.CutAnswer
	case 16:
		f.Action, f.Endpoint, f.Items = platformsim.PartlyFail, platformsim.GroupRelation, []string{`"bad,`}
	case 17:
		f.Action, f.Endpoint, f.GroupStatus, f.Apply = platformsim.AnswerGroupStatus, platformsim.GroupRelation, -dice.IntN(2), false
	case 18:
		f.Action = platformsim.ExpireThenPass
	case 19:
		f.Endpoint, f.Apply = platformsim.Token, false
		f.Action, f.Status = platformsim.AnswerStatus, 500
		if dice.IntN(2) == 0 {
			f.Action, f.Status, f.Code = platformsim.AnswerCode, 0, "100100"
		}
	case 20:
		f.Delay, f.WaitAfter = short, dice.IntN(2) == 0
	case 21:
		f.Delay, f.WaitAfter, f.Count = chaosTimeout+short, true, 1 // applied, and the time runs out
	}
	return f
}

// platformFaults lets the platform fail until ctx ends.
func (c *chaos) platformFaults(ctx context.Context, dice *rand.Rand) {
	// Many requests are answered a while after they were applied, so that a kill mostly meets some.
	slow := platformsim.Fault{Count: -1, Probability: 0.25, Delay: 25 * time.Millisecond, WaitAfter: true}
	if _, err := c.sim.Inject(slow); err != nil {
		c.t.Error(err)
	}
	for i, f := range chaosPoisons {
		f.Match, f.Count = fmt.Sprintf("poison%d", i), -1
		if _, err := c.sim.Inject(f); err != nil {
			c.t.Error(err)
		}
	}
	for rest(ctx, dice, 200*time.Millisecond) {
		if dice.IntN(40) == 0 {
			c.outages.Add(1)
			c.sim.Down([]platformsim.DownMode{platformsim.DownCut, platformsim.DownUnavailable}[dice.IntN(2)])
			rest(ctx, dice, 600*time.Millisecond)
			c.sim.Up()
			continue
		}
		if _, err := c.sim.Inject(platformFault(dice)); err != nil {
			c.t.Error(err)
		}
	}
}

// databaseCounts counts what was done to the database and the network before it.
type databaseCounts struct{ fast, immediate, cuts, pauses, refusals, terminated, stolen atomic.Int64 }

// databaseFaults lets the database and the network before it fail until ctx ends; then all is well again.
func (c *chaos) databaseFaults(ctx context.Context, dice *rand.Rand) {
	for rest(ctx, dice, 600*time.Millisecond) {
		proxy := c.proxy
		if dice.IntN(2) == 0 && c.elsewhere != nil {
			proxy = c.stateProxy
		}
		switch dice.IntN(12) {
		case 0, 1:
			mode, count := throwaway.Fast, &c.database.fast
			if dice.IntN(2) == 0 {
				mode, count = throwaway.Immediate, &c.database.immediate
			}
			count.Add(1)
			c.server.Stop(c.t, mode)
			rest(ctx, dice, 200*time.Millisecond)
			c.server.Start(c.t)
		case 2, 3:
			c.database.cuts.Add(1)
			proxy.Cut()
		case 4, 5:
			c.database.pauses.Add(1)
			proxy.Pause()
			rest(ctx, dice, 600*time.Millisecond)
			proxy.Resume()
		case 6, 7:
			c.database.refusals.Add(1)
			proxy.Refuse()
			rest(ctx, dice, 300*time.Millisecond)
			proxy.Heal(c.t)
		case 8:
			c.database.terminated.Add(1)
			c.sql(ctx, c.db, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL`, c.slot)
		case 9:
			c.database.terminated.Add(1)
			db := c.db
			if c.elsewhere != nil {
				db = c.elsewhere
			}
			c.sql(ctx, db, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tuzhan%'`)
		default:
			c.steal(ctx)
		}
	}
	c.proxy.Heal(c.t)
	if c.elsewhere != nil {
		c.stateProxy.Heal(c.t)
	}
}

// sql runs a statement on a connection of its own. The server may end it: that is no failure of the test.
func (c *chaos) sql(ctx context.Context, db *pgtest.DB, sql string, args ...any) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, db.DSN())
	if err != nil {
		return false
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql, args...)
	return err == nil
}

// steal takes the slot away and reads it as another client would, for as long as that takes.
func (c *chaos) steal(ctx context.Context) {
	for range 100 {
		if c.sql(ctx, c.db, fmt.Sprintf(stealSlot, c.slot)) {
			c.database.stolen.Add(1)
			return
		}
	}
}

// stealSlot ends the stream and takes the slot as soon as it is free, which is a matter of luck: the connector is there again at once.
const stealSlot = `DO $$ DECLARE pid int; BEGIN
	SELECT active_pid INTO pid FROM pg_replication_slots WHERE slot_name = '%[1]s';
	PERFORM pg_terminate_backend(pid, 5000);
	PERFORM count(*) FROM pg_logical_slot_peek_binary_changes('%[1]s', NULL, 2000, 'proto_version', '1', 'publication_names', '%[1]s', 'messages', 'true');
END $$`
