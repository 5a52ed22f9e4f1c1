package main

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// TestBackfillFromStandby: the rows are read from a standby that lags behind, while they change on the primary. What the standby shows is never older than what
// the stream has brought before, so the platform holds at the end what the database does.
func TestBackfillFromStandby(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	server := pgtest.Private(t)
	r := newRigOn(t, server.Database(t), crmSchema, backfillMappings, platformsim.Options{})
	r.db.Exec(t, `INSERT INTO crm.member_groups SELECT '138' || lpad(n::text, 8, '0'), 'g' || n % 7 FROM generate_series(1, 30000) n`)
	standby := server.Follower(t)
	dsn := standby.DSN(r.db.Name())
	r.edit("timeZone:", "backfillDSN: \""+dsn+"\"\n  timeZone:")
	r.start()

	done := make(chan string, 1)
	go func() { done <- r.backfill("member-groups") }()
	follower, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer follower.Close(context.WithoutCancel(t.Context()))
	exec := func(sql string) {
		t.Helper()
		if _, err := follower.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 { // the replay stands still again and again, and the rows change meanwhile
		exec(`SELECT pg_wal_replay_pause()`)
		r.db.Exec(t, fmt.Sprintf(`INSERT INTO crm.member_groups SELECT phone, 'more' FROM crm.member_groups WHERE right(phone, 2) = '%02d'`, i),
			fmt.Sprintf(`DELETE FROM crm.member_groups WHERE right(phone, 2) = '%02d'`, 50+i))
		time.Sleep(20 * time.Millisecond)
		exec(`SELECT pg_wal_replay_resume()`)
	}
	<-done
	r.settled()
	want := pgtest.Rows[string](t, r.db, `SELECT phone || '=' || group_name AS g FROM crm.member_groups ORDER BY (phone || '=' || group_name) COLLATE "C"`)
	if got := r.groups(); !slices.Equal(got, want) {
		t.Errorf("%d group relations, want %d", len(got), len(want))
	}
	var read bool
	if err := follower.QueryRow(t.Context(), `SELECT idx_tup_fetch + seq_tup_read >= 20000 FROM pg_stat_user_tables WHERE relid = 'crm.member_groups'::regclass`).Scan(&read); err != nil || !read {
		t.Errorf("the rows were not read from the standby: %v", err)
	}
}
