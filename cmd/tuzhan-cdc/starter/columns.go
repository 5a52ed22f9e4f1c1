package starter

import (
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
)

// column is a column with its name taken apart.
type column struct {
	connector.Column
	postgres.ColumnDetail
	name name
}

// table is a table of which mappings may be made, with what its columns seem to be. A column that is not there is nil.
type table struct {
	*postgres.Surveyed
	name    name
	columns []*column

	phone, openid, unionid, mpid *column
	email, customerID            *column
	amount, points               *column
	status, paidAt, createdAt    *column
	deleted                      *column
	groups                       []*column
	number, goods, store         *column
	channel, quantity            *column
	remark, kind                 *column
}

// kinds of types.
func (c *column) isText() bool {
	return slices.Contains([]uint32{pgtype.TextOID, pgtype.VarcharOID, pgtype.BPCharOID}, c.BaseOID)
}

func (c *column) isInt() bool {
	return slices.Contains([]uint32{pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID}, c.BaseOID)
}

func (c *column) isNumber() bool {
	return c.isInt() || slices.Contains([]uint32{pgtype.NumericOID, pgtype.Float4OID, pgtype.Float8OID}, c.BaseOID)
}

func (c *column) isTime() bool {
	return c.BaseOID == pgtype.TimestampOID || c.BaseOID == pgtype.TimestamptzOID
}

func (c *column) isBool() bool { return c.BaseOID == pgtype.BoolOID }

func (c *column) isList() bool {
	return slices.Contains([]uint32{pgtype.TextArrayOID, pgtype.VarcharArrayOID, pgtype.BPCharArrayOID}, c.BaseOID)
}

func (c *column) isJSON() bool { return c.BaseOID == pgtype.JSONOID || c.BaseOID == pgtype.JSONBOID }

// identifies reports whether the type can hold a phone: bigint and numeric do in many CRMs.
func (c *column) identifies() bool {
	whole := c.BaseOID == pgtype.NumericOID && (!strings.Contains(c.TypeName, ",") || strings.HasSuffix(c.TypeName, ",0)"))
	return c.isText() || c.BaseOID == pgtype.Int8OID || whole
}

func newTable(s *postgres.Surveyed) *table {
	t := &table{Surveyed: s, name: newName(s.Name, s.Comment)}
	for i := range s.Columns {
		t.columns = append(t.columns, &column{s.Columns[i], s.Details[i], newName(s.Columns[i].Name, s.Details[i].Comment)})
	}
	t.customers()
	t.values()
	for _, c := range t.columns {
		if c.name.said(groupWords) && !c.name.said(notGroup) && (c.isText() || c.isList() || c.isJSON() || c.isInt() && c.name.said(levelWords)) {
			t.groups = append(t.groups, c)
		}
	}
	return t
}

// best gives the column with the highest score, the first of equals; nil where none has more than 0.
func (t *table) best(score func(c *column) int) *column {
	var found *column
	most := 0
	for _, c := range t.columns {
		if s := score(c); s > most {
			found, most = c, s
		}
	}
	return found
}

// first gives the first column that is one.
func (t *table) first(is func(c *column) bool) *column {
	return t.best(func(c *column) int {
		if is(c) {
			return 1
		}
		return 0
	})
}

// customers finds who the customer is.
func (t *table) customers() {
	t.phone = t.best(func(c *column) int {
		switch {
		case !c.identifies() || !c.name.said(phoneWords) || c.name.said(notPhone) || c.name.said(strangerWords):
			return 0
		case c.name.said(receiverWords):
			return 1
		case len(c.name.words) == 1 || c.name.said(memberTables):
			return 3
		}
		return 2
	})
	id := func(what string) *column {
		return t.first(func(c *column) bool {
			return c.isText() && (strings.Contains(c.name.joined(), what) || strings.Contains(newName(c.name.subject(), "").joined(), what)) && !c.name.said(strangerWords)
		})
	}
	t.openid, t.unionid = id("openid"), id("unionid")
	t.mpid = t.first(func(c *column) bool { return c.isText() && c.name.joined() == "mpid" })
	t.email = t.first(func(c *column) bool { return c.isText() && c.name.said(emailWords) })
	t.customerID = t.first(func(c *column) bool { return slices.Contains(customerIDs, c.name.joined()) })
}

