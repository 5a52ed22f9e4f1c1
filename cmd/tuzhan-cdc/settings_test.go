package main

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// settingsSchema has a column of each type whose text depends on a setting.
const settingsSchema = `CREATE SCHEMA crm; CREATE TABLE crm.s (id int PRIMARY KEY, name text, at timestamp, seen timestamptz, born date, took interval, raw bytea, ratio float8,
	single float4, clock timetz, span tstzrange, times timestamptz[], raws bytea[])`

const settingsRow = `(%d, %s, '2024-05-06 07:08:09.123456', '2024-05-06 07:08:09.5+08', '2024-05-06', '1 year 2 mons -3 days 04:05:06', '\x00ff5c', 0.1 + 0.2::float8, 0.1,
	'12:00:00+05:45', '[2024-05-06 07:08:09+08,)', '{2024-05-06 07:08:09+08}', ARRAY['\x00ff'::bytea])`

const settingsMapping = `
- name: s
  table: crm.s
  on: [insert]
  event:
    eventKey: k
    uuid: u${{ id }}
    time: ${{ at }}
    identities: [{identityType: id, identityValue: "${{ id }}"}]
    eventargs: {name: "${{ name }}", at: "${{ at }}", seen: "${{ seen }}", born: "${{ born }}", took: "${{ took }}", raw: "${{ raw }}", ratio: "${{ ratio }}", single: "${{ single }}",
      clock: "${{ clock }}", span: "${{ span }}", times: "${{ times }}", raws: "${{ raws }}", hour: "${{ seen.Hour() }}"}
`

func settingsPayload(id int, name string) string {
	return fmt.Sprintf(`{"eventKey":"k","uuid":"u%[1]d","time":1714950489123,"identities":[{"identityType":"id","identityValue":"%[1]d"}],"eventargs":{"name":"%[2]s",`+
		`"at":"2024-05-06T07:08:09.123+08:00","seen":"2024-05-06T07:08:09.500+08:00","born":"2024-05-06","took":"P1Y2M-3DT4H5M6S","raw":"\\x00ff5c",`+
		`"ratio":0.30000000000000004,"single":0.1,"clock":"12:00:00+05:45","span":"[\"2024-05-05 23:08:09+00\",)","times":"[\"2024-05-06T07:08:09.000+08:00\"]",`+
		`"raws":"[\"\\\\x00ff\"]","hour":7}}`+"\n", id, name)
}

// TestSettings: the same row gives the same payload, whatever the server, the database, the role and the DSN say of how values are written.
func TestSettings(t *testing.T) {
	t.Parallel()
	odd := map[string]string{"DateStyle": "German, DMY", "IntervalStyle": "postgres_verbose", "TimeZone": "America/Lima", "bytea_output": "escape", "extra_float_digits": "-15",
		"client_encoding": "GBK"}
	other := map[string]string{"DateStyle": "SQL, MDY", "IntervalStyle": "sql_standard", "TimeZone": "Asia/Kathmandu", "bytea_output": "escape", "extra_float_digits": "0",
		"client_encoding": "LATIN1"}
	alter := func(what string, settings map[string]string) (sql []string) {
		for name, value := range settings {
			sql = append(sql, fmt.Sprintf("ALTER %s SET %s = '%s'", what, name, strings.ReplaceAll(value, ", ", "', '")))
		}
		return sql
	}
	for name, prepare := range map[string]func(db *pgtest.DB, role, dsn string) string{
		"as they are": func(_ *pgtest.DB, _, dsn string) string { return dsn },
		"database": func(db *pgtest.DB, _, dsn string) string {
			db.Exec(t, alter("DATABASE "+db.Name(), odd)...)
			return dsn
		},
		"role": func(db *pgtest.DB, role, dsn string) string {
			db.Exec(t, alter("ROLE "+role, odd)...)
			return dsn
		},
		"role in the database": func(db *pgtest.DB, role, dsn string) string {
			db.Exec(t, append(alter("ROLE "+role, odd), alter("ROLE "+role+" IN DATABASE "+db.Name(), other)...)...)
			return dsn
		},
		"DSN": func(_ *pgtest.DB, _, dsn string) string {
			u, err := url.Parse(dsn)
			if err != nil {
				t.Fatal(err)
			}
			q := u.Query()
			for name, value := range odd {
				q.Set(name, value)
			}
			u.RawQuery = q.Encode()
			return u.String()
		},
		"options in the DSN": func(_ *pgtest.DB, _, dsn string) string {
			return dsn + "&options=" + strings.ReplaceAll(url.QueryEscape("-c DateStyle=German,DMY -c TimeZone=America/Lima -c bytea_output=escape -c intervalstyle=postgres -c client_encoding=GBK -c extra_float_digits=0"), "+", "%20")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Server(t).Database(t)
			db.Exec(t, settingsSchema)
			role, dsn := db.Role(t, "SUPERUSER")
			if !strings.Contains(dsn, "?") {
				dsn += "?sslmode=disable"
			}
			c := startCapture(t, prepare(db, role, dsn), db.SlotName(), settingsMapping, payloads)
			db.Exec(t, "SET client_encoding = 'UTF8'", "INSERT INTO crm.s VALUES "+fmt.Sprintf(settingsRow, 1, "'下单'"))
			if got, want := c.wait(t, 1)[0], settingsPayload(1, "下单"); got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
}

// TestEncodings: text comes as UTF-8 from a database in another encoding. What a database in SQL_ASCII holds that is no UTF-8 becomes a dead letter, and stops
// neither the stream nor the other rows.
func TestEncodings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		encoding string
		rows     []string // name in SQL, what comes
	}{
		{"EUC_CN", []string{"'下单'", "下单"}},
		{"LATIN1", []string{"'Größe é'", "Größe é"}},
		{"SQL_ASCII", []string{"'plain'", "plain", "'下单'", "下单", `E'\xcf\xc2\xb5\xa5'`, "!", "'after'", "after"}},
	} {
		t.Run(c.encoding, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Server(t).DatabaseWith(t, "ENCODING '"+c.encoding+"' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
			db.Exec(t, settingsSchema)
			s := startCapture(t, db.DSN(), db.SlotName(), settingsMapping, payloads)
			for i := 0; i < len(c.rows); i += 2 {
				insert := "INSERT INTO crm.s VALUES " + fmt.Sprintf(settingsRow, i+1, c.rows[i])
				client := "UTF8"
				if c.encoding == "SQL_ASCII" {
					client = c.encoding
				}
				db.Exec(t, "SET client_encoding = '"+client+"'", insert)
			}
			got := s.wait(t, len(c.rows)/2)
			for i := 0; i < len(c.rows); i += 2 {
				want := settingsPayload(i+1, c.rows[i+1])
				if c.rows[i+1] == "!" {
					want = "letter: mapping s (m.yaml:10): eventargs.name: column name holds bytes that are no UTF-8; a database in SQL_ASCII keeps what clients have sent: " +
						"write the value again as UTF-8; that change is then read\n"
				}
				if got[i/2] != want {
					t.Errorf("%s\n got %s\nwant %s", c.rows[i], got[i/2], want)
				}
			}
			if n := s.source.Status().Reconnects; n != 0 {
				t.Errorf("%d reconnections", n)
			}
		})
	}
}
