package starter

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
	"gopkg.in/yaml.v3"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
)

// surveyed makes a table of "name", "name type", "name|comment", with key id.
func surveyed(name string, columns ...string) *postgres.Surveyed {
	s := &postgres.Surveyed{Table: &connector.Table{OID: 1, Schema: "crm", Name: name, Identity: connector.IdentityDefault, FullIdentity: "ALTER TABLE x REPLICA IDENTITY FULL;"}, Rows: -1, PrimaryKey: []string{"id"}}
	for _, text := range append([]string{"id int8"}, columns...) {
		text, comment, _ := strings.Cut(text, "|")
		name, typ, _ := strings.Cut(text, " ")
		oid := map[string]uint32{"": pgtype.TextOID, "int8": pgtype.Int8OID, "int4": pgtype.Int4OID, "numeric": pgtype.NumericOID, "bool": pgtype.BoolOID, "timestamptz": pgtype.TimestamptzOID}[typ]
		s.Columns = append(s.Columns, connector.Column{Name: name, TypeOID: oid, BaseOID: oid, Key: name == "id"})
		s.Details = append(s.Details, postgres.ColumnDetail{Comment: comment})
	}
	return s
}

// TestPhone: which column names the customer by a phone, of names as CRMs have them; "" where none does.
func TestPhone(t *testing.T) {
	for columns, want := range map[string]string{
		"phone": "phone", "mobile_no": "mobile_no", "phoneNumber": "phoneNumber", "Tel": "Tel", "sjh": "sjh", "手机号码": "手机号码", "联系电话": "联系电话", "col7|手机号": "col7",
		"customer_phone int8": "customer_phone", "phone int4": "", "phone bool": "",
		"phone_verified": "", "phone_model": "", "mobile_brand|手机品牌": "", "phone_hash": "", "phone_md5": "", "手机归属地": "", "flag|手机是否验证": "",
		"store_phone": "", "门店电话": "", "sales_mobile": "", "referrer_phone": "", "紧急联系人电话": "", "hotel": "", "telephoto": "",
		"store_phone,receiver_phone,member_phone": "member_phone", "receiver_phone,store_phone": "receiver_phone", "backup_phone,phone": "phone",
	} {
		got := ""
		if c := newTable(surveyed("t", strings.Split(columns, ",")...)).phone; c != nil {
			got = c.Name()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", columns, got, want)
		}
	}
}

// TestPaid: the value of status that means paid, from a comment or from the values that it has.
func TestPaid(t *testing.T) {
	for _, c := range []struct {
		column string
		values []string
		want   string
	}{
		{"status int4|状态：0-待付款，1-已付款", nil, "1"},
		{"status int4|10:未支付 20:已支付 30:已退款", nil, "20"},
		{"status int4|订单状态 (1=created, 2=paid, 3=done)", nil, "2"},
		{"status|0待支付 1已支付", []string{"0", "1"}, "1"},
		{"status int4|0 新建 1 已完成", nil, "1"},
		{"status", []string{"new", "PAID", "completed"}, "PAID"},
		{"status", []string{"待支付", "已完成", "已支付"}, "已支付"},
		{"status", []string{"unpaid", "not paid"}, ""},
		{"status int4|状态", []string{"0", "1"}, ""},
	} {
		s := surveyed("orders", c.column)
		s.Details[1].Values = c.values
		if got := newTable(s).paidValue(); got != c.want {
			t.Errorf("%s %v: %q, want %q", c.column, c.values, got, c.want)
		}
	}
}

// TestCents: amounts in 分 are divided by a hundred.
func TestCents(t *testing.T) {
	for text, want := range map[string]bool{"amount int8|金额（分）": true, "amount int4|金额，单位：分": true, "amount_cents int8": true, "total_fee int4|总金额，单位分": true, "amount int8|部分金额": false, "amount numeric|金额(分)": false,
		"amount int8": false, "分数金额 int8": false} {
		s := newTable(surveyed("orders", "phone", text))
		if s.amount == nil || s.amount.inCents() != want {
			t.Errorf("%s: %v, want %v", text, s.amount, want)
		}
	}
}

// TestDraftIsBounded: of many tables those are taken that a CRM is mapped for first, and the others are named.
func TestDraftIsBounded(t *testing.T) {
	s := &postgres.Survey{}
	for i := range 60 {
		s.Tables = append(s.Tables, surveyed(fmt.Sprintf("things%c%c", 'a'+i/26, 'a'+i%26), "phone"))
	}
	s.Tables = append(s.Tables, surveyed("zz_orders", "phone", "amount numeric"))
	d := New(s)
	text := d.File(Source{Key: "dsn", Value: "postgres://cdc@h/crm"})
	if d.Tables != mostTables || !strings.Contains(text, "  - name: zz_orders-") || len(d.Unmapped) != 1 || len(d.Unmapped[0].Tables) != 61-mostTables {
		t.Errorf("%d tables, %+v", d.Tables, d.Unmapped)
	}
}