// values finds what there is to tell of the customer.
func (t *table) values() {
	t.amount = t.best(func(c *column) int {
		switch {
		case !c.isNumber() || !c.name.said(moneyWords) || c.name.said(notMoney):
			return 0
		case c.name.said(paidWords):
			return 3
		case c.name.said(totalWords):
			return 2
		}
		return 1
	})
	t.points = t.best(func(c *column) int {
		aboutPoints := t.name.said(pointWords)
		switch {
		case !c.isNumber() || c.name.said(notPoints) || c.name.called(words("id")):
			return 0
		case c.name.said(changeWords) && (aboutPoints || c.name.said(pointWords)):
			return 3
		case c.name.said(pointWords) && !c.name.said(levelOfPts):
			return 2
		case c.name.said(pointWords), aboutPoints && c.name.called(words("amount value num 数量 数值")):
			return 1
		}
		return 0
	})
	t.status = t.best(func(c *column) int {
		switch {
		case !c.name.said(statusWords) || !c.isText() && !c.isInt():
			return 0
		case c.name.said(paidWords):
			return 3
		case len(c.name.words) == 1 || c.name.said(orderTables):
			return 2
		}
		return 1
	})
	t.paidAt = t.first(func(c *column) bool {
		return c.isTime() && (c.name.called(words("paid pay payment settled")) || c.name.joined() == "paytime" || c.name.said(paidAtWords)) && !c.name.called(words("expire expired deadline"))
	})
	t.createdAt = t.best(func(c *column) int {
		switch {
		case !c.isTime():
			return 0
		case c.name.called(words("create created creation")) || slices.Contains([]string{"gmtcreate", "createtime", "createdat", "addtime", "ctime"}, c.name.joined()):
			return 3
		case c.name.said(createdWords) || c.name.called(words("registered register joined join ordered booked submitted")):
			return 2
		}
		return 0
	})
	t.deleted = t.first(func(c *column) bool {
		j := c.name.joined()
		flag := c.isBool() || c.isInt() || c.isText() && c.TypeName != "text"
		return c.isTime() && (slices.Contains([]string{"deletedat", "deletetime", "deletedtime", "gmtdeleted"}, j) || c.name.said(deletedWords)) ||
			flag && (slices.Contains([]string{"isdeleted", "isdelete", "isdel", "deleted", "delflag", "deleteflag", "delstatus"}, j) || c.name.said(deletedWords))
	})
	text := func(l lexicon, not lexicon) *column {
		return t.first(func(c *column) bool { return c.isText() && c.name.called(l) && !c.name.called(not) })
	}
	t.number = t.first(func(c *column) bool {
		return (c.isText() || c.BaseOID == pgtype.Int8OID) && c.name.called(numberWords) && !c.name.said(phoneWords) && !c.name.called(words("card idcard 会员 客户 手机"))
	})
	t.goods, t.store, t.channel = text(goodsWords, words("id no code type 编号")), text(storeWords, words("id no code phone tel 编号 电话")), text(channelWords, words("id no code 编号"))
	t.quantity = t.first(func(c *column) bool { return c.isNumber() && c.name.called(countWords) })
	t.remark = t.first(func(c *column) bool { return c.isText() && c.name.said(remarkWords) })
	t.kind = t.first(func(c *column) bool { return (c.isText() || c.isInt()) && c.name.said(kindWords) })
}

// identified reports whether something in a row names the customer.
func (t *table) identified() bool { return t.phone != nil || t.openid != nil || t.unionid != nil }

// identities gives the columns that name the customer, for messages.
func (t *table) identities() string {
	var list []string
	for _, c := range []*column{t.phone, t.unionid, t.openid} {
		if c != nil {
			list = append(list, c.Name())
		}
	}
	return strings.Join(list, ", ")
}

// Name is the column's name.
func (c *column) Name() string { return c.Column.Name }

// mayBeCode reports whether the column's values may be a few codes.
func (c *column) mayBeCode(s *postgres.Surveyed) bool {
	switch {
	case !c.isText() && !c.isInt():
		return false
	case c.name.said(statusWords), c.name.said(levelWords):
		return true
	}
	return c.name.said(kindWords) && newName(s.Name, s.Comment).said(pointWords)
}

// paidText matches what CRMs call an order that is paid.
var paidText = regexp.MustCompile(`(?i)^(paid|pay_?success|payed|success|succeeded|complete|completed|finished|done|已支付|已付款|支付成功|付款成功|已缴费|已完成|已成交|完成|成功)$`)

// paidCode finds in a comment the code that stands for it: "0-待付款，1-已付款", "1：已支付", "20 已付款".
var paidCode = regexp.MustCompile(`([0-9]+|[A-Za-z_]+)\s*[-:：=.、,，)）>]*\s*(?:已支付|已付款|支付成功|付款成功|已缴费|paid\b|Paid\b)`)

// doneCode is the next best.
var doneCode = regexp.MustCompile(`([0-9]+|[A-Za-z_]+)\s*[-:：=.、,，)）>]*\s*(?:已完成|已成交|交易成功|completed\b)`)

// paidValue gives the value of status that means paid; "" where nothing tells.
func (t *table) paidValue() string {
	c := t.status
	if c == nil {
		return ""
	}
	for _, pattern := range []*regexp.Regexp{paidCode, doneCode} {
		for _, m := range pattern.FindAllStringSubmatch(c.Comment, -1) {
			isCode := strings.Trim(m[1], "0123456789") == ""
			if isCode || !c.isInt() {
				return m[1]
			}
		}
	}
	best, rank := "", 100
	for _, v := range c.Values {
		if !paidText.MatchString(v) {
			continue
		}
		r := 1
		if strings.Contains(strings.ToLower(v), "pa") || strings.Contains(v, "付") || strings.Contains(v, "缴") {
			r = 0
		}
		if r < rank {
			best, rank = v, r
		}
	}
	return best
}

// codeComment finds codes that a comment explains: （1普通 2VIP）.
var codeComment = regexp.MustCompile(`[0-9]\s*[-:：=、.]?\s*[\p{Han}A-Z]`)

// isCode reports whether a column of levels holds numbers, which a person reads by their explanation.
func (c *column) isCode() bool {
	numbers := len(c.Values) > 0 && !slices.ContainsFunc(c.Values, func(v string) bool { return strings.Trim(v, "0123456789") != "" })
	return c.isInt() || c.isText() && c.name.said(levelWords) && (numbers || len(codeComment.FindAllString(c.Comment, 2)) == 2)
}

var centComment = regexp.MustCompile(`单位\s*[:：]?\s*分|[（(【\[]\s*分\s*[】)）\]]|以分|[:：,，]\s*分$`)

// inCents reports whether an amount is in 分.
func (c *column) inCents() bool {
	return c.isInt() && (c.name.called(centWords) || centComment.MatchString(c.Comment))
}