// TestScalar: what is written comes back as the same text, on one line.
func TestScalar(t *testing.T) {
	for _, text := range []string{"plain", "下单", "${{ a }}", `${{ a["b: c"] }}`, "no", "12", "a #b", "a: b", "- a", "'", `"`, "a\nb", "\x00", "a\u2028b", " a ", "", "!x", "*x", "&x", "%x", "@x", "{a}", "[a]", "~", "null", "1e3", "a'b\"c", "\\n", "a\tb", "?", "| x", "> x", "a]", "\U0001f600"} {
		line := "k: " + scalar(text)
		var got struct{ K any }
		if err := yaml.Unmarshal([]byte(line+"\n"), &got); err != nil || got.K != any(text) || strings.Contains(line, "\n") {
			t.Errorf("%q is written as %s: %v %v", text, line, got.K, err)
		}
	}
}

// FuzzDraft: whatever tables and columns are called, and whatever is said of them, the file is YAML that has what was drafted, and no more.
func FuzzDraft(f *testing.F) {
	f.Add("orders", "phone", "status", "手机号")
	f.Add("a\n  - name: evil", "phone\"", "群组 名", "电话: '\n- name: evil\n#")
	f.Add("积分流水", "手机", "变动积分", "x")
	f.Fuzz(func(t *testing.T, table, a, b, comment string) {
		s := surveyed(table, "phone|"+comment)
		for _, name := range []string{a, b} {
			s.Columns = append(s.Columns, connector.Column{Name: name, TypeOID: pgtype.TextOID, BaseOID: pgtype.TextOID})
			s.Details = append(s.Details, postgres.ColumnDetail{Comment: comment, Values: []string{a, comment}})
		}
		s.Comment = comment
		d := New(&postgres.Survey{Tables: []*postgres.Surveyed{s}})
		var got struct{ Mappings []map[string]any }
		text := d.File(Source{Key: "dsn", Value: "postgres://cdc@h/crm"})
		if err := yaml.Unmarshal([]byte(text), &got); err != nil || len(got.Mappings) != d.Live {
			t.Fatalf("%d mappings, want %d: %v\n%s", len(got.Mappings), d.Live, err, text)
		}
	})
}

// TestKinds: what a table is taken for, by the mappings that are made of it.
func TestKinds(t *testing.T) {
	for _, c := range []struct{ table, columns, want string }{
		{"t_order", "mobile,pay_status int4|支付状态 0:未支付 1:已支付,pay_amount numeric", "t_order-created t_order-paid t_order-points"},
		{"refund_order", "phone,refund_amount numeric,status", "refund_order-created refund_order-status"},
		{"payments", "phone,amount numeric", "payments-paid payments-points"},
		{"repair_order", "mobile,total_fee numeric,settled bool", "repair_order-created repair_order-paid repair_order-points"},
		{"work_order", "mobile,total_fee numeric,settled_at timestamptz", "work_order-created work_order-paid work_order-points"},
		{"t_customer", "cust_phone,cust_level|客户等级（1普通 2VIP）", "t_customer-registered t_customer-level t_customer-level-changes"},
		{"会员信息表", "手机号", "会员信息表-registered"},
		{"积分流水", "手机,变动积分 int4", "积分流水"},
		{"member_points", "phone,points int4", "member_points-points"},
		{"wx_fans", "openid,tags", "wx_fans-registered wx_fans-tags wx_fans-tags-changes"},
		{"appointment", "phone,status", "appointment-created appointment-status"},
		{"sys_user", "phone", ""}, {"sms_log", "phone", ""}, {"employees", "phone", ""}, {"orders_bak", "phone", ""}, {"门店", "电话", ""}, {"tags", "tag_name", ""},
	} {
		d := New(&postgres.Survey{Tables: []*postgres.Surveyed{surveyed(c.table, strings.Split(c.columns, ",")...)}})
		var names []string
		for _, sec := range d.sections {
			for _, it := range append(sec.live, sec.waiting...) {
				names = append(names, it.name)
			}
		}
		slices.Sort(names)
		want := strings.Fields(c.want)
		slices.Sort(want)
		if !slices.Equal(names, want) {
			t.Errorf("%s: %v, want %v", c.table, names, want)
		}
		if c.want == "" && (len(d.Unmapped) != 1 || d.Unmapped[0].Why == "") {
			t.Errorf("%s: %+v", c.table, d.Unmapped)
		}
	}
	text := New(&postgres.Survey{Tables: []*postgres.Surveyed{surveyed("t_customer", "cust_phone", "cust_level|客户等级（1普通 2VIP）")}}).File(Source{})
	if !strings.Contains(text, "groups: 会员等级${{ cust_level }}\n") {
		t.Error(text)
	}
	text = New(&postgres.Survey{Tables: []*postgres.Surveyed{surveyed("t_customer", "phone", "cust_level", "is_deleted bool")}}).File(Source{})
	if !strings.Contains(text, "when: (new.is_deleted ?? false) && !(old.is_deleted ?? false)") {
		t.Error(text)
	}
}
